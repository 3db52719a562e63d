"""The command line: ``centipede COMMAND``.

Each command is short: it reads, asks or starts, and prints. Errors a user can act on are one sentence on standard error
and exit status 1; wrong usage exits with 2, as click does it.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any, TypeVar

import click
import msgspec

from centipede import show as status
from centipede import summary
from centipede.config import Config, load_config
from centipede.control.client import ControlClient, running
from centipede.control.messages import (
    Exported,
    Imported,
    MemberDrain,
    Offered,
    PeerAdd,
    PeerRemove,
    PeerSet,
    Request,
    SessionExport,
    SessionImport,
    SessionOffer,
    Show,
    Stop,
    Sync,
)
from centipede.errors import CentipedeError, ConfigError, ControlError
from centipede.fields import parse_name
from centipede.log import LEVELS
from centipede.protocol.identity import KEY_BYTES, Identity, render_key
from centipede.protocol.schedulers import SCHEDULERS

CONFIG_DIR = Path("/etc/centipede")
_LEFT_AFTER_S = 3.0
_LEFT_WITHIN_S = 30.0
_REACHED_WITHIN_S = 15.0
_LOOK_EACH_S = 0.02
_TEXT_CHARACTERS = 16 * 1024
"""More than any offer or export has."""
_Command = TypeVar("_Command", bound=Callable[..., Any])
_Answer = TypeVar("_Answer")


class _Group(click.Group):
    """Turns errors a user can act on into a sentence and exit status 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except CentipedeError as error:
            click.echo(f"centipede: {error}", err=True)
            ctx.exit(1)


def _version() -> str:
    try:
        return version("centipede-vpn")
    except PackageNotFoundError:
        return "(not installed, run from its source)"


def _directory(flag: str, variable: str, default: str, what: str) -> Callable[[_Command], _Command]:
    """An option for a directory, which the service manager's variable presets (the first of a list)."""
    return click.option(
        flag,
        type=click.Path(file_okay=False, path_type=Path),
        default=lambda: os.environ.get(variable, "").partition(":")[0] or default,
        show_default=f"${variable} or {default}",
        help=f"Directory of {what}.",
    )


_runtime_dir = _directory("--runtime-dir", "RUNTIME_DIRECTORY", "/run/centipede", "control sockets")
_state_dir = _directory("--state-dir", "STATE_DIRECTORY", "/var/lib/centipede", "what outlives a daemon")
_as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
_engine = click.option(
    "--engine", type=click.Choice(["auto", "python", "native"]), help="In place of the configured one."
)
_log_level = click.option("--log-level", type=click.Choice(LEVELS), default="info", show_default=True)
_log_json = click.option("--log-json", is_flag=True, help="Log JSON lines.")
_file = click.argument("file", metavar="NAME|FILE")


