"""Sessions that move between two machines with one identity, while a peer behind a NAT sends and receives.

The simulated world itself checks that no nonce is used twice, whichever machine seals, and that nothing is delivered
twice, whichever machine opens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import reduce
from operator import or_

import pytest

from centipede.errors import HandoverError
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import Identity
from centipede.protocol.leave import Leave
from centipede.protocol.migration import OFFER_LIFE_S
from centipede.protocol.node import PeerSpec
from centipede.protocol.offer import Offer
from centipede.protocol.table import Run
from centipede.protocol.timing import Timing
from lab.world_model import PORT, Machine, Nat, Uplink, World


class Shared(World):
    """``client`` behind a NAT, and two machines of the identity it knows: ``old``, which it is told of, and ``new``."""

    client: Machine
    old: Machine
    new: Machine

    @classmethod
    def up(cls, **options: object) -> Shared:
        world = cls.quiet(nat=True, **options)  # type: ignore[arg-type]  # the options of World.quiet, by name
        assert isinstance(world, Shared)
        world.client, world.old = world.machines
        world.new = Machine("new", bytes([2]) * 32, world, [Uplink(Endpoint("10.3.1.1", PORT))])
        world.new.configure(PeerSpec(world.client.identity.public, "a"), [])
        world.machines.append(world.new)
        for machine in world.machines:
            machine.start()
        world.pass_s(1.0)
        return world

    def note_delivered(self, name: str, packet: bytes) -> None:
        super().note_delivered("b" if name == "new" else name, packet)

    def pass_s(self, seconds: float) -> None:
        self.clock.run_until(self.clock.now + seconds)

    def wait(self, condition: Callable[[], bool], within_s: float) -> float:
        began = self.clock.now
        while not condition():
            assert self.clock.now < began + within_s, "\n".join(self.log)
            self.pass_s(0.01)
        return self.clock.now - began

    def ways(self, machine: Machine) -> set[tuple[str, str]]:
        """Both ways between a machine and the client's NAT."""
        host = machine.uplinks[0].local.host
        return {("192.0.1.1", host), (host, "192.0.1.1")}

    def used(self) -> set[str]:
        """Hosts that the client sends to."""
        return {path.remote.host for plan in self.client.engine.table.peers[0].plans for path in plan.paths}

    def talk(self, seconds: float, *, back: Machine | None = None) -> None:
        """Packets each 20 ms for so long, to the client from ``back``."""
        self.send_packets(self.client, 0.02, self.clock.now + seconds)
        if back is not None:
            self.send_packets(back, 0.02, self.clock.now + seconds)

    def export(self, source: Machine, offer: bytes, *, move: bool = True) -> bytes:
        data = source.node.export(self.client.identity.public, offer, source.now, move=move)
        source.hurry()  # carries out what is to be done
        return data

    def import_(self, target: Machine, data: bytes) -> None:
        target.node.import_(data, target.now)
        target.hurry()

    def move(self, source: Machine, target: Machine) -> None:
        self.import_(target, self.export(source, target.node.offer(target.now)))

    def serves(self, machine: Machine) -> bool:
        """Whether the client sends to this machine, and to no other."""
        hosts = {path.remote.host for plan in self.client.engine.table.peers[0].plans for path in plan.paths}
        return hosts == {machine.uplinks[0].local.host}

    def lost(self) -> int:
        until = self.clock.now - 0.5
        return sum(key not in self.received for key, at in self.sent.items() if at <= until)


def sessions(machine: Machine) -> int:
    return len(machine.engine.table.sessions)


def test_a_session_moves_under_traffic_and_nothing_is_lost() -> None:
    world = Shared.up()
    world.talk(12.0, back=world.old)
    world.pass_s(1.0)
    offer = world.new.node.offer(world.new.now)
    world.pass_s(0.3)
    data = world.export(world.old, offer)
    world.pass_s(0.3)
    world.import_(world.new, data)
    assert world.wait(lambda: world.serves(world.new), 2.0) < 1.2
    world.pass_s(1.0)
    world.send_packets(world.new, 0.02, world.clock.now + 6.0)
    world.pass_s(10.0)
    assert world.lost() == 0
    assert sessions(world.old) == 1, "packets of its own kept it for the client"
    world.pass_s(5.0)
    assert sessions(world.old) == 0, "it was not left"
    assert world.client.node.status(world.client.now).peers[0].session.rekeys == 0


