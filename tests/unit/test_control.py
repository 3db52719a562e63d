"""Control socket: requests and answers, several clients, bounds, and who may serve a name."""

from __future__ import annotations

import contextlib
import json
import selectors
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from centipede.control.client import ControlClient, running, socket_path
from centipede.control.messages import REQUEST_BYTES, PeerAdd, PeerRemove, PeerSet, Request, Show, Stop, Sync
from centipede.control.server import MOST_CLIENTS, ControlServer
from centipede.errors import ControlError, HostError

TIMEOUT_S = 10.0


def echo(request: Request) -> Any:
    match request:
        case Show():
            return {"shown": "x" * 3_000_000}
        case PeerRemove(peer=peer):
            raise ControlError(f"there is no peer {peer}")
        case Stop():
            return None
        case _:
            return repr(request)


@contextmanager
def serving(path: Path, handle: Callable[[Request], Any] = echo) -> Iterator[ControlServer]:
    """A server whose control thread is a thread of the test."""
    wake, stop = socket.socketpair()
    with selectors.DefaultSelector() as selector, ControlServer(path, selector, handle) as server, wake, stop:
        ended = threading.Event()
        selector.register(wake, selectors.EVENT_READ, ended.set)

        def loop() -> None:
            while not ended.is_set():
                for key, _ in selector.select():
                    key.data()

        thread = threading.Thread(target=loop)
        thread.start()
        try:
            yield server
        finally:
            stop.send(b"1")
            thread.join(TIMEOUT_S)
            selector.unregister(wake)
            assert not thread.is_alive()


def raw(path: Path) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.settimeout(TIMEOUT_S)
    client.connect(str(path))
    return client


def decoded(answer: msgspec.Raw) -> Any:
    return msgspec.json.decode(answer)


def fine(answer: object) -> bool:
    return answer == {"version": 1, "result": None}


def line(client: socket.socket) -> Any:
    received = b""
    while not received.endswith(b"\n"):
        chunk = client.recv(1 << 20)
        assert chunk, "the server hung up"
        received += chunk
    return json.loads(received)


@pytest.mark.parametrize(
    "request_",
    [
        Sync(file="/etc/centipede/a.toml"),
        Sync(),
        PeerAdd(table={"public_key": "k", "endpoints": ["a:1"]}),
        PeerSet(peer="laptop", table={"copies": "all"}, reset_floor=True),
    ],
    ids=lambda request: type(request).__name__,
)
def test_requests_arrive_as_they_were_sent(tmp_path: Path, request_: Request) -> None:
    with serving(socket_path(tmp_path, "a")), ControlClient(tmp_path, "a") as client:
        assert decoded(client.request(request_)) == repr(request_)


def test_one_connection_carries_many_requests_and_long_answers(tmp_path: Path) -> None:
    with serving(socket_path(tmp_path, "a")), ControlClient(tmp_path, "a") as client:
        for _ in range(3):
            assert len(client.request(Show())) > 3_000_000
            assert decoded(client.request(Stop())) is None


def test_a_sentence_of_the_daemon_reaches_the_user(tmp_path: Path) -> None:
    with serving(socket_path(tmp_path, "a")), ControlClient(tmp_path, "a") as client:
        with pytest.raises(ControlError, match="there is no peer bob"):
            client.request(PeerRemove(peer="bob"))
        assert decoded(client.request(Stop())) is None  # and the connection goes on


def test_a_client_that_does_not_read_holds_nobody_up(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "a")
    with serving(path), raw(path) as lazy, ControlClient(tmp_path, "a") as client:
        lazy.sendall(b'{"command":"show"}\n' * 5)
        for _ in range(3):
            client.request(Show())
        answers = [json.loads(text) for text in read_lines(lazy, 5)]
        assert [len(answer["result"]["shown"]) for answer in answers] == [3_000_000] * 5


def read_lines(client: socket.socket, count: int) -> list[bytes]:
    received = b""
    while received.count(b"\n") < count:
        received += client.recv(1 << 20)
    return received.splitlines()


@pytest.mark.parametrize(
    "request_",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff\xfe",
        b'{"command":"dance"}',
        b'{"command":"show","extra":1}',
        b'{"command":"peer-remove"}',
        b'{"command":"peer-remove","peer":7}',
        b'{"command":"sync","file":{}}',
        b'{"command":"show"',
        b'{"command":"peer-remove","peer":"\xff"}',
        b'{"command":"peer-add","table":{"name":' + b"[" * 30000,
    ],
)
def test_what_is_no_request_is_answered_by_a_sentence(tmp_path: Path, request_: bytes) -> None:
    path = socket_path(tmp_path, "a")
    with serving(path), raw(path) as client:
        client.sendall(request_ + b"\n")
        assert line(client)["error"].startswith("not a request that this daemon knows: ")
        client.sendall(b'{"command":"stop"}\n')
        assert fine(line(client))


