"""Signs that the machine may be a copy of itself."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

import pytest

from centipede.system.clone import CloneWatch


class Host:
    """Two clocks, and the kernel's end of the socket."""

    def __init__(self) -> None:
        self.monotonic = 100.0
        self.boottime = 5000.0
        self.kernel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        theirs.setblocking(False)
        self.watch = CloneWatch(lambda: self.monotonic, lambda: self.boottime, lambda: theirs)

    def sleep(self, seconds: float) -> None:
        self.boottime += seconds

    def work(self, seconds: float) -> None:
        self.monotonic += seconds
        self.boottime += seconds


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host()
    with host.watch, host.kernel:
        yield host


def test_a_machine_that_works_is_no_copy(host: Host) -> None:
    for _ in range(3):
        host.work(3600.0)
        assert host.watch.take() is None


def test_long_sleep_is_told_once(host: Host) -> None:
    host.sleep(35.0)
    assert host.watch.take() == "the machine slept for 35 s"
    assert host.watch.take() is None


def test_naps_do_not_add_up(host: Host) -> None:
    for _ in range(3):
        host.sleep(25.0)
        assert host.watch.take() is None


def test_the_kernels_word_is_told_once(host: Host) -> None:
    host.kernel.send(b"change@/devices/LNXSYSTM:00/LNXSYBUS:00/VMGENCTR:00\0ACTION=change\0NEW_VMGENID=1\0SEQNUM=9\0")
    host.kernel.send(b"add@/devices/virtual/net/veth0\0ACTION=add\0SEQNUM=10\0")
    assert host.watch.take() == "the machine was restored from a snapshot, or cloned"
    assert host.watch.take() is None


@pytest.mark.parametrize("event", [b"", b"\0", b"add@/x\0NAME=NEW_VMGENID=1\0", b"\xff" * 4096])
def test_other_events_mean_nothing(host: Host, event: bytes) -> None:
    host.kernel.send(event)
    assert host.watch.take() is None


class Overflowing(socket.socket):
    """As if events had come faster than they were taken."""

    def __init__(self) -> None:
        super().__init__(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.errors = [errno.ENOBUFS, errno.EAGAIN, errno.EAGAIN]

    def recv(self, *_: object) -> bytes:
        raise OSError(self.errors.pop(0), "")


def test_events_that_were_lost_may_have_been_it() -> None:
    with CloneWatch(events=Overflowing) as watch:
        assert watch.take() is not None
        assert watch.take() is None


def test_the_kernel_lets_itself_be_listened_to() -> None:
    with CloneWatch() as watch:
        assert watch.fileno() >= 0
        assert watch.take() is None


def test_a_flood_of_events_has_room() -> None:
    with CloneWatch() as watch, socket.socket(fileno=os.dup(watch.fileno())) as events:
        assert events.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) > 212_992  # the kernel's own
