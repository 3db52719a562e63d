"""Each engine with the trace: what it sealed is what was on the wire, and mutants that repeat a nonce are found."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest

from centipede.engine import build as engine_build
from centipede.engine import native
from centipede.protocol.table import Run
from lab.probes.wire import read_udp
from tests.contract.harness import LOCAL_ADDRESS, PEER_ADDRESS, Rig, eventually
from tests.contract.packets import udp
from tests.contract.traffic import transfer
from tests.contract.tunnel import PATHS, PORT, World, set_offloads, tunnel
from tests.trace import build
from tests.trace.conftest import load as load_extension
from tests.trace.entry import Account, load

pytestmark = pytest.mark.xdist_group("trace")

MakeRig = Callable[..., Rig]
PACKETS = 100
"""Of each size that each worker is given at a time."""


class Machine:
    """A rig whose peer keeps every datagram that comes to it."""

    def __init__(self, make_rig: MakeRig, own: Run | None = None) -> None:
        self.rig = make_rig(workers=2, paths=2)
        self.own = own or self.rig.run
        self.taken: list[bytes] = []

    def serve(self, number: int = 0, key: int = 0) -> None:
        """Send under this session alone, by this key: what is urgent on both paths, other packets on the first."""
        session = self.rig.SESSION + number
        paths = (self.rig.path(0), self.rig.path(1))
        plan = self.rig.plan(session=session, base=b"you%03d" % key, key=bytes([key]) * 32, paths=paths, urgent=paths)
        received = self.rig.session(session=session, base=b"our%03d" % number, own=self.own)
        self.rig.apply(peers=(self.rig.peer(plan),), sessions=(received,))

    def send(self) -> None:
        """Send small packets, which are urgent, and large ones, by both workers."""
        for end in self.rig.tun.ends:
            for size_bytes in (10, 1300):
                for _ in range(PACKETS):
                    end.socket.send(udp(LOCAL_ADDRESS, PEER_ADDRESS, bytes(size_bytes)))
                for remote, copies in zip(self.rig.remotes, (1, size_bytes == 10), strict=True):
                    self.taken += remote.take_many(PACKETS * copies)


SENT = 2 * 2 * PACKETS
"""What a machine seals for one call of ``send``; half of it is sent twice."""


def test_the_trace_is_what_was_on_the_wire(make_rig: MakeRig, trace: Path) -> None:
    """Two sessions after each other, then the second on another machine too, which has shards of its own under it."""
    first = Machine(make_rig)
    first.serve(number=0, key=0)
    first.send()
    first.serve(number=1, key=1)
    first.send()
    second = Machine(make_rig, own=Run(8192, 1))
    second.serve(number=0, key=1)
    second.send()
    first.send()
    assert Account.of(load(trace), first.taken + second.taken) == Account(
        reused=0, sealed=4 * SENT, seen=6 * SENT, copies=frozenset({1, 2}), unseen=0, unsealed=0
    )


# Mutants.


def test_a_counter_that_begins_again_is_found(make_rig: MakeRig, trace: Path) -> None:
    """A key comes back as that of another session, as out of a restored snapshot."""
    machine = Machine(make_rig)
    machine.serve(number=0, key=0)
    machine.send()
    machine.serve(number=1, key=0)
    machine.send()
    assert Account.of(load(trace), ()).reused == SENT


def test_two_machines_with_one_shard_are_found(make_rig: MakeRig, trace: Path) -> None:
    machines = Machine(make_rig), Machine(make_rig)
    for machine in machines:
        machine.serve()
        machine.send()
    assert Account.of(load(trace), ()).reused == SENT


def test_two_workers_with_one_shard_are_found(
    engine: str, make_rig: MakeRig, trace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine itself is the mutant."""
    if engine == "native":
        monkeypatch.setattr(native, "_loaded", load_extension(mutant(tmp_path)))
    else:
        monkeypatch.setattr(Run, "shard_of", lambda run, _worker: run.first)
    machine = Machine(make_rig)
    machine.serve()
    machine.send()
    assert Account.of(load(trace), ()).reused == SENT // 2


def mutant(directory: Path) -> Path:
    """A native engine all of whose workers seal with the first shard."""
    right, wrong = "(uint64_t)(session->own.first + w->index) << 48", "(uint64_t)session->own.first << 48"
    sources = {file.name: file for file in engine_build.sources()}
    text = sources["outbound.c"].read_text()
    assert text.count(right) == 1
    changed = directory / "outbound.c"
    changed.write_text(text.replace(right, wrong))
    return build.extension(directory / "build", [*{**sources, "outbound.c": changed}.values()])


# Real devices.


@pytest.fixture
def world() -> Iterator[World]:
    built = World()
    yield built
    built.close()


class Onlooker:
    """Sees each datagram that R takes from A or gives to it, as the wire has it."""

    _ETH_P_ALL = 3
    _SOL_PACKET, _PACKET_STATISTICS = 263, 6

    def __init__(self, world: World, stack: ExitStack) -> None:
        self.datagrams: list[bytes] = []
        self._sockets = [
            stack.enter_context(world.socket("R", socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(self._ETH_P_ALL)))
            for _ in PATHS
        ]
        for sock, path in zip(self._sockets, PATHS, strict=True):
            sock.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
            sock.bind((f"a{path}", self._ETH_P_ALL))
            sock.setblocking(False)

    def look(self) -> list[bytes]:
        """All session packets so far."""
        for sock in self._sockets:
            while (packet := _waiting(sock)) is not None:
                found = read_udp(packet)
                if found is not None and {PORT + path for path in PATHS} & {found[1], found[2]}:
                    self.datagrams.append(found[3])
            (missed,) = struct.unpack("4xI", sock.getsockopt(self._SOL_PACKET, self._PACKET_STATISTICS, 8))
            assert not missed
        return self.datagrams


def _waiting(sock: socket.socket) -> bytes | None:
    try:
        return sock.recv(65535)
    except BlockingIOError:
        return None


@pytest.mark.netns
def test_tcp_by_several_workers_over_two_paths(world: World, engine: str, trace: Path) -> None:
    """Segments of the kernel's superpackets among it: each is sealed once, and goes over both paths."""
    for host, path in product("AB", PATHS):  # each datagram of a train is to cross the wire by itself
        world.hosts[host].run(set_offloads, f"out{path}", "off")
    with ExitStack() as stack:
        onlooker = Onlooker(world, stack)
        with tunnel(world, (engine, engine), workers=(2, 3), copies=2):
            transfer(world, "A", "B", 4, 2_000_003, streams=4)
            transfer(world, "B", "A", 6, 500_003, streams=2)

        def account() -> Account:
            return Account.of(load(trace), onlooker.look())

        eventually(lambda: account().seen == 2 * account().sealed, "both copies of all that was sealed")
        found = account()
    assert found.sealed > 2_500_006 / 1420
    assert found == Account(
        reused=0, sealed=found.sealed, seen=2 * found.sealed, copies=frozenset({2}), unseen=0, unsealed=0
    )