def test_the_old_machine_may_die_and_the_new_one_renews_the_session() -> None:
    world = Shared.up(timing=Timing(rekey_s=40.0, rekey_fallback_s=45.0, reject_s=60.0))
    world.talk(100.0)
    world.move(world.old, world.new)
    world.wait(lambda: sessions(world.old) == 0, 6.0)
    world.old.stop()
    world.pass_s(101.0)
    assert world.lost() == 0
    assert world.serves(world.new)
    assert world.client.node.status(world.client.now).peers[0].session.rekeys >= 2


def test_the_old_machine_does_not_answer_the_client_any_more() -> None:
    world = Shared.up(timing=Timing(rekey_s=40.0, rekey_fallback_s=45.0, reject_s=60.0))
    world.talk(100.0)
    world.move(world.old, world.new)
    world.pass_s(101.0)
    assert world.lost() == 0
    assert world.serves(world.new)
    assert world.old.node.drops[DropReason.PEER_MOVED] >= 2
    assert sessions(world.old) == 0


@pytest.mark.parametrize("restarted", [False, True])
def test_but_it_does_when_nobody_else_answers(restarted: bool) -> None:
    world = Shared.up()
    world.talk(60.0)
    world.move(world.old, world.new)
    world.wait(lambda: world.serves(world.new), 1.0)
    world.wait(lambda: sessions(world.old) == 0, 6.0)
    if restarted:
        world.old.restart(keep_record=True, bye=False)
        world.pass_s(3.0)
        assert world.serves(world.new), "a machine that was restarted took back what it gave away"
    world.new.stop()
    world.new.uplinks = []
    assert world.wait(lambda: world.serves(world.old), 20.0) > 9.0
    world.pass_s(1.0)
    assert sessions(world.old) >= 1


def test_a_client_that_restarts_twice_and_is_answered_by_the_new_machine_stays_there() -> None:
    world = Shared.up()
    world.talk(70.0)
    world.move(world.old, world.new)
    world.wait(lambda: sessions(world.old) == 0, 6.0)
    for _ in range(2):
        world.client.restart(keep_record=True, bye=True)
        world.pass_s(15.0)
        assert world.serves(world.new)
        assert sessions(world.old) == 0


def test_a_client_that_asks_seldom_is_answered_when_it_asks_in_vain() -> None:
    """Without traffic its pauses are long, and a second Initiate that comes again says as much as a third."""
    leave = Leave((), Timing(), 0.0, gone=True)
    assert not leave.answers(1, 100.0)
    assert not leave.answers(1, 103.75)
    assert not leave.answers(2, 115.0), "the daemon may have been restarted, and another machine answers"
    assert not leave.answers(2, 115.75)
    assert leave.answers(2, 116.75)
    assert not leave.answers(2, 120.0), "an attempt is over by then: it is replayed"
    assert leave.answers(3, 130.0)


@pytest.mark.parametrize("forgotten", [True, False])
def test_it_goes_back_and_forth(forgotten: bool) -> None:
    world = Shared.up()
    world.talk(260.0 if forgotten else 80.0)
    machines = [world.old, world.new]
    for _ in range(50):
        world.move(*machines)
        machines.reverse()
        assert world.wait(lambda: world.serves(machines[0]), 2.0) < 0.5
        world.pass_s(1.0)
        if forgotten:
            world.wait(lambda: sessions(machines[1]) == 0, 4.0)
        world.send_packets(machines[0], 0.01, world.clock.now + 0.3)
    world.pass_s(10.0)
    assert world.lost() == 0
    assert sessions(machines[1]) == 0
    assert sessions(machines[0]) <= 3
    assert max(len(session.sources) for session in world.client.engine.table.sessions) <= 51


