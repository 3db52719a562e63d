"""What the contract tests of both engines stand on.

``ENGINES`` parametrises a test over the engines; one that cannot run here is skipped with its own reason. A
:class:`Rig` is one engine between a stand-in for a TUN device and loopback UDP, with the test as its peer. A
:class:`Namespace` is a network namespace without a name: it goes with this process, whatever ends it.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from typing import Any, ParamSpec, TypeVar

import pytest

from centipede.engine.contract import Engine
from centipede.engine.python import PythonEngine
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.table import Event, ForwardingTable, ReceiveSession, Route, Run, SendPlan, TablePath, TablePeer
from centipede.system.udp import open_sockets
from tests.contract import packets

DEADLINE_S = 10.0
"""For everything a test waits for: generous, since a test that passes does not wait so long."""

P = ParamSpec("P")
T = TypeVar("T")
E = TypeVar("E", bound=Event)


def unavailable(engine: str) -> str | None:
    """Why an engine cannot be tested here, or None."""
    if engine == "python":
        return None
    try:
        reason: str | None = importlib.import_module("centipede.engine.native").available()
    except ModuleNotFoundError as error:
        return str(error)
    return reason


def engine_param(engine: str) -> Any:
    reason = unavailable(engine)
    marks = [pytest.mark.skip(reason=f"the native engine cannot be used: {reason}")] if reason else []
    return pytest.param(engine, marks=marks, id=engine)


ENGINES = [engine_param("python"), engine_param("native")]


def create_engine(engine: str, tun_fds: Sequence[int], **options: Any) -> Engine:
    """Build an engine, not started. The options are NativeEngine's; TUN packets have no virtio headers unless asked."""
    if engine == "python":
        assert not options
        return PythonEngine(tun_fds)
    native = importlib.import_module("centipede.engine.native")
    created: Engine = native.NativeEngine(tun_fds, **{"vnet_hdr": False, **options})
    return created


def eventually(condition: Callable[[], T], what: str = "the condition") -> T:
    """Wait until a condition is true, and return what it gave."""
    deadline = time.monotonic() + DEADLINE_S
    while not (result := condition()):
        if time.monotonic() > deadline:
            pytest.fail(f"{what} did not come true within {DEADLINE_S} s")
        time.sleep(0.002)  # the one place that polls: for state that has no descriptor to wait on
    return result


def readable(descriptor: int | socket.socket, timeout_s: float = DEADLINE_S) -> bool:
    return bool(select.select([descriptor], [], [], timeout_s)[0])


