"""A node that may be a copy of one that goes on begins anew, and no nonce is used twice.

The simulated world checks the nonces of all that leaves a machine, and that nothing is delivered twice.
"""

from __future__ import annotations

import pytest

from centipede.errors import HandoverError
from centipede.protocol.drops import DropReason
from centipede.protocol.session import is_handshake
from lab.promises import InvariantError
from lab.world_model import Machine, Snapshot, Weather, World

ROUND_TRIP_S = 0.04


def talking() -> tuple[World, Machine, Machine]:
    """Two machines that have talked for a while."""
    world = World.quiet()
    a, b = world.machines
    b.start()
    a.start()
    for machine in (a, b):
        world.send_packets(machine, 0.01, 100.0)
    world.clock.run_until(3.0)
    return world, a, b


def arrived(world: World, name: str, since: float) -> bool:
    return any(key[0] == name and at >= since for key, at in world.received.items() if world.sent[key] >= since)


def put_back_unnoticed(world: World, machine: Machine, snapshot: Snapshot) -> None:
    machine.restore(snapshot, fenced=False)
    world.clock.run_until(world.clock.now + 2.0)


@pytest.mark.parametrize("which", [0, 1])
def test_a_machine_that_is_put_back_begins_anew_at_once(which: int) -> None:
    world, *machines = talking()
    machine = machines[which]
    before = machine.snapshot()
    world.clock.run_until(6.0)  # and uses counters that the copy would use again
    keys = machine.engine.session_keys
    machine.restore(before)
    world.clock.run_until(6.0 + 5 * ROUND_TRIP_S)
    assert arrived(world, "a", 6.0)
    assert arrived(world, "b", 6.0)
    assert machine.engine.session_keys not in (keys, None)


def test_without_the_fence_nonces_are_used_twice() -> None:
    world, a, _ = talking()
    before = a.snapshot()
    world.clock.run_until(6.0)
    with pytest.raises(InvariantError, match="with one key and nonce"):
        put_back_unnoticed(world, a, before)


def test_nothing_is_said_and_old_packets_are_worth_nothing() -> None:
    world, a, b = talking()
    old = [(source, data) for source, remote, data in world.captured if remote == b.uplinks[0].local]
    left: list[bytes] = []
    a.uplinks[0].up = Weather(loss=1.0)
    b.node.fence(b.now)
    world.watch = lambda machine, _local, _remote, data: left.append(data) if machine is b else None
    b.hurry()
    assert left == []  # no bye either: under which session?
    for source, data in old:
        world.inject(source, b.uplinks[0].local, data, Weather())
    world.clock.run_until(3.1)
    assert b.engine.counters().drops[DropReason.UNKNOWN_SESSION] >= len(old)
    assert [data for data in left if not is_handshake(data)] == []


def test_offers_are_gone() -> None:
    world, a, b = talking()
    twin = Machine("twin", bytes([2]) * 32, world, [])
    assert b.spec is not None
    twin.configure(b.spec, [])
    twin.start()
    offer = twin.node.offer(twin.now)
    export = b.node.export(a.identity.public, offer, b.now, move=False)
    twin.node.fence(twin.now)
    with pytest.raises(HandoverError, match="comes too late"):
        twin.node.import_(export, twin.now)


def test_what_outlives_the_process_stays() -> None:
    world, a, b = talking()
    record = a.record
    assert record is not None
    a.node.fence(a.now)
    a.point([uplink.local for uplink in b.uplinks])
    world.clock.run_until(3.0 + 5 * ROUND_TRIP_S)
    assert a.record is not None
    assert a.record.last_used > record.last_used
    assert a.record.addresses == record.addresses
