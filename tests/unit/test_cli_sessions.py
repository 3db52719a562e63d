"""``centipede session``: what goes through its pipes, and what is said when the wrong thing does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from centipede.control.client import socket_path
from centipede.control.messages import (
    Exported,
    Imported,
    Offered,
    Request,
    SessionExport,
    SessionImport,
    SessionOffer,
    Show,
    Stop,
)
from centipede.errors import HandoverError
from centipede.show import Cluster
from tests.unit.test_cli import INTERFACE, cli
from tests.unit.test_control import serving
from tests.unit.test_show import PEERS

PEER = PEERS[1]
OFFER = "centipede offer v1\nAAAA\n"
EXPORT = "centipede export v1\nBBBB\n"
REACHED = msgspec.structs.replace(INTERFACE, peers=[PEER])


class Daemon:
    """Answers as a daemon would, one that reaches the imported peer when it is asked for the second time."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.shown = 0

    def __call__(self, request: Request) -> Any:
        match request:
            case Show():
                self.shown += 1
                return INTERFACE if self.shown == 1 else REACHED
            case SessionOffer():
                return Offered(offer=OFFER, seconds=30)
            case SessionExport(offer=offer):
                self.requests.append(request)
                if offer != OFFER:
                    raise HandoverError("this is no offer")
                return Exported(export=EXPORT)
            case SessionImport():
                self.requests.append(request)
                return Imported(peer=PEER.name)
        raise AssertionError(request)


@contextmanager
def running(runtime_dir: Path) -> Iterator[Daemon]:
    daemon = Daemon()
    with serving(socket_path(runtime_dir, "site-a"), daemon):
        yield daemon


def test_the_three_commands_are_pipes(tmp_path: Path) -> None:
    with running(tmp_path) as daemon:
        offer = cli("session", "site-a", "offer", runtime_dir=tmp_path)
        export = cli("session", "site-a", "export", "bob", "--to", "-", text=offer.stdout, runtime_dir=tmp_path)
        done = cli("session", "site-a", "import", text=export.stdout, runtime_dir=tmp_path)
    assert (offer.stdout, export.stdout) == (OFFER, EXPORT)
    assert done.stdout == f"the sessions with {PEER.name} are served here\n"
    assert daemon.shown == 2, "it did not wait until the peer was reached"
    assert daemon.requests == [SessionExport(peer="bob", offer=OFFER), SessionImport(export=EXPORT)]


def test_files_and_json(tmp_path: Path) -> None:
    file = tmp_path / "offer"
    file.write_text(OFFER)
    with running(tmp_path) as daemon:
        offer = json.loads(cli("session", "site-a", "offer", "--json", runtime_dir=tmp_path).stdout)
        export = json.loads(
            cli("session", "site-a", "export", "bob", "--to", file, "--join", "--json", runtime_dir=tmp_path).stdout
        )
        (tmp_path / "export").write_text(export["export"])
        imported = cli("session", "site-a", "import", tmp_path / "export", "--json", runtime_dir=tmp_path)
    assert offer == {"offer": OFFER, "seconds": 30.0}
    assert json.loads(imported.stdout) == {"peer": PEER.name}
    assert daemon.requests[0] == SessionExport(peer="bob", offer=OFFER, join=True)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["export", "bob", "--to", "-"], "does not hold an offer; see whether the command that should print it failed"),
        (["import"], "does not hold an export; see whether the command that should print it failed"),
    ],
)
def test_a_command_before_the_pipe_that_failed(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    with running(tmp_path) as daemon:
        result = cli("session", "site-a", *arguments, text="\n", runtime_dir=tmp_path)
    assert (result.exit_code, result.stdout) == (1, "")
    assert sentence in result.stderr
    assert daemon.requests == []


@pytest.mark.parametrize("undrained", [True, False])
def test_who_leaves_and_is_put_back_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undrained: bool) -> None:
    """Somebody else undrains while ``leave`` waits for peers to go."""
    monkeypatch.setattr("centipede.cli._LEFT_AFTER_S", 10.0 if undrained else 0.2)
    asked: list[Request] = []

    def answer(request: Request) -> Any:
        asked.append(request)
        if isinstance(request, Show):
            draining = not undrained or len(asked) < 3
            return msgspec.structs.replace(INTERFACE, cluster=Cluster(draining=True) if draining else None)
        if isinstance(request, Stop):
            raise HandoverError("asked to stop")
        return []

    with serving(socket_path(tmp_path, "site-a"), answer):
        result = cli("member", "site-a", "leave", runtime_dir=tmp_path)
    assert result.exit_code == 1
    assert ("meanwhile somebody said" in result.stderr) == undrained
    assert any(isinstance(request, Stop) for request in asked) != undrained


def test_what_the_daemon_refuses(tmp_path: Path) -> None:
    with running(tmp_path):
        result = cli("session", "site-a", "export", "bob", "--to", "-", text=EXPORT, runtime_dir=tmp_path)
    assert (result.exit_code, result.stderr) == (1, "centipede: this is no offer\n")


def test_a_peer_that_is_not_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("centipede.cli._REACHED_WITHIN_S", -1.0)
    with running(tmp_path):
        result = cli("session", "site-a", "import", text=EXPORT, runtime_dir=tmp_path)
    assert result.exit_code == 1
    assert "the other machine serves it on" in result.stderr
