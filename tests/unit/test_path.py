"""States and measurements of one path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from centipede.protocol.counters import PathCounters
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.path import BEAT_BYTES, Path, PathState
from centipede.protocol.path_mtu import PathMtu
from centipede.protocol.timing import Timing
from centipede.protocol.wire import Heartbeat

NEW, VALID, SUSPECT, GONE = PathState.NEW, PathState.VALID, PathState.SUSPECT, PathState.GONE
TIMING = Timing()
CHALLENGE = b"mine 001"
THEIRS = b"theirs 1"


def new_path(*, expected: bool = True, now: float = 100.0) -> Path:
    local, remote = Endpoint("192.0.2.1", 1), Endpoint("198.51.100.1", 2)
    return Path(7, local, remote, challenge=CHALLENGE, expected=expected, now=now, mtu=PathMtu(4, 0, TIMING))


@dataclass
class Peer:
    """The other end of a path, with a clock of its own."""

    path: Path
    ahead_s: float = 5000.0
    counter: int = 0
    echo_us: int = 0
    arrival_us: int = 0
    received: int = 0

    def clock_us(self, now: float) -> int:
        return int((now + self.ahead_s) * 1e6)

    def hear(self, beat: Heartbeat, now: float) -> None:
        self.echo_us, self.arrival_us = beat.t1_us, self.clock_us(now)

    def beat(self, now: float, *, response: bytes | None = None, next_in_s: float = 0.2, **more: object) -> Heartbeat:
        beat = Heartbeat(
            challenge=THEIRS,
            next_in_s=next_in_s,
            t1_us=self.clock_us(now),
            response=response,
            echo_us=self.echo_us,
            arrival_us=self.arrival_us,
            received=self.received,
        )
        return replace(beat, **more)  # type: ignore[arg-type]  # fields of Heartbeat, by name

    def send(self, beat: Heartbeat, arrived: float, *, session: int = 1, counter: int | None = None) -> bool:
        if counter is None:
            counter = self.counter = self.counter + 1
        self.path.receive_control(BEAT_BYTES, arrived)
        return self.path.receive_heartbeat(
            beat, session=session, counter=counter, path_received=0, arrived=arrived, timing=TIMING
        )


def in_state(state: PathState) -> tuple[Path, Peer]:
    """A path that came into this state at 100.0, having been heard at that moment with 0.2 s announced."""
    path = new_path()
    peer = Peer(path)
    peer.hear(path.compose(99.96, next_in_s=0.2, k=0), 99.98)
    if state is NEW:
        peer.send(peer.beat(99.98), 100.0)
        return path, peer
    assert peer.send(peer.beat(99.98, response=CHALLENGE), 100.0)
    path.renew(b"mine 002")
    if state is SUSPECT:
        held = 0.5
        peer.send(peer.beat(99.98, arrival_us=peer.clock_us(99.98 - held)), 100.0)
    if state is GONE:
        path.part()
    assert path.state is state
    return path, peer


@pytest.mark.parametrize("state", PathState)
@pytest.mark.parametrize(
    ("what", "after"),
    [
        ("nothing", {NEW: NEW, VALID: VALID, SUSPECT: SUSPECT, GONE: GONE}),
        ("beat", {NEW: NEW, VALID: VALID, SUSPECT: SUSPECT, GONE: GONE}),
        ("data", {NEW: NEW, VALID: VALID, SUSPECT: SUSPECT, GONE: GONE}),
        ("answer", {NEW: VALID, VALID: VALID, SUSPECT: VALID, GONE: VALID}),
        ("stale answer", {NEW: NEW, VALID: VALID, SUSPECT: SUSPECT, GONE: GONE}),
        ("bye", {NEW: GONE, VALID: GONE, SUSPECT: GONE, GONE: GONE}),
        ("not heard for 0.29 s", {NEW: NEW, VALID: VALID, SUSPECT: SUSPECT, GONE: GONE}),
        ("not heard for 0.31 s", {NEW: NEW, VALID: SUSPECT, SUSPECT: SUSPECT, GONE: GONE}),
        ("not heard for 1.01 s", {NEW: NEW, VALID: GONE, SUSPECT: GONE, GONE: GONE}),
        ("handshake", {NEW: VALID, VALID: VALID, SUSPECT: VALID, GONE: VALID}),
    ],
)
def test_state_after(state: PathState, what: str, after: dict[PathState, PathState]) -> None:
    path, peer = in_state(state)
    outstanding = path.compose(100.1, next_in_s=0.2, k=0).challenge
    now = 100.2
    if what.startswith("not heard for"):
        held_us = int(float(what.split()[3]) * 1e6)
        peer.send(peer.beat(now, arrival_us=peer.clock_us(now) - held_us), now)
    actions: dict[str, Callable[[], object]] = {
        "beat": lambda: peer.send(peer.beat(now, arrival_us=peer.clock_us(now - 0.1)), now),
        "data": lambda: path.receive_data(100, now),
        "answer": lambda: peer.send(peer.beat(now, response=outstanding, arrival_us=peer.clock_us(now - 0.1)), now),
        "stale answer": lambda: peer.send(
            peer.beat(now, response=b"nonsense", arrival_us=peer.clock_us(now - 0.1)), now
        ),
        "bye": lambda: peer.send(peer.beat(now, response=outstanding, bye=True), now),
        "handshake": lambda: path.validate(),
    }
    actions.get(what, lambda: None)()
    assert path.state is after[state]


@pytest.mark.parametrize(
    ("announced_s", "suspect_s", "gone_s"),
    [
        (0.2, 0.3, 1.0),  # never sooner than a second
        (0.5, 0.75, 1.5),
        (1.0, 1.5, 3.0),
        (10.0, 15.0, 30.0),
        (0.0, 0.03, 1.0),  # a silly announcement is taken for 20 ms
    ],
)
def test_silence(announced_s: float, suspect_s: float, gone_s: float) -> None:
    path = new_path()
    peer = Peer(path)
    peer.send(peer.beat(100.0, response=CHALLENGE, next_in_s=announced_s), 100.0)
    states: list[PathState] = []
    for now in (99.999 + suspect_s, 100.001 + suspect_s, 99.999 + gone_s, 100.001 + gone_s):
        assert (path.expires_at(TIMING) <= now) == (len(states) in (1, 3)), "the timer comes when there is a change"
        path.expire(now, TIMING)
        states.append(path.state)
    assert states == [VALID, SUSPECT, SUSPECT, GONE]
    assert path.expires_at(TIMING) == float("inf")


def test_data_is_a_sign_of_life_but_only_an_answer_ends_suspicion() -> None:
    path, peer = in_state(VALID)
    path.observe(PathCounters(rx_packets=1, last_rx=100.29))
    path.expire(100.5, TIMING)
    assert path.state is VALID
    path.expire(100.6, TIMING)
    assert path.state is SUSPECT
    path.observe(PathCounters(rx_packets=2, last_rx=100.7))
    path.expire(100.7, TIMING)
    assert path.state is SUSPECT
    answer = path.compose(100.7, next_in_s=0.2, k=0).challenge
    peer.send(peer.beat(100.75, response=answer, arrival_us=peer.clock_us(100.72)), 100.77)
    assert path.state is VALID


def test_a_copy_seen_by_the_engine_is_no_sign_of_life() -> None:
    path, _ = in_state(VALID)
    assert path.observe(PathCounters(rx_packets=5, rx_copies=5, last_rx=0.0)), "it is traffic all the same"
    path.expire(100.31, TIMING)
    assert path.state is SUSPECT


def test_a_question_after_a_pause_shortens_the_patience() -> None:
    path, peer = in_state(VALID)
    peer.send(peer.beat(100.0, next_in_s=10.0, arrival_us=peer.clock_us(99.99)), 100.0)
    path.expire(109.0, TIMING)
    assert path.state is VALID
    path.expect(0.2, 109.0)
    path.expire(109.29, TIMING)
    assert path.state is VALID
    path.expire(109.31, TIMING)
    assert path.state is SUSPECT
    path.expire(110.01, TIMING)
    assert path.state is GONE


def test_an_overtaken_heartbeat_does_not_turn_time_back() -> None:
    path, peer = in_state(VALID)
    early = peer.beat(100.1, arrival_us=peer.clock_us(99.0), challenge=b"earlier!")
    late = peer.beat(100.2, arrival_us=peer.clock_us(100.19), challenge=b"later!!!")
    peer.send(late, 100.21, counter=11)
    peer.send(early, 100.22, counter=10)
    assert path.state is VALID
    assert path.compose(100.3, next_in_s=0.2, k=0).response == b"later!!!"
    # In another session counters start anew.
    peer.send(replace(late, challenge=b"renewed!"), 100.23, session=2, counter=0)
    assert path.compose(100.3, next_in_s=0.2, k=0).response == b"renewed!"


def test_a_late_answer_still_counts() -> None:
    path, peer = in_state(SUSPECT)
    outstanding = path.compose(100.1, next_in_s=0.2, k=0).challenge
    peer.send(peer.beat(100.2, arrival_us=peer.clock_us(100.19)), 100.21, counter=11)
    assert path.state is SUSPECT
    assert peer.send(peer.beat(100.15, response=outstanding), 100.22, counter=10)
    assert path.state is VALID


def test_each_challenge_is_answered_once() -> None:
    path, peer = in_state(NEW)
    assert peer.send(peer.beat(100.1, response=CHALLENGE), 100.1)
    path.renew(b"mine 002")
    path.part()
    assert not peer.send(peer.beat(100.2, response=CHALLENGE), 100.2)
    assert path.state is GONE


def test_the_heartbeat_says_what_is_known() -> None:
    path = new_path()
    first = path.compose(100.0, next_in_s=0.2, k=2)
    assert (first.challenge, first.response, first.echo_us, first.sent, first.k) == (CHALLENGE, None, 0, 1, 2)
    peer = Peer(path)
    peer.send(peer.beat(100.1, largest_bytes=3), 100.15)
    path.observe(PathCounters(rx_packets=10, rx_bytes=20_000, tx_packets=40, largest=1300, last_rx=100.2))
    second = path.compose(100.2, next_in_s=0.25, k=0, answer_now=True)
    assert second.response == THEIRS
    assert second.echo_us == peer.clock_us(100.1)
    assert second.arrival_us == int(100.15 * 1e6)
    assert second.received == 1, "counted when the echoed heartbeat arrived"
    assert second.sent == 42, "data and both heartbeats"
    assert second.received_kib == (20_000 + BEAT_BYTES) >> 10
    assert second.largest_bytes == 1300
    assert second.answer_now
    assert (second.next_in_s, second.t1_us, second.path) == (0.25, int(100.2 * 1e6), 7)


def test_round_trip_and_jitter() -> None:
    path = new_path()
    peer = Peer(path, ahead_s=-77.0)
    now = 100.0
    for trip in (0.100, 0.100, 0.180):
        beat = path.compose(now, next_in_s=0.2, k=0)
        peer.hear(beat, now + trip / 2)
        peer.send(peer.beat(now + trip / 2 + 0.015), now + trip + 0.015)
        now += 0.2
    # RFC 6298: 0.1 and 0.05, then the deviation by quarters and the mean by eighths.
    assert path.beats == 3
    assert path.rtt_s == pytest.approx(0.110, abs=1e-5)
    assert path.jitter_s == pytest.approx(((0.05 * 3 / 4) * 3 + 0.080) / 4, abs=1e-5)


@pytest.mark.parametrize("echo", ["none", "unknown", "held for longer than it took", "held for ages", "arrived later"])
def test_nonsense_is_not_measured(echo: str) -> None:
    path = new_path()
    peer = Peer(path)
    peer.hear(path.compose(100.0, next_in_s=0.2, k=0), 100.05)
    now_us = peer.clock_us(100.1)
    beat = {
        "none": peer.beat(100.1, echo_us=0, arrival_us=0),
        "unknown": peer.beat(100.1, echo_us=2**64 - 1),
        "held for longer than it took": peer.beat(100.1, arrival_us=now_us - 200_000),
        "held for ages": peer.beat(100.1, arrival_us=0, t1_us=2**64 - 1),
        "arrived later": peer.beat(100.1, arrival_us=now_us + 1),
    }[echo]
    peer.send(beat, 100.1)
    assert path.rtt_s is None
    assert path.beats == 0


def exchange(path: Path, peer: Peer, now: float, *, sent: int, arrived: int) -> None:
    """A heartbeat each way after so many data packets of ours, of which so many arrived, in all."""
    path.observe(replace(path.counters, tx_packets=sent))
    peer.hear(path.compose(now, next_in_s=0.2, k=0), now + 0.01)
    peer.received = (arrived + peer.counter + 1) & 0xFFFF_FFFF  # our heartbeats arrive, too
    peer.send(peer.beat(now + 0.02), now + 0.03)


def test_loss_is_what_was_sent_and_did_not_arrive() -> None:
    path = new_path()
    peer = Peer(path)
    for step in range(60):
        exchange(path, peer, 100 + step / 5, sent=1000 * step, arrived=900 * step)
    assert path.loss == pytest.approx(0.1, abs=0.005)
    for step in range(60, 120):
        exchange(path, peer, 100 + step / 5, sent=1000 * step, arrived=900 * 60 + 1000 * (step - 60))
    assert path.loss == pytest.approx(0.0, abs=0.005)


@pytest.mark.parametrize(
    ("usual", "sent", "lost", "checked"),
    [
        (0, 100, 10, True),  # ten large packets among ninety small ones, as of a path that has become narrow
        (0, 3, 2, True),
        (0, 3, 1, False),  # it may be the moment at which was counted
        (0, 100, 3, False),
        (20, 100, 23, False),
        (20, 100, 30, True),
    ],
)
def test_unusual_loss_has_the_mtu_checked_at_once(usual: int, sent: int, lost: int, checked: bool) -> None:
    path = new_path()
    peer = Peer(path)
    for step in range(60):
        exchange(path, peer, 100 + step / 5, sent=100 * step, arrived=(100 - usual) * step)
    path.mtu.note_probe(path.mtu.size, 1, 112.0, 0.1)
    path.mtu.note_echo(1, 112.05)
    assert path.mtu.wanted(112.05, 1000.0) != path.mtu.size, "it has just passed"
    exchange(path, peer, 112.2, sent=5900 + sent, arrived=(100 - usual) * 59 + sent - lost)
    assert (path.mtu.wanted(112.2, 1000.0) == path.mtu.size) == checked


def test_counts_that_are_not_taken_at_one_moment_cancel_out() -> None:
    path = new_path()
    peer = Peer(path)
    for step in range(100):
        exchange(path, peer, 100 + step / 5, sent=100 * step, arrived=100 * step + 20 * (step % 2))
    assert path.loss == pytest.approx(0.0, abs=0.03)


def test_loss_survives_wrapping_and_restarting_counts() -> None:
    path = new_path()
    peer = Peer(path)
    for step in range(20):
        exchange(path, peer, 100 + step / 5, sent=10 * step, arrived=2**32 - 100 + 10 * step)
    assert path.loss == 0.0
    for step in range(20, 40):
        exchange(path, peer, 100 + step / 5, sent=10 * step, arrived=10 * (step - 20))
    assert path.loss < 0.2


def test_a_full_queue_that_takes_our_heartbeats_but_not_all_data_makes_no_suspicion() -> None:
    for arrives, state in ((True, VALID), (False, SUSPECT)):
        path, peer = in_state(VALID)
        for step in range(1, 5):  # our heartbeats are lost from now on
            now = 100 + step / 5
            held_us = peer.clock_us(now) - peer.clock_us(100.0)
            beat = peer.beat(now, arrival_us=peer.clock_us(now) - held_us, received_kib=30 * step if arrives else 7)
            peer.send(beat, now)
        assert path.state is state


def test_a_peer_whose_clock_and_count_begin_anew_was_not_heard_by_that() -> None:
    path, peer = in_state(VALID)
    peer.send(peer.beat(100.2, arrival_us=peer.clock_us(100.15), received_kib=50), 100.2)
    peer.ahead_s = 1.0
    peer.send(peer.beat(100.4, arrival_us=peer.clock_us(99.9), received_kib=2), 100.4)
    assert path.state is SUSPECT


def test_a_peer_that_began_anew_and_hears_nothing_from_us_is_no_longer_believed_to() -> None:
    path, peer = in_state(VALID)
    peer.echo_us = peer.arrival_us = 0  # it has restarted; its heartbeats arrive, ours do not
    states = []
    for step in range(1, 9):
        now = 100 + step / 5
        peer.send(peer.beat(now), now)
        states.append(path.state)
        path.compose(now, next_in_s=0.2, k=0)
    assert states == [VALID, VALID, VALID, SUSPECT, SUSPECT, SUSPECT, GONE, GONE]
    assert path.unheard


def test_a_peer_that_began_anew_has_time_to_hear_us() -> None:
    path, peer = in_state(VALID)
    peer.echo_us = peer.arrival_us = 0
    for now in (100.2, 109.0, 110.01):  # nothing was sent from here for ten seconds, then something, not arrived yet
        if now > 110.0:
            heard = path.compose(110.0, next_in_s=0.2, k=0)
        path.expect(10.0, now)
        peer.send(peer.beat(now, next_in_s=10.0), now)
    peer.hear(heard, 110.02)
    peer.send(peer.beat(110.3), 110.31)
    assert path.state is VALID
    assert not path.unheard


def test_what_a_peer_did_not_hear_before_the_path_was_usable_is_not_held_against_it() -> None:
    path, peer = in_state(VALID)
    peer.echo_us = peer.arrival_us = 0
    for step in range(1, 20):
        now = 100 + step / 5
        peer.send(peer.beat(now), now)
        path.compose(now, next_in_s=0.2, k=0)
        if path.state is GONE:
            break
    assert path.state is GONE
    for now in (120.0, 121.0):  # still nothing of ours arrives
        peer.send(peer.beat(now), now)
        path.compose(now, next_in_s=0.2, k=0)
    path.validate()  # a handshake crossed it; the heartbeat after that is older than our first
    peer.send(peer.beat(121.05), 121.05)
    assert path.state is VALID


def test_only_what_was_sent_and_arrived_counts_as_delivered() -> None:
    path, peer = in_state(VALID)
    delivered = path.delivered
    for now in (101.0, 102.0):  # they echo what arrived before
        path.compose(now, next_in_s=1.0, k=0)
        peer.send(peer.beat(now + 0.1), now + 0.1)
    assert path.delivered == delivered
    peer.hear(path.compose(103.0, next_in_s=1.0, k=0), 103.01)
    peer.send(peer.beat(103.02), 103.03)
    assert path.delivered == 103.0


def test_an_address_known_from_a_packet_is_sent_no_more_than_came() -> None:
    path = new_path(expected=False)
    assert path.learned
    assert not path.affords(BEAT_BYTES)
    path.receive_data(60, 100.0)
    assert not path.affords(BEAT_BYTES)
    path.observe(PathCounters(rx_packets=1, rx_bytes=40, last_rx=100.1))
    assert path.affords(BEAT_BYTES)
    path.compose(100.2, next_in_s=1, k=0)
    assert not path.affords(BEAT_BYTES)
    path.receive_control(BEAT_BYTES, 100.3)
    assert path.affords(BEAT_BYTES)
    path.validate()
    assert path.affords(10**6)


def test_an_expected_address_has_no_such_limit() -> None:
    assert new_path(expected=True).affords(10**6)
