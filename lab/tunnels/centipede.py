"""Centipede itself: one daemon at each end, with either engine.

Each end gets new keys, a configuration file and directories of its own below the host's directory; readiness is what
the daemon tells its service manager (sd_notify). The tunnel is up when traffic flows and, with a scheduler that
uses several paths, when it has them: a tunnel that still sends on one would be measured as something it is not.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import platform
import secrets
import shutil
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from centipede.control.client import TIMEOUT_S, ControlClient
from centipede.control.messages import Show
from centipede.engine import native_unavailable
from centipede.errors import CentipedeError, ControlError
from centipede.protocol.identity import Identity
from centipede.show import Interface
from centipede.system.wall import VARIABLE
from lab.process import Process, wait_until
from lab.tracks import PathReport
from lab.tunnels.base import (
    Tunnel,
    TunnelEnd,
    TunnelError,
    TunnelOptions,
    set_queue_length,
    tun_refusal,
    wait_for_traffic,
)

Engine = Literal["auto", "python", "native"]

INTERFACE = "cpd0"
"""Name of the tunnel's interface at either end."""
CHANNEL_PORT = 51821
"""At which the members of a cluster talk with each other."""
_LOOK_TIMEOUT_S = 1.0
_shown = msgspec.json.Decoder(Interface)
_LABELS: Mapping[Engine, str] = {
    "auto": "Centipede",
    "python": "Centipede, Python engine",
    "native": "Centipede, C engine",
}


