"""Members of a cluster: what they tell each other, and what clients notice of it.

The simulated world checks that no nonce is used twice, whichever member seals, and that nothing is delivered twice.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable
from dataclasses import replace

import pytest

from centipede.cluster.cluster import FORWARDS_AT_ONCE, FORWARDS_PER_S, Cluster
from centipede.cluster.grants import SLOTS_END, SPARE, Grants, slot
from centipede.cluster.message import DATA, HELLO, LIFE_BYTES, NO_LIFE, STATE, Message
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handover import Handover
from centipede.protocol.identity import Identity, PublicKey
from centipede.protocol.node import PeerSpec
from centipede.protocol.session import Sealer
from centipede.protocol.timing import Timing
from lab.cluster_model import SECRET, Joined
from lab.world_model import PORT, Machine, Uplink, Weather, World

SERVERS = 3


class Shared(World):
    """A client behind a NAT that knows one address, and three members."""

    client: Machine
    joined: list[Joined]
    cut: set[Joined]
    """Those whom nobody hears, and who hear nobody."""

    @classmethod
    def up(cls, **options: object) -> Shared:
        world = cls.quiet(nat=True, **options)  # type: ignore[arg-type]  # the options of World.quiet, by name
        assert isinstance(world, Shared)
        world.client, first = world.machines
        machines = [first]
        for number in (2, 3):
            machine = Machine(f"m{number}", bytes([2]) * 32, world, [Uplink(Endpoint(f"10.3.{number}.1", PORT))])
            machine.configure(PeerSpec(world.client.identity.public, "a"), [])
            world.machines.append(machine)
            machines.append(machine)
        world.cut = set()
        world.joined = [
            Joined(machine, number, SERVERS, world.dice.randbytes, world.across)
            for number, machine in enumerate(machines, 1)
        ]
        world.client.start()
        world.tick()
        world.pass_s(3.0)
        return world

    def tick(self) -> None:
        for each in self.joined:
            each.step()
        self.clock.at(self.clock.now + 0.02, self.tick)

    def across(self, joined: Joined, address: Endpoint) -> Joined | None:
        other = next(each for each in self.joined if each.address == address)
        return None if self.cut & {joined, other} else other

    def note_delivered(self, name: str, packet: bytes) -> None:
        super().note_delivered("b" if name.startswith("m") else name, packet)

    def pass_s(self, seconds: float) -> None:
        self.clock.run_until(self.clock.now + seconds)

    def wait(self, condition: Callable[[], bool], within_s: float) -> None:
        until = self.clock.now + within_s
        while not condition():
            assert self.clock.now < until, "\n".join(self.log)
            self.pass_s(0.02)

    def served_by(self) -> set[int]:
        """Shards of the members that the client sends to."""
        return {plan.run.first for plan in self.client.engine.table.peers[0].plans}

    def drops(self) -> int:
        """Data that members dropped as another's."""
        return sum(each.machine.engine.counters().drops.get(DropReason.FOREIGN_SHARD, 0) for each in self.joined)

    def lost(self) -> int:
        until = self.clock.now - 0.5
        return sum(key not in self.received for key, at in self.sent.items() if at <= until)


SLOTS = {0, 16, 32}


def test_a_client_that_knows_one_member_sends_to_all() -> None:
    world = Shared.up()
    world.send_packets(world.client, 0.02, world.clock.now + 5.0)
    world.wait(lambda: world.served_by() == SLOTS, 2.0)
    world.pass_s(4.0)
    assert world.lost() == 0


def test_the_others_go_on_when_the_maker_of_a_session_dies_before_its_rekey() -> None:
    world = Shared.up(timing=Timing(rekey_s=40.0, rekey_fallback_s=45.0, reject_s=60.0))
    world.send_packets(world.client, 0.02, world.clock.now + 100.0)
    world.wait(lambda: world.served_by() == SLOTS, 2.0)
    world.pass_s(5.0)
    first = world.joined[0]
    world.cut.add(first)
    first.machine.uplinks = []  # no bye
    world.pass_s(2.0)
    assert world.served_by() == {16, 32}
    lost = world.lost()
    world.pass_s(95.0)
    assert world.lost() == lost, "a rekey lost packets"
    assert world.client.node.status(world.client.now).peers[0].session.rekeys >= 2