@click.group(cls=_Group, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="centipede")
@click.pass_context
def main(ctx: click.Context) -> None:
    """A multipath VPN for Linux. Without a command: show."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(show)


# Keys.


@main.command()
def genkey() -> None:
    """Print a new private key."""
    _print_secret(Identity.generate(os.urandom(KEY_BYTES)).text())


@main.command()
def pubkey() -> None:
    """Print the public key of the private key on standard input."""
    try:
        text = sys.stdin.buffer.read(4096).decode("ascii")
        identity = Identity.from_text(text)
    except ValueError:
        raise ConfigError(
            "standard input is not a private key of 44 characters of base64; "
            "run 'centipede pubkey < FILE' with a file made by 'centipede genkey'"
        ) from None
    click.echo(identity.public.text)


@main.command()
def genpsk() -> None:
    """Print a new preshared key."""
    _print_secret(render_key(os.urandom(KEY_BYTES)))


def _print_secret(text: str) -> None:
    try:
        mode = os.fstat(sys.stdout.fileno()).st_mode
    except OSError:
        mode = 0
    if stat.S_ISREG(mode) and mode & 0o007:
        click.echo(
            "centipede: warning: the key goes into a file others can read; set 'umask 077' and make another", err=True
        )
    click.echo(text)


# A tunnel's life.


@main.command()
@_file
@_as_json
def check(file: str, as_json: bool) -> None:
    """Check a configuration and print how it was understood."""
    understood = summary.summarize(_load(file))
    if as_json:
        _print_json(understood)
    else:
        click.echo(summary.render(understood, _bold))


@main.command()
@_file
@_engine
@_runtime_dir
@_state_dir
@_log_level
@_log_json
@click.option("--log-file", type=click.Path(dir_okay=False, path_type=Path), help="Log there, not on standard error.")
@click.option("--ready-fd", type=int, hidden=True, help="Written to and closed when the tunnel is up.")
def run(
    file: str,
    engine: str | None,
    runtime_dir: Path,
    state_dir: Path,
    log_level: str,
    log_json: bool,
    log_file: Path | None,
    ready_fd: int | None,
) -> None:
    """Bring a tunnel up and serve it in the foreground until SIGTERM or SIGINT; SIGHUP reads the file again."""
    from centipede.background import announce  # not needed, and not loaded, by the commands that only ask
    from centipede.daemon import Daemon, Directories
    from centipede.log import configure

    config = _load(file)
    os.umask(0o077)  # whatever this process writes is its owner's
    try:
        configure(config.name, level=log_level, as_json=log_json, file=log_file)
    except OSError as error:
        raise ConfigError(f"--log-file {log_file}: {error.strerror}; name a file that can be written") from error
    Daemon(config, Directories(runtime_dir, state_dir), engine).run(lambda: announce(ready_fd))


@main.command()
@_file
@_engine
@_runtime_dir
@_state_dir
@_log_level
@_log_json
@click.option(
    "--log-file",
    type=click.Path(dir_okay=False, path_type=Path),
    show_default="NAME.log in the state directory",
    help="Where the daemon logs.",
)
def up(
    file: str,
    engine: str | None,
    runtime_dir: Path,
    state_dir: Path,
    log_level: str,
    log_json: bool,
    log_file: Path | None,
) -> None:
    """Bring a tunnel up in the background; returns when its interface is up."""
    from centipede.background import start

    config = _load(file)
    arguments = ["--log-level", log_level, "--log-file", str((log_file or state_dir / f"{config.name}.log").absolute())]
    arguments += ["--runtime-dir", str(runtime_dir.absolute()), "--state-dir", str(state_dir.absolute())]
    arguments += ["--engine", engine] if engine else []
    arguments += ["--log-json"] if log_json else []
    start([str(config.file), *arguments])


@main.command()
@_file
@_runtime_dir
def down(file: str, runtime_dir: Path) -> None:
    """Take a tunnel down; returns when everything of it is gone."""
    with ControlClient(runtime_dir, _name(file)) as client:
        client.request(Stop())
        client.wait_ended()


@main.command()
@click.argument("name", required=False)
@_as_json
@_runtime_dir
def show(name: str | None, as_json: bool, runtime_dir: Path) -> None:
    """Show the tunnel NAME, or all of them."""
    if name in (None, "all"):
        interfaces = [shown for each in running(runtime_dir) if (shown := _ask_if_there(runtime_dir, each))]
    else:
        interfaces = [_ask(runtime_dir, name or "")]
    if as_json:
        _print_json(status.Show(interfaces=interfaces))
    elif interfaces:
        click.echo(status.render(interfaces, _bold))
    else:
        click.echo("no tunnel is running", err=True)


@main.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@_runtime_dir
def sync(name: str, file: Path | None, runtime_dir: Path) -> None:
    """Make the running tunnel NAME as FILE says (left out: the file it was started with); sessions survive."""
    _change(runtime_dir, name, Sync(file=None if file is None else str(file.absolute())))


# Peers of a running tunnel.


@main.group()
@click.argument("name")
@_runtime_dir
@click.pass_context
def peer(ctx: click.Context, name: str, runtime_dir: Path) -> None:
    """Change the peers of the running tunnel NAME; the configuration file stays as it is."""
    ctx.obj = (runtime_dir, name)


def _settings(command: _Command) -> _Command:
    """The options that mirror the keys of [[peer]]."""
    options = [
        click.option(
            "--endpoint", "endpoints", multiple=True, metavar="HOST:PORT", help="Where to look for it; repeatable."
        ),
        click.option("--allowed-ips", multiple=True, metavar="NETWORK", help="Inner networks of it; repeatable."),
        click.option("--preshared-key-file", type=click.Path(dir_okay=False, path_type=Path)),
        click.option("--scheduler", type=click.Choice(sorted(SCHEDULERS))),
        click.option("--copies", metavar="NUMBER|all"),
        click.option("--heartbeat", type=float, metavar="SECONDS"),
        click.option("--allow-remote", multiple=True, metavar="NETWORK", help="Sources it may have; repeatable."),
        click.option("--metered", multiple=True, metavar="LINK", help="Local links to spare; repeatable."),
        click.option("--keepalive/--no-keepalive", default=None),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@peer.command("add")
@click.argument("public_key")
@click.option("--name", help="How to call it.")
@_settings
@click.pass_obj
def peer_add(target: tuple[Path, str], /, **settings: Any) -> None:
    """Add the peer with this public key."""
    _change(*target, PeerAdd(table=_table(settings)))


@peer.command("remove")
@click.argument("peer")
@click.pass_obj
def peer_remove(target: tuple[Path, str], peer: str) -> None:
    """Remove the peer of this name or public key."""
    _change(*target, PeerRemove(peer=peer))


@peer.command("set")
@click.argument("peer")
@click.option(
    "--reset-floor", is_flag=True, help="Take any timestamp again, of a peer that lost its state and its clock."
)
@_settings
@click.pass_obj
def peer_set(target: tuple[Path, str], /, peer: str, reset_floor: bool, **settings: Any) -> None:
    """Change settings of the peer of this name or public key."""
    table = _table(settings)
    if not table and not reset_floor:
        raise click.UsageError("nothing to change: give at least one option")
    _change(*target, PeerSet(peer=peer, table=table, reset_floor=reset_floor))


def _table(settings: dict[str, Any]) -> dict[str, Any]:
    """The [[peer]] table that the given options mean."""
    table: dict[str, Any] = {}
    for key, value in settings.items():
        if value in (None, ()):
            continue
        table[key] = (
            list(value) if isinstance(value, tuple) else str(value.absolute()) if isinstance(value, Path) else value
        )
    if str(table.get("copies", "")).isdecimal():
        table["copies"] = int(table["copies"])
    return table


# Sessions that move from machine to machine.


@main.group()
@click.argument("name")
@_runtime_dir
@click.pass_context
def session(ctx: click.Context, name: str, runtime_dir: Path) -> None:
    """Move live sessions of the running tunnel NAME to another machine with the same private key.

    On the new machine: centipede session NAME offer | ssh OLD centipede session NAME export PEER --to - | centipede
    session NAME import
    """
    ctx.obj = (runtime_dir, name)


@session.command("offer")
@_as_json
@click.pass_obj
def session_offer(target: tuple[Path, str], as_json: bool) -> None:
    """Print an offer to take sessions over: text for the machine that has them, good for 30 s."""
    offered = _request(*target, SessionOffer(), Offered)
    _print_text(offered.offer, offered, as_json)


@session.command("export")
@click.argument("peer")
@click.option("--to", "offer", type=click.File("r"), required=True, metavar="FILE|-", help="The other machine's offer.")
@click.option("--join", is_flag=True, help="Serve the peer here as well, and do not leave it.")
@_as_json
@click.pass_obj
def session_export(target: tuple[Path, str], peer: str, offer: IO[str], join: bool, as_json: bool) -> None:
    """Hand the sessions with PEER over; prints text for the machine that made the offer, sealed to it.

    This machine serves the peer until that goes to the other one, and then forgets the sessions.
    """
    exported = _request(*target, SessionExport(peer=peer, offer=_read_text(offer, "an offer"), join=join), Exported)
    _print_text(exported.export, exported, as_json)


@session.command("import")
@click.argument("export", type=click.File("r"), default="-", metavar="[FILE|-]")
@_as_json
@click.pass_obj
def session_import(target: tuple[Path, str], export: IO[str], as_json: bool) -> None:
    """Serve the sessions in an export that answers an offer of this machine; returns when the peer is reached."""
    imported = _request(*target, SessionImport(export=_read_text(export, "an export")), Imported)
    deadline = time.monotonic() + _REACHED_WITHIN_S
    while not _is_reached(target, imported.peer):
        if time.monotonic() > deadline:
            raise ControlError(
                f"the sessions with {imported.peer} are here, but it was not reached within {_REACHED_WITHIN_S:g} s; "
                "the other machine serves it on: see whether its datagrams may come here"
            )
        time.sleep(_LOOK_EACH_S)
    _print_text(f"the sessions with {imported.peer} are served here\n", imported, as_json)


# This machine among those that share an identity.


@main.group()
@click.argument("name")
@_runtime_dir
@click.pass_context
def member(ctx: click.Context, name: str, runtime_dir: Path) -> None:
    """Take this machine out of service, or back, while others with the same private key serve the tunnel NAME."""
    ctx.obj = (runtime_dir, name)


@member.command("drain")
@click.pass_obj
def member_drain(target: tuple[Path, str]) -> None:
    """Ask all peers to send to the other machines, as far as they know any."""
    _change(*target, MemberDrain(draining=True))


@member.command("undrain")
@click.pass_obj
def member_undrain(target: tuple[Path, str]) -> None:
    """Take part again."""
    _change(*target, MemberDrain(draining=False))


@member.command("leave")
@click.pass_obj
def member_leave(target: tuple[Path, str]) -> None:
    """Drain, wait until no peer has sent data here for three seconds, and stop the tunnel."""
    _request(*target, MemberDrain(draining=True), list)
    try:
        _wait_until_left(target)
    except KeyboardInterrupt:
        click.echo(f"still draining: 'centipede member {target[1]} undrain' takes that back", err=True)
        raise
    with ControlClient(*target) as client:
        client.request(Stop())
        client.wait_ended()


def _wait_until_left(target: tuple[Path, str]) -> None:
    """Until no peer has sent data for a while. Raises ControlError if they go on, or the member is to stay."""
    began = quiet = time.monotonic()
    seen = -1
    while time.monotonic() < quiet + _LEFT_AFTER_S:
        if time.monotonic() > began + _LEFT_WITHIN_S:
            raise ControlError(
                f"peers still send here after {_LEFT_WITHIN_S:g} s: perhaps no other machine serves them; this one "
                f"goes on, draining; see 'centipede show {target[1]}', and 'centipede member {target[1]} undrain' or "
                f"'centipede down {target[1]}'"
            )
        shown = _ask(*target)
        if shown.cluster is None or not shown.cluster.draining:
            raise ControlError(f"the tunnel goes on: meanwhile somebody said 'centipede member {target[1]} undrain'")
        received = sum(each.rx_packets for each in shown.peers)
        if received != seen:
            seen, quiet = received, time.monotonic()
        time.sleep(_LOOK_EACH_S)


def _is_reached(target: tuple[Path, str], name: str) -> bool:
    """Whether a path to the peer is usable."""
    return any(path.state == "usable" for peer in _ask(*target).peers if peer.name == name for path in peer.paths)


def _read_text(file: IO[str], what: str) -> str:
    """What another machine printed. Raises ConfigError if it printed nothing, having failed."""
    try:
        text = file.read(_TEXT_CHARACTERS)
    except (OSError, UnicodeDecodeError):
        text = ""
    if not text.strip():
        raise ConfigError(f"{file.name} does not hold {what}; see whether the command that should print it failed")
    return text


def _print_text(text: str, answer: Any, as_json: bool) -> None:
    if as_json:
        _print_json(answer)
    else:
        click.echo(text, nl=False)


# What several commands do.


def _load(file: str) -> Config:
    """The configuration of a NAME in the configuration directory, or of a FILE."""
    path = Path(file) if _is_file(file) else CONFIG_DIR / f"{_name(file)}.toml"
    return load_config(path.absolute())


def _is_file(file: str) -> bool:
    """Whether that is a file's path, and not a tunnel's name."""
    return "/" in file or file.endswith(".toml")


def _name(file: str) -> str:
    """The tunnel's name, given itself or the configuration file."""
    name = Path(file).stem if _is_file(file) else file
    try:
        return parse_name(name)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _ask(runtime_dir: Path, name: str) -> status.Interface:
    return _request(runtime_dir, name, Show(), status.Interface)


def _ask_if_there(runtime_dir: Path, name: str) -> status.Interface | None:
    """As _ask, but None for a tunnel whose daemon ended without removing its socket."""
    try:
        return _ask(runtime_dir, name)
    except ControlError as error:
        click.echo(f"centipede: {error}", err=True)
        return None


def _request(runtime_dir: Path, name: str, request: Request, answer: type[_Answer]) -> _Answer:
    with ControlClient(runtime_dir, _name(name)) as client:
        received = client.request(request)
    try:
        return msgspec.json.decode(received, type=answer)
    except msgspec.MsgspecError:
        raise ControlError(f"the daemon of {name} is of another version; restart it") from None


def _change(runtime_dir: Path, name: str, request: Request) -> None:
    words: Sequence[str] = _request(runtime_dir, name, request, list[str])
    click.echo("\n".join(words) or "nothing to change")


def _bold(text: str) -> str:
    return click.style(text, bold=True)  # click.echo takes it out again where standard output is no terminal


def _print_json(value: Any) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))
