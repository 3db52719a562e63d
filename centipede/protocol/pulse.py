"""Pulse: the heartbeats of one peer: when, on which path, at whose request. docs/protocol.md "Heartbeats".

Each path has a next heartbeat planned; whatever asks for one sooner (traffic that starts, an answer wanted, a path that
became suspect) only brings that plan forward, so a path never has two reasons pending. Answers, probes and questions
are limited here. Heartbeats go under the sessions the association names and are sealed on the spot.

Knows what was heard only as far as its own rhythm depends on it: the traffic, and the first question without an answer.
"""

from __future__ import annotations

from centipede.protocol.association import Association, Session
from centipede.protocol.bucket import Bucket
from centipede.protocol.context import Context
from centipede.protocol.path import BEAT_BYTES, Path, PathState
from centipede.protocol.path_set import PathSet
from centipede.protocol.session import ANY_SHARD
from centipede.protocol.wire import Addresses, Observed, Parted

_ANSWERS_PER_S = 100
_ANSWERS_AT_ONCE = 20
_PROBES_PER_S = 8
_QUESTION_GAP_S = 0.1
_FIRST_RETRY_S = 0.05
"""The first heartbeat of a new pair is repeated after this, and the next ones after twice the time each."""
_IDLE_CHECKS = 10
"""A path without traffic of its own has its MTU checked so many times as seldom."""
_SCATTERED = 1.1
"""What an interval may come to by scattering."""
_SHORTEST_GAP_S = 0.1
"""A peer that tolerates less than this between heartbeats gets this."""
_LONGEST_GAP_S = 655.0
"""What a heartbeat can announce."""


