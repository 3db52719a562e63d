"""A peer whose identity several machines share: what a node that knows only the one peer makes of them."""

from __future__ import annotations

import pytest

from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handover import MOST_SESSIONS
from centipede.protocol.node import Node, PeerSpec
from centipede.protocol.status import MemberStatus
from centipede.protocol.table import Run
from centipede.protocol.timing import Timing
from lab.world_model import PORT, Machine, Nat, Uplink
from tests.unit.test_node_migration import Shared


class Three(Shared):
    """``old`` and two machines that joined it."""

    third: Machine

    @classmethod
    def joined(cls, **options: object) -> Three:
        world = cls.up(**options)
        assert isinstance(world, Three)
        world.third = Machine("third", bytes([2]) * 32, world, [Uplink(Endpoint("10.4.1.1", PORT))])
        world.third.configure(PeerSpec(world.client.identity.public, "a"), [])
        world.machines.append(world.third)
        world.third.start()
        for machine in (world.new, world.third):
            offer = machine.node.offer(machine.now)
            world.import_(machine, world.export(world.old, offer, move=False))
        return world

    def note_delivered(self, name: str, packet: bytes) -> None:
        super().note_delivered("b" if name == "third" else name, packet)

    @property
    def servers(self) -> tuple[Machine, Machine, Machine]:
        return self.old, self.new, self.third

    def member_status(self) -> tuple[MemberStatus, ...]:
        return self.client.node.status(self.client.now).peers[0].members

    def served_by(self) -> set[str]:
        """The machines that the client sends to."""
        hosts = {path.remote.host for plan in self.client.engine.table.peers[0].plans for path in plan.paths}
        return {machine.name for machine in self.servers if machine.uplinks[0].local.host in hosts}

    def export_from_client(self) -> bytes:
        other = Node(self.client.identity, run=Run(0), timing=self.timing, random=self.dice.randbytes)
        offer = other.offer(self.client.now)
        return self.client.node.export(self.old.identity.public, offer, self.client.now, move=False)

    def flows(self) -> list[Run]:
        """The machine of each bucket, by its shards."""
        table = self.client.engine.table.peers[0]
        return [table.plans[index].run for index in table.shares]

    def received_by(self, machine: Machine) -> int:
        return sum(path.rx_packets for path in machine.engine.counters().paths.values())


def test_a_machine_that_joins_is_used_within_two_seconds() -> None:
    world = Three.joined()
    world.talk(8.0)
    assert world.wait(lambda: len(world.member_status()) == 3, 2.0) < 2.0
    assert world.served_by() == {machine.name for machine in world.servers}
    world.pass_s(8.0)
    assert world.lost() == 0
    shares = [machine.share for machine in world.member_status()]
    assert sum(shares) == 1.0
    assert all(0.2 < share < 0.45 for share in shares)
    total = sum(world.received_by(machine) for machine in world.servers)
    assert all(0.15 * total < world.received_by(machine) < 0.55 * total for machine in world.servers)


@pytest.mark.parametrize("says_bye", [True, False])
def test_flows_of_one_that_dies_go_to_the_others_and_the_rest_stay(says_bye: bool) -> None:
    world = Three.joined()
    world.talk(20.0)
    world.wait(lambda: len(world.member_status()) == 3, 2.0)
    world.pass_s(1.0)
    table = world.client.engine.table.peers[0]
    before = [table.plans[index].run for index in table.shares]
    (dead,) = (
        path.shard
        for path in world.client.node.status(world.client.now).peers[0].paths
        if path.remote.host == world.third.uplinks[0].local.host and path.carries
    )
    if not says_bye:
        world.third.uplinks = []
    world.third.stop()
    assert world.wait(lambda: len(world.member_status()) == 2, 1.0) < 1.0
    table = world.client.engine.table.peers[0]
    after = [table.plans[index].run for index in table.shares]
    assert all(now == then for then, now in zip(before, after, strict=True) if then.first != dead)
    world.pass_s(20.0)
    late = [key for key, at in world.sent.items() if at > world.clock.now - 15.0 and key not in world.received]
    assert not [key for key in late if world.sent[key] <= world.clock.now - 0.5]


