"""Path: one (local, remote) address pair to a peer: its state, what is due on it, what was measured.

State belongs to the peer, not to a session; see docs/protocol.md "Paths".

```
NEW ──own challenge came back──► VALID ◄──own challenge came back── SUSPECT, GONE
                                   │ 1.5 intervals without a sign of life, or the peer says it does not hear us
                                   ▼
                                SUSPECT ──3 intervals, at least 1 s──► GONE ◄── bye, from any state
```

A path is *expected* when its remote address is known from elsewhere than a packet: configured, resolved, remembered.
One that is not, was learned from an authentic packet: while NEW it may be sent no more bytes than came from it, and
only a few challenges. Only authentic packets that are new to their replay window may be shown to a path. It knows no
keys, sends nothing, and never reads a clock.
"""

from __future__ import annotations

from collections import deque
from enum import Enum
from typing import NamedTuple

from centipede.protocol.bucket import Bucket
from centipede.protocol.counters import PathCounters
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.path_mtu import PathMtu
from centipede.protocol.rate import RateEstimate
from centipede.protocol.session import HEADER_BYTES
from centipede.protocol.table import Run, TablePath
from centipede.protocol.timing import Timing
from centipede.protocol.wire import HEARTBEAT_BYTES, Heartbeat

BEAT_BYTES = HEADER_BYTES + HEARTBEAT_BYTES
"""UDP payload of a heartbeat without padding."""
_BEATS_KEPT = 64
"""Own heartbeats of which the moment and the counts are kept; older echoes are not measured."""
_ANSWERS_PER_S = 10
_ANSWERS_AT_ONCE = 2
_SHORTEST_INTERVAL_S = 0.02
"""What a peer announces is taken for at least this much, or rounding makes a path suspect."""
_LONGEST_MEASURED_US = 600_000_000
_UNMEASURED_S = 1.0
_PRESSED_S = 0.02
"""What a pressed peer may take to answer, beyond what the path's measurements say."""
_UNLOADED_BEATS = 256
"""At a beat each 0.2 s, the least round trip takes most of a minute to rise to one that lasts."""
FULL_WEIGHT = 255
"""What a machine asks for that says nothing else."""
_OBSERVATIONS = 3
_SESSIONS = 8
"""More than a peer has."""
_MANY_LOST = 2
_UNUSUAL_LOSS = 0.05
"""So many lost from one heartbeat to the next, and so much more of all than is usual, and the MTU is suspected."""
_COUNT_MASK = 0xFFFF_FFFF


class PathState(Enum):
    """The value is the name in ``show``."""

    NEW = "probing"
    VALID = "usable"
    SUSPECT = "suspect"
    GONE = "lost"


_VALID, _SUSPECT = PathState.VALID, PathState.SUSPECT


class _Beat(NamedTuple):
    """An own heartbeat."""

    t1_us: int
    at: float
    sent: int
    next_in_s: float


