"""What two nodes make of an end whose address changes: how soon data goes where it is now."""

from __future__ import annotations

import pytest

from centipede.protocol.endpoint import Endpoint
from lab.world_model import PORT, Machine, Uplink, Weather, World
from tests.unit.test_node_addresses import paths, started, states

ONE_WAY_S = 0.02
ROUND_TRIP_S = 2 * ONE_WAY_S
INTERVAL_S = 0.002
"""Between packets, each way."""


def under_traffic(**options: object) -> tuple[World, Machine, Machine]:
    """Both ends send for 9 s, the first 5 of which have passed."""
    world, a, b = started(**options)
    for machine in (a, b):
        world.send_packets(machine, INTERVAL_S, 9.0)
    world.clock.run_until(5.0)
    return world, a, b


def uplink(link: int) -> Uplink:
    return Uplink(Endpoint(f"10.2.{link}.1", PORT))


def lost(world: World, receiver: Machine) -> list[float]:
    """When packets were sent that did not arrive, from the 4th second on; runs the world to the end."""
    world.clock.run_until(10.0)
    return [at for key, at in world.sent.items() if key[0] == receiver.name and at > 4.0 and key not in world.received]


@pytest.mark.parametrize("scheduler", ["fastest", "redundant", "adaptive"])
def test_the_only_address_changes(scheduler: str) -> None:
    """A heartbeat from the new address, a challenge and its answer: nobody waits for the old path to be suspect."""
    world, a, b = under_traffic(scheduler=scheduler)
    b.move([uplink(77)])
    assert max(lost(world, b)) < 5.0 + ONE_WAY_S + ROUND_TRIP_S + INTERVAL_S
    assert lost(world, a) == [], "the end that moved knows that its packets must wait"


def test_the_only_address_changes_and_the_peer_does_not_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """As above, with another implementation: the old path has a little more than a round trip to prove itself."""
    monkeypatch.setattr("centipede.protocol.reach.MOST_PARTED", 0)
    world, _, b = under_traffic(scheduler="fastest")
    b.move([uplink(77)])
    assert max(lost(world, b)) < 5.0 + ONE_WAY_S + ROUND_TRIP_S + 0.05


def test_an_address_that_comes_back() -> None:
    world, _, b = under_traffic(scheduler="fastest")
    b.move([uplink(77)])
    world.clock.run_until(7.0)
    b.move([uplink(1)])
    assert max(lost(world, b)) < 7.0 + ONE_WAY_S + ROUND_TRIP_S + INTERVAL_S


@pytest.mark.parametrize("dead_s", [0.01, 0.04, 0.1, 0.4])
def test_the_first_datagrams_from_the_new_address_are_lost(dead_s: float) -> None:
    """As happens while neighbours and routes are still to be found: nobody waits for a second."""
    world, a, b = under_traffic(scheduler="fastest")
    new = uplink(77)
    new.up = Weather(loss=1.0)
    b.move([new])
    world.clock.run_until(5.0 + dead_s)
    new.up = Weather()
    # What was lost is repeated when twice the time has passed, at most 200 ms later; times are scattered by a tenth.
    found_s = 5.0 + dead_s + min(max(0.05, dead_s), 0.2) * 1.2
    assert max(lost(world, b)) < found_s + ONE_WAY_S + ROUND_TRIP_S
    assert max(lost(world, a), default=0.0) < found_s + ROUND_TRIP_S


@pytest.mark.parametrize("offset_ms", range(20, 40))
def test_a_path_that_both_ends_had_lost_carries_again(offset_ms: int) -> None:
    """Within a second, as each end challenges it once in that time, even if the two challenges cross."""
    world, a, b = under_traffic(links=(1, 2), scheduler="redundant")
    began = 5.0 + offset_ms / 1000
    world.clock.run_until(began)
    b.uplinks[0].up = b.uplinks[0].down = Weather(loss=1.0)
    world.clock.run_until(began + 1.6)
    assert "lost" in states(a).values()
    assert "lost" in states(b).values()
    b.uplinks[0].up = b.uplinks[0].down = Weather()
    world.clock.run_until(began + 1.6 + 1.0 * 1.1 + 2 * ROUND_TRIP_S)
    assert {*states(a).values(), *states(b).values()} == {"usable"}


def test_one_of_two_addresses_goes() -> None:
    """The peer is told by the other path, so it need not wait for silence."""
    world, a, b = under_traffic(links=(1, 2), scheduler="fastest")
    (gone,) = (pair[1] for pair, path in paths(a).items() if path.carries)
    b.move([each for each in b.uplinks if each.local.host != gone])
    assert max(lost(world, b)) < 5.0 + ONE_WAY_S + INTERVAL_S
    assert lost(world, a) == []


def test_a_translator_changes_its_mapping() -> None:
    """One round trip from the first packet that leaves by the new one."""
    world, a, b = under_traffic(nat=True, scheduler="fastest")
    nat = a.uplinks[0].nat
    assert nat is not None
    nat.rebind()
    assert max(lost(world, a)) < 5.0 + INTERVAL_S + ONE_WAY_S + ROUND_TRIP_S
    assert lost(world, b) == []


def test_a_packet_sent_again_from_elsewhere_moves_nothing() -> None:
    """Somebody is quicker with a copy of a packet than the packet itself, once, and answers nothing."""
    world, a, b = under_traffic(scheduler="fastest")
    thief = Endpoint("10.9.9.9", PORT)

    def watch(machine: Machine, local: Endpoint, remote: Endpoint, data: bytes) -> None:
        if machine is a:
            world.watch = None
            world.inject(thief, remote, data, Weather(delay_s=0.0))

    world.watch = watch
    world.clock.run_until(5.1)
    old, new = ("10.2.1.1", "10.1.1.1"), ("10.2.1.1", thief.host)
    assert states(b) == {old: "usable", new: "probing"}
    world.clock.run_until(6.0)
    assert states(b)[old] == "usable"
    assert paths(b)[old].carries
    assert lost(world, a) == lost(world, b) == []


def test_whoever_relays_some_packets_does_not_take_the_path() -> None:
    """A relay that is quicker with every other packet becomes a path; the true one answers, and goes on."""
    world, a, b = under_traffic(scheduler="redundant")
    thief = Endpoint("10.9.9.9", PORT)
    quick = Weather(delay_s=0.0)
    seen = 0

    def watch(machine: Machine, local: Endpoint, remote: Endpoint, data: bytes) -> None:
        nonlocal seen
        seen += 1
        if machine is a and seen % 2:
            world.inject(thief, remote, data, quick)
        elif machine is b and remote == thief:
            world.inject(local, a.uplinks[0].local, data, quick)

    world.watch = watch
    silent = False
    while world.clock.now < 8.0:
        world.clock.run_until(world.clock.now + 0.05)
        (path,) = (path for pair, path in paths(b).items() if pair[1] == "10.1.1.1")
        silent |= not path.carries
    assert not silent
    assert lost(world, a) == lost(world, b) == []