class End:
    """The test's end of a descriptor pair or socket: takes packets with a deadline."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock

    def take(self) -> bytes:
        """The next packet, which must come."""
        assert readable(self.socket), "nothing arrived"
        return self.socket.recv(65535)

    def take_many(self, count: int) -> list[bytes]:
        return [self.take() for _ in range(count)]

    def take_waiting(self) -> list[bytes]:
        """Whatever has arrived."""
        taken = []
        while not self.silent():
            taken.append(self.take())
        return taken

    def silent(self) -> bool:
        """Whether nothing has arrived. For use after a later packet was seen to arrive or be counted."""
        return not readable(self.socket, 0)


class FakeTun:
    """Stands in for a TUN device without virtio headers: a packet is a message, a full queue says EAGAIN."""

    def __init__(self, queues: int) -> None:
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(queues)]
        self.ends = [End(mine) for mine, _ in pairs]
        for _, theirs in pairs:
            theirs.setblocking(False)
        self.fds = [theirs.detach() for _, theirs in pairs]
        """Descriptors for the engine, which closes them."""

    def close(self) -> None:
        for end in self.ends:
            end.socket.close()


LOCAL_ADDRESS = "10.0.1.1"
PEER_ADDRESS = "10.0.2.1"
LOCAL_ADDRESS_6 = "fd00:1::1"
PEER_ADDRESS_6 = "fd00:2::1"


class Rig:
    """One engine between a fake TUN device and loopback UDP; the test holds the other end of both.

    ```
    test -- tun[i] == worker i == local[j] -- loopback -- remote[j] -- test as the peer
    ```
    Path j is (local[j], remote[j]) and has number ``PATH + j``. The peer is number ``PEER``, owns 10.0.2.0/24 and
    fd00:2::/32, and has the one session ``SESSION`` with two keys.
    """

    PEER = 7
    PATH = 40
    SESSION = 100
    TX_KEY = bytes(range(32))
    RX_KEY = bytes(range(32, 64))
    TX_BASE = b"to-you"
    RX_BASE = b"to-us!"

    def __init__(
        self, engine: str, *, workers: int = 1, paths: int = 1, host: str = "127.0.0.1", **options: Any
    ) -> None:
        """``options`` are :func:`create_engine`'s."""
        self.tun = FakeTun(workers)
        self.engine = create_engine(engine, self.tun.fds, **options)
        self.run = Run(0, (workers - 1).bit_length())
        self.locals: list[Endpoint] = []
        self.remotes: list[End] = []
        self.generation = 0
        self._waiting: list[Event] = []
        for _ in range(paths):
            self.add_local(host)
            self.remotes.append(End(udp_socket(host)))
        self.engine.start()

    def close(self) -> None:
        self.engine.close()
        self.tun.close()
        for remote in self.remotes:
            remote.socket.close()

    def add_local(self, host: str = "127.0.0.1") -> Endpoint:
        """Have the engine serve one more local address."""
        fds = open_sockets(Endpoint(host, 0), self.engine.workers)
        with socket.socket(fileno=os.dup(fds[0])) as sock:
            local = Endpoint.of(host, sock.getsockname()[1])
        self.engine.add_local(local, fds)
        self.locals.append(local)
        return local

    # Tables.

    def path(self, index: int = 0) -> TablePath:
        return TablePath(self.PATH + index, self.locals[index], endpoint_of(self.remotes[index].socket))

    def plan(self, **changes: Any) -> SendPlan:
        paths = tuple(self.path(index) for index in range(len(self.remotes)))
        return replace(SendPlan(self.SESSION, self.TX_BASE, self.TX_KEY, Run(), paths, copies=1), **changes)

    def session(self, **changes: Any) -> ReceiveSession:
        given = ReceiveSession(
            self.SESSION, self.PEER, self.RX_BASE, self.RX_KEY, pending=False, sources=(Run(),), own=self.run
        )
        return replace(given, **changes)

    def peer(self, *plans: SendPlan, shares: tuple[int, ...] = ()) -> TablePeer:
        return TablePeer(self.PEER, plans, tuple(self.path(index) for index in range(len(self.remotes))), shares)

    def table(self, **changes: Any) -> ForwardingTable:
        self.generation += 1
        routes = (Route(ip_network("10.0.2.0/24"), self.PEER), Route(ip_network("fd00:2::/32"), self.PEER))
        table = ForwardingTable(self.generation, self.run, routes, (self.peer(self.plan()),), (self.session(),))
        return replace(table, **changes)

    def apply(self, **changes: Any) -> ForwardingTable:
        """Apply the table described above, with some fields changed."""
        table = self.table(**changes)
        self.engine.apply(table)
        return table

    # Packets.

    def seal(self, counter: int, plaintext: bytes, **header: Any) -> bytes:
        """A datagram from the peer."""
        return packets.seal(self.RX_KEY, counter, plaintext, **{"base": self.RX_BASE, **header})

    def unseal(self, datagram: bytes) -> bytes:
        """The plaintext of a datagram to the peer."""
        assert datagram[8:14] == self.TX_BASE
        return packets.unseal(self.TX_KEY, datagram)

    def inject(self, datagram: bytes, path: int = 0) -> None:
        """Send a datagram to the engine as it is."""
        self.remotes[path].socket.sendto(datagram, self.locals[path])

    def deliver(self, counter: int, inner: bytes, path: int = 0, **header: Any) -> None:
        """Send the engine a data packet."""
        self.inject(self.seal(counter, inner, **header), path)

    # What came of it.

    def event(self, kind: type[E]) -> E:
        """The next event of a kind, which must come; others are kept for later."""
        deadline = time.monotonic() + DEADLINE_S
        while True:
            for event in self._waiting:
                if isinstance(event, kind):
                    self._waiting.remove(event)
                    return event
            assert readable(self.engine.event_fd, deadline - time.monotonic()), f"no {kind.__name__}"
            self._waiting += self.engine.events()

    def events(self, count: int) -> list[Event]:
        """The next events of any kind, as many as asked for, which must come."""
        deadline = time.monotonic() + DEADLINE_S
        while len(self._waiting) < count:
            assert readable(self.engine.event_fd, deadline - time.monotonic()), f"only {self._waiting}"
            self._waiting += self.engine.events()
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def events_left(self) -> list[Event]:
        """The events nobody asked for."""
        left, self._waiting = self._waiting + self.engine.events(), []
        return left

    def expect_path(self, index: int = 0, **fields: float) -> None:
        """Wait until a path's counters are these."""

        def counted() -> bool:
            path = self.engine.counters().paths[self.PATH + index]
            return all(getattr(path, name) == value for name, value in fields.items())

        eventually(counted, f"{fields} of path {index}")

    def drops(self) -> Mapping[DropReason, int]:
        return self.engine.counters().drops

    def expect_drops(self, expected: Mapping[DropReason, int]) -> None:
        """Wait until as many packets were dropped, and check that it was for these reasons."""
        total = sum(expected.values())
        eventually(lambda: sum(self.drops().values()) >= total, f"{total} drops")
        assert dict(self.drops()) == dict(expected)