def test_a_draining_machine_gets_no_flows_and_may_come_back() -> None:
    world = Three.joined()
    world.talk(30.0)
    world.wait(lambda: len(world.member_status()) == 3, 2.0)
    world.new.node.set_draining(True, world.new.now)
    world.new.hurry()
    assert world.wait(lambda: world.served_by() == {"b", "third"}, 1.0) < 0.5
    world.pass_s(5.0)
    world.new.node.set_draining(False, world.new.now)
    world.new.hurry()
    world.wait(lambda: len(world.member_status()) == 3, 1.0)
    world.pass_s(30.0)
    assert world.lost() == 0


@pytest.mark.parametrize("heavy", [0, 1, 2])
def test_a_scheduler_that_works_with_one_machine_gets_it_by_the_weights(heavy: int) -> None:
    world = Three.joined(scheduler="aggregate")
    world.talk(20.0)
    for index, machine in enumerate(world.servers):
        machine.node.set_weight(255 if index == heavy else 1, machine.now)
        machine.hurry()
    machine = world.servers[heavy]
    assert world.wait(lambda: world.served_by() == {machine.name}, 2.0) < 2.0
    world.pass_s(3.0)
    assert world.served_by() == {machine.name}
    assert world.lost() == 0
    (own,) = {path.remote for plan in world.client.engine.table.peers[0].plans for path in plan.paths}
    machine.stop()
    assert world.wait(lambda: own.host not in world.used(), 1.0) < 1.0
    assert len(world.used()) == 1


def test_weights_are_followed() -> None:
    world = Three.joined()
    world.talk(10.0)
    world.wait(lambda: len(world.member_status()) == 3, 2.0)
    world.third.node.set_weight(25, world.third.now)
    world.third.hurry()
    world.pass_s(1.0)
    by_weight = {machine.weight: machine.share for machine in world.member_status()}
    assert by_weight[25] < 0.12
    world.pass_s(12.0)
    assert world.lost() == 0


@pytest.mark.parametrize("dies", [False, True])
def test_a_rekey_with_the_home_alive_or_dead(dies: bool) -> None:
    """Whoever renews the session, the others serve on under the one before, and renew it for themselves in time."""
    world = Three.joined(timing=Timing(rekey_s=20.0, rekey_fallback_s=25.0, reject_s=40.0))
    world.talk(62.0)
    world.wait(lambda: len(world.member_status()) == 3, 2.0)
    world.pass_s(10.0)
    if dies:
        world.old.stop()
        world.pass_s(1.0)
    began = world.clock.now
    shares = {machine.remotes: machine.share for machine in world.member_status()}
    exported = False
    while world.clock.now < began + 49.0:
        world.pass_s(0.5)
        if not exported and len(world.client.engine.table.sessions) > MOST_SESSIONS:
            exported = bool(world.export_from_client())
        assert {machine.remotes: machine.share for machine in world.member_status()} == shares, "flows moved"
        paths = world.client.node.status(world.client.now).peers[0].paths
        assert min(path.mtu for path in paths if path.state == "usable") >= 1452, (
            "probed under a session that the machine does not have"
        )
    assert world.client.node.status(world.client.now).peers[0].session.rekeys >= 3
    assert exported, "more sessions than an export holds"
    missing = [
        at for key, at in world.sent.items() if began <= at <= world.clock.now - 0.5 and key not in world.received
    ]
    assert missing == []