class Centipede(Tunnel):
    """A Centipede tunnel."""

    name = "centipede"

    def __init__(self, engine: Engine = "auto") -> None:
        self.engine = engine
        self.label = _LABELS[engine]
        self._daemons: list[tuple[TunnelEnd, Process]] = []
        self._options = TunnelOptions()

    def unavailable(self) -> str | None:
        return tun_refusal() or (native_unavailable() if self.engine == "native" else None)

    def version(self) -> dict[str, str]:
        try:
            own = importlib.metadata.version("centipede-vpn")
        except importlib.metadata.PackageNotFoundError:
            own = "not installed, run from its source"
        return {"centipede": own, "python": platform.python_version()}

    def up(self, left: TunnelEnd, right: TunnelEnd, options: TunnelOptions) -> None:
        identities = Identity.generate(secrets.token_bytes(32)), Identity.generate(secrets.token_bytes(32))
        self._options = options
        try:
            for own, end, remote, far in (
                (identities[0], left, identities[1], right),
                (identities[1], right, identities[0], left),
            ):
                for machine in end.machines:  # all but the first wait for a session to be told, and call nobody
                    called = far if machine is end else replace(far, found_at=())
                    text = configuration(own, machine, remote, called, self.engine, options)
                    write_configuration(machine, text + cluster_section(machine, end.machines))
            self._start(*(each for each in (*left.machines, *right.machines) if each.started))
            wait_for_traffic(self, left, right, options.ready_timeout_s)
            for end, far in ((left, right), (right, left)):
                if far.channel is not None:
                    self._wait_for_members(end, sum(each.started for each in far.machines), options)
            if options.scheduler != "fastest" and len(left.outer) > 1:
                self._wait_for_paths(left, right, options)
        except BaseException as error:
            self._give_up(error)
            raise

    def _give_up(self, error: BaseException) -> None:
        """Take down what is up, and say why as a TunnelError if it is a failure that can be told."""
        logs = "".join(tail for _, process in self._daemons if (tail := process.log_tail()) not in str(error))
        self.down()
        if isinstance(error, CentipedeError):
            raise TunnelError(f"{self.label} did not come up: {error}{logs}") from error

    def down(self) -> None:
        daemons, self._daemons = self._daemons, []
        for _, process in daemons:
            process.stop()
        for end, _ in daemons:
            shutil.rmtree(_directory(end), ignore_errors=True)

    def processes(self, end: TunnelEnd) -> list[Process]:
        return [process for owner, process in self._daemons if owner is end]

    def interface(self, end: TunnelEnd) -> str:
        return INTERFACE

    def state(self, end: TunnelEnd) -> Any:
        """Return the daemon's ``show --json`` of this interface, None while it does not answer."""
        shown = _show(end)
        return None if shown is None else msgspec.json.decode(shown)

    def paths(self, end: TunnelEnd) -> list[PathReport] | None:
        shown = _show(end, timeout_s=_LOOK_TIMEOUT_S)
        if shown is None:
            return None
        return [
            PathReport(
                local=path.local,
                remote=path.remote,
                state=path.state,
                carries=path.carries,
                rtt_ms=path.rtt_ms,
                loss=path.loss,
                tx_bytes=path.tx_bytes,
                rx_bytes=path.rx_bytes,
            )
            for peer in _shown.decode(shown).peers
            for path in peer.paths
        ]

    def restart(self, end: TunnelEnd) -> None:
        for owner, process in self._daemons:
            if owner is end:
                process.stop()
        self._start(end)

    def set_clock(self, end: TunnelEnd, ahead_s: float) -> None:
        file = _clock_file(end)
        partial = file.with_name(f"{file.name}.partial")
        partial.write_text(f"{ahead_s}\n")
        partial.rename(file)  # which is read at any moment

    def move(self, source: TunnelEnd, target: TunnelEnd) -> None:
        (peer,) = [peer["name"] for peer in (self.state(source) or {"peers": []})["peers"]] or [""]
        offer = self.command(target, "session", INTERFACE, "offer")
        export = self.command(source, "session", INTERFACE, "export", peer, "--to", "-", text=offer)
        self.command(target, "session", INTERFACE, "import", text=export)

    def command(self, end: TunnelEnd, *words: str, text: str | None = None) -> str:
        """Run ``centipede`` on a machine, with ``text`` on its standard input, and return what it printed.

        Raises LabError with what it said if it fails.
        """
        argv = [sys.executable, "-m", "centipede", *words]
        environment = {"RUNTIME_DIRECTORY": str(runtime_directory(end))}
        return end.host.run(argv, env=environment, input=text).stdout

    def _start(self, *ends: TunnelEnd) -> None:
        """Start the daemons of ends at the same time and return when all are ready."""
        with contextlib.ExitStack() as stack:
            started: list[tuple[Process, Readiness]] = []
            for end in ends:
                directory = _directory(end)
                readiness = stack.enter_context(Readiness(directory / "notify"))
                argv: list[str | Path] = [sys.executable, "-m", "centipede", "run", directory / f"{INTERFACE}.toml"]
                argv += ["--runtime-dir", directory / "run", "--state-dir", directory / "state"]
                process = end.host.start(
                    argv, env={"NOTIFY_SOCKET": readiness.address, VARIABLE: str(_clock_file(end))}
                )
                self._daemons.append((end, process))
                started.append((process, readiness))
            for process, readiness in started:
                process.wait_ready(readiness.reached, timeout_s=self._options.ready_timeout_s)
        for end in ends:
            set_queue_length(end, INTERFACE, self._options.txqueuelen)

    def _wait_for_members(self, end: TunnelEnd, wanted: int, options: TunnelOptions) -> None:
        def condition() -> bool:
            shown = self.state(end)
            return shown is not None and all(len(peer["members"]) == wanted for peer in shown["peers"])

        what = f"{wanted} members at the other end of {end.host.name}"
        wait_until(condition, timeout_s=options.ready_timeout_s, what=what)

    def _wait_for_paths(self, left: TunnelEnd, right: TunnelEnd, options: TunnelOptions) -> None:
        links = len(left.outer)
        wanted = links if options.copies == "all" or options.scheduler == "aggregate" else min(options.copies, links)
        for end in (left, right):
            wait_until(
                _enough_paths(lambda end=end: self.state(end), wanted),  # type: ignore[misc]
                timeout_s=options.ready_timeout_s,
                what=f"{wanted} usable paths at {end.host.name}",
            )


def configuration(
    own: Identity, end: TunnelEnd, remote: Identity, far: TunnelEnd, engine: Engine, options: TunnelOptions
) -> str:
    """Return the text of an end's configuration file."""
    interface, peer = interface_table(own, end, engine, options), peer_table(remote, far, options)
    return render_tables([("[interface]", interface), ("[[peer]]", peer), ("[timing]", options.timing)])