def test_another_version_is_refused(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "a")
    with serving(path), raw(path) as client:
        client.sendall(b'{"command":"stop","version":2}\n')
        assert "speaks version 1, not 2" in line(client)["error"]


def test_a_line_without_end_is_cut_off(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "a")
    with serving(path), raw(path) as client:
        client.sendall(b"x" * REQUEST_BYTES)
        with contextlib.suppress(ConnectionError):  # it may be gone before all of it was taken
            client.sendall(b"x" * REQUEST_BYTES)
            assert client.recv(1) == b""


def test_requests_in_pieces_and_in_one_piece(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "a")
    with serving(path), raw(path) as client:
        for byte in b'{"command":"stop"}\n':
            client.send(bytes([byte]))
        assert fine(line(client))
        client.sendall(b'{"command":"stop"}\n{"command":"peer-remove","peer":"x"}\n{"comm')
        first, second = read_lines(client, 2)
        assert fine(json.loads(first))
        assert json.loads(second)["error"] == "there is no peer x"


def test_too_many_clients_are_turned_away_and_leavers_make_room(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "a")
    with serving(path):
        clients = [raw(path) for _ in range(MOST_CLIENTS)]
        for client in clients:  # each is surely accepted once it got an answer
            client.sendall(b'{"command":"stop"}\n')
            line(client)
        with raw(path) as late:
            assert late.recv(1) == b""
        for client in clients:
            client.close()
        deadline = time.monotonic() + TIMEOUT_S
        while not served(tmp_path):  # the server may see the newcomer before it sees the others leave
            assert time.monotonic() < deadline


def served(runtime_dir: Path) -> bool:
    try:
        with ControlClient(runtime_dir, "a") as client:
            client.request(Stop())
    except ControlError:
        return False
    return True


def test_the_socket_is_private_and_goes_with_the_server(tmp_path: Path) -> None:
    path = socket_path(tmp_path / "run", "a")
    with serving(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert running(path.parent) == ["a"]
    assert list(path.parent.iterdir()) == []
    assert running(path.parent) == []


def test_clients_see_the_end(tmp_path: Path) -> None:
    with serving(socket_path(tmp_path, "a")):
        client = ControlClient(tmp_path, "a", timeout_s=TIMEOUT_S)
        client.request(Stop())
    with client:
        client.wait_ended()


def test_a_name_is_served_once(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "a")
    with serving(path), selectors.DefaultSelector() as selector:
        with pytest.raises(HostError, match=r"a is running already .*; stop it with 'centipede down a'"):
            ControlServer(path, selector, echo)
        with ControlClient(tmp_path, "a") as client:  # the first one was not disturbed
            client.request(Stop())


def test_a_stale_socket_is_replaced(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "a")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    path.with_suffix(".lock").touch()
    with pytest.raises(ControlError, match="a is not running"):
        ControlClient(tmp_path, "a")
    with serving(path), ControlClient(tmp_path, "a") as client:
        client.request(Stop())


def test_paths_beyond_the_length_of_a_socket_address(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 100) / ("e" * 100)
    with serving(socket_path(directory, "a")), ControlClient(directory, "a") as client:
        client.request(Stop())


def test_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(
        ControlError, match=r"a is not running \(no daemon at .*/a.sock\); start it with 'centipede up a'"
    ):
        ControlClient(tmp_path, "a")


def test_a_daemon_that_does_not_answer(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "a")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        with ControlClient(tmp_path, "a", timeout_s=0.05) as client:
            with pytest.raises(ControlError, match="did not answer in time"):
                client.request(Show())
            with pytest.raises(ControlError, match="did not stop in time"):
                client.wait_ended()


@pytest.mark.parametrize("answer", [b"", b"nonsense\n", b'{"result":1}\n'])
def test_a_daemon_that_talks_nonsense(tmp_path: Path, answer: bytes) -> None:
    path = socket_path(tmp_path, "a")
    with socket.socket(socket.AF_UNIX) as odd:
        odd.bind(str(path))
        odd.listen()
        with ControlClient(tmp_path, "a") as client:
            connection, _ = odd.accept()
            with connection:
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)
                with pytest.raises(ControlError, match="the daemon of a broke off"):
                    client.request(Show())


def test_a_directory_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with selectors.DefaultSelector() as selector, pytest.raises(HostError, match=r"choose another with --runtime-dir"):
        ControlServer(tmp_path / "file" / "a.sock", selector, echo)
