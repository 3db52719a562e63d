"""Data that is another machine's goes up where there is a way to it, and data that was forwarded comes down again."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from centipede.engine.contract import RING_SIZE
from centipede.protocol.drops import DropReason
from centipede.protocol.table import FirstData, Foreign, NewRemote, Run
from tests.contract.harness import ENGINES, LOCAL_ADDRESS, PEER_ADDRESS, FakeTun, Rig, create_engine, udp_socket
from tests.contract.packets import udp

MakeRig = Callable[..., Rig]

INNER = udp(PEER_ADDRESS, LOCAL_ADDRESS, b"inner")
FOREIGN_SHARD = 16


def test_data_for_another_machine_goes_up_as_it_came(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(forwards=True)
    foreign = rig.seal(0, INNER, shard=FOREIGN_SHARD)
    rig.inject(foreign)
    assert rig.event(Foreign).data == foreign
    rig.inject(rig.seal(0, INNER, shard=FOREIGN_SHARD, base=b"nobody"))
    rig.expect_drops({DropReason.UNKNOWN_SESSION: 1})
    rig.expect_path(rx_packets=0, last_rx=0.0)
    rig.deliver(0, INNER)
    assert rig.tun.ends[0].take() == INNER, "its counter is this machine's to use"


def test_without_a_way_to_others_it_is_dropped(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rig.inject(rig.seal(0, INNER, shard=FOREIGN_SHARD))
    rig.expect_drops({DropReason.FOREIGN_SHARD: 1})
    assert rig.events_left() == []
    rig.apply(forwards=True)
    rig.inject(rig.seal(0, INNER, shard=FOREIGN_SHARD))
    assert rig.event(Foreign)
    rig.apply()
    rig.inject(rig.seal(1, INNER, shard=FOREIGN_SHARD))
    rig.expect_drops({DropReason.FOREIGN_SHARD: 2})


def test_a_flood_of_foreign_data_starves_nobody(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(sessions=(rig.session(pending=True),), forwards=True)
    for counter in range(RING_SIZE + 7):
        rig.inject(rig.seal(counter, INNER, shard=FOREIGN_SHARD))
    rig.inject(b"\x81 handshake")
    rig.inject(rig.seal(0, bytes(64), control=True))
    rig.deliver(0, INNER)
    assert rig.tun.ends[0].take() == INNER
    rig.expect_drops({DropReason.FOREIGN_RING_FULL: 7})
    assert len(rig.events(RING_SIZE + 3)) == RING_SIZE + 3


def test_what_was_forwarded_is_delivered_once_and_changes_no_path(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(sessions=(rig.session(pending=True),), forwards=True)
    datagram = rig.seal(0, INNER)
    for _ in range(2):
        assert rig.engine.inject(datagram) is None
    assert rig.tun.ends[0].take() == INNER
    rig.expect_drops({DropReason.DUPLICATE: 1})
    rig.inject(datagram)  # the same by its own way, late
    rig.expect_drops({DropReason.DUPLICATE: 2})
    rig.expect_path(rx_packets=1, rx_copies=1, last_rx=0.0)
    assert rig.events_left() == [], "it confirms no session and tells of no address"
    rig.deliver(1, INNER)
    assert rig.tun.ends[0].take() == INNER
    assert isinstance(rig.event(FirstData), FirstData)


def test_what_was_forwarded_is_not_forwarded_again(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(forwards=True)
    rig.engine.inject(rig.seal(0, INNER, shard=FOREIGN_SHARD))
    rig.expect_drops({DropReason.FOREIGN_SHARD: 1})
    assert rig.events_left() == []


def test_injected_garbage_is_accounted_for(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(sessions=(rig.session(own=Run(0)),), forwards=True)
    good = rig.seal(0, INNER)
    for bad in (b"\0", good[:31], good[:-1], rig.seal(0, INNER, base=b"nobody"), good[:31] + b"x" + good[32:]):
        rig.engine.inject(bad)
    rig.expect_drops({DropReason.TOO_SHORT: 2, DropReason.BAD_TAG: 2, DropReason.UNKNOWN_SESSION: 1})
    rig.engine.inject(good)
    assert rig.tun.ends[0].take() == INNER
    with udp_socket() as stranger:
        stranger.sendto(rig.seal(1, INNER), rig.locals[0])
        assert isinstance(rig.event(NewRemote), NewRemote)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_no_worker_takes_is_refused_and_counted(engine: str) -> None:
    tun = FakeTun(1)
    built = create_engine(engine, tun.fds)  # not started
    try:
        taken = 0
        while built.inject(bytes(1400)) is None:
            taken += 1
            assert taken < 10_000
        assert built.inject(bytes(1400)) is DropReason.FOREIGN_RING_FULL
        assert built.counters().drops == {DropReason.FOREIGN_RING_FULL: 2}
    finally:
        built.close()
        tun.close()
