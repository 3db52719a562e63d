"""The way out: TUN -> route -> plan -> seal once -> the same bytes on each path."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network

import pytest

from centipede.engine.contract import RESUMED_AFTER_S, RESUMED_AGAIN_S, WAITING_PACKETS
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.table import Resumed, Route, Run, TablePath, TablePeer
from tests.contract import packets
from tests.contract.harness import (
    LOCAL_ADDRESS,
    LOCAL_ADDRESS_6,
    PEER_ADDRESS,
    PEER_ADDRESS_6,
    Rig,
    eventually,
)
from tests.contract.packets import TCP, UDP, counter_of, ip, shard_of, source_shard_of, udp

MakeRig = Callable[..., Rig]


def inner(number: int = 0) -> bytes:
    return udp(LOCAL_ADDRESS, PEER_ADDRESS, b"packet %d" % number)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    "packet",
    [
        udp(LOCAL_ADDRESS, PEER_ADDRESS, b"four"),
        udp(LOCAL_ADDRESS_6, PEER_ADDRESS_6, b"six"),
        ip(LOCAL_ADDRESS, PEER_ADDRESS, b""),
        ip(LOCAL_ADDRESS, PEER_ADDRESS, bytes(8000)),
    ],
    ids=["ipv4", "ipv6", "empty", "large"],
)
def test_sealed_to_the_peer(make_rig: MakeRig, host: str, packet: bytes) -> None:
    rig = make_rig(host=host)
    rig.apply()
    rig.tun.ends[0].socket.send(packet)
    datagram = rig.remotes[0].take()
    assert datagram[:16] == bytes(8) + rig.TX_BASE + bytes(2)
    assert rig.unseal(datagram) == packet
    assert len(datagram) == 32 + len(packet)
    rig.expect_path(tx_packets=1, tx_bytes=len(datagram))
    assert not rig.drops()


def test_counters_have_no_gaps(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    for number in range(150):
        rig.tun.ends[0].socket.send(inner(number))
    datagrams = rig.remotes[0].take_many(150)
    assert [counter_of(datagram) for datagram in datagrams] == list(range(150))
    assert [rig.unseal(datagram) for datagram in datagrams] == [inner(number) for number in range(150)]


@pytest.mark.parametrize(("copies", "used"), [(1, [2]), (2, [2, 0]), (3, [2, 0, 1]), (9, [2, 0, 1])])
def test_the_same_bytes_on_the_first_paths(make_rig: MakeRig, copies: int, used: list[int]) -> None:
    rig = make_rig(paths=3)
    rig.apply(peers=(rig.peer(rig.plan(paths=(rig.path(2), rig.path(0), rig.path(1)), copies=copies)),))
    for number in range(5):
        rig.tun.ends[0].socket.send(inner(number))
    taken = [rig.remotes[path].take_many(5) for path in used]
    assert all(datagrams == taken[0] for datagrams in taken)
    assert [counter_of(datagram) for datagram in taken[0]] == list(range(5))
    for path in range(3):
        rig.expect_path(path, tx_packets=5 if path in used else 0)
        assert rig.remotes[path].silent()


def test_the_longest_prefix_wins(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)
    other_plan = rig.plan(session=rig.SESSION + 1, base=b"other!", paths=(rig.path(1),))
    rig.apply(
        routes=(
            Route(ip_network("0.0.0.0/0"), rig.PEER),
            Route(ip_network("10.0.2.128/25"), 8),
            Route(ip_network("10.0.2.129/32"), rig.PEER),
        ),
        peers=(rig.peer(rig.plan(paths=(rig.path(0),))), TablePeer(8, (other_plan,), (rig.path(1),))),
        sessions=(rig.session(), rig.session(session=rig.SESSION + 1, peer=8, base=b"their!")),
    )
    for destination, path in (("10.0.2.127", 0), ("10.0.2.128", 1), ("10.0.2.129", 0), ("192.0.2.1", 0)):
        rig.tun.ends[0].socket.send(ip(LOCAL_ADDRESS, destination, b""))
        rig.remotes[path].take()
    rig.tun.ends[0].socket.send(udp(LOCAL_ADDRESS_6, PEER_ADDRESS_6, b""))
    rig.expect_drops({DropReason.NO_ROUTE: 1})


def test_a_route_to_nobody(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(routes=(), peers=(), sessions=())
    rig.tun.ends[0].socket.send(inner())
    rig.expect_drops({DropReason.NO_ROUTE: 1})


def test_before_any_table(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.tun.ends[0].socket.send(inner())
    rig.expect_drops({DropReason.NO_ROUTE: 1})


MALFORMED = {
    "one byte": b"\x45",
    "half a header": inner()[:19],
    "version 5": b"\x55" + inner()[1:],
    "version 0": bytes(40),
    "header length 4": b"\x44" + inner()[1:],
    "header longer than the packet": b"\x4f" + ip(LOCAL_ADDRESS, PEER_ADDRESS, bytes(8))[1:],
    "cut short": inner()[:-1],
    "half an IPv6 header": udp(LOCAL_ADDRESS_6, PEER_ADDRESS_6, b"")[:39],
    "IPv6 cut short": udp(LOCAL_ADDRESS_6, PEER_ADDRESS_6, b"")[:-1],
}


@pytest.mark.parametrize("packet", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed(make_rig: MakeRig, packet: bytes) -> None:
    rig = make_rig()
    rig.apply()
    rig.tun.ends[0].socket.send(packet)
    rig.tun.ends[0].socket.send(inner())
    assert rig.unseal(rig.remotes[0].take()) == inner()
    rig.expect_drops({DropReason.INNER_MALFORMED: 1})


# Waiting for a session.


def test_waiting_packets_go_out_in_order(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(peers=(rig.peer(),))
    for number in range(10):
        rig.tun.ends[0].socket.send(inner(number))
    assert rig.event(Resumed).peer == rig.PEER
    rig.apply()
    assert [rig.unseal(datagram) for datagram in rig.remotes[0].take_many(10)] == [inner(n) for n in range(10)]
    assert not rig.drops()


def test_the_newest_may_wait(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(peers=(rig.peer(),))
    for number in range(WAITING_PACKETS + 5):
        rig.tun.ends[0].socket.send(inner(number))
    rig.expect_drops({DropReason.NO_SESSION: 5})
    rig.apply()
    datagrams = rig.remotes[0].take_many(WAITING_PACKETS)
    assert [rig.unseal(datagram) for datagram in datagrams] == [inner(n) for n in range(5, WAITING_PACKETS + 5)]
    rig.tun.ends[0].socket.send(inner())
    assert rig.unseal(rig.remotes[0].take()) == inner()


def test_a_peer_that_goes_takes_its_waiting_packets_along(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(peers=(rig.peer(),))
    for number in range(3):
        rig.tun.ends[0].socket.send(inner(number))
    eventually(lambda: rig.engine.counters().peers_tx[rig.PEER])
    rig.apply(routes=(), peers=())
    rig.tun.ends[0].socket.send(inner())
    eventually(lambda: sum(rig.drops().values()) == 4, "four drops")
    waited = rig.drops().get(DropReason.NO_SESSION, 0)
    assert waited >= 1
    assert rig.drops() == {DropReason.NO_SESSION: waited, DropReason.NO_ROUTE: 4 - waited}


# Resumed.


def test_resumed_once_per_burst(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    assert rig.engine.counters().peers_tx == {rig.PEER: 0.0}
    before = time.monotonic()
    for number in range(20):
        rig.tun.ends[0].socket.send(inner(number))
    rig.remotes[0].take_many(20)
    resumed = rig.event(Resumed)
    assert resumed.peer == rig.PEER
    assert before <= resumed.at <= rig.engine.counters().peers_tx[rig.PEER] <= time.monotonic()
    assert rig.events_left() == []


@pytest.mark.slow
def test_resumed_after_a_pause_alone(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    start = time.monotonic()

    def kept_busy() -> bool:
        rig.tun.ends[0].socket.send(inner())
        rig.remotes[0].take()
        return time.monotonic() > start + RESUMED_AFTER_S + 0.1

    eventually(kept_busy, "traffic for longer than a pause may last")
    rig.event(Resumed)
    assert rig.events_left() == []
    last = rig.engine.counters().peers_tx[rig.PEER]
    eventually(lambda: time.monotonic() > last + RESUMED_AFTER_S, "the pause")
    rig.apply()  # a new table does not make the peer forgotten
    rig.tun.ends[0].socket.send(inner())
    assert rig.event(Resumed).at >= last + RESUMED_AFTER_S


@pytest.mark.slow
def test_resumed_again_while_packets_wait(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(peers=(rig.peer(),))
    times: list[float] = []

    def two_told() -> bool:
        rig.tun.ends[0].socket.send(inner())
        times.extend(event.at for event in rig.engine.events() if isinstance(event, Resumed))
        return len(times) >= 2

    eventually(two_told, "two Resumed events")
    assert times[1] - times[0] >= RESUMED_AGAIN_S


# Refusals of the kernel.


def test_too_big(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rig.tun.ends[0].socket.send(ip(LOCAL_ADDRESS, PEER_ADDRESS, bytes(65480)))
    rig.expect_drops({DropReason.SEND_TOO_BIG: 1})
    rig.tun.ends[0].socket.send(inner())
    assert rig.unseal(rig.remotes[0].take()) == inner()
    rig.expect_path(tx_packets=1)


@pytest.mark.parametrize(
    ("remote", "reason"),
    [
        (Endpoint("192.0.2.1", 9), DropReason.SEND_UNREACHABLE),  # loopback has no way to it
        (Endpoint("127.255.255.255", 9), DropReason.SEND_REFUSED),  # broadcast needs SO_BROADCAST: EACCES
        (Endpoint("2001:db8::1", 9), DropReason.SEND_UNREACHABLE),  # no IPv6 out of an IPv4 socket
        (Endpoint("fe80::1%cpd-no-such", 9), DropReason.SEND_UNREACHABLE),
    ],
    ids=["no route", "refused", "other version", "zone gone"],
)
def test_one_bad_path_spares_the_other(make_rig: MakeRig, remote: Endpoint, reason: DropReason) -> None:
    rig = make_rig()
    bad = TablePath(rig.PATH + 1, rig.locals[0], remote)
    peer = TablePeer(rig.PEER, (rig.plan(paths=(bad, rig.path(0)), copies=2),), (rig.path(0), bad))
    rig.apply(peers=(peer,))
    for number in range(3):
        rig.tun.ends[0].socket.send(inner(number))
    assert [rig.unseal(datagram) for datagram in rig.remotes[0].take_many(3)] == [inner(n) for n in range(3)]
    rig.expect_drops({reason: 3})
    rig.expect_path(1, tx_packets=0)


def test_a_path_from_an_address_no_longer_served(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)
    rig.apply(peers=(rig.peer(rig.plan(copies=2)),))
    rig.engine.remove_local(rig.locals[0])
    rig.tun.ends[0].socket.send(inner())
    assert rig.unseal(rig.remotes[1].take()) == inner()
    rig.expect_drops({DropReason.SEND_UNREACHABLE: 1})
    assert rig.remotes[0].silent()


# Control datagrams.


def test_control_leaves_as_it_is(make_rig: MakeRig) -> None:
    rig = make_rig(workers=2)
    remote = rig.path().remote
    assert rig.engine.send(rig.locals[0], remote, b"\x81 as it is") is None
    assert rig.remotes[0].take() == b"\x81 as it is"
    assert not rig.drops()


@pytest.mark.parametrize(
    ("remote", "size", "reason"),
    [
        (Endpoint("127.0.0.1", 9), 65508, DropReason.SEND_TOO_BIG),
        (Endpoint("192.0.2.1", 9), 100, DropReason.SEND_UNREACHABLE),
        (Endpoint("127.255.255.255", 9), 100, DropReason.SEND_REFUSED),
        (Endpoint("fe80::1%cpd-no-such", 9), 100, DropReason.SEND_UNREACHABLE),
    ],
    ids=["too big", "no route", "refused", "zone gone"],
)
def test_control_refused(make_rig: MakeRig, remote: Endpoint, size: int, reason: DropReason) -> None:
    rig = make_rig()
    assert rig.engine.send(rig.locals[0], remote, bytes(size)) is reason
    assert rig.drops() == {reason: 1}


def test_control_from_an_address_not_served(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.engine.send(Endpoint("127.0.0.1", 9), rig.path().remote, b"x") is DropReason.SEND_UNREACHABLE
    assert rig.drops() == {DropReason.SEND_UNREACHABLE: 1}


# Workers and shards.


def test_each_worker_has_its_shard(make_rig: MakeRig) -> None:
    rig = make_rig(workers=4)
    rig.run = Run(8, 2)
    rig.apply(peers=(rig.peer(rig.plan(run=Run(4, 1))),))
    for worker in range(4):
        for number in range(3):
            rig.tun.ends[worker].socket.send(inner(number))
        datagrams = rig.remotes[0].take_many(3)
        assert {source_shard_of(datagram) for datagram in datagrams} == {8 + worker}
        assert {shard_of(datagram) for datagram in datagrams} == {4 + worker % 2}
        assert [counter_of(datagram) for datagram in datagrams] == [0, 1, 2]
        assert [rig.unseal(datagram) for datagram in datagrams] == [inner(n) for n in range(3)]
    rig.expect_path(tx_packets=12)


def test_each_session_has_its_own_shards(make_rig: MakeRig) -> None:
    rig = make_rig(workers=2)
    other = rig.session(session=rig.SESSION + 1, base=b"other!", own=Run(6, 1))
    sessions = (rig.session(own=Run(4, 2)), other)
    for session, base, first in ((rig.SESSION, rig.TX_BASE, 4), (rig.SESSION + 1, b"second", 6)):
        plan = rig.plan(session=session, base=base)
        rig.apply(peers=(rig.peer(plan),), sessions=sessions)
        for worker in range(2):
            rig.tun.ends[worker].socket.send(inner())
            assert source_shard_of(rig.remotes[0].take()) == first + worker


def test_flows_are_shared_among_the_plans(make_rig: MakeRig) -> None:
    rig = make_rig(paths=3)
    runs = (Run(0), Run(4, 2), Run(8))
    plans = tuple(
        rig.plan(session=rig.SESSION + place, base=b"plan %d" % place, run=runs[place], paths=(rig.path(place),))
        for place in range(3)
    )
    sessions = tuple(rig.session(session=rig.SESSION + place, base=b"ours %d" % place) for place in range(3))
    shares = (0,) * 128 + (1,) * 64 + (2,) * 64

    def spread() -> dict[int, int]:
        """The plan that each of many flows takes; three packets each, in order."""
        for number in range(3):
            for port in range(300):
                rig.tun.ends[0].socket.send(udp(LOCAL_ADDRESS, PEER_ADDRESS, b"%d" % number, ports=(port, 9)))
                rig.tun.ends[0].socket.send(udp(LOCAL_ADDRESS_6, PEER_ADDRESS_6, b"%d" % number, ports=(port, 9)))
        eventually(
            lambda: sum(rig.engine.counters().paths[rig.PATH + each].tx_packets for each in range(3)) % 1800 == 0
        )
        taken: dict[int, int] = {}
        for place, remote in enumerate(rig.remotes):
            order: dict[int, list[bytes]] = {}
            for datagram in remote.take_waiting():
                assert shard_of(datagram) == runs[place].first
                packet = packets.unseal(rig.TX_KEY, datagram)
                flow = packet[0] << 16 | int.from_bytes(packet[-9:-7], "big")
                order.setdefault(flow, []).append(packet[-1:])
                assert taken.setdefault(flow, place) == place
            assert all(numbers == [b"0", b"1", b"2"] for numbers in order.values())
        return taken

    rig.apply(peers=(rig.peer(*plans, shares=shares),), sessions=sessions)
    before = spread()
    assert len(before) == 600
    counts = [list(before.values()).count(place) for place in range(3)]
    assert 240 < counts[0] < 360, counts
    assert 100 < counts[1] < 200, counts
    assert 100 < counts[2] < 200, counts
    rig.apply(peers=(rig.peer(*plans, shares=(0,) * 192 + (2,) * 64),), sessions=sessions)
    after = spread()
    moved = {flow for flow in before if before[flow] != after[flow]}
    assert moved == {flow for flow in before if before[flow] == 1}
    assert {after[flow] for flow in moved} == {0}


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_fragments_of_a_packet_take_one_plan(make_rig: MakeRig, protocol: int) -> None:
    rig = make_rig(paths=2)
    plans = tuple(
        rig.plan(session=rig.SESSION + place, base=b"plan %d" % place, paths=(rig.path(place),)) for place in range(2)
    )
    sessions = tuple(rig.session(session=rig.SESSION + place, base=b"ours %d" % place) for place in range(2))
    rig.apply(peers=(rig.peer(*plans, shares=(0, 1) * 128),), sessions=sessions)
    for port in range(64):
        head = port.to_bytes(2, "big") + bytes(598)
        for offset in (0x2000, 0x2000 | 75, 150):
            packet = ip(LOCAL_ADDRESS, PEER_ADDRESS, head if offset == 0x2000 else bytes(600), protocol=protocol)
            rig.tun.ends[0].socket.send(packet[:6] + offset.to_bytes(2, "big") + packet[8:])
    eventually(lambda: sum(rig.engine.counters().paths[rig.PATH + each].tx_packets for each in range(2)) == 192)
    counts = [rig.engine.counters().paths[rig.PATH + each].tx_packets for each in range(2)]
    assert sorted(counts) == [0, 192], "their addresses and protocol are all they share"


def test_a_session_left_and_come_back_to_counts_on(make_rig: MakeRig) -> None:
    rig = make_rig()
    newer = rig.session(session=rig.SESSION + 1, base=b"newer!")
    both = (rig.session(), newer)

    def send_under(session: int, base: bytes) -> int:
        rig.apply(peers=(rig.peer(rig.plan(session=session, base=base)),), sessions=both)
        rig.tun.ends[0].socket.send(inner())
        datagram = rig.remotes[0].take()
        assert datagram[8:14] == base
        return counter_of(datagram)

    assert send_under(rig.SESSION, rig.TX_BASE) == 0
    assert send_under(rig.SESSION + 1, b"second") == 0
    assert send_under(rig.SESSION, rig.TX_BASE) == 1
    assert send_under(rig.SESSION + 1, b"second") == 1


def test_a_path_keeps_its_counters_over_tables(make_rig: MakeRig) -> None:
    rig = make_rig()
    for count in (1, 2, 3):
        peer = rig.peer(rig.plan())
        rig.apply(peers=(replace(peer, paths=tuple(reversed(peer.paths))),))
        rig.tun.ends[0].socket.send(inner())
        rig.remotes[0].take()
        rig.expect_path(tx_packets=count)