def held(machine: Machine) -> Counter[str]:
    """What a machine holds for its peer that a move adds to."""
    sessions = machine.node._context.sessions.values()
    return Counter(
        sessions=len(sessions),
        shards=sum(run.size for session in sessions for run in session.sources),
        windows=sum(len(session._windows) for session in sessions),
        table=len(machine.engine.table.sessions),
        paths=sum(len(peer.paths) for peer in machine.engine.table.peers),
    )


def test_nothing_piles_up_however_often_it_moves() -> None:
    """Sessions end, and with them the shards and windows that each move adds; a life of a session has a dozen moves."""
    world = Shared.up(timing=Timing(rekey_s=40.0, rekey_fallback_s=45.0, reject_s=60.0))
    machines = {"client": world.client, "old": world.old, "new": world.new}
    world.send_packets(world.client, 0.2, world.clock.now + 400.0)
    most: list[dict[str, Counter[str]]] = []
    source, target = world.old, world.new
    for _ in range(60):
        world.move(source, target)
        seen = {name: Counter[str]() for name in machines}
        until = world.clock.now + 6.0
        while world.clock.now < until:
            world.pass_s(0.25)
            seen = {name: seen[name] | held(machine) for name, machine in machines.items()}
        assert sessions(source) == 0, "it was not left"
        most.append(seen)
        source, target = target, source
    assert world.lost() == 0
    for name in machines:
        second, last = (reduce(or_, (one[name] for one in part)) for part in (most[15:30], most[45:60]))
        by_chance = {"shards": 12, "windows": 12}  # a session more at one time, where thirty moves would be thirty more
        assert all(last[what] <= second[what] + by_chance.get(what, 1) for what in last), (name, second, last)


def test_a_handshake_under_way_does_not_keep_the_session() -> None:
    """The client renews its session just as it is handed over: nothing but the old machine's Acknowledge is out."""
    world = Shared.up(timing=Timing(rekey_s=40.0, rekey_jitter_s=0.0, rekey_fallback_s=50.0, reject_s=60.0))
    world.talk(70.0)
    answered: list[float] = []

    def watch(machine: Machine, _local: Endpoint, _remote: Endpoint, data: bytes) -> None:
        if machine is world.old and data[0] == 0x82:
            answered.append(world.clock.now)

    world.watch = watch
    world.wait(lambda: bool(answered), 45.0)
    world.move(world.old, world.new)
    world.pass_s(30.0)
    assert world.lost() == 0
    assert world.serves(world.new)
    assert sessions(world.old) == 0


def test_initiates_that_are_replayed_do_not_make_the_old_machine_answer() -> None:
    world = Shared.up(timing=Timing(rekey_s=40.0, rekey_jitter_s=0.0, rekey_fallback_s=50.0, reject_s=60.0))
    world.talk(100.0)
    world.move(world.old, world.new)
    captured: list[tuple[Endpoint, Endpoint, bytes]] = []

    def watch(machine: Machine, local: Endpoint, remote: Endpoint, data: bytes) -> None:
        if machine is world.client and data[0] == 0x81 and remote == world.old.uplinks[0].local:
            captured.append((Endpoint("192.0.1.1", 20000), remote, data))

    world.watch = watch
    world.wait(lambda: bool(captured), 45.0)
    source, remote, initiate = captured[0]
    for _ in range(44):
        world.pass_s(1.0)
        world.inject(source, remote, initiate, world.old.uplinks[0].up)
    world.pass_s(5.0)
    assert world.lost() == 0
    assert world.serves(world.new)
    assert {session.pending for session in world.old.engine.table.sessions} <= {True}


@pytest.mark.parametrize("before_ms", range(0, 60, 10))
def test_packets_under_way_to_a_machine_that_leaves_arrive(before_ms: int) -> None:
    """It leaves just as the other one hands the session on, so the client turns to it once more."""
    world = Shared.up()
    world.send_packets(world.client, 0.002, world.clock.now + 10.0)
    world.move(world.old, world.new)
    world.wait(lambda: any("left to another machine" in line for line in world.log), 6.0)
    left = float(next(line for line in world.log if "left to another machine" in line).split()[0])

    again = Shared.up()
    again.send_packets(again.client, 0.002, again.clock.now + 10.0)
    again.move(again.old, again.new)
    again.clock.run_until(left - before_ms / 1000)
    data = again.export(again.new, again.old.node.offer(again.old.now))
    again.pass_s(0.2)
    again.import_(again.old, data)
    again.pass_s(9.0)
    assert again.lost() == 0
    assert again.serves(again.old)