class Path:
    """A path and its memory."""

    def __init__(
        self,
        number: int,
        local: Endpoint,
        remote: Endpoint,
        *,
        challenge: bytes,
        expected: bool,
        now: float,
        mtu: PathMtu,
    ) -> None:
        """``challenge`` is the first of the 8-byte values that a peer must send back; see :meth:`renew`."""
        self.number = number
        self.local = local
        self.remote = remote
        self.expected = expected
        self.state = PathState.NEW
        self.run: Run | None = None
        """The peer's shards this path leads to, under the newest session they are known of; None before that."""
        self.runs: dict[int, Run] = {}
        """The same by session number: a machine has other shards under another session."""
        self.created = now
        self.tries = 0
        """Challenges sent while NEW."""
        self.last_heard: float | None = None
        self.last_beat = float("-inf")
        """When the newest own heartbeat went out."""
        self.last_question = float("-inf")
        """And the newest that asked for an answer now."""
        self.next_beat = now
        """When the next own heartbeat is planned."""
        self.answers = Bucket(_ANSWERS_PER_S, _ANSWERS_AT_ONCE)
        self.answer_owed = False
        """The peer asked for an answer that could not be given at once."""
        self.counters = PathCounters()
        """Data traffic, as read from the engine last."""
        self.table_path = TablePath(number, local, remote)
        self.rtt_s: float | None = None
        self.unloaded_rtt_s: float | None = None
        """The least round trip, which rises slowly towards longer ones: that of the path without its queues."""
        self.jitter_s = 0.0
        self.beats = 0
        """Measurements of the round trip."""
        self.delivered = float("-inf")
        """When the newest own heartbeat went out that is known to have arrived."""
        self.mtu = mtu
        self.rate = RateEstimate()
        """What the path delivers to the peer."""
        self.transit_s: float | None = None
        """One way from the peer, smoothed, but for the difference of the clocks."""
        self.aggregating = False
        """The peer spreads its packets over several paths."""
        self.told = False
        """The remote address is known from the peer's word alone."""
        self.draining = False
        """The peer asks not to be sent to here, unless there is nothing else."""
        self.weight = FULL_WEIGHT
        """How gladly it is, 0 to 255; 0 asks for the same."""
        self.unheard = False
        """The peer said that our heartbeats did not arrive."""
        self.parted = False
        """The peer said bye here."""
        self.theirs: int | None = None
        """The peer's number for this path."""
        self.observed: Endpoint | None = None
        """The address at which the peer sees our end."""
        self._observations: tuple[int, int] = (0, 0)
        """The session under which the peer was told its address, and how often."""
        self._loss = 0.0
        self._challenge = challenge
        self._answerable: bytes | None = None
        self._answered: bytes | None = None
        self._echo_us = 0
        self._echo_arrived = 0.0
        self._echo_received = 0
        self._newest: tuple[int, int, int] | None = None
        """Of the heartbeats heard: session, source shard and counter."""
        self._due_from = now
        self._due_in_s = float("inf")
        self._answer_by = float("inf")
        self._t1_us = 0
        self._sent: deque[_Beat] = deque(maxlen=_BEATS_KEPT)
        self._measured: tuple[int, int, int] | None = None
        self._unknown_since: float | None = None
        """When the first heartbeat went out since the peer echoes none of ours; inf before that."""
        self._their_count: tuple[int, int, int] | None = None
        """Of the peer's newest heartbeat: t1, count of KiB, and the newest t1 since which that has changed."""
        self._control_tx = 0
        self._control_rx = 0
        self._control_rx_bytes = 0
        self._largest = 0
        self._sent_bytes = 0
        self._outside_bytes = 0

    def __repr__(self) -> str:
        return f"Path({self})"

    def __str__(self) -> str:
        return f"{self.local} -> {self.remote}"

    @property
    def usable(self) -> bool:
        """Whether the path may carry data."""
        return self.state is _VALID or self.state is _SUSPECT

    @property
    def learned(self) -> bool:
        """Whether the limits of an address known only from a packet hold."""
        return self.state is PathState.NEW and not self.expected

    @property
    def shunned(self) -> bool:
        """Whether the peer asks to be sent to elsewhere."""
        return self.draining or not self.weight

    @property
    def limited(self) -> bool:
        """Whether only a few challenges are sent: nobody but a packet, or the peer itself, vouches for the address."""
        return self.state is PathState.NEW and (self.told or not self.expected)

    @property
    def pressed(self) -> bool:
        """Whether the path must prove itself, see :meth:`press`, and has not done so yet."""
        return self._answer_by < float("inf")

    @property
    def challenged(self) -> bool:
        """Whether no heartbeat has gone out yet that answers the peer's newest challenge."""
        return self._answerable != self._answered

    @property
    def loss(self) -> float:
        """Share of the packets sent that did not arrive, 0..1, smoothed."""
        return min(1.0, max(0.0, self._loss))

    @property
    def announced_s(self) -> float:
        """When the peer's next heartbeat is to follow its newest, by its own word."""
        return self._due_in_s

    @property
    def patience_s(self) -> float:
        """How long an answer may take here, by what was measured."""
        return _UNMEASURED_S if self.rtt_s is None else self.rtt_s + 4 * self.jitter_s

    # What goes out.

    def affords(self, size_bytes: int) -> bool:
        """Whether so many bytes may be sent: always, but to an address that is known only from a packet."""
        if not self.learned:
            return True
        received = self._control_rx_bytes + self._outside_bytes + self.counters.rx_bytes
        return self._sent_bytes + size_bytes <= received

    def compose(
        self,
        now: float,
        *,
        next_in_s: float,
        k: int,
        answer_now: bool = False,
        bye: bool = False,
        draining: bool = False,
        aggregating: bool = False,
        weight: int = FULL_WEIGHT,
        size_bytes: int | None = None,
        counts: bool = True,
    ) -> Heartbeat:
        """The next heartbeat for this path; with ``size_bytes`` a probe of this UDP payload.

        It ``counts`` as sent, and as lost if it does not arrive, unless the other end may be unable to open it.
        """
        self._control_tx += counts
        self._sent_bytes += size_bytes or BEAT_BYTES
        sent = self._control_tx + self.counters.tx_packets
        self._t1_us = max(self._t1_us + 1, int(now * 1e6))  # each has its own, or an echo would mean two heartbeats
        beat = _Beat(self._t1_us, now, sent, next_in_s)
        self._sent.append(beat)
        if self._unknown_since == float("inf"):
            self._unknown_since = now
        self.last_beat = now
        self._answered = self._answerable
        if size_bytes is not None:
            self.mtu.note_probe(size_bytes, beat.t1_us, now, self.patience_s)
        elif answer_now:
            self.last_question = now
        return Heartbeat(
            challenge=self._challenge,
            next_in_s=next_in_s,
            t1_us=beat.t1_us,
            response=self._answerable,
            echo_us=self._echo_us,
            arrival_us=int(self._echo_arrived * 1e6),
            received=self._echo_received & _COUNT_MASK,
            sent=sent & _COUNT_MASK,
            received_kib=(self._control_rx_bytes + self.counters.rx_bytes) >> 10 & _COUNT_MASK,
            largest_bytes=max(self._largest, self.counters.largest),
            path=self.number & 0xFFFF,
            k=k,
            answer_now=answer_now,
            bye=bye,
            draining=draining,
            aggregating=aggregating,
            weight=0 if draining else weight,
            probe=size_bytes is not None,
            padding_bytes=0 if size_bytes is None else size_bytes - BEAT_BYTES,
        )

    def note_sent(self, size_bytes: int) -> None:
        """A control datagram that is no heartbeat was sent."""
        self._control_tx += 1
        self._sent_bytes += size_bytes

    # What comes in.

    def observe(self, counters: PathCounters) -> bool:
        """Take a reading of the path's data traffic. True if packets went or came since the last."""
        moved = counters.rx_packets != self.counters.rx_packets or counters.tx_packets != self.counters.tx_packets
        self.counters = counters
        if counters.last_rx > (self.last_heard or 0.0):
            self._hear(counters.last_rx)
        return moved

    def receive_data(self, size_bytes: int, arrived: float) -> None:
        """Note an authentic data packet that the path's counters do not contain, of this UDP payload."""
        self._outside_bytes += size_bytes
        self._hear(arrived)

    def receive_control(self, size_bytes: int, arrived: float) -> None:
        """Note an authentic control packet, before what it says."""
        self._control_rx += 1
        self._control_rx_bytes += size_bytes
        self._largest = max(self._largest, size_bytes)
        self._hear(arrived)

    def receive_heartbeat(
        self,
        beat: Heartbeat,
        *,
        session: int,
        source: int = 0,
        counter: int,
        path_received: int,
        arrived: float,
        timing: Timing,
    ) -> bool:
        """Take what a heartbeat says. True if it brought the outstanding challenge back: call :meth:`renew` then.

        ``session``, ``source`` shard and ``counter`` tell an old heartbeat that was overtaken; ``path_received`` is the
        data packets received on this path when it arrived. Sets the state.
        """
        answered = beat.response == self._challenge
        overtaken = self._newest is not None and self._newest[:2] == (session, source) and counter < self._newest[2]
        if not overtaken:
            self._newest = (session, source, counter)
            self._answerable = beat.challenge
            self._echo_us = beat.t1_us
            self._echo_arrived = arrived
            self._echo_received = self._control_rx + path_received
            self.theirs = beat.path
            self._due_from = max(self._due_from, arrived)
            self._due_in_s = max(beat.next_in_s, _SHORTEST_INTERVAL_S)
            self.draining, self.weight = beat.draining, beat.weight
            self.aggregating = beat.aggregating
            transit_s = arrived - beat.t1_us / 1e6
            self.transit_s = transit_s if self.transit_s is None else self.transit_s + (transit_s - self.transit_s) / 4
        if answered:
            self.state = PathState.VALID
            self.unheard = self.parted = False
            self._answer_by = float("inf")
        self.mtu.note_echo(beat.echo_us, arrived)
        if not overtaken:
            self._measure(beat, arrived, timing)
        if beat.bye:
            self.part()
        return answered

    def may_tell(self, session: int) -> bool:
        """Whether the peer should be told where it is seen: a few times under each session. Counts as done."""
        under, times = self._observations
        times = times + 1 if under == session else 1
        self._observations = (session, times)
        return times <= _OBSERVATIONS

    def renew(self, challenge: bytes) -> None:
        """Put a new challenge in place of one that came back: 8 random bytes."""
        self._challenge = challenge

    def hear_run(self, session: int, run: Run) -> None:
        """Note the peer's shards under a session (its number)."""
        if self.runs.get(session, run) != run:
            self.last_question = float("-inf")  # another machine is here now, and got none
            self.rate, self.transit_s = RateEstimate(), None  # its clock is another
        self.runs[session] = run
        while len(self.runs) > _SESSIONS:
            del self.runs[min(self.runs)]
        self.run = self.runs[max(self.runs)]

    def joins(self, other: Path) -> bool:
        """Whether both lead to one machine: to the same shards under the newest session heard on both."""
        common = self.runs.keys() & other.runs.keys()
        return bool(common) and self.runs[max(common)] == other.runs[max(common)]

    def validate(self) -> None:
        """Trust the path because a whole handshake crossed it both ways."""
        self.state = PathState.VALID
        self._answer_by = float("inf")
        self._unknown_since = None

    def part(self) -> None:
        """The peer gave the path up."""
        self.state = PathState.GONE
        self.parted = True

    def press(self, now: float) -> None:
        """The peer was heard from an address that was not known: suspect this path unless an answer comes soon.

        To be called when a challenge goes out. Other signs of life do not count: they may have been under way.
        """
        self._answer_by = min(self._answer_by, now + self.patience_s + _PRESSED_S)

    def doubt(self) -> None:
        """Suspect the path at once, until it answers."""
        if self.state is _VALID:
            self.state = _SUSPECT

    # What time does.

    def expect(self, within_s: float, now: float) -> None:
        """Count silence from now, and by this interval unless a shorter one was announced."""
        self._due_from = max(self._due_from, now)
        self._due_in_s = min(self._due_in_s, within_s)

    def expire(self, now: float, timing: Timing) -> None:
        """Let the state follow from the silence so far."""
        if self.state is PathState.VALID and now >= self._suspect_at(timing):
            self.state = PathState.SUSPECT
        if self.state is PathState.SUSPECT and now >= self._gone_at(timing):
            self.state = PathState.GONE

    def expires_at(self, timing: Timing) -> float:
        """When :meth:`expire` has something to do unless the path is heard before."""
        if self.state is PathState.VALID:
            return self._suspect_at(timing)
        if self.state is PathState.SUSPECT:
            return self._gone_at(timing)
        return float("inf")

    def _suspect_at(self, timing: Timing) -> float:
        return min(self._answer_by, self._due_from + timing.suspect_factor * self._due_in_s)

    def _gone_at(self, timing: Timing) -> float:
        return self._due_from + max(timing.gone_factor * self._due_in_s, timing.gone_least_s)

    def _hear(self, at: float) -> None:
        self.last_heard = at if self.last_heard is None else max(self.last_heard, at)
        self._due_from = max(self._due_from, at)

    def _measure(self, beat: Heartbeat, arrived: float, timing: Timing) -> None:
        echoed = next((own for own in reversed(self._sent) if own.t1_us == beat.echo_us), None)
        if echoed is None:
            self._note_unknown(arrived, timing)
            return
        self._unknown_since = None
        self.delivered = max(self.delivered, echoed.at)
        held_us = beat.t1_us - beat.arrival_us
        if not 0 <= held_us <= _LONGEST_MEASURED_US:
            return
        held_s = held_us / 1e6
        self._measure_rtt(arrived - echoed.at - held_s)
        sent, arrived_of_it = self._measure_loss(echoed, beat.received)
        self.rate.note(
            t1_us=beat.t1_us,
            received_kib=beat.received_kib,
            echo_us=beat.echo_us,
            arrival_us=beat.arrival_us,
            loss=self.loss,
            sent=sent,
            lost=sent - arrived_of_it,
        )
        self._judge_silence(self._silence_s(beat), echoed.next_in_s, timing)

    def _judge_silence(self, silent_s: float, next_in_s: float, timing: Timing) -> None:
        """The peer did not hear us for so long. More than was announced: nothing of ours arrives."""
        self.unheard = silent_s > timing.suspect_factor * max(next_in_s, _SHORTEST_INTERVAL_S)
        if silent_s > max(timing.gone_factor * next_in_s, timing.gone_least_s):
            self.state = PathState.GONE if self.usable else self.state
        elif self.unheard:
            self.state = PathState.SUSPECT if self.usable else self.state

    def _note_unknown(self, arrived: float, timing: Timing) -> None:
        """A heartbeat came that echoes none of ours: the peer has begun anew here, or has heard nothing for very long.

        Time counts from the first heartbeat that we send it now, so that it could hear something, and while the path is
        usable, so that what was before is not held against it.
        """
        if not self.usable:
            self._unknown_since = None
        elif self._unknown_since is None:
            self._unknown_since = float("inf")
        elif self._unknown_since < arrived:
            self._judge_silence(arrived - self._unknown_since - self.patience_s, self._sent[-1].next_in_s, timing)

    def _silence_s(self, beat: Heartbeat) -> float:
        """For how long, at most, the peer had not heard us when it sent this heartbeat, by its own clock.

        Since the echoed heartbeat arrived, or since its heartbeat before, if its count of bytes has changed from that
        to this: a full queue takes some heartbeats of ours, but not all data.
        """
        if self._their_count is None or beat.t1_us < self._their_count[0]:
            since_us = 0
        else:
            t1_us, kib, since_us = self._their_count
            since_us = t1_us if beat.received_kib != kib else since_us
        self._their_count = (beat.t1_us, beat.received_kib, since_us)
        return (beat.t1_us - max(beat.arrival_us, since_us)) / 1e6

    def _measure_rtt(self, rtt_s: float) -> None:
        if rtt_s < 0:
            return
        if self.rtt_s is None:
            self.rtt_s, self.jitter_s = rtt_s, rtt_s / 2
        else:
            self.jitter_s += (abs(rtt_s - self.rtt_s) - self.jitter_s) / 4
            self.rtt_s += (rtt_s - self.rtt_s) / 8
        if self.unloaded_rtt_s is None or rtt_s < self.unloaded_rtt_s:
            self.unloaded_rtt_s = rtt_s
        else:
            self.unloaded_rtt_s += (rtt_s - self.unloaded_rtt_s) / _UNLOADED_BEATS
        self.beats += 1

    def _measure_loss(self, echoed: _Beat, received: int) -> tuple[int, int]:
        """Take the counts; returns how many were sent since those before, and arrived; 0 if that is not known."""
        last = self._measured
        if last is not None and echoed.t1_us <= last[0]:
            return 0, 0
        self._measured = (echoed.t1_us, echoed.sent, received)
        if last is None:
            return 0, 0
        sent = echoed.sent - last[1]
        arrived = (received - last[2]) & _COUNT_MASK
        # A peer that counts anew gives a difference that looks negative: start over with it. Below zero is meant to be
        # possible otherwise: the two counts of a pair are not taken at one moment, and such errors must cancel out.
        if sent - arrived >= max(_MANY_LOST, (self.loss + _UNUSUAL_LOSS) * sent):
            self.mtu.suspect()
        if sent <= 0 or arrived > _COUNT_MASK >> 1:
            return 0, 0
        self._loss += (max(-1.0, 1 - arrived / sent) - self._loss) / 8
        return sent, arrived