def test_a_member_that_comes_back_gets_other_shards_of_the_same_session() -> None:
    world = Shared.up()
    world.send_packets(world.client, 0.02, world.clock.now + 30.0)
    world.wait(lambda: world.served_by() == SLOTS, 2.0)
    second = world.joined[1]
    second.machine.record = None
    second.machine.start()
    world.wait(lambda: 16 + 16 * SERVERS in world.served_by(), 4.0)
    assert world.client.node.status(world.client.now).peers[0].session.rekeys == 0


def test_what_was_granted_of_sessions_that_are_over_is_forgotten() -> None:
    world = Shared.up(timing=Timing(rekey_s=8.0, rekey_jitter_s=1.0, rekey_fallback_s=12.0, reject_s=16.0))
    world.send_packets(world.client, 0.2, world.clock.now + 100.0)
    world.pass_s(100.0)
    assert world.client.node.status(world.client.now).peers[0].session.rekeys >= 5
    assert all(len(each.cluster._grants) <= 3 for each in world.joined)


def test_members_that_do_not_hear_each_other_use_no_nonce_twice() -> None:
    world = Shared.up(timing=Timing(rekey_s=20.0, rekey_fallback_s=25.0, reject_s=30.0))
    world.send_packets(world.client, 0.02, world.clock.now + 90.0)
    world.wait(lambda: world.served_by() == SLOTS, 2.0)
    world.cut.update(world.joined)
    world.pass_s(60.0)  # the world ends at a nonce used twice, and at a packet delivered twice
    world.cut.clear()
    world.wait(lambda: len(world.served_by()) == SERVERS, 30.0)


def test_an_address_moves_to_another_member_and_nothing_is_lost() -> None:
    """What was sent to the shards of the member before is brought to it, until the client knows better."""
    world = Shared.up()
    _, second, third = world.joined
    moving = second.machine.uplinks[0]
    world.send_packets(world.client, 0.002, world.clock.now + 14.0)
    world.wait(lambda: world.served_by() == SLOTS, 2.0)
    world.pass_s(2.0)
    for source, target in ((second, third), (third, second)):
        forwarded, received, drops = target.cluster.forwarded, source.cluster.received, world.drops()
        moved_at = world.clock.now
        source.machine.move([uplink for uplink in source.machine.uplinks if uplink is not moving])
        target.machine.move([*target.machine.uplinks, moving])
        world.pass_s(5.0)
        assert target.cluster.forwarded > forwarded
        assert source.cluster.received - received == target.cluster.forwarded - forwarded
        assert world.drops() == drops, "what was forwarded was dropped"
        late = {at for key, at in world.sent.items() if key not in world.received and at <= world.clock.now - 0.5}
        assert all(at < moved_at for at in late), "more was lost than was on the last hop"
        forwarded = target.cluster.forwarded
        world.pass_s(1.0)
        assert target.cluster.forwarded == forwarded, "the client has learnt whose the address is"
    assert world.served_by() == SLOTS


def test_what_is_replayed_at_another_member_changes_no_path() -> None:
    """It is brought to the member that had it, which knows it; or it comes first, and then once."""
    world = Shared.up()
    world.send_packets(world.client, 0.02, world.clock.now + 12.0)
    world.wait(lambda: world.served_by() == SLOTS, 2.0)
    world.pass_s(3.0)
    stranger = Endpoint("203.0.113.9", 4000)
    answered: list[bytes] = []

    def watch(machine: Machine, local: Endpoint, remote: Endpoint, data: bytes) -> None:
        if remote == stranger:
            answered.append(data)
        if machine is world.client:  # at the others as soon as at its own
            for each in world.joined:
                if each.machine.uplinks[0].local.host != remote.host:
                    world.inject(stranger, each.machine.uplinks[0].local, data, Weather(delay_s=0.001))

    paths = [{(path.local, path.remote) for path in each.machine.engine.table.peers[0].paths} for each in world.joined]
    world.watch = watch
    world.pass_s(5.0)
    now = [{(path.local, path.remote) for path in each.machine.engine.table.peers[0].paths} for each in world.joined]
    assert now == paths
    assert not answered
    assert all(each.cluster.forwarded and each.cluster.received for each in world.joined)
    world.watch = None
    world.pass_s(5.0)
    assert world.lost() == 0