def test_machines_that_die_in_between_leave_a_peer_that_finds_one() -> None:
    world = Shared.up()
    world.talk(100.0)
    world.pass_s(1.0)
    world.export(world.old, world.new.node.offer(world.new.now))
    world.old.restart(keep_record=True, bye=False)
    world.new.restart(keep_record=True, bye=False)
    assert world.wait(lambda: sessions(world.old) > 0, 20.0) > 9.0
    world.pass_s(2.0)
    assert world.serves(world.old)


def test_the_owner_may_take_a_peer_back() -> None:
    world = Shared.up()
    world.talk(30.0)
    world.move(world.old, world.new)
    world.wait(lambda: sessions(world.old) == 0, 6.0)
    world.old.node.seek(world.client.identity.public, world.old.now)
    world.old.hurry()
    world.wait(lambda: sessions(world.old) > 0, 1.0)
    assert world.old.record is not None
    assert not world.old.record.moved


def test_an_export_that_is_lost_costs_shards_only() -> None:
    world = Shared.up()
    world.talk(50.0, back=world.old)
    world.export(world.old, world.new.node.offer(world.new.now))
    world.pass_s(51.0)
    assert world.lost() == 0
    assert world.serves(world.old)
    assert any("did not take over" in line for line in world.log)
    with pytest.raises(HandoverError, match="its shards are all granted"):
        world.move(world.old, world.new)


def test_an_import_that_comes_late_is_found_by_the_client() -> None:
    world = Shared.up()
    world.talk(25.0)
    data = world.export(world.old, world.new.node.offer(world.new.now))
    world.pass_s(14.0)
    world.import_(world.new, data)
    world.wait(lambda: world.serves(world.new), 6.0)
    world.pass_s(10.0)
    assert world.lost() == 0


def test_two_machines_serve_the_peer_when_one_joins() -> None:
    world = Shared.up()
    world.talk(8.0, back=world.old)
    world.import_(world.new, world.export(world.old, world.new.node.offer(world.new.now), move=False))
    world.pass_s(1.0)
    world.send_packets(world.new, 0.02, world.clock.now + 5.0)
    world.pass_s(10.0)
    assert world.lost() == 0
    assert sessions(world.old) == sessions(world.new) == 1


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(HandoverError) as raised:
        act()
    return str(raised.value)


def test_what_cannot_be_imported_is_said_and_changes_nothing() -> None:
    world = Shared.up()
    now = world.clock.now
    client, old, new = world.client, world.old, world.new
    key = client.identity.public
    offer = new.node.offer(now)
    assert "made here" in refusal(lambda: new.node.export(key, offer, now, move=True))
    assert "no session with peer a can be exported; there is none" in refusal(
        lambda: new.node.export(key, old.node.offer(now), now, move=True)
    )
    stranger = Machine("stranger", bytes([9]) * 32, world, [Uplink(Endpoint("10.9.1.1", PORT))])
    stranger.configure(PeerSpec(key, "a"), [])
    stranger.start()
    assert "both machines need the same private key" in refusal(
        lambda: old.node.export(key, stranger.node.offer(now), now, move=True)
    )
    no_key = Offer(1, bytes(16), bytes(32), new.identity.public).encode(new.identity)
    assert "is no key" in refusal(lambda: old.node.export(key, no_key, now, move=True))
    data = world.export(old, offer)
    assert "not for this machine" in refusal(lambda: stranger.node.import_(data, now))
    for changed in (data[:-1], data[:70] + bytes([data[70] ^ 1]) + data[71:]):
        assert "damaged" in refusal(lambda changed=changed: new.node.import_(changed, now))  # type: ignore[misc]
    assert sessions(new) == 0
    world.import_(new, data)
    assert "once" in refusal(lambda: new.node.import_(data, now))
    assert sessions(new) == 1