def cluster_section(own: TunnelEnd, machines: Sequence[TunnelEnd]) -> str:
    """Return the text of a machine's ``[cluster]``, empty for machines that know nothing of each other."""
    if own.channel is None:
        return ""
    table: dict[str, Any] = {
        "member": machines.index(own) + 1,
        "of": len(machines),
        "listen": f"{own.channel}:{CHANNEL_PORT}",
        "weight": own.weight,
    }
    if own.store is not None:
        table |= {"store": "etcd", "endpoints": [own.store]}
    else:
        table["members"] = [f"{each.channel}:{CHANNEL_PORT}" for each in machines if each is not own]
    return render_tables([("[cluster]", table)])


def interface_table(own: Identity, end: TunnelEnd, engine: Engine, options: TunnelOptions) -> dict[str, Any]:
    """Return an end's ``[interface]``."""
    table: dict[str, Any] = {
        "private_key": own.text(),
        "address": [str(address) for address in end.inner],
        "listen": end.listen or options.listen or tuple(str(endpoint) for endpoint in _listen(end)),
        "mtu": "auto" if options.follow_mtu else options.mtu,
        "engine": engine,
    }
    if options.workers is not None:
        table["workers"] = options.workers
    return table


def peer_table(remote: Identity, far: TunnelEnd, options: TunnelOptions) -> dict[str, Any]:
    """Return a ``[[peer]]``."""
    table: dict[str, Any] = {
        "name": far.host.name,
        "public_key": remote.public.text,
        "endpoints": [str(endpoint) for endpoint in far.endpoints],
        "allowed_ips": [f"{address.ip}/{address.ip.max_prefixlen}" for address in far.inner]
        + [*map(str, far.networks)],
        "scheduler": options.scheduler,
        "keepalive": options.keepalive_s is not None,
    }
    if options.scheduler == "redundant":
        table["copies"] = options.copies
    if options.heartbeat_s is not None:
        table["heartbeat"] = options.heartbeat_s
    return table


def render_tables(tables: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Return the text of a configuration file with these tables, each with its header."""
    # JSON's strings, numbers, booleans and lists are also TOML's
    lines = (
        line
        for header, table in tables
        for line in (header, *(f"{key} = {json.dumps(value)}" for key, value in table.items()), "")
    )
    return "\n".join(lines)


def write_configuration(end: TunnelEnd, text: str) -> None:
    """Give an end its directories and its configuration file."""
    directory = _directory(end)
    shutil.rmtree(directory, ignore_errors=True)
    for path in (directory, directory / "run", directory / "state"):
        path.mkdir(mode=0o700)
    file = directory / f"{INTERFACE}.toml"
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as stream:
        stream.write(text)


class Readiness:
    """What a service manager is to a daemon: a socket on which it says that it is ready (sd_notify(3))."""

    def __init__(self, path: Path) -> None:
        self.address = str(path)
        """For ``NOTIFY_SOCKET``."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._socket.bind(self.address)

    def reached(self) -> bool:
        """Whether it has said so, which is answered with yes once."""
        try:
            return "READY=1" in self._socket.recv(4096).decode(errors="replace").splitlines()
        except BlockingIOError:
            return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.close()
        Path(self.address).unlink(missing_ok=True)


def _show(end: TunnelEnd, timeout_s: float = TIMEOUT_S) -> msgspec.Raw | None:
    """Ask the daemon of an end over its control socket; None if it does not answer."""
    try:
        with ControlClient(_directory(end) / "run", INTERFACE, timeout_s) as client:
            return client.request(Show())
    except ControlError:
        return None


def _enough_paths(read: Callable[[], Any], wanted: int) -> Callable[[], bool]:
    """Whether usable paths leave from, or lead to, as many addresses as wanted."""

    def condition() -> bool:
        interface = read()
        if interface is None:
            return False
        usable = [path for peer in interface["peers"] for path in peer["paths"] if path["state"] == "usable"]
        return any(len({path[end] for path in usable}) >= wanted for end in ("local", "remote"))

    return condition


def _listen(end: TunnelEnd) -> list[str]:
    return [
        f"[{address}]:{end.listen_port}" if address.version == 6 else f"{address}:{end.listen_port}"
        for address in end.outer
    ]


def runtime_directory(end: TunnelEnd) -> Path:
    """Where the daemon of an end has its control socket."""
    return _directory(end) / "run"


def _clock_file(end: TunnelEnd) -> Path:
    return _directory(end) / "clock-ahead-s"


def _directory(end: TunnelEnd) -> Path:
    return end.host.state_directory / "centipede"
