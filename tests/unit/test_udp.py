from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from centipede.errors import HostError
from centipede.protocol.endpoint import Endpoint
from centipede.system.udp import open_sockets

IP_MTU_DISCOVER = 10
IPV6_MTU_DISCOVER = 23


@contextmanager
def opened(local: Endpoint, count: int, **options: Any) -> Iterator[list[socket.socket]]:
    with ExitStack() as stack:
        fds = open_sockets(local, count, **options)
        yield [stack.enter_context(socket.socket(fileno=fd)) for fd in fds]


def open_descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1", "::"])
@pytest.mark.parametrize("count", [1, 3])
def test_all_share_one_port(host: str, count: int) -> None:
    with opened(Endpoint(host, 0), count) as sockets:
        assert len(sockets) == count
        names = {sock.getsockname() for sock in sockets}
        assert len(names) == 1
        ((found, port, *_),) = names
        assert found == host
        assert port
        for sock in sockets:
            assert not os.get_blocking(sock.fileno())
            assert not os.get_inheritable(sock.fileno())


def test_ipv6_alone() -> None:
    with opened(Endpoint("::", 0), 1) as (six,):
        port = six.getsockname()[1]
        with opened(Endpoint("0.0.0.0", port), 2):
            pass
        assert six.getsockopt(socket.IPPROTO_IPV6, IPV6_MTU_DISCOVER) == 0


def test_without_df() -> None:
    with opened(Endpoint("127.0.0.1", 0), 1) as (sock,):
        assert sock.getsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER) == 0


def test_buffers_as_large_as_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(Endpoint("127.0.0.1", 0), 2, receive_buffer_bytes=100_000, send_buffer_bytes=50_000) as sockets:
        for sock in sockets:
            # The kernel doubles what is asked for, for its own accounting (socket(7)).
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 200_000
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 100_000


class Unprivileged(socket.socket):
    """A socket as a process without CAP_NET_ADMIN has it."""

    def setsockopt(self, level: int, option: int, value: Any, *length: Any) -> None:
        if option in (32, 33, socket.SO_MARK):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
            raise PermissionError(1, "Operation not permitted")
        super().setsockopt(level, option, value, *length)


def test_buffers_without_privilege(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", Unprivileged)
    fds = open_sockets(Endpoint("127.0.0.1", 0), 1, receive_buffer_bytes=100_000)
    monkeypatch.undo()
    with socket.socket(fileno=fds[0]) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 200_000


def test_a_mark_without_privilege(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "socket", Unprivileged)
    with pytest.raises(HostError, match="no permission to set mark 7: run as root"):
        open_sockets(Endpoint("127.0.0.1", 0), 1, mark=7)


@pytest.mark.parametrize("count", [1, 2])
def test_a_port_in_use(count: int) -> None:
    with opened(Endpoint("127.0.0.1", 0), 2) as (sock, _):
        local = Endpoint("127.0.0.1", sock.getsockname()[1])
        before = open_descriptors()
        with pytest.raises(HostError, match=rf"UDP {local} is in use: stop the program that has it"):
            open_sockets(local, count)
        assert open_descriptors() == before


@pytest.mark.parametrize(
    ("local", "device", "sentence"),
    [
        (Endpoint("192.0.2.77", 0), None, "no interface of this host has this address"),
        (Endpoint("2001:db8::77", 0), None, "no interface of this host has this address"),
        (Endpoint("fe80::1%cpd-none", 0), None, "there is no interface cpd-none"),
        (Endpoint("127.0.0.1", 0), "cpd-none", "there is no interface cpd-none"),
    ],
)
def test_no_such_address_or_interface(local: Endpoint, device: str | None, sentence: str) -> None:
    before = open_descriptors()
    with pytest.raises(HostError, match=sentence):
        open_sockets(local, 2, device=device)
    assert open_descriptors() == before


def test_tied_to_a_device() -> None:
    with opened(Endpoint("127.0.0.1", 0), 2, device="lo") as sockets:
        for sock in sockets:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"lo"


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (13, "no permission to bind UDP 127.0.0.1:1: use a port of 1024 or above"),
        (97, "this host has no IPv4"),
        (24, "too many open files"),
        (105, "UDP 127.0.0.1:1 could not be opened: No buffer space available"),
    ],
)
def test_the_kernel_refuses(monkeypatch: pytest.MonkeyPatch, number: int, sentence: str) -> None:
    class Refused(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(number, os.strerror(number))

    monkeypatch.setattr(socket, "socket", Refused)
    before = open_descriptors()
    with pytest.raises(HostError, match=sentence):
        open_sockets(Endpoint("127.0.0.1", 1), 1)
    assert open_descriptors() == before