def test_copies_never_go_to_two_machines() -> None:
    world = Three.joined(scheduler="redundant", copies=2)
    world.third.move([*world.third.uplinks, Uplink(Endpoint("10.4.2.1", PORT))])
    world.talk(8.0)
    world.wait(lambda: len(world.member_status()) == 3, 2.0)
    world.pass_s(3.0)
    owner = {uplink.local: machine.name for machine in world.servers for uplink in machine.uplinks}
    plans = world.client.engine.table.peers[0].plans
    served = [tuple(owner[path.remote] for path in plan.listed) for plan in plans]
    assert sorted(served) == [("b",), ("new",), ("third", "third")]
    world.pass_s(5.0)
    assert world.lost() == 0


def test_an_address_that_goes_to_another_machine_leads_there() -> None:
    world = Three.joined()
    world.talk(14.0)
    world.wait(lambda: len(world.member_status()) == 3, 2.0)
    (moved,) = world.third.uplinks
    world.third.uplinks = []
    world.third.stop()
    world.pass_s(0.1)
    world.new.move([*world.new.uplinks, moved])
    addresses = {uplink.local for uplink in world.new.uplinks}
    assert world.wait(lambda: any(set(one.remotes) == addresses for one in world.member_status()), 3.0) < 3.0
    assert len(world.member_status()) == 2
    settled = world.clock.now
    world.pass_s(6.0)
    late = world.clock.now - 0.5
    assert not [key for key, at in world.sent.items() if settled <= at <= late and key not in world.received]


def test_a_client_that_roams_is_found_again_by_machines_with_sessions_of_their_own() -> None:
    world = Three.joined(timing=Timing(rekey_s=20.0, rekey_fallback_s=25.0, reject_s=32.0))
    world.talk(80.0)
    world.pass_s(50.0)  # each has renewed for itself
    assert world.served_by() == {"b", "new", "third"}
    world.client.move([Uplink(Endpoint("10.20.1.1", PORT), Nat("192.0.20.1", symmetric=False))])
    world.wait(lambda: world.served_by() == set(), 2.0)
    world.wait(lambda: world.served_by() == {"b", "new", "third"}, 5.0)


def test_who_is_not_heard_for_a_moment_has_the_same_flows_after_it() -> None:
    world = Three.joined()
    world.talk(20.0)
    world.wait(lambda: len(world.member_status()) == 3, 2.0)
    world.new.move([*world.new.uplinks, Uplink(Endpoint("10.2.9.1", PORT))])  # before the one that it was found at
    world.pass_s(4.0)

    before = world.flows()
    for uplink in world.new.uplinks:
        uplink.up.loss = 1.0
    world.wait(lambda: len(world.member_status()) == 2, 2.0)
    for uplink in world.new.uplinks:
        uplink.up.loss = 0.0
    world.wait(lambda: len(world.member_status()) == 3, 2.0)
    world.pass_s(2.0)
    assert world.flows() == before


def test_nothing_is_taken_for_lost_that_a_machine_cannot_open() -> None:
    world = Three.joined(timing=Timing(rekey_s=20.0, rekey_fallback_s=25.0, reject_s=32.0))
    world.talk(90.0)
    for _ in range(16):  # each renews for itself
        world.pass_s(5.0)
        peer = world.client.node.status(world.client.now).peers[0]
        assert [path.loss for path in peer.paths if path.state == "usable"] == [0.0] * 3


def test_who_comes_back_by_another_link_has_the_same_flows() -> None:
    world = Three.joined()
    (first,) = world.client.uplinks
    second = Uplink(Endpoint("10.20.1.1", PORT), Nat("192.0.20.1", symmetric=False))
    world.talk(40.0)
    world.client.move([first, second])
    world.wait(lambda: len(world.member_status()) == 3, 2.0)
    world.pass_s(4.0)
    before = world.flows()
    for uplink in (second, first):
        uplink.up.loss = uplink.down.loss = 1.0
        world.pass_s(5.0)
    second.up.loss = second.down.loss = 0.0
    world.wait(lambda: len(world.member_status()) == 3, 4.0)
    world.pass_s(1.0)
    assert world.flows() == before
