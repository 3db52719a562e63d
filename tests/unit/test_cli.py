"""The command line, by click's runner and as a program."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from centipede import show
from centipede.cli import main
from centipede.cli import peer as peer_group
from centipede.config import PeerTable
from centipede.control.client import socket_path
from centipede.control.messages import Request, Show
from centipede.errors import ControlError
from centipede.protocol.identity import Identity, PublicKey, parse_key
from tests.unit.test_control import serving

ALICE = Identity.from_seed(bytes([2]) * 32).public.text
TIMEOUT_S = 60.0
PROGRAM = [sys.executable, "-m", "centipede"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}


def cli(*arguments: str | Path, text: str = "", runtime_dir: Path | None = None) -> Result:
    environment = {"RUNTIME_DIRECTORY": str(runtime_dir)} if runtime_dir else {}
    return CliRunner(env=environment).invoke(main, [str(each) for each in arguments], input=text)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    key = tmp_path / "own.key"
    key.write_text(Identity.from_seed(bytes([1]) * 32).text())
    key.chmod(0o600)
    file = tmp_path / "cpd-test.toml"
    file.write_text(
        '[interface]\nprivate_key_file = "own.key"\naddress = ["10.7.0.1/24"]\n\n[[peer]]\nname = "alice"\n'
        f'public_key = "{ALICE}"\nendpoints = ["198.51.100.7"]\nallowed_ips = ["10.7.0.2"]\n\n[timing]\nrekey_s = 8\n'
    )
    return file


# Keys.


def test_keys_are_pipes() -> None:
    private = cli("genkey")
    public = cli("pubkey", text=private.stdout)
    assert (private.exit_code, public.exit_code) == (0, 0)
    assert re.fullmatch(r"[A-Za-z0-9+/]{43}=\n", private.stdout)
    assert Identity.from_text(private.stdout).public == PublicKey.from_text(public.stdout)
    assert cli("genkey").stdout != private.stdout


def test_genpsk() -> None:
    assert len(parse_key(cli("genpsk").stdout)) == 32
    assert cli("genpsk").stdout != cli("genpsk").stdout


@pytest.mark.parametrize("text", ["", "short", "\u2603", "A" * 44, "A" * 43 + "=\n" + "A" * 43 + "="])
def test_pubkey_of_something_else(text: str) -> None:
    result = cli("pubkey", text=text)
    assert result.exit_code == 1
    assert result.stderr.startswith("centipede: standard input is not a private key")
    assert text not in result.stderr or not text


@pytest.mark.parametrize("command", ["genkey", "genpsk"])
def test_a_secret_in_a_file_others_can_read_is_warned_of(tmp_path: Path, command: str) -> None:
    for mode, warned in ((0o644, True), (0o600, False)):
        file = tmp_path / f"{mode:o}"
        file.touch()
        file.chmod(mode)
        with file.open("w") as output:
            done = subprocess.run(
                [*PROGRAM, command],
                env=ENVIRONMENT,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                timeout=TIMEOUT_S,
                check=True,
            )
        assert ("warning: the key goes into a file others can read" in done.stderr) == warned
        assert len(parse_key(file.read_text())) == 32


# Usage.


@pytest.mark.parametrize(
    "arguments",
    [
        ["dance"],
        ["check"],
        ["--dance"],
        ["peer", "a", "add"],
        ["peer", "a", "set", "b"],
        ["run", "a", "--engine", "go"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    result = cli(*arguments)
    assert result.exit_code == 2
    assert "Usage: " in result.stderr


def test_help_and_version() -> None:
    for flag in ("--help", "-h"):
        assert "A multipath VPN for Linux" in cli(flag).stdout
    assert re.fullmatch(r"centipede, version .+\n", cli("--version").stdout)


@pytest.mark.parametrize("command", [*main.commands])
def test_every_command_explains_itself(command: str) -> None:
    result = cli(command, "--help")
    assert result.exit_code == 0
    assert "Usage: " in result.stdout


# Check.


def test_check_prints_what_was_understood(config: Path) -> None:
    result = cli("check", config)
    assert result.exit_code == 0
    assert "interface: cpd-test\n" in result.stdout
    assert "  mtu: auto\n" in result.stdout
    assert "  listen: auto:0\n" in result.stdout
    assert "  timing: rekey_s = 8.0\n" in result.stdout
    assert "peer: alice\n" in result.stdout
    assert "  endpoints: 198.51.100.7:51820\n" in result.stdout
    assert "  scheduler: adaptive\n" in result.stdout


def test_check_as_json(config: Path) -> None:
    understood = json.loads(cli("check", config, "--json").stdout)
    assert understood["version"] == 1
    assert (understood["name"], understood["mtu"], understood["workers"]) == ("cpd-test", "auto", "auto")
    assert understood["timing"] == {"rekey_s": 8.0}
    (peer,) = understood["peers"]
    assert peer["allowed_ips"] == ["10.7.0.2/32"]
    assert peer["preshared_key"] is False


def test_check_tells_of_the_cluster(config: Path) -> None:
    assert "cluster" not in cli("check", config).stdout
    text = config.read_text() + '\n[cluster]\nmember = 2\nof = 3\nlisten = "10.8.0.2"\n'
    config.write_text(text + 'members = ["10.8.0.1:51821"]\nweight = 100\n')
    shown = cli("check", config).stdout
    members = "  listen: 10.8.0.2:51820\n  members: 10.8.0.1:51821\n  weight: 100\n"
    assert f"cluster: member 2 of 3\n{members}\npeer: alice\n" in shown
    config.write_text(text + 'store = "etcd"\nendpoints = ["http://10.8.0.9:2379"]\n')
    cluster = json.loads(cli("check", config, "--json").stdout)["cluster"]
    assert (cluster["member"], cluster["of"], cluster["members"]) == (2, 3, [])
    assert (cluster["store"], cluster["endpoints"]) == ("etcd", ["http://10.8.0.9:2379"])


def test_check_of_a_mistake(config: Path) -> None:
    config.write_text(config.read_text().replace("address", "adress"))
    result = cli("check", config)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == f"centipede: {config}: [interface]: adress: there is no such key; did you mean address?\n"


def test_a_bare_name_means_the_configuration_directory() -> None:
    result = cli("check", "cpd-absent")
    assert result.stderr.startswith("centipede: /etc/centipede/cpd-absent.toml: there is no such file")
    assert cli("check", "no good").stderr.startswith("centipede: 'no good' cannot name an interface")


def test_a_path_means_that_file() -> None:
    result = cli("check", "./cpd-nowhere")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"centipede: {Path('cpd-nowhere').absolute()}: ")


def test_an_argument_that_is_no_text(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "a")
    with serving(path):
        result = cli("peer", "a", "remove", "\udcff", runtime_dir=tmp_path)
    assert result.exit_code == 1
    assert "is no UTF-8 text" in result.stderr


@pytest.mark.parametrize(
    "arguments", [["show", "a"], ["session", "a", "offer"], ["peer", "a", "remove", "b"], ["member", "a", "drain"]]
)
def test_a_daemon_of_another_version_is_told(tmp_path: Path, arguments: list[str]) -> None:
    with serving(socket_path(tmp_path, "a"), lambda request: {"else": True}):
        result = cli(*arguments, runtime_dir=tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "centipede: the daemon of a is of another version; restart it\n"


def test_a_file_in_the_current_directory(config: Path) -> None:
    done = subprocess.run(
        [*PROGRAM, "check", config.name],
        cwd=config.parent,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


# Running tunnels, played by a server.

INTERFACE = show.Interface(
    name="site-a", public_key=ALICE, engine="python", workers=1, mtu=1420, listen=[], peers=[], drops={}
)


class Played:
    """Answers as a daemon would and keeps what it was asked."""

    def __init__(self, answer: Any = ()) -> None:
        self.requests: list[dict[str, Any]] = []
        self.answer = answer

    def __call__(self, request: Request) -> Any:
        if isinstance(request, Show):
            return INTERFACE
        self.requests.append(
            {key: getattr(request, key) for key in request.__struct_fields__ if key != "version"}
            | {"command": type(request).__name__}
        )
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@contextmanager
def played(runtime_dir: Path, answer: Any = ()) -> Iterator[Played]:
    daemon = Played(answer)
    with serving(socket_path(runtime_dir, "site-a"), daemon):
        yield daemon


def test_show_one_and_all(tmp_path: Path) -> None:
    with played(tmp_path):
        for arguments in (["show", "site-a"], ["show", "all"], ["show"], []):
            result = cli(*arguments, runtime_dir=tmp_path)
            assert result.exit_code == 0
            assert result.stdout.startswith("interface: site-a\n")
        value = json.loads(cli("show", "site-a", "--json", runtime_dir=tmp_path).stdout)
        assert value["version"] == 1
        assert [each["name"] for each in value["interfaces"]] == ["site-a"]
        assert json.loads(cli("show", "--json", "--runtime-dir", tmp_path).stdout) == value


def test_show_without_tunnels(tmp_path: Path) -> None:
    result = cli("show", runtime_dir=tmp_path)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no tunnel is running\n")
    assert json.loads(cli("show", "--json", runtime_dir=tmp_path).stdout) == {"version": 1, "interfaces": []}
    result = cli("show", "site-a", runtime_dir=tmp_path)
    assert result.exit_code == 1
    assert "site-a is not running" in result.stderr


def test_show_steps_over_a_tunnel_that_died(tmp_path: Path) -> None:
    with played(tmp_path):
        (tmp_path / "dead.sock").touch()
        result = cli("show", runtime_dir=tmp_path)
        assert result.exit_code == 0
        assert "interface: site-a" in result.stdout
        assert "dead is not running" in result.stderr


DAEMON = """
import selectors, sys
from pathlib import Path
from centipede.control.server import ControlServer
stopped = []
with selectors.DefaultSelector() as selector, ControlServer(Path(sys.argv[1]), selector, stopped.append):
    print("ready", flush=True)
    while not stopped:
        for key, _ in selector.select():
            key.data()