def test_timestamps_are_shared_and_the_greatest_holds() -> None:
    world = Shared.up()
    first, second, _ = world.joined
    world.pass_s(2.0)
    assert first.machine.record is not None
    assert second.machine.record is not None
    assert first.machine.record.floor > 0
    assert second.machine.record.floor == first.machine.record.floor


def test_a_slot_is_given_once_to_each_life() -> None:
    grants = Grants(8)
    run = grants.run(b"base-a", 3, b"life-1", 2)
    assert run == slot(3, 8, 0, 2)
    assert grants.run(b"base-a", 3, b"life-1", 2) == run
    again = grants.run(b"base-a", 3, b"life-2", 2)
    assert again == slot(3, 8, 1, 2)
    assert grants.run(b"base-b", 3, b"life-2", 2) == run, "another session has other keys"
    lives = [grants.run(b"base-a", 3, bytes([n]) * 6, 2) for n in range(100)]
    given = [each.first for each in lives if each is not None]
    assert len(set(given)) == len(given)
    assert max(given) < SLOTS_END <= SPARE.start
    assert lives[-1] is None


@pytest.mark.parametrize("member", range(1, 9))
def test_slots_of_members_are_disjoint(member: int) -> None:
    mine = {slot(member, 8, life, 4) for life in range(60)}
    for other in range(1, 9):
        if other != member:
            assert mine.isdisjoint({slot(other, 8, life, 4) for life in range(60)})


def test_a_message_opens_whole_and_with_the_secret_alone() -> None:
    message = Message(HELLO, 2, 3, b"l" * 16, NO_LIFE, 7, b"body")
    data = message.seal(SECRET)
    assert Message.open(SECRET, data) == message
    assert Message.open(bytes(32), data) is None
    assert all(Message.open(SECRET, data[:length]) is None for length in range(len(data)))
    for bit in range(len(data) * 8):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        assert Message.open(SECRET, bytes(changed)) is None


def test_what_was_said_to_another_life_or_twice_does_not_count() -> None:
    world = Shared.up()
    first, second, _ = world.joined
    now = first.machine.now
    heard = next(each for each in first.cluster.members if each.address == second.address)
    assert heard.number == 2
    lives = first.cluster._lives
    hello = Message(HELLO, 2, SERVERS, heard.life, first.cluster._life, lives[heard.life] + 1, bytes(4))
    for wrong in (
        replace(hello, to=NO_LIFE),
        replace(hello, to=b"x" * 16),
        replace(hello, member=1),
        replace(hello, of=4),
        replace(hello, counter=0),
    ):
        refused, before = first.cluster.refused, dict(lives)
        first.cluster.receive(second.address, wrong.seal(SECRET), now)
        assert (first.cluster.refused, lives) == (refused + 1, before)
    refused = first.cluster.refused
    first.cluster.receive(second.address, hello.seal(SECRET), now)
    assert first.cluster.refused == refused
    first.cluster.receive(second.address, hello.seal(SECRET), now)
    assert first.cluster.refused == refused + 1
    first.cluster.receive(Endpoint("10.9.9.9", 1), hello.seal(SECRET), now)
    assert first.cluster.refused == refused + 2


@pytest.mark.parametrize("dropped", [True, False])
@pytest.mark.parametrize("source", ["its own", "another's"])
def test_what_a_member_told_is_not_believed_again_when_it_is_forgotten(dropped: bool, source: str) -> None:
    world = Shared.up()
    first, second, third = world.joined
    cluster, now = second.cluster, second.machine.now
    told = overheard(world, first, second)
    assert {message.kind for message in told} == {HELLO, STATE}
    (base,) = cluster._taken
    if dropped:  # by a store, where its registration ended
        cluster.set_others([third.address], now + 20.0)
        cluster.set_others([first.address, third.address], now + 30.0)
    cluster.handle_timer(now + 700.0)
    assert not cluster.has(base)
    # Said again; and messages that were sent with these, and kept from arriving until now.
    withheld = [replace(message, counter=message.counter + 100_000) for message in told]
    at = first.address if source == "its own" else third.address
    for message in told + withheld:
        cluster.receive(at, message.seal(SECRET), now + 700.0)
        assert not cluster.has(base)