class Pulse:
    """Sends the heartbeats of one peer."""

    def __init__(
        self, context: Context, paths: PathSet, association: Association, *, busy_s: float, keepalive: bool
    ) -> None:
        self.busy_s = busy_s
        self.keepalive = keepalive
        self.draining = False
        """The peer is asked to send elsewhere, whatever the node asks all peers for."""
        self.aggregating = False
        """Packets are spread over several paths."""
        self.comparing = False
        """While there is traffic every path is measured as often as those that carry it."""
        self.carrying: frozenset[int] = frozenset()
        """Numbers of the paths that carry data now."""
        self.last_tx = float("-inf")
        """When the newest inner packet for the peer came, sent or not."""
        self.last_rx = float("-inf")
        """When the newest data packet came."""
        self.last_traffic = float("-inf")
        """When the newest data packet went or came."""
        self.unanswered_since: float | None = None
        """When the first question was asked, while sending, after which nothing authentic came."""
        self._context = context
        self._timing = context.timing
        self._paths = paths
        self._association = association
        self._answers = Bucket(_ANSWERS_PER_S, _ANSWERS_AT_ONCE)
        self._probes = Bucket(_PROBES_PER_S, _PROBES_PER_S)

    # What is known of the peer.

    @property
    def can_speak(self) -> bool:
        """Whether there is a session to send under."""
        return bool(self._association.established)

    def is_sending(self, now: float) -> bool:
        """Whether somebody waits for the peer."""
        return self.keepalive or now < self.last_tx + self._timing.dead_s

    def is_dead(self, now: float) -> bool:
        """Whether the peer has been silent for too long though asked, and is needed."""
        return self.is_sending(now) and now >= self.dead_at()

    def dead_at(self) -> float:
        return float("inf") if self.unanswered_since is None else self.unanswered_since + self._timing.dead_s

    def note_traffic(self, tx_at: float, rx_at: float) -> None:
        """Note when the newest data went and came."""
        self.last_tx = max(self.last_tx, tx_at)
        self.last_rx = max(self.last_rx, rx_at)
        self.last_traffic = max(self.last_traffic, tx_at, rx_at)

    def note_heard(self) -> None:
        """Something authentic came."""
        self.unanswered_since = None

    # What is sent.

    def beat(self, path: Path, now: float, *, answer_now: bool = False, bye: bool = False) -> None:
        """Send a heartbeat on a path now, and plan the next."""
        interval_s = self._context.scatter(self._interval_s(path, now))
        limit_s = self._limit_s()
        next_in_s = min(interval_s, limit_s)
        path.answer_owed = False
        path.next_beat = now + next_in_s
        for session in self._association.speaking(now, path.number):
            if not path.affords(BEAT_BYTES):
                break
            self._say(path, session, now, next_in_s=next_in_s, answer_now=answer_now, bye=bye)
        # A question on a pair that never worked proves nothing, unless there is none that does.
        if answer_now and self.is_sending(now) and (path.usable or not self._paths.usable):
            self._note_question(now)

    def probe(self, path: Path, size_bytes: int, now: float) -> None:
        """Send a heartbeat of this UDP payload that may not be fragmented. The next ordinary one stays planned."""
        session = self._association.known_on(path.number)
        if session is None:
            return
        next_in_s = min(self._interval_s(path, now), self._limit_s())
        self._say(path, session, now, next_in_s=next_in_s, answer_now=True, size_bytes=size_bytes)

    def question(self, path: Path, now: float) -> None:
        """Ask for an answer on a path, unless that was done just now."""
        if now >= path.last_question + _QUESTION_GAP_S:
            self.beat(path, now, answer_now=True)

    def press(self, path: Path, now: float) -> None:
        """Have a usable path prove itself: it is suspect if it does not answer a question asked now."""
        if not path.pressed:
            self.beat(path, now, answer_now=True)
            path.press(now)

    def answer(self, path: Path, now: float) -> None:
        """Answer on a usable path at once, or as soon as the limits allow; only the newest challenge is answered."""
        if self._take_answer(path, now):
            self.beat(path, now)
        else:
            path.answer_owed = True

    def challenge(self, path: Path, now: float) -> None:
        """Challenge a path that is not usable and was just heard."""
        if not path.limited:
            if path.challenged and self._take_answer(path, now):
                # However new our own question: it has crossed theirs, so each end still waits for its answer.
                self.beat(path, now, answer_now=True)
            else:
                self.question(path, now)
        elif self._may_try(path, now):
            self._try(path, now)

    def resume(self, now: float) -> None:
        """Traffic begins after a pause: find out at once which paths still work."""
        for path in self._paths.usable:
            path.expect(self.busy_s + path.patience_s, now)
            self.question(path, now)
        if self.carrying:
            self.unanswered_since = now
        else:
            self._note_question(now)

    def hurry(self, now: float) -> None:
        """Probe all pairs that are not usable as soon as the limits allow."""
        for path in self._paths:
            if not path.usable:
                path.next_beat = min(path.next_beat, now)

    def tell(self, path: Path, message: Addresses | Observed | Parted, now: float) -> None:
        """Send a message that is no heartbeat, under the newest session that its machine is known to have."""
        session = self._association.known_on(path.number)
        if session is None:
            return
        datagram = _seal(path, session, message.encode())
        if datagram is not None:
            path.note_sent(len(datagram))
            self._context.send(path.local, path.remote, datagram)

    def beat_usable(self, now: float) -> None:
        for path in self._paths.usable:
            self.beat(path, now)

    def say_bye(self, now: float) -> None:
        for path in self._paths.usable:
            self.beat(path, now, bye=True)

    def _say(
        self,
        path: Path,
        session: Session,
        now: float,
        *,
        next_in_s: float,
        answer_now: bool,
        bye: bool = False,
        size_bytes: int | None = None,
    ) -> None:
        """Send one heartbeat under one session; with ``size_bytes`` a probe of this UDP payload."""
        beat = path.compose(
            now,
            next_in_s=next_in_s,
            k=session.own.k,
            answer_now=answer_now,
            bye=bye,
            draining=self._context.draining or self.draining,
            aggregating=self.aggregating,
            weight=self._context.weight,
            size_bytes=size_bytes,
            counts=not path.usable or self._holds(path, session),
        )
        datagram = _seal(path, session, beat.encode())
        if datagram is not None:
            self._context.send(path.local, path.remote, datagram, dont_fragment=size_bytes is not None)

    def _holds(self, path: Path, session: Session) -> bool:
        """Whether the machine a path leads to is known to have the session, by whichever of its paths."""
        if path.number in session.heard:
            return True
        return any(session.number in other.runs and (other is path or other.joins(path)) for other in self._paths)

    # The rhythm.

    def handle_timer(self, now: float) -> None:
        """Send what is due."""
        if not self._association.established:
            return
        probes = []
        for path in self._paths:
            if path.limited:
                if self._may_try(path, now) and (path.learned or self._probes.take(now)):
                    self._try(path, now)
            elif not path.usable:
                if now >= path.next_beat:
                    probes.append(path)
            elif now >= path.next_beat:
                self.beat(path, now, answer_now=path.state is PathState.SUSPECT or self._compares(path, now))
            elif path.answer_owed:
                self.answer(path, now)
            if path.state is PathState.VALID:
                self._see_to_mtu(path, now)
        for path in sorted(probes, key=lambda path: path.last_beat):
            if not self._probes.take(now):
                break
            self.beat(path, now, answer_now=True)

    def settle(self, now: float) -> float:
        """Bring plans forward where the rhythm has become quicker; returns when ``handle_timer`` is due."""
        if not self._association.established:
            return float("inf")
        due = float("inf")
        for path in self._paths:
            if path.limited:
                due = min(due, self._try_at(path) if path.learned else max(self._try_at(path), self._probes.ready_at()))
                continue
            path.next_beat = min(path.next_beat, max(now, path.last_beat + _SCATTERED * self._interval_s(path, now)))
            if path.usable:
                due = min(due, path.next_beat)
                if path.state is PathState.VALID:
                    due = min(due, path.mtu.due_at(self._check_s(path, now)))
                if path.answer_owed:
                    due = min(due, max(path.answers.ready_at(), self._answers.ready_at()))
            else:
                due = min(due, max(path.next_beat, self._probes.ready_at()))
        return due

    def _take_answer(self, path: Path, now: float) -> bool:
        """Whether the limits of answers allow one on this path; it counts as given."""
        return path.answers.take(now) and self._answers.take(now)

    def _note_question(self, now: float) -> None:
        if self.unanswered_since is None:
            self.unanswered_since = now

    def _interval_s(self, path: Path, now: float) -> float:
        timing = self._timing
        quiet_s = now - self.last_traffic
        if path.state is PathState.NEW and now < path.created + timing.probe_s:
            # The first datagrams by a new address are often lost: neighbours and routes are still to be found.
            return min(max(_FIRST_RETRY_S, now - path.created), self.busy_s, timing.probe_s)
        if quiet_s >= timing.idle_after_s:
            return timing.idle_s
        if not path.usable:
            return timing.probe_s
        if quiet_s < timing.busy_within_s and (
            self.comparing or path.number in self.carrying or self._brings_data(path, now)
        ):
            return self.busy_s
        return timing.up_s

    def _compares(self, path: Path, now: float) -> bool:
        """Whether the path is measured only to be compared: then nothing else makes the peer answer as often."""
        sent_lately = now - self.last_tx < self._timing.busy_within_s
        return self.comparing and sent_lately and path.announced_s > _SCATTERED * self.busy_s

    def _brings_data(self, path: Path, now: float) -> bool:
        """Whether the peer sends data here. It has only our heartbeats to tell it that the path works."""
        return path.counters.rx_packets > 0 and now < path.counters.last_rx + self._timing.busy_within_s

    def _see_to_mtu(self, path: Path, now: float) -> None:
        """Probe the path's MTU if that is due, and see whether ordinary heartbeats pass if a probe did not."""
        if path.mtu.expire(now):
            self.beat(path, now, answer_now=True)
        size_bytes = path.mtu.wanted(now, self._check_s(path, now))
        if size_bytes is not None:
            self.probe(path, size_bytes, now)

    def _check_s(self, path: Path, now: float) -> float:
        """How often the path's MTU is checked."""
        quiet_s = now - self.last_traffic
        if quiet_s < self._timing.busy_within_s and path.number in self.carrying:
            return self._timing.mtu_check_s
        return _IDLE_CHECKS * self._timing.mtu_check_s if quiet_s < self._timing.idle_after_s else float("inf")

    def _limit_s(self) -> float:
        """The longest pause the peer tolerates, as far as it can be announced."""
        current = self._association.current
        if current is None or not current.params.gap_s:
            return _LONGEST_GAP_S
        return min(max(_SHORTEST_GAP_S, current.params.gap_s), _LONGEST_GAP_S)

    def _try_at(self, path: Path) -> float:
        """When a learned path is challenged next; never, while it may not be sent a heartbeat's bytes."""
        if path.tries >= len(self._timing.tries_s) or not path.affords(BEAT_BYTES):
            return float("inf")
        return path.created + self._timing.tries_s[path.tries]

    def _may_try(self, path: Path, now: float) -> bool:
        return now >= self._try_at(path)

    def _try(self, path: Path, now: float) -> None:
        path.tries += 1
        self.beat(path, now, answer_now=True)


def _seal(path: Path, session: Session, plaintext: bytes) -> bytes | None:
    """A control datagram to the machine the path leads to, or to whoever is there if that was not heard yet."""
    run = path.runs.get(session.number)
    shard = ANY_SHARD if run is None else run.first
    return session.seal_control(plaintext, source=session.own.first, shard=shard)