print("closed", flush=True)
sys.stdin.read()
"""


def test_down_returns_when_the_daemon_has_ended(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", DAEMON, str(socket_path(tmp_path, "site-a"))],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as daemon:
        assert daemon.stdin is not None
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == "ready\n"
        down = subprocess.Popen([*PROGRAM, "down", "site-a", "--runtime-dir", str(tmp_path)], env=ENVIRONMENT)
        assert daemon.stdout.readline() == "closed\n"
        assert down.poll() is None
        daemon.stdin.close()
        assert down.wait(TIMEOUT_S) == 0


def test_down_of_nothing(tmp_path: Path) -> None:
    result = cli("down", "site-a", runtime_dir=tmp_path)
    assert result.exit_code == 1
    assert "site-a is not running" in result.stderr


def test_every_setting_of_a_peer_can_be_changed_at_run_time() -> None:
    (add,) = (command for command in peer_group.commands.values() if command.name == "add")
    asked = {parameter.name for parameter in add.params}
    assert {field for field in PeerTable.__struct_fields__ if field != "preshared_key"} == asked, "keys come from files"


PEER_COMMANDS: list[tuple[Sequence[str], dict[str, Any]]] = [
    (["sync", "site-a"], {"command": "Sync", "file": None}),
    (["sync", "site-a", "/x/b.toml"], {"command": "Sync", "file": "/x/b.toml"}),
    (["peer", "site-a", "add", ALICE], {"command": "PeerAdd", "table": {"public_key": ALICE}}),
    (
        shlex.split(
            "peer site-a add KEY --name bob --endpoint a:1 --endpoint b:2 --allowed-ips 10.0.0.0/8 --copies all "
            "--scheduler redundant --heartbeat 0.5 --keepalive --allow-remote 10.0.0.0/8 --metered wwan0 "
            "--preshared-key-file /k"
        ),
        {
            "command": "PeerAdd",
            "table": {
                "public_key": "KEY",
                "name": "bob",
                "endpoints": ["a:1", "b:2"],
                "allowed_ips": ["10.0.0.0/8"],
                "copies": "all",
                "scheduler": "redundant",
                "heartbeat": 0.5,
                "keepalive": True,
                "allow_remote": ["10.0.0.0/8"],
                "metered": ["wwan0"],
                "preshared_key_file": "/k",
            },
        },
    ),
    (["peer", "site-a", "remove", "bob"], {"command": "PeerRemove", "peer": "bob"}),
    (
        ["peer", "site-a", "set", "bob", "--copies", "3", "--no-keepalive"],
        {"command": "PeerSet", "peer": "bob", "table": {"copies": 3, "keepalive": False}, "reset_floor": False},
    ),
    (
        ["peer", "site-a", "set", "bob", "--reset-floor"],
        {"command": "PeerSet", "peer": "bob", "table": {}, "reset_floor": True},
    ),
]


@pytest.mark.parametrize(("arguments", "expected"), PEER_COMMANDS)
def test_changes_of_a_running_tunnel(tmp_path: Path, arguments: Sequence[str], expected: dict[str, Any]) -> None:
    with played(tmp_path, ["peer bob added", "mtu changed"]) as daemon:
        result = cli(*arguments, runtime_dir=tmp_path)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "peer bob added\nmtu changed\n"
    assert daemon.requests == [expected]


def test_a_change_that_changes_nothing(tmp_path: Path) -> None:
    with played(tmp_path, []):
        assert cli("sync", "site-a", runtime_dir=tmp_path).stdout == "nothing to change\n"


def test_a_change_the_daemon_refuses(tmp_path: Path) -> None:
    with played(tmp_path, ControlError("there is no peer 'bob'; there are: alice")):
        result = cli("peer", "site-a", "remove", "bob", runtime_dir=tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "centipede: there is no peer 'bob'; there are: alice\n"