@pytest.mark.parametrize("dropped", [True, False])
def test_a_member_that_was_cut_off_is_told_everything_and_believed_again(dropped: bool) -> None:
    world = Shared.up()
    first, second, third = world.joined
    world.cut.add(first)
    world.pass_s(5.0)
    cluster = second.cluster
    life = next(each.life for each in cluster.members if each.address == first.address)
    if dropped:
        cluster.set_others([third.address], second.machine.now)
        cluster.set_others([first.address, third.address], second.machine.now)
    cluster._taken.clear()
    world.cut.clear()
    first.cluster.tell([world.client.identity.public])
    world.pass_s(2.0)
    again = next(each for each in cluster.members if each.address == first.address)
    assert (again.life, again.number, again.untold) == (life, 1, {})
    assert cluster._taken, "what it tells is news"


def overheard(world: Shared, teller: Joined, listener: Joined) -> list[Message]:
    """What a member says to another while it tells of its sessions."""
    said: list[Message] = []
    receive = listener.cluster.receive

    def overhear(source: Endpoint, data: bytes, now: float) -> None:
        message = Message.open(SECRET, data)
        assert message is not None
        if source == teller.address and message.to == listener.cluster._life:
            said.append(message)
        receive(source, data, now)

    listener.cluster.receive = overhear  # type: ignore[method-assign]
    teller.cluster.tell([world.client.identity.public])
    world.pass_s(1.5)
    listener.cluster.receive = receive  # type: ignore[method-assign]
    return said


def test_what_was_forgotten_is_not_taken_over_again_from_a_member_that_stood_still() -> None:
    world = Shared.up()
    first, second, _ = world.joined
    cluster, stood_at, now = second.cluster, first.machine.now, second.machine.now + 700.0
    (base,) = cluster._taken
    cluster.handle_timer(now)
    assert not cluster.has(base)
    # For the first no time has passed. It hears the second, which lives, and finds something to tell.
    for address, data in cluster.take():
        if address == first.address:
            first.cluster.receive(second.address, data, stood_at)
    first.cluster.tell([world.client.identity.public])
    first.cluster.handle_timer(stood_at)
    said = [data for address, data in first.cluster.take() if address == second.address]
    assert STATE in {message.kind for data in said if (message := Message.open(SECRET, data)) is not None}
    refused = cluster.refused
    for data in said:
        cluster.receive(first.address, data, now)
    assert cluster.refused == refused
    assert not cluster.has(base)
    acknowledged = [data for address, data in cluster.take() if address == first.address]
    for data in acknowledged:
        first.cluster.receive(second.address, data, stood_at)
    assert not next(each.untold for each in first.cluster.members if each.address == second.address)


def test_who_answers_before_its_first_second_is_told_everything() -> None:
    world = Shared.up()
    first, second, _ = world.joined
    life, now = bytes([9]) * LIFE_BYTES, second.machine.now
    sessions = second.cluster._sessions
    fresh = Cluster(SECRET, 2, SERVERS, 0, [first.address], life, sessions)
    fresh.set_peers([world.client.identity.public])
    hello = Message(HELLO, 1, SERVERS, first.cluster._life, NO_LIFE, first.cluster._counter, bytes(4))
    first.cluster._counter += 1
    fresh.receive(first.address, hello.seal(SECRET), now)  # it came while the daemon began
    fresh.handle_timer(now)
    for address, data in fresh.take():
        assert address == first.address
        first.cluster.receive(second.address, data, now)
    first.cluster.handle_timer(now)
    for address, data in first.cluster.take():
        if address == second.address:
            fresh.receive(first.address, data, now)
    assert fresh._taken