@pytest.mark.parametrize("drained", [True, False])
def test_a_machine_with_a_session_of_its_own_is_used_again_after_a_moment(drained: bool) -> None:
    """After a join each machine renews for itself, so the client has a session with each."""
    world = Shared.up(timing=Timing(rekey_s=20.0, rekey_fallback_s=25.0, reject_s=32.0))
    world.talk(90.0)
    world.import_(world.new, world.export(world.old, world.new.node.offer(world.new.now), move=False))
    world.pass_s(60.0)
    everybody = {each.uplinks[0].local.host for each in (world.old, world.new)}
    assert world.used() == everybody
    for machine in (world.old, world.new):
        if drained:
            machine.drain(True)
            world.pass_s(3.0)
            machine.drain(False)
        else:
            world.blocked |= world.ways(machine)
            world.pass_s(1.0)
            world.blocked -= world.ways(machine)
        assert world.used() != everybody
        world.wait(lambda: world.used() == everybody, 2.0)


@pytest.mark.parametrize("after_s", [27.0, 28.5, 29.9])
def test_an_import_in_the_last_moment_leaves_one_owner(after_s: float) -> None:
    world = Shared.up()
    world.talk(70.0)
    data = world.export(world.old, world.new.node.offer(world.new.now))
    world.pass_s(after_s)
    world.import_(world.new, data)
    world.pass_s(25.0)
    assert world.serves(world.new)
    assert (sessions(world.old), sessions(world.new)) == (0, 1)


def test_another_machine_is_told_of_addresses_that_work_and_no_others() -> None:
    world = Shared.up()
    world.talk(10.0)
    world.pass_s(2.0)
    nat = world.client.uplinks[0].nat
    assert nat is not None
    nat.rebind()
    world.pass_s(4.0)
    handover = world.old.node.share(world.client.identity.public, lambda _: Run(32), (), world.old.now)
    assert handover is not None
    record = world.old.record
    assert record is not None
    assert len(record.addresses) == 2, "it is remembered here"
    assert len(handover.addresses) == 1


@pytest.mark.parametrize("fate", ["open", "used", "expired"])
def test_nobody_exports_to_an_offer_of_his_own(fate: str) -> None:
    world = Shared.up()
    offer = world.old.node.offer(world.old.now)
    if fate == "used":
        world.move(world.old, world.new)
        world.pass_s(1.0)
        offer = world.old.node.offer(world.old.now)
        world.import_(world.old, world.export(world.new, offer))
    world.pass_s(31.0 if fate == "expired" else 1.0)
    key = world.client.identity.public
    assert "made here" in refusal(lambda: world.old.node.export(key, offer, world.old.now, move=True))
    assert world.old.record is None or not world.old.record.moved


def test_a_session_is_no_younger_for_the_importer_than_for_the_peer() -> None:
    world = Shared.up()
    world.pass_s(10.0)
    offer = world.new.node.offer(world.new.now)
    data = world.export(world.old, offer, move=False)
    world.pass_s(25.0)
    world.import_(world.new, data)
    ages = [each.node.status(each.now).peers[0].session.age_s for each in (world.client, world.new)]
    assert ages[0] is not None
    assert ages[1] is not None
    assert ages[0] <= ages[1] < ages[0] + 1.0


def test_an_offer_is_good_for_a_while_and_its_key_is_erased() -> None:
    world = Shared.up()
    offer = world.new.node.offer(world.new.now)
    world.new.hurry()
    data = world.export(world.old, offer)
    world.pass_s(OFFER_LIFE_S + 1)
    assert "too late" in refusal(lambda: world.new.node.import_(data, world.new.now))


def owners(world: Shared) -> set[str]:
    """The machines that take the client for theirs, now and after a restart."""
    world.old.hurry()
    world.new.hurry()
    return {each.name for each in (world.old, world.new) if sessions(each) and each.record and not each.record.moved}


