"""What the schedulers ask of an engine: urgent packets, lanes."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from centipede.protocol.table import Lane
from tests.contract.harness import LOCAL_ADDRESS, LOCAL_ADDRESS_6, PEER_ADDRESS, PEER_ADDRESS_6, Rig
from tests.contract.packets import TCP, counter_of, ip, udp

MakeRig = Callable[..., Rig]

FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16


def tcp(flags: int, payload: int, *, six: bool = False) -> bytes:
    head = bytes(12) + bytes([0x50, flags]) + bytes(6)
    ends = (LOCAL_ADDRESS_6, PEER_ADDRESS_6) if six else (LOCAL_ADDRESS, PEER_ADDRESS)
    return ip(*ends, head + bytes(payload), protocol=TCP)


def classed(dscp: int, *, six: bool = False) -> bytes:
    ends = (LOCAL_ADDRESS_6, PEER_ADDRESS_6) if six else (LOCAL_ADDRESS, PEER_ADDRESS)
    return ip(*ends, bytes(1000), tos=dscp << 2)


def later_fragment(packet: bytes) -> bytes:
    """Declared to be one; nobody checks the header's sum on the way out."""
    return packet[:6] + b"\x20\xb9" + packet[8:]


URGENT = {
    "256 bytes": ip(LOCAL_ADDRESS, PEER_ADDRESS, bytes(236)),
    "256 bytes, IPv6": ip(LOCAL_ADDRESS_6, PEER_ADDRESS_6, bytes(216)),
    "256 bytes and padding": ip(LOCAL_ADDRESS, PEER_ADDRESS, bytes(236)) + bytes(500),
    "CS5": classed(40),
    "EF": classed(46),
    "CS7, IPv6": classed(56, six=True),
    "SYN": tcp(SYN, 400),
    "FIN": tcp(FIN | ACK, 1000),
    "RST, IPv6": tcp(RST, 1000, six=True),
}
BULK = {
    "257 bytes": ip(LOCAL_ADDRESS, PEER_ADDRESS, bytes(237)),
    "257 bytes, IPv6": ip(LOCAL_ADDRESS_6, PEER_ADDRESS_6, bytes(217)),
    "AF43": classed(38),
    "AF43, IPv6": classed(38, six=True),
    "data": tcp(PSH | ACK, 1000),
    "UDP": udp(LOCAL_ADDRESS, PEER_ADDRESS, b"\xff" * 1000),
    "a later fragment": later_fragment(tcp(SYN, 1000)),
}


@pytest.mark.parametrize(
    ("packet", "urgent"),
    [*((packet, True) for packet in URGENT.values()), *((packet, False) for packet in BULK.values())],
    ids=[*URGENT, *BULK],
)
def test_urgent_packets_take_their_own_paths(make_rig: MakeRig, packet: bytes, urgent: bool) -> None:
    rig = make_rig(paths=3)
    rig.apply(peers=(rig.peer(rig.plan(paths=(rig.path(0),), urgent=(rig.path(1), rig.path(2)))),))
    rig.tun.ends[0].socket.send(packet)
    taken = [rig.remotes[path].take() for path in ((1, 2) if urgent else (0,))]
    assert taken == [taken[0]] * len(taken)
    rig.unseal(taken[0])
    for path in range(3):
        rig.expect_path(path, tx_packets=int((path > 0) == urgent))
    assert not rig.drops()


@pytest.mark.parametrize("packet", URGENT.values(), ids=URGENT)
def test_nothing_is_urgent_unless_the_plan_says_where_it_goes(make_rig: MakeRig, packet: bytes) -> None:
    rig = make_rig(paths=2)
    rig.apply(peers=(rig.peer(rig.plan(copies=2)),))
    rig.tun.ends[0].socket.send(packet)
    assert rig.remotes[0].take() == rig.remotes[1].take()


def test_urgent_and_bulk_share_one_counter(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)
    rig.apply(peers=(rig.peer(rig.plan(paths=(rig.path(0),), urgent=(rig.path(0), rig.path(1)))),))
    dice = random.Random(5)
    sent = [dice.choice([*URGENT.values(), *BULK.values()]) for _ in range(200)]
    for packet in sent:
        rig.tun.ends[0].socket.send(packet)
    datagrams = rig.remotes[0].take_many(len(sent))
    assert [counter_of(datagram) for datagram in datagrams] == list(range(len(sent)))
    expected = [number for number, packet in enumerate(sent) if packet in URGENT.values()]
    assert [counter_of(datagram) for datagram in rig.remotes[1].take_many(len(expected))] == expected
    assert rig.remotes[1].silent()


@pytest.mark.parametrize("rates", [(1, 1), (3, 1), (1, 4)], ids=lambda rates: f"{rates[0]} to {rates[1]}")
def test_lanes_share_by_their_rates_what_is_more_than_they_take(make_rig: MakeRig, rates: tuple[int, int]) -> None:
    rig = make_rig(paths=2)
    lanes = tuple(Lane(rig.path(index), rate * 2000, 0.0) for index, rate in enumerate(rates))
    rig.apply(peers=(rig.peer(rig.plan(lanes=lanes)),))
    packet = ip(LOCAL_ADDRESS, PEER_ADDRESS, bytes(1000))
    count = 60
    for _ in range(count):
        rig.tun.ends[0].socket.send(packet)
    first = round(count * rates[0] / sum(rates))
    first_taken, second_taken = rig.remotes[0].take_many(first - 2), rig.remotes[1].take_many(count - first - 2)
    rest = 4
    late: list[bytes] = []
    while len(late) < rest:
        late += [one.take() for one in rig.remotes if not one.silent()]
    assert sorted(counter_of(datagram) for datagram in first_taken + second_taken + late) == list(range(count))


def test_a_free_lane_of_least_delay_takes_all(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)
    lanes = (Lane(rig.path(0), 10**9, 0.5), Lane(rig.path(1), 10**9, 0.0))
    rig.apply(peers=(rig.peer(rig.plan(lanes=lanes)),))
    for _ in range(100):
        rig.tun.ends[0].socket.send(ip(LOCAL_ADDRESS, PEER_ADDRESS, bytes(1000)))
    assert [counter_of(datagram) for datagram in rig.remotes[1].take_many(100)] == list(range(100))
    assert rig.remotes[0].silent()


def test_a_busy_lane_stays_busy_over_a_table(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)

    def apply() -> None:  # a packet of 1032 bytes takes 1000 s on the quick lane, and twice that on the other
        lanes = (Lane(rig.path(0), 1, 0.0), Lane(rig.path(1), 1, 500.0))
        rig.apply(peers=(rig.peer(rig.plan(lanes=lanes)),))

    for path in (0, 1, 0, 1):
        apply()
        rig.tun.ends[0].socket.send(ip(LOCAL_ADDRESS, PEER_ADDRESS, bytes(1000)))
        rig.remotes[path].take()


def test_urgent_packets_beside_lanes(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)
    lanes = (Lane(rig.path(0), 10**9, 0.0), Lane(rig.path(1), 10**9, 0.5))
    rig.apply(peers=(rig.peer(rig.plan(urgent=(rig.path(0), rig.path(1)), lanes=lanes)),))
    rig.tun.ends[0].socket.send(tcp(SYN, 0))
    assert rig.remotes[0].take() == rig.remotes[1].take()
    rig.tun.ends[0].socket.send(tcp(ACK, 1000))
    rig.remotes[0].take()
    assert rig.remotes[1].silent()