@pytest.mark.parametrize("pause_s", [29.0, 3600.0])
def test_a_member_whose_clock_went_on_while_it_heard_nothing_is_believed(pause_s: float) -> None:
    world = Shared.up(timing=Timing(rekey_s=20.0, rekey_fallback_s=25.0, reject_s=30.0))
    world.send_packets(world.client, 0.5, world.clock.now + 50.0)
    first, second, _ = world.joined
    cluster = second.cluster
    world.cut.add(second)
    world.pass_s(10.0)
    cluster._noted = deque((at - pause_s, counter) for at, counter in cluster._noted)
    before = set(cluster._taken)
    cluster._taken.clear()
    world.cut.clear()
    first.cluster.tell([world.client.identity.public])
    world.pass_s(3.0)
    assert set(cluster._taken) == (before if pause_s < 60.0 else set()), "what was granted before is too old by then"
    world.wait(lambda: bool(set(cluster._taken) - before), 30.0)  # the next renewal is news
    assert heard_by(second) == {1, 3}


@pytest.mark.parametrize("swapped", [True, False])
def test_what_came_from_a_wrong_address_shuts_nobody_out(swapped: bool) -> None:
    world = Shared.up()
    first, second, third = world.joined
    if swapped:  # and keep their lives
        second.address, third.address = third.address, second.address
    else:  # a copy that overtakes
        lives = first.cluster._lives
        heard = next(each for each in first.cluster.members if each.address == second.address)
        hello = Message(HELLO, 2, SERVERS, heard.life, first.cluster._life, lives[heard.life] + 1, bytes(4))
        first.cluster.receive(third.address, hello.seal(SECRET), first.machine.now)
    world.pass_s(5.0)
    assert heard_by(first) == {2, 3}


def test_a_number_that_two_machines_had_is_nobodys_loss() -> None:
    world = Shared.up()
    first, _, third = world.joined
    wrong = Message(HELLO, 2, SERVERS, b"x" * 16, first.cluster._life, 1, bytes(4))
    first.cluster.receive(third.address, wrong.seal(SECRET), first.machine.now)
    world.pass_s(5.0)
    assert heard_by(first) == {2, 3}


def heard_by(joined: Joined) -> set[int | None]:
    """Numbers of the members that one hears."""
    return {each.number for each in joined.cluster.members if joined.cluster.is_heard(each, joined.machine.now)}


def test_a_member_says_why_another_does_not_count() -> None:
    world = Shared.up()
    first, second, _ = world.joined
    heard = next(each for each in first.cluster.members if each.address == second.address)
    for number, of, words in ((2, 4, "of = 4, this machine 3"), (1, SERVERS, "number 1"), (9, SERVERS, "9 of 3")):
        wrong = Message(HELLO, number, of, bytes(16), NO_LIFE, 0, bytes(4))
        first.cluster.receive(second.address, wrong.seal(SECRET), first.machine.now)
        assert words in heard.mistake
    world.pass_s(1.5)
    assert heard.mistake == ""
    own = Message(HELLO, 1, SERVERS, first.cluster._life, NO_LIFE, 0, bytes(4))
    first.cluster.receive(second.address, own.seal(SECRET), first.machine.now)
    assert heard.mistake == "", "what it said itself, sent back, is nobody's mistake"


class Untold:
    """The sessions of a node that has so many peers and no session."""

    def __init__(self, peers: int) -> None:
        self.peers = [Identity.from_seed(number.to_bytes(32, "big")).public for number in range(peers)]

    def share(self, public_key: PublicKey, *_: object) -> Handover:
        return Handover(self.peers[0], public_key, 1, 1, (), ())

    def absorb(self, handover: Handover) -> None:
        """Nothing."""

    def inject(self, datagram: bytes) -> None:
        """Nothing."""

    def bases(self) -> set[bytes]:
        return set()


