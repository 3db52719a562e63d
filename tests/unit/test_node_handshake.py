"""The node's handshakes: rhythm of the initiator, order of the responder, effects in order."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import ip_network
from itertools import pairwise

import pytest

from centipede.protocol.drops import DropReason
from centipede.protocol.effects import Effects, Outgoing
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handshake import ACKNOWLEDGE_BYTES, INITIATE_BYTES, NO_PSK, Attempt, Finished, Params
from centipede.protocol.identity import Identity
from centipede.protocol.node import Node, PeerRecord, PeerSpec
from centipede.protocol.session import ANY_SHARD, Sealer
from centipede.protocol.table import Datagram, FirstData, ForwardingTable, Resumed, Run
from centipede.protocol.timing import Timing
from centipede.protocol.wire import Heartbeat

OWN = Identity.from_seed(b"\1" * 32)
PEER = Identity.from_seed(b"\2" * 32)
STRANGER = Identity.from_seed(b"\3" * 32)
LOCAL = Endpoint("192.0.2.1", 51820)
OTHER_LOCAL = Endpoint("192.0.2.2", 51820)
REMOTE = Endpoint("198.51.100.1", 51820)
OTHER_REMOTE = Endpoint("198.51.100.2", 51820)
WALL_NS = 1_700_000_000 * 10**9


class Lone:
    """A node and its shell: what it wanted done, and when."""

    def __init__(self, *, record: PeerRecord | None = None, timing: Timing | None = None, **spec: object) -> None:
        self.now = 0.0
        self.node = Node(OWN, run=Run(), timing=timing or Timing(), random=random.Random(1).randbytes)
        self.node.add_peer(PeerSpec(PEER.public, "peer", **spec), record, self.now)  # type: ignore[arg-type]  # by name
        self.node.set_locals([LOCAL], self.now)
        self.sent: list[tuple[float, Outgoing]] = []
        self.table = ForwardingTable(0, Run())
        self.records: list[PeerRecord] = []
        self.next_timer = float("inf")
        self.take()

    def take(self) -> Effects:
        effects = self.node.take_effects()
        if effects.table is not None:
            self.table = effects.table
        self.records += effects.records
        self.sent += [(self.now, datagram) for datagram in effects.datagrams]
        self.next_timer = effects.next_timer
        return effects

    def wall_ns(self) -> int:
        return WALL_NS + int(self.now * 1e9)

    def run_until(self, moment: float) -> None:
        while self.next_timer <= moment:
            self.now = max(self.now, self.next_timer)
            self.node.handle_timer(self.now, self.wall_ns())
            self.take()
        self.now = moment

    def receive(self, data: bytes, *, local: Endpoint = LOCAL, remote: Endpoint = REMOTE) -> list[Outgoing]:
        """What is sent in answer."""
        event = Datagram(local, remote, data, self.now, 0)
        self.node.receive(event, self.now, self.wall_ns())
        return list(self.take().datagrams)

    def initiates(self) -> dict[bytes, list[float]]:
        """When each Initiate went out, in order."""
        times: dict[bytes, list[float]] = {}
        for at, datagram in self.sent:
            if len(datagram.data) == INITIATE_BYTES:
                times.setdefault(datagram.data, []).append(round(at, 6))
        return times

    def dropped(self) -> dict[DropReason, int]:
        return dict(self.node.drops)


def initiate(
    timestamp: int = WALL_NS, *, identity: Identity = PEER, psk: bytes = NO_PSK, to: Identity = OWN, k: int = 0
) -> Attempt:
    return Attempt.begin(
        identity,
        to.public,
        psk,
        timestamp=timestamp,
        base=timestamp.to_bytes(8, "big")[2:],
        shard=0,
        params=Params(10.0, 1420, k=k),
        random=bytes(32),
    )


def confirmation(attempt: Attempt, acknowledge: bytes, counter: int = 0, **more: object) -> bytes:
    """The first heartbeat under the session."""
    finished = attempt.finish(acknowledge)
    beat = Heartbeat(challenge=bytes(8), next_in_s=0.2, t1_us=1, **more)  # type: ignore[arg-type]  # by name
    return seal(finished, beat.encode(), counter)


def seal(finished: Finished, plaintext: bytes, counter: int = 0, *, shard: int = ANY_SHARD) -> bytes:
    sealer = Sealer(finished.keys.tx_control)
    return sealer.seal(counter, source=0, base=finished.base, shard=shard, plaintext=plaintext, control=True)


# The initiator.


def test_one_attempt_sends_the_same_bytes_at_five_moments_on_every_pair() -> None:
    lone = Lone()
    lone.node.set_locals([LOCAL, OTHER_LOCAL], 0.0)
    lone.node.set_endpoints(PEER.public, [REMOTE, OTHER_REMOTE], 0.0)
    lone.take()
    lone.run_until(4.99)
    assert list(lone.initiates().values()) == [[at for at in (0.0, 0.25, 0.75, 1.75, 3.75) for _ in range(4)]]
    pairs = {(datagram.local, datagram.remote) for _, datagram in lone.sent}
    assert pairs == {(mine, theirs) for mine in (LOCAL, OTHER_LOCAL) for theirs in (REMOTE, OTHER_REMOTE)}


def test_attempts_follow_each_other_after_growing_pauses() -> None:
    lone = Lone(keepalive=True)
    lone.node.set_endpoints(PEER.public, [REMOTE], 0.0)
    lone.take()
    lone.run_until(120.0)
    starts = [times[0] for times in lone.initiates().values()]
    assert starts[0] == 0.0
    pauses = [round(later - earlier - 5.0, 6) for earlier, later in pairwise(starts)]
    assert pauses[:8] == [0.0, 1.0, 2.0, 5.0, 10.0, 15.0, 15.0, 15.0]
    assert len({record.last_used for record in lone.records}) == len(starts)


def test_attempts_end_when_nobody_has_use_for_the_peer() -> None:
    lone = Lone()
    lone.node.set_endpoints(PEER.public, [REMOTE], 0.0)
    lone.take()
    lone.run_until(1000.0)
    assert max(at for at, _ in lone.sent) < 180.0
    assert lone.next_timer == float("inf")
    assert lone.node.status(lone.now).peers[0].session.state == "none"
    lone.node.receive(Resumed(1, 1000.0), 1000.0, 0)
    lone.take()
    lone.run_until(1000.0)
    assert lone.sent[-1][0] == 1000.0


@pytest.mark.parametrize("cause", ["traffic", "local address", "endpoint"])
def test_back_off_starts_over(cause: str) -> None:
    lone = Lone()
    lone.node.set_endpoints(PEER.public, [REMOTE], 0.0)
    lone.take()
    lone.run_until(35.0)  # in the pause of 10 s that began at 33
    before = len(lone.initiates())
    if cause == "traffic":
        lone.node.receive(Resumed(1, 35.0), 35.0, 0)
    elif cause == "local address":
        lone.node.set_locals([LOCAL, OTHER_LOCAL], 35.0)
    else:
        lone.node.set_endpoints(PEER.public, [OTHER_REMOTE], 35.0)
    lone.take()
    lone.run_until(46.5)
    starts = [times[0] for times in list(lone.initiates().values())[before:]]
    assert starts == [35.0, 40.0, 46.0]


def test_a_new_pair_during_an_attempt_gets_the_same_initiate_at_once() -> None:
    lone = Lone()
    lone.node.set_endpoints(PEER.public, [REMOTE], 0.0)
    lone.take()
    lone.run_until(2.0)
    lone.node.set_locals([LOCAL, OTHER_LOCAL], 2.0)
    lone.take()
    lone.run_until(6.9)
    assert len(lone.initiates()) == 1
    times = [at for at, datagram in lone.sent if datagram.local == OTHER_LOCAL]
    assert times == [2.0, 2.25, 2.75, 3.75, 5.75]


def test_setting_the_same_addresses_again_changes_nothing() -> None:
    lone = Lone()
    lone.node.set_endpoints(PEER.public, [REMOTE], 0.0)
    lone.take()
    for step in range(1, 100):
        lone.run_until(step / 10)
        lone.node.set_endpoints(PEER.public, [REMOTE], lone.now)
        lone.node.set_locals([LOCAL], lone.now)
        lone.take()
    assert [len(times) for times in lone.initiates().values()] == [5, 5]


def test_the_timestamp_is_recorded_before_it_is_sent_and_grows_whatever_the_clock_says() -> None:
    ahead = WALL_NS + 10**18
    lone = Lone(record=PeerRecord(PEER.public, last_used=ahead))
    lone.node.set_endpoints(PEER.public, [REMOTE], 0.0)
    lone.take()
    lone.node.handle_timer(0.0, WALL_NS)
    effects = lone.take()
    assert [record.last_used for record in effects.records] == [ahead + 1]
    assert len(effects.datagrams) == 1
    lone.run_until(11.0)
    assert [record.last_used for record in lone.records] == [ahead + 1, ahead + 2, ahead + 3]


def test_remembered_addresses_are_tried_at_once() -> None:
    lone = Lone(record=PeerRecord(PEER.public, addresses=(REMOTE,)))
    lone.run_until(0.0)
    assert [datagram.remote for _, datagram in lone.sent] == [REMOTE]


def test_without_an_address_there_is_nothing_to_do() -> None:
    lone = Lone(keepalive=True)
    assert lone.next_timer == float("inf")
    handshake = lone.node.status(0.0).peers[0].handshake
    assert handshake is not None
    assert "no address pair" in handshake.step
    assert handshake.attempts == 0


def other_end(psk: bytes = NO_PSK) -> Node:
    node = Node(PEER, run=Run(), timing=Timing(), random=random.Random(2).randbytes)
    node.add_peer(PeerSpec(OWN.public, "own", preshared_key=psk), None, 0.0)
    node.set_locals([REMOTE], 0.0)
    node.take_effects()
    return node


def acknowledge_of(node: Node, lone: Lone) -> bytes:
    """What the other end answers to the newest Initiate."""
    node.receive(Datagram(REMOTE, LOCAL, list(lone.initiates())[-1], lone.now, 0), lone.now, 0)
    (answer,) = node.take_effects().datagrams
    assert len(answer.data) == ACKNOWLEDGE_BYTES
    return answer.data


def start(lone: Lone) -> None:
    lone.node.set_endpoints(PEER.public, [REMOTE], lone.now)
    lone.take()
    lone.run_until(lone.now)


def test_a_valid_acknowledge_gives_session_plan_and_confirming_heartbeat_at_once() -> None:
    lone = Lone()
    start(lone)
    lone.node.receive(Datagram(LOCAL, REMOTE, acknowledge_of(other_end(), lone), 0.01, 0), 0.01, 0)
    effects = lone.take()
    assert effects.table is not None
    (peer,) = effects.table.peers
    (plan,) = peer.plans
    assert [(path.local, path.remote) for path in plan.paths] == [(LOCAL, REMOTE)]
    assert [session.pending for session in effects.table.sessions] == [False]
    assert len(effects.datagrams) == 1
    assert lone.node.status(0.01).peers[0].session.state == "established"
    assert lone.node.status(0.01).peers[0].handshake is None


def test_an_acknowledge_from_elsewhere_makes_a_session_but_no_path_for_data() -> None:
    lone = Lone()
    start(lone)
    lone.receive(acknowledge_of(other_end(), lone), remote=OTHER_REMOTE)
    assert len(lone.table.sessions) == 1
    assert lone.table.peers[0].plans == ()
    states = {path.remote: path.state for path in lone.node.status(0.0).peers[0].paths}
    assert states == {REMOTE: "probing", OTHER_REMOTE: "probing"}


def test_only_the_first_acknowledge_counts() -> None:
    lone = Lone()
    start(lone)
    node = other_end()
    first = acknowledge_of(node, lone)
    lone.receive(first)
    assert lone.receive(first) == []
    assert lone.dropped() == {DropReason.UNKNOWN_ATTEMPT: 1}
    assert len(lone.table.sessions) == 1


def test_a_wrong_preshared_key_is_named_in_the_status() -> None:
    lone = Lone(preshared_key=b"\7" * 32)
    start(lone)
    assert lone.receive(acknowledge_of(other_end(), lone)) == []
    assert lone.dropped() == {DropReason.ACKNOWLEDGE_UNDECRYPTABLE: 1}
    status = lone.node.status(1.0).peers[0]
    assert status.session.state == "initiating"
    assert status.handshake is not None
    assert status.handshake.reason is DropReason.ACKNOWLEDGE_UNDECRYPTABLE
    assert "Initiate sent on 1 address pair," in status.handshake.step
    assert (status.handshake.attempts, status.handshake.age_s) == (1, 1.0)


def test_acknowledges_are_tried_twenty_times_a_second_at_most() -> None:
    lone = Lone(preshared_key=b"\7" * 32)
    start(lone)
    wrong = acknowledge_of(other_end(), lone)
    for _ in range(50):
        lone.receive(wrong)
    assert lone.dropped() == {DropReason.ACKNOWLEDGE_UNDECRYPTABLE: 20, DropReason.RATE_LIMITED: 30}


def test_a_late_acknowledge_of_the_attempt_before_is_refused_one_during_a_pause_is_not() -> None:
    lone = Lone()
    start(lone)
    node = other_end()
    early = acknowledge_of(node, lone)
    lone.run_until(10.5)  # the second attempt began at 5, the pause before the third lasts until 11
    lone.receive(early)
    assert lone.dropped() == {DropReason.UNKNOWN_ATTEMPT: 1}
    lone.receive(acknowledge_of(node, lone))
    assert len(lone.table.sessions) == 1


# The responder.


def test_the_table_with_the_session_comes_with_the_acknowledge() -> None:
    lone = Lone()
    lone.node.receive(Datagram(LOCAL, REMOTE, initiate().message, 0.0, 0), 0.0, 0)
    effects = lone.take()
    assert effects.table is not None
    assert [session.pending for session in effects.table.sessions] == [True]
    assert [(one.local, one.remote, len(one.data)) for one in effects.datagrams] == [(LOCAL, REMOTE, ACKNOWLEDGE_BYTES)]
    assert effects.records == (), "nothing is believed before it is confirmed"
    assert effects.table.peers[0].plans == ()


def test_a_confirmed_handshake_raises_the_floor_and_validates_the_path() -> None:
    lone = Lone()
    attempt = initiate(timestamp=77)
    (acknowledge,) = lone.receive(attempt.message)
    (reply,) = lone.receive(confirmation(attempt, acknowledge.data, answer_now=True))
    assert (reply.local, reply.remote) == (LOCAL, REMOTE)
    assert lone.records[-1].floor == 77
    assert lone.records[-1].addresses == (REMOTE,)
    assert lone.table.peers[0].plans
    assert [session.pending for session in lone.table.sessions] == [False]
    assert lone.receive(attempt.message) == []
    assert lone.receive(initiate(timestamp=76).message) == []
    assert lone.dropped() == {DropReason.STALE_TIMESTAMP: 2}


def test_data_confirms_as_well() -> None:
    lone = Lone()
    lone.receive(initiate().message)
    (session,) = lone.table.sessions
    lone.node.receive(FirstData(session.session, LOCAL, REMOTE, 0.1), 0.1, 0)
    effects = lone.take()
    assert effects.table is not None
    assert effects.table.peers[0].plans
    assert len(effects.datagrams) == 1


def test_a_confirmation_over_a_pair_without_an_acknowledge_is_challenged_first() -> None:
    lone = Lone()
    attempt = initiate()
    (acknowledge,) = lone.receive(attempt.message)
    (challenge,) = lone.receive(confirmation(attempt, acknowledge.data), remote=OTHER_REMOTE)
    assert challenge.remote == OTHER_REMOTE
    assert lone.table.peers[0].plans == ()
    assert [path.state for path in lone.node.status(0.0).peers[0].paths] == ["probing"]


def test_unconfirmed_handshakes_change_nothing_and_die() -> None:
    lone = Lone()
    for timestamp in (2**64 - 1, 5, 6):
        lone.receive(initiate(timestamp=timestamp).message)
    assert [session.pending for session in lone.table.sessions] == [True] * 3
    assert lone.records == []
    lone.run_until(10.0)
    assert not lone.table.sessions
    assert lone.receive(initiate(timestamp=7).message) != [], "the floor did not move"


def test_the_oldest_of_five_pending_ones_gives_way() -> None:
    lone = Lone()
    bases = []
    for timestamp in range(10, 16):
        lone.run_until(lone.now + 0.1)
        lone.receive(initiate(timestamp=timestamp).message)
        bases.append(lone.table.sessions[-1].base)
    assert [session.base for session in lone.table.sessions] == bases[2:]
    assert lone.dropped() == {DropReason.PENDING_EVICTED: 2}


def test_copies_of_an_initiate_get_the_same_acknowledge_within_limits() -> None:
    lone = Lone()
    message = initiate().message
    (first,) = lone.receive(message)
    assert lone.receive(message) == [], "too soon on this pair"
    (second,) = lone.receive(message, remote=OTHER_REMOTE)
    assert second.data == first.data
    lone.run_until(0.21)
    (third,) = lone.receive(message)
    assert third.data == first.data
    for port in range(1, 40):
        lone.receive(message, remote=Endpoint("198.51.100.3", port))
    assert lone.dropped() == {DropReason.ACKNOWLEDGE_LIMITED: 1 + 39 - 14}
    assert len(lone.table.sessions) == 1


@pytest.mark.parametrize(
    ("source", "allowed"),
    [
        (lambda n: Endpoint("203.0.113.1", n), 5),  # one address, whatever the port
        (lambda n: Endpoint(f"203.0.113.{n}", 1), 40),
        (lambda n: Endpoint(f"2001:db8::{n:x}", 1), 5),  # one /64
        (lambda n: Endpoint(f"2001:db8:0:{n:x}::1", 1), 40),
    ],
)
def test_sources_have_token_buckets(source: object, allowed: int) -> None:
    assert callable(source)
    lone = Lone()
    for number in range(1, 41):
        lone.receive(initiate(timestamp=number, identity=STRANGER).message, remote=source(number))
    counts = lone.dropped()
    assert counts.pop(DropReason.UNKNOWN_IDENTITY) == allowed
    assert counts.get(DropReason.RATE_LIMITED, 0) == 40 - allowed


def test_port_0_is_nobodys_source() -> None:
    """Somebody on the way may write it into a datagram: a path that leads there would be told on, and cannot be."""
    lone, nowhere = Lone(), Endpoint(REMOTE.host, 0)
    attempt = initiate()
    assert lone.receive(attempt.message, remote=nowhere) == []
    (answer,) = lone.receive(attempt.message)
    assert lone.receive(confirmation(attempt, answer.data), remote=nowhere) == []
    assert lone.dropped() == {DropReason.REMOTE_NOT_ALLOWED: 2}
    assert lone.receive(confirmation(attempt, answer.data, 1)) != []
    handover = lone.node.share(PEER.public, lambda _: Run(16), (), lone.now)
    assert handover is not None
    assert handover.encode()


def changed(data: bytes, position: int) -> bytes:
    return data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", DropReason.TOO_SHORT),
        (bytes(31), DropReason.TOO_SHORT),
        (bytes(32), DropReason.UNKNOWN_SESSION),
        (b"\x40" + bytes(95), DropReason.UNKNOWN_SESSION),
        (b"\x81" + bytes(207), DropReason.HANDSHAKE_MALFORMED),
        (initiate().message[:-1], DropReason.HANDSHAKE_MALFORMED),
        (initiate().message + b"\0", DropReason.HANDSHAKE_MALFORMED),
        (b"\x83\x01" + bytes(69), DropReason.HANDSHAKE_MALFORMED),
        (b"\x83\x01" + bytes(70), DropReason.UNKNOWN_ATTEMPT),
        (b"\xff" * 208, DropReason.HANDSHAKE_MALFORMED),
        (changed(initiate().message, 180), DropReason.BAD_MAC1),
        (initiate(to=STRANGER).message, DropReason.BAD_MAC1),
        (initiate(identity=STRANGER).message, DropReason.UNKNOWN_IDENTITY),
        (initiate(timestamp=50).message, DropReason.STALE_TIMESTAMP),
        (b"\x82\x01" + bytes(166), DropReason.BAD_MAC1),
    ],
)
def test_what_is_refused_is_counted_and_not_answered(data: bytes, reason: DropReason) -> None:
    lone = Lone(record=PeerRecord(PEER.public, floor=50))
    assert lone.receive(data) == []
    assert lone.dropped() == {reason: 1}
    assert lone.table.sessions == ()


def test_a_source_that_is_not_allowed_gets_no_answer_and_the_status_says_why() -> None:
    lone = Lone(allow_remote=(ip_network("198.51.100.1/32"),))
    assert lone.receive(initiate(timestamp=1).message, remote=OTHER_REMOTE) == []
    assert lone.dropped() == {DropReason.REMOTE_NOT_ALLOWED: 1}
    assert len(lone.receive(initiate(timestamp=2).message)) == 1
    handshake = lone.node.status(0.0).peers[0].handshake
    assert handshake is not None
    assert handshake.reason is DropReason.REMOTE_NOT_ALLOWED
    assert "answered" in handshake.step


def mutations(dice: random.Random, originals: list[bytes]) -> Iterator[bytes]:
    """Bytes that look more or less like messages."""
    for _ in range(600):
        data = bytearray(dice.choice(originals))
        for _ in range(dice.randint(0, 3)):
            data[dice.randrange(len(data))] = dice.getrandbits(8)
        yield bytes(data[: dice.choice((len(data), dice.randint(0, len(data))))])
    for _ in range(200):
        yield bytes([dice.choice((0x00, 0x40, 0x81, 0x82, 0x83, 0xFF))]) + dice.randbytes(dice.randint(0, 300))


@pytest.mark.parametrize("seed", range(3))
def test_nothing_that_arrives_raises(seed: int) -> None:
    dice = random.Random(seed)
    lone = Lone()
    start(lone)
    acknowledge_in = acknowledge_of(other_end(), lone)
    attempt = initiate()
    (acknowledge,) = lone.receive(attempt.message)
    finished = attempt.finish(acknowledge.data)
    originals = [initiate(timestamp=2).message, acknowledge_in, confirmation(attempt, acknowledge.data, counter=9)]
    for data in mutations(dice, originals):
        lone.receive(data, remote=Endpoint("198.51.100.9", dice.randint(0, 65535)))
        lone.now += 0.01
    lone.receive(confirmation(attempt, acknowledge.data))
    for counter in range(10, 400):
        # Authentic, and nonsense: what a peer with a defect could send.
        junk = bytes([dice.randint(0, 5)]) + dice.randbytes(dice.randint(0, 80))
        lone.receive(seal(finished, junk, counter), remote=Endpoint("198.51.100.9", dice.randint(0, 65535)))
        lone.run_until(lone.now + 0.01)
    assert lone.table.peers[0].plans or lone.table.sessions


@pytest.mark.parametrize(
    ("plaintext", "shard", "reason"),
    [
        (b"", ANY_SHARD, DropReason.CONTROL_MALFORMED),
        (b"\x01", ANY_SHARD, DropReason.CONTROL_MALFORMED),
        (b"\x09hello", ANY_SHARD, DropReason.CONTROL_UNKNOWN_TYPE),
        (b"\x09hello", 0, DropReason.CONTROL_UNKNOWN_TYPE),
        (b"\x09hello", 1, DropReason.FOREIGN_SHARD),
        (Heartbeat(challenge=bytes(8), next_in_s=1, t1_us=1, k=3).encode(), 0, DropReason.CONTROL_MALFORMED),
    ],
)
def test_authentic_control_that_is_of_no_use_is_counted(plaintext: bytes, shard: int, reason: DropReason) -> None:
    lone = Lone()
    attempt = initiate()
    (acknowledge,) = lone.receive(attempt.message)
    lone.receive(confirmation(attempt, acknowledge.data))
    lone.receive(seal(attempt.finish(acknowledge.data), plaintext, 1, shard=shard))
    assert lone.dropped() == {reason: 1}


def test_peers_share_a_table_and_events_find_theirs() -> None:
    lone = Lone(allowed_ips=(ip_network("10.7.0.2/32"),))
    second = PeerSpec(STRANGER.public, "second", allowed_ips=(ip_network("10.7.0.3/32"), ip_network("fd07::/64")))
    number = lone.node.add_peer(second, None, 0.0)
    for identity, remote in ((PEER, REMOTE), (STRANGER, OTHER_REMOTE)):
        attempt = initiate(identity=identity)
        (acknowledge,) = lone.receive(attempt.message, remote=remote)
        lone.receive(confirmation(attempt, acknowledge.data), remote=remote)
    assert [(str(route.network), route.peer) for route in lone.table.routes] == [
        ("10.7.0.2/32", 1),
        ("10.7.0.3/32", number),
        ("fd07::/64", number),
    ]
    assert [plan.paths[0].remote for peer in lone.table.peers for plan in peer.plans] == [REMOTE, OTHER_REMOTE]
    numbers = [path.path for peer in lone.table.peers for path in peer.paths]
    numbers += [session.session for session in lone.table.sessions]
    assert numbers == [1, 2, 1, 2], "paths and sessions are numbered over all peers"
    lone.node.remove_peer(PEER.public, 1.0)
    lone.take()
    assert [peer.peer for peer in lone.table.peers] == [number]
    assert lone.node.add_peer(PeerSpec(PEER.public, "again"), None, 1.0) == 3


def test_a_run_of_several_shards_is_told_and_kept() -> None:
    lone = Lone()
    attempt = initiate(k=2)
    (acknowledge,) = lone.receive(attempt.message)
    lone.receive(confirmation(attempt, acknowledge.data, k=2))
    assert lone.table.sessions[0].sources == (Run(0, 2),)
    (plan,) = lone.table.peers[0].plans
    assert plan.run == Run(0, 2)


def test_a_node_is_not_its_own_peer_and_has_each_peer_once() -> None:
    lone = Lone()
    with pytest.raises(ValueError, match="own peer"):
        lone.node.add_peer(PeerSpec(OWN.public, "me"), None, 0.0)
    with pytest.raises(ValueError, match="already"):
        lone.node.add_peer(PeerSpec(PEER.public, "again"), None, 0.0)
    with pytest.raises(ValueError, match="scheduler"):
        lone.node.add_peer(PeerSpec(STRANGER.public, "hasty", scheduler="hasty"), None, 0.0)
    assert len(lone.node.status(0.0).peers) == 1