@contextmanager
def rig(engine: str, **options: Any) -> Iterator[Rig]:
    """A rig that is closed again."""
    built = Rig(engine, **options)
    try:
        yield built
    finally:
        built.close()


def udp_socket(host: str = "127.0.0.1", port: int = 0) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
    sock.bind((host, port))
    return sock


def endpoint_of(sock: socket.socket) -> Endpoint:
    """The local address of an IPv4 or global IPv6 socket."""
    return Endpoint.of(*sock.getsockname()[:2])


_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """A network namespace that only this process holds."""

    def __init__(self) -> None:
        """Raises OSError where this process may not make one."""
        self._fd = _in_thread(_enter_new)
        self.run(_loopback_up)

    def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call something inside, in a thread of its own: what it opens or starts there stays there."""

        def inside() -> T:
            if _libc.setns(self._fd, _CLONE_NEWNET):
                number = ctypes.get_errno()
                raise OSError(number, f"setns: {os.strerror(number)}")
            return call(*args, **kwargs)

        return _in_thread(inside)

    @property
    def fd(self) -> int:
        """For netlink's IFLA_NET_NS_FD."""
        return self._fd

    def close(self) -> None:
        """Let go of it; it ends with the last socket or process inside."""
        os.close(self._fd)


def make_namespaces(count: int) -> list[Namespace]:
    """Namespaces for a test, which is skipped where there can be none."""
    made: list[Namespace] = []
    try:
        made.extend(Namespace() for _ in range(count))
    except PermissionError as error:
        for namespace in made:
            namespace.close()
        pytest.skip(f"no network namespace may be made here ({error}): run as root or with CAP_SYS_ADMIN")
    return made


def _enter_new() -> int:
    if _libc.unshare(_CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare(CLONE_NEWNET): {os.strerror(number)}")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _loopback_up() -> None:
    from pyroute2 import IPRoute

    with IPRoute() as netlink:
        netlink.link("set", index=1, state="up")


def _in_thread(call: Callable[[], T]) -> T:
    """The result of a call made in a short-lived thread."""
    future: Future[T] = Future()

    def target() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - handed to the caller
            future.set_exception(error)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    return future.result()
