"""The way in: socket -> session -> window -> open -> window -> path -> inner checks -> TUN."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from ipaddress import ip_network

import pytest

from centipede.engine.contract import UNHEARD_BYTES, UNHEARD_PACKETS, UNHEARD_S
from centipede.protocol.drops import DropReason
from centipede.protocol.table import FirstData, NewRemote, Route, Run, TablePeer
from tests.contract.harness import (
    LOCAL_ADDRESS,
    LOCAL_ADDRESS_6,
    PEER_ADDRESS,
    PEER_ADDRESS_6,
    End,
    Rig,
    endpoint_of,
    eventually,
    udp_socket,
)
from tests.contract.packets import ip, udp

MakeRig = Callable[..., Rig]


def inner(number: int = 0) -> bytes:
    return udp(PEER_ADDRESS, LOCAL_ADDRESS, b"packet %d" % number)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize(
    "packet",
    [
        udp(PEER_ADDRESS, LOCAL_ADDRESS, b"four"),
        udp(PEER_ADDRESS_6, LOCAL_ADDRESS_6, b"six"),
        ip(PEER_ADDRESS, LOCAL_ADDRESS, b""),
        ip(PEER_ADDRESS, LOCAL_ADDRESS, bytes(8000)),
    ],
    ids=["ipv4", "ipv6", "empty", "large"],
)
def test_delivered(make_rig: MakeRig, host: str, packet: bytes) -> None:
    rig = make_rig(host=host)
    rig.apply()
    before = time.monotonic()
    rig.deliver(0, packet)
    assert rig.tun.ends[0].take() == packet
    rig.expect_path(rx_packets=1, rx_bytes=32 + len(packet), rx_copies=0, largest=32 + len(packet))
    assert before <= rig.engine.counters().paths[rig.PATH].last_rx <= time.monotonic()
    assert not rig.drops()
    assert rig.events_left() == []


def test_in_any_order_and_with_gaps(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    counters = [5, 3, 4, 0, 2**43, 2**43 - 65000, 2**44 - 1]
    for counter in counters:
        rig.deliver(counter, inner(counter))
    assert rig.tun.ends[0].take_many(len(counters)) == [inner(counter) for counter in counters]
    assert not rig.drops()


# Copies and replays.


def test_copies_are_delivered_once_and_counted_per_path(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)
    rig.apply()
    size = 32 + len(inner())
    for counter in range(5):
        rig.deliver(counter, inner(counter), path=0)
        assert rig.tun.ends[0].take() == inner(counter)
        rig.deliver(counter, inner(counter), path=1)
    rig.expect_drops({DropReason.DUPLICATE: 5})
    rig.expect_path(0, rx_packets=5, rx_bytes=5 * size, rx_copies=0, largest=size)
    # A copy is not opened, so it says nothing about the path but that something came.
    rig.expect_path(1, rx_packets=5, rx_bytes=5 * size, rx_copies=5, largest=0, last_rx=0.0)
    assert rig.tun.ends[0].silent()


def test_far_behind_is_old(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rig.deliver(1 << 20, inner(1))
    rig.deliver(0, inner(2))
    rig.deliver((1 << 20) - 65536 + 32, inner(3))
    assert rig.tun.ends[0].take_many(2) == [inner(1), inner(3)]
    rig.expect_drops({DropReason.OLD: 1})
    rig.expect_path(rx_packets=2, rx_copies=0)


def test_beyond_the_limit_is_no_counter(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rig.deliver(1 << 44, inner())
    rig.expect_drops({DropReason.OLD: 1})


def test_a_forgery_does_not_use_up_its_counter(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    good = rig.seal(7, inner())
    for at in (3, 16, 31, 32, len(good) - 1):
        rig.inject(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    rig.expect_drops({DropReason.BAD_TAG: 5})
    rig.expect_path(rx_packets=0, last_rx=0.0)
    rig.inject(good)
    assert rig.tun.ends[0].take() == inner()


# Whose is it.


def test_which_session_and_which_shard(make_rig: MakeRig) -> None:
    rig = make_rig(workers=2)
    rig.run = Run(4, 1)
    rig.apply(sessions=(rig.session(sources=(Run(0), Run(16, 2))),))
    for source, shard in ((0, 4), (0, 5), (16, 4), (19, 5)):
        rig.deliver(0, inner(source), source=source, shard=shard)
    queues = {rig.tun.ends[0].socket: rig.tun.ends[0], rig.tun.ends[1].socket: rig.tun.ends[1]}
    assert sorted(_take_from_any(list(queues.values())) for _ in range(3)) == sorted(inner(n) for n in (0, 16, 19))
    # Shard 4 and 5 name workers of this machine, not windows: source 0, counter 0 is one packet.
    rig.expect_drops({DropReason.DUPLICATE: 1})
    rig.deliver(1, inner(), base=b"nobody", shard=4)
    rig.deliver(2, inner(), shard=3)
    rig.deliver(3, inner(), shard=6)
    rig.deliver(4, inner(), shard=0xFFFF)  # "any member" is for control only
    rig.expect_drops({DropReason.DUPLICATE: 1, DropReason.UNKNOWN_SESSION: 1, DropReason.FOREIGN_SHARD: 3})


def _take_from_any(ends: list[End]) -> bytes:
    return eventually(lambda: next((end.take() for end in ends if not end.silent()), b""), "a packet on any queue")


def test_data_of_a_shard_that_was_not_heard_waits_for_its_window(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rig.deliver(0, inner(1), source=2)
    rig.deliver(0, inner(2), source=5)
    rig.inject(bytes(8) + rig.seal(1, inner(3), source=2)[8:])  # a forgery that names source shard 0 ...
    rig.inject(rig.seal(1, inner(3), source=2)[:32] + bytes(40))  # ... and one that waits with the others
    rig.deliver(0, inner(1), source=2)
    rig.deliver(0, inner(0))
    assert rig.tun.ends[0].take() == inner(0), "nobody waits for them"
    rig.expect_drops({DropReason.BAD_TAG: 1})
    rig.expect_path(rx_packets=1)
    rig.apply(sessions=(rig.session(sources=(Run(), Run(2, 1))),))
    assert rig.tun.ends[0].take() == inner(1)
    rig.expect_drops({DropReason.BAD_TAG: 2, DropReason.DUPLICATE: 1})
    rig.expect_path(rx_packets=3, rx_copies=1)
    rig.deliver(1, inner(4), source=3)
    rig.deliver(0, inner(1), source=2)
    rig.expect_drops({DropReason.BAD_TAG: 2, DropReason.DUPLICATE: 2})
    rig.apply(sessions=(rig.session(sources=(Run(), Run(2, 1), Run(5))),))
    assert rig.tun.ends[0].take_many(2) == [inner(4), inner(2)]


def test_of_what_waits_for_its_shard_the_oldest_gives_way(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    for number in range(UNHEARD_PACKETS + 2):
        rig.deliver(number, inner(number), source=2)
    rig.inject(rig.seal(0, ip(PEER_ADDRESS, LOCAL_ADDRESS, bytes(UNHEARD_BYTES)), source=2))
    rig.expect_drops({DropReason.UNKNOWN_SHARD: 3})
    rig.apply(sessions=(rig.session(sources=(Run(), Run(2))),))
    assert rig.tun.ends[0].take_many(UNHEARD_PACKETS) == [inner(n + 2) for n in range(UNHEARD_PACKETS)]
    rig.expect_drops({DropReason.UNKNOWN_SHARD: 3})
    rig.deliver(UNHEARD_PACKETS + 2, inner(), source=2)
    assert rig.tun.ends[0].take() == inner()


def test_what_waited_too_long_for_its_shard_is_dropped(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rig.deliver(0, inner(1), source=2)
    rig.deliver(0, inner(0))
    assert rig.tun.ends[0].take() == inner(0)
    over = time.monotonic() + UNHEARD_S
    eventually(lambda: time.monotonic() > over)
    rig.apply(sessions=(rig.session(sources=(Run(), Run(2))),))
    rig.expect_drops({DropReason.UNKNOWN_SHARD: 1})
    assert rig.tun.ends[0].silent()


def test_nothing_waits_for_its_shard_at_an_address_that_is_gone(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)
    rig.apply()
    rig.deliver(0, inner(1), path=0, source=2)
    rig.deliver(1, inner(2), path=1, source=2)
    rig.deliver(0, inner(0), path=1)
    assert rig.tun.ends[0].take() == inner(0)
    rig.deliver(1, inner(0), path=0)
    assert rig.tun.ends[0].take() == inner(0)
    rig.engine.remove_local(rig.locals[1])
    rig.expect_drops({DropReason.UNKNOWN_SHARD: 1})
    rig.apply(sessions=(rig.session(sources=(Run(), Run(2))),))
    assert rig.tun.ends[0].take() == inner(1)


def test_every_session_has_its_own_windows(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(sessions=(rig.session(), rig.session(session=rig.SESSION + 1, base=b"second")))
    rig.deliver(0, inner(0))
    rig.deliver(0, inner(1), base=b"second")
    assert rig.tun.ends[0].take_many(2) == [inner(0), inner(1)]


def test_an_ended_session_opens_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rig.apply(peers=(rig.peer(),), sessions=())
    rig.deliver(0, inner())
    rig.expect_drops({DropReason.UNKNOWN_SESSION: 1})


@pytest.mark.parametrize("size", [0, 1, 16, 31])
def test_too_short(make_rig: MakeRig, size: int) -> None:
    rig = make_rig()
    rig.apply()
    rig.inject(rig.seal(0, b"")[:size])
    rig.expect_drops({DropReason.TOO_SHORT: 1})


# What is inside.


def test_a_keepalive_delivers_nothing(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rig.deliver(0, b"")
    rig.expect_path(rx_packets=1, rx_bytes=32, largest=32)
    rig.deliver(1, inner())
    assert rig.tun.ends[0].take() == inner()
    assert not rig.drops()


def test_padding_is_cut(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    for counter, packet in enumerate((inner(), udp(PEER_ADDRESS_6, LOCAL_ADDRESS_6, b"six"))):
        rig.deliver(counter, packet + bytes(13))
        assert rig.tun.ends[0].take() == packet


@pytest.mark.parametrize(
    "plaintext",
    [b"\x45", bytes(40), b"\x55" + bytes(39), inner()[:-1], udp(PEER_ADDRESS_6, LOCAL_ADDRESS_6, b"")[:-1]],
    ids=["one byte", "version 0", "version 5", "cut short", "IPv6 cut short"],
)
def test_authentic_but_malformed(make_rig: MakeRig, plaintext: bytes) -> None:
    rig = make_rig()
    rig.apply()
    rig.deliver(0, plaintext)
    rig.expect_drops({DropReason.OPENED_MALFORMED: 1})
    rig.expect_path(rx_packets=1)
    rig.deliver(0, inner())
    rig.expect_drops({DropReason.OPENED_MALFORMED: 1, DropReason.DUPLICATE: 1})


def test_the_inner_source_must_be_the_peers(make_rig: MakeRig) -> None:
    rig = make_rig()
    routes = (
        Route(ip_network("10.0.0.0/8"), rig.PEER),
        Route(ip_network("10.0.3.0/24"), 8),
        Route(ip_network("fd00:2::/32"), rig.PEER),
    )
    rig.apply(routes=routes, peers=(rig.peer(rig.plan()), TablePeer(8, (), ())))
    refused = [
        udp("10.0.3.1", LOCAL_ADDRESS, b"another peer's, by the longer prefix"),
        udp("192.0.2.1", LOCAL_ADDRESS, b"nobody's"),
        udp("fd00:3::1", LOCAL_ADDRESS_6, b"nobody's"),
    ]
    for counter, packet in enumerate(refused):
        rig.deliver(counter, packet)
    rig.deliver(3, udp("10.0.4.1", LOCAL_ADDRESS, b""))
    assert rig.tun.ends[0].take() == udp("10.0.4.1", LOCAL_ADDRESS, b"")
    rig.expect_drops({DropReason.SOURCE_NOT_ALLOWED: 3})


def partial(packet: bytes, start: int, field: int, pseudo_header_sum: int) -> bytes:
    """The packet with its checksum left to the receiver."""
    at = start + field
    return bytes([packet[0] | 0x80]) + packet[1:at] + pseudo_header_sum.to_bytes(2, "big") + packet[at + 2 :]


def test_a_partial_checksum_is_completed(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    # 10.0.2.1 + 10.0.1.1 + protocol 17 + length 12
    rig.deliver(0, partial(udp(PEER_ADDRESS, LOCAL_ADDRESS, b"four"), 20, 6, 0x0A00 * 2 + 0x0201 + 0x0101 + 17 + 12))
    assert rig.tun.ends[0].take() == udp(PEER_ADDRESS, LOCAL_ADDRESS, b"four")


def test_a_partial_checksum_where_none_can_be(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rig.deliver(0, b"\xc5" + ip(PEER_ADDRESS, LOCAL_ADDRESS, bytes(30))[1:])
    rig.expect_drops({DropReason.BAD_PARTIAL: 1})


# What the node is told.


def test_first_data_once(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)
    pending = (rig.session(pending=True),)
    rig.apply(peers=(rig.peer(),), sessions=pending)
    forged = bytearray(rig.seal(0, inner()))
    forged[20] ^= 1
    rig.inject(bytes(forged))
    rig.expect_drops({DropReason.BAD_TAG: 1})
    assert rig.events_left() == []
    before = time.monotonic()
    rig.deliver(0, b"", path=1)
    told = rig.event(FirstData)
    assert (told.session, told.local, told.remote) == (rig.SESSION, rig.path(1).local, rig.path(1).remote)
    assert before <= told.arrived <= time.monotonic()
    rig.apply(peers=(rig.peer(),), sessions=pending)
    rig.deliver(1, inner())
    assert rig.tun.ends[0].take() == inner()
    assert rig.events_left() == []


def test_new_remote_once_per_table(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)
    only_first = replace(rig.peer(rig.plan(paths=(rig.path(0),))), paths=(rig.path(0),))
    rig.apply(peers=(only_first,))
    for counter in range(3):
        rig.deliver(counter, inner(counter), path=1)
    assert rig.tun.ends[0].take_many(3) == [inner(counter) for counter in range(3)]
    told = rig.event(NewRemote)
    assert (told.session, told.local, told.remote) == (rig.SESSION, rig.path(1).local, rig.path(1).remote)
    assert told.size_bytes == 32 + len(inner())
    rig.deliver(1, inner(1), path=1)  # a copy is not new
    rig.expect_drops({DropReason.DUPLICATE: 1})
    assert rig.events_left() == []

    rig.apply(peers=(only_first,))
    rig.deliver(2, inner(2), path=1)
    rig.deliver(3, b"", path=1)
    assert rig.event(NewRemote).size_bytes == 32
    rig.apply()
    rig.deliver(4, inner(4), path=1)
    assert rig.tun.ends[0].take() == inner(4)
    rig.expect_path(1, rx_packets=1)
    assert rig.events_left() == []


def test_new_remotes_are_told_apart(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rig.deliver(0, inner(0))
    with udp_socket() as second, udp_socket() as third:
        for counter, sock in enumerate((second, third, second), start=1):
            sock.sendto(rig.seal(counter, inner(counter)), rig.locals[0])
        assert rig.tun.ends[0].take_many(4) == [inner(counter) for counter in range(4)]
        assert {rig.event(NewRemote).remote for _ in range(2)} == {endpoint_of(second), endpoint_of(third)}
    assert rig.events_left() == []


def test_the_path_of_another_peer_is_new_all_the_same(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)
    mine = replace(rig.peer(rig.plan(paths=(rig.path(0),))), paths=(rig.path(0),))
    rig.apply(peers=(mine, TablePeer(8, (), (rig.path(1),))))
    rig.deliver(0, inner(), path=1)
    assert rig.event(NewRemote).remote == rig.path(1).remote
    rig.expect_path(1, rx_packets=0)


# The TUN device.


def test_a_full_tun_device(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    packet = udp(PEER_ADDRESS, LOCAL_ADDRESS, bytes(8000))
    sent = 0
    while not rig.drops():
        rig.deliver(sent, packet)
        sent += 1
        rig.expect_path(rx_packets=sent)
    assert rig.drops() == {DropReason.TUN_FULL: 1}
    assert rig.tun.ends[0].take_many(sent - 1) == [packet] * (sent - 1)
    rig.deliver(sent, inner())
    assert rig.tun.ends[0].take() == inner()


def test_a_tun_device_that_is_gone(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rig.tun.ends[0].socket.close()
    eventually(lambda: rig.drops().get(DropReason.RECEIVE_FAILED, 0) >= 2, "two failed reads")
    assert rig.drops()[DropReason.RECEIVE_FAILED] < 1000, "the worker spins"
    rig.deliver(0, inner())
    eventually(lambda: rig.drops().get(DropReason.TUN_REFUSED) == 1, "a refused write")
    rig.expect_path(rx_packets=1)