@pytest.mark.parametrize("hears", [True, False])
@pytest.mark.parametrize("knows", [True, False])
def test_a_member_is_told_of_many_peers_as_it_acknowledges_and_of_each_once_a_second(hears: bool, knows: bool) -> None:
    sessions = Untold(200)
    here, there = (Endpoint("10.8.0.1", 1), Endpoint("10.8.0.2", 1))
    one = Cluster(SECRET, 1, 2, 0, [there], b"1" * 16, sessions)
    two = Cluster(SECRET, 2, 2, 0, [here], b"2" * 16, sessions)
    one.set_peers(sessions.peers)
    two.set_peers(sessions.peers if knows else ())
    told: Counter[PublicKey] = Counter()
    for tenth in range(40):  # asked more often than is due, as with a store
        now = 100.0 + tenth / 10
        for _ in range(12):
            for cluster in (one, two):
                cluster.handle_timer(now)
            for _, data in one.take():
                message = Message.open(SECRET, data)
                if message is not None and message.kind == STATE:
                    told[Handover.decode(message.body[16:], sessions=0, k=0).peer] += 1
                two.receive(here, data, now)
            for _, data in two.take():
                if hears or data[5] == HELLO:
                    one.receive(there, data, now)
        if tenth == 0 and hears:
            assert one.members[0].untold == {}, "a peer that it does not know as well, or others would wait for that"
    assert len(told) == 200, "each has its turn"
    assert sorted(told.values()) == ([1] * 200 if hears else [1] * 144 + [2] * 56), "64 in each of 4 seconds"
    two.set_peers([*sessions.peers, PublicKey(b"x" * 32)])
    two.handle_timer(104.0)
    for _, data in two.take():
        one.receive(there, data, 104.0)
    assert len(one.members[0].untold) == 200, "a member with further peers is told everything again"


def foreign(shard: int, counter: int = 0, *, control: bool = False) -> bytes:
    key = bytes(32)
    return Sealer(key).seal(counter, source=0, base=b"base-6", shard=shard, plaintext=b"packet", control=control)


def test_data_goes_to_the_member_whose_shard_it_names() -> None:
    world = Shared.up()
    first, second, third = world.joined
    now = first.machine.now
    for shard, to in ((16, second), (32 + 15, third), (16 + 16 * SERVERS, second)):  # the last is of a life to come
        before = to.cluster.received
        assert first.cluster.forward(foreign(shard), now) is None
        first.step()
        assert to.cluster.received == before + 1
    assert first.cluster.forwarded == 3
    for shard in (0, 16 * SERVERS, SLOTS_END, 0xFFFF):  # its own, another life's of its own, nobody's, anybody's
        assert first.cluster.forward(foreign(shard), now) is DropReason.FOREIGN_SHARD
    assert first.cluster.forward(b"short", now) is DropReason.FOREIGN_SHARD
    assert first.cluster.forward(foreign(16), now + 3.1) is DropReason.FOREIGN_SHARD, "to one that is not there"


def test_data_is_forwarded_no_faster_than_the_bucket_allows() -> None:
    world = Shared.up()
    first = world.joined[0]
    now = first.machine.now
    reasons = [first.cluster.forward(foreign(16), now) for _ in range(FORWARDS_AT_ONCE + 10)]
    assert reasons == [None] * FORWARDS_AT_ONCE + [DropReason.FORWARD_LIMITED] * 10
    reasons = [first.cluster.forward(foreign(16), now + 0.1) for _ in range(FORWARDS_AT_ONCE)]
    assert reasons.count(None) == pytest.approx(FORWARDS_PER_S / 10, abs=1)


def test_only_data_of_a_member_that_is_known_and_for_this_life_is_taken() -> None:
    world = Shared.up()
    first, second, _ = world.joined
    now = first.machine.now
    heard = next(each for each in first.cluster.members if each.address == second.address)
    good = Message(DATA, 2, SERVERS, heard.life, first.cluster._life, 0, foreign(0))
    for wrong in (
        replace(good, to=NO_LIFE),
        replace(good, life=b"x" * 16),
        replace(good, body=b""),
        replace(good, body=foreign(0)[:31]),
        replace(good, body=foreign(0, control=True)),
        replace(good, body=b"\x81" + bytes(207)),
    ):
        refused = first.cluster.refused
        first.cluster.receive(second.address, wrong.seal(SECRET), now)
        assert (first.cluster.refused, first.cluster.received) == (refused + 1, 0)
    first.cluster.receive(Endpoint("10.9.9.9", 1), good.seal(SECRET), now)
    assert first.cluster.received == 0
    for copies in (1, 2):  # what is in it counts once by its own window, so it may be late
        first.cluster.receive(second.address, good.seal(SECRET), now)
        assert first.cluster.received == copies
    assert first.cluster._lives[heard.life] > 0, "and what the members say goes on from where it was"