@pytest.mark.parametrize("how", ["roams", "misses"])
def test_a_packet_that_comes_to_the_machine_that_was_left_brings_nothing_back(how: str) -> None:
    world = Shared.up()
    world.send_packets(world.client, 0.02, world.clock.now + 100.0)
    world.send_packets(world.old, 0.1, world.clock.now + 100.0)  # the site's route was not changed yet
    world.pass_s(2.0)
    world.move(world.old, world.new)
    world.pass_s(45.0)
    assert owners(world) == {"new"}
    if how == "roams":
        world.client.move([Uplink(Endpoint("10.1.9.1", PORT), Nat("192.0.1.9", symmetric=False))])
    else:
        world.blocked |= world.ways(world.new)
        world.pass_s(1.5)
        world.blocked -= world.ways(world.new)
    world.pass_s(40.0)
    assert owners(world) == {"new"}
    assert world.serves(world.new)


def test_a_renewal_while_an_offer_is_good_takes_nothing_back() -> None:
    world = Shared.up()
    world.send_packets(world.client, 0.02, world.clock.now + 300.0)
    world.pass_s(116.5)
    offer = world.new.node.offer(world.new.now)
    data = world.export(world.old, offer)
    world.pass_s(25.0)
    renewed = world.client.node.status(world.client.now).peers[0].session.rekeys
    assert renewed == 1, "nobody else answered the client"
    world.import_(world.new, data)
    world.pass_s(12.0)
    assert owners(world) == {"new"}
    assert world.serves(world.new)
    world.pass_s(100.0)
    assert owners(world) == {"new"}
    assert world.lost() == 0


def test_a_renewal_is_kept_if_nobody_imports() -> None:
    world = Shared.up()
    world.send_packets(world.client, 0.02, world.clock.now + 300.0)
    world.pass_s(116.5)
    world.export(world.old, world.new.node.offer(world.new.now))
    world.pass_s(60.0)
    assert owners(world) == {"b"}
    assert world.serves(world.old)
    assert world.lost() == 0


@pytest.mark.parametrize("why", ["cut off", "restarted"])
def test_a_machine_that_takes_over_and_reaches_nobody_gives_up(why: str) -> None:
    world = Shared.up()
    world.send_packets(world.client, 0.02, world.clock.now + 300.0)
    world.pass_s(2.0)
    offer = world.new.node.offer(world.new.now)
    data = world.export(world.old, offer)
    if why == "restarted":  # it has lost the session
        world.pass_s(0.5)
        world.client.restart(keep_record=True, bye=False)
        world.pass_s(20.0)
        world.import_(world.new, data)
    else:
        world.blocked |= world.ways(world.new)
        world.import_(world.new, data)
    world.pass_s(45.0)
    world.blocked.clear()
    assert any("not reached in time" in line for line in world.log)
    for _ in range(4):
        world.pass_s(40.0)
        assert owners(world) == {"b"}
        assert world.serves(world.old)


def test_the_peer_must_be_configured_at_both_machines() -> None:
    world = Shared.up()
    offer = world.new.node.offer(world.new.now)
    data = world.export(world.old, offer)
    world.new.node.remove_peer(world.client.identity.public, world.new.now)
    text = refusal(lambda: world.new.node.import_(data, world.new.now))
    assert "not configured here" in text
    assert world.client.identity.public.text in text
    world.new.node.add_peer(PeerSpec(world.client.identity.public, "a"), world.new.record, world.new.now)
    world.import_(world.new, data)  # the same text: the offer was not used up
    assert world.wait(lambda: world.serves(world.new), 2.0) < 1.2
    with pytest.raises(KeyError):
        world.old.node.export(Identity.from_seed(bytes([7]) * 32).public, offer, world.old.now, move=True)


def test_timestamps_go_along() -> None:
    world = Shared.up()
    world.new.node.offer(world.new.now)
    world.move(world.old, world.new)
    assert world.old.record is not None
    assert world.new.record is not None
    assert world.new.record.floor == world.old.record.floor > 0
    assert (world.old.record.moved, world.new.record.moved) == (True, False)
    moved = [machine.node.status(machine.now).peers[0].session.moved for machine in (world.old, world.new)]
    assert moved == [True, False]
