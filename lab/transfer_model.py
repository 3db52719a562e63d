"""TransferModel: greedy TCP-like streams over emulated links, sent by a scheduler; in memory, seeded, little CPU.

For what schedulers make of rates, delays, jitter and loss. Links, paths with their heartbeats, the scheduler, the
choice of a lane, the wait and the order of the peer are the real objects. Streams are a simple TCP: CUBIC with slow
start, loss found by later packets (RFC 8985, a quarter of the least round trip) or by silence; acknowledgements always
arrive.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial

from centipede.engine.reorder import Reorder
from centipede.engine.view import Hop, Lane, Traffic, choose_lane
from centipede.engine.view import Path as LaneState
from centipede.protocol.counters import PathCounters
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.hold import Hold
from centipede.protocol.path import Path, PathState
from centipede.protocol.path_mtu import PathMtu
from centipede.protocol.reach import candidate
from centipede.protocol.scheduler import Selection
from centipede.protocol.schedulers import create
from centipede.protocol.timing import Timing
from lab.frame_queue import Drop, FrameQueue
from lab.impairment import Impairment

PACKET_BYTES = 1448
"""Payload of a stream's packet."""
_DATAGRAM_BYTES = PACKET_BYTES + 52 + 32
_OUTSIDE_BYTES = 42
_BEAT_BYTES = 100
_BEAT_S = 0.2
_SPARE_BEAT_S = 1.0
_SKEW_S = 1000.0
"""The receiver's clock is ahead by so much."""
_CUBIC, _CUT = 0.4, 0.7
_LEAST_SILENCE_S = 0.2
_FIRST_PACKETS = 10.0


class _Clock:
    """What happens when, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._number = 0

    def at(self, moment: float, action: Callable[[], None]) -> None:
        self._number += 1
        heapq.heappush(self._due, (moment, self._number, action))

    def run(self, until: float) -> None:
        while self._due and self._due[0][0] <= until:
            self.now, _, action = heapq.heappop(self._due)
            action()
        self.now = until


class _Way:
    """A link with a path over it: one end's and the other's."""

    def __init__(self, number: int, impairment: Impairment, seed: int) -> None:
        timing = Timing()
        near, far = Endpoint(f"10.{number}.0.1", 1), Endpoint(f"10.{number}.0.2", 1)

        def path(local: Endpoint, remote: Endpoint) -> Path:
            mtu = PathMtu(4, 0, timing)
            return Path(number, local, remote, challenge=bytes(8), expected=True, now=0.0, mtu=mtu)

        self.out = FrameQueue(impairment, seed=f"{seed}/{number}/out")
        self.back = FrameQueue(impairment, seed=f"{seed}/{number}/back")
        self.near, self.far = path(near, far), path(far, near)
        self.near.state = self.far.state = PathState.VALID
        self.lane = LaneState(1)
        self.hop = Hop(None, (near.host, number), Traffic())
        self.sent = self.received = 0
        self.received_at = 0.0
        self.beats = 0
        self.next_beat_in_s = _SPARE_BEAT_S


class _Stream:
    """One greedy sender."""

    def __init__(self, model: TransferModel, number: int) -> None:
        self._model = model
        self._number = number
        self._window = _FIRST_PACKETS
        self._threshold = float("inf")
        self._most = 0.0
        self._cut_at = 0.0
        self._recovers_until = 0
        self._under_way: OrderedDict[int, tuple[float, int]] = OrderedDict()
        """By sending, in its order: when, and which packet."""
        self._sendings = 0
        self._next_packet = 0
        self._missing: OrderedDict[int, None] = OrderedDict()
        self._rtt_s = 0.0
        self._least_rtt_s = float("inf")
        self._heard = 0.0

    def begin(self) -> None:
        self._heard = self._model.clock.now
        self._send()
        self._watch()

    def acknowledge(self, sending: int, packet: int) -> None:
        now = self._heard = self._model.clock.now
        self._missing.pop(packet, None)
        known = self._under_way.pop(sending, None)
        if known is None:
            return self._send()
        rtt_s = now - known[0]
        self._least_rtt_s = min(self._least_rtt_s, rtt_s)
        self._rtt_s = rtt_s if not self._rtt_s else self._rtt_s + (rtt_s - self._rtt_s) / 8
        lost = []
        for earlier, (sent_at, number) in self._under_way.items():
            if sent_at >= known[0] - self._least_rtt_s / 4:
                break
            lost.append((earlier, number))
        for earlier, number in lost:
            del self._under_way[earlier]
            self._missing[number] = None
        if lost and lost[-1][0] >= self._recovers_until:
            self._cut(now)
        elif not lost:
            self._grow(now)
        return self._send()

    def _cut(self, now: float) -> None:
        self._most = self._window
        self._window = self._threshold = max(2.0, _CUT * self._window)
        self._cut_at = now
        self._recovers_until = self._sendings

    def _grow(self, now: float) -> None:
        if self._window < self._threshold:
            self._window += 1
            return
        recovery_s = (self._most * (1 - _CUT) / _CUBIC) ** (1 / 3)
        target = _CUBIC * (now - self._cut_at + self._rtt_s - recovery_s) ** 3 + self._most
        friendly = _CUT * self._most + 0.53 * (now - self._cut_at) / max(self._rtt_s, 1e-3)  # RFC 9438, 4.3
        self._window += min(0.5, max(0.01, (max(target, friendly) - self._window) / self._window))

    def _watch(self) -> None:
        now = self._model.clock.now
        silence_s = max(_LEAST_SILENCE_S, 2 * self._rtt_s)
        if self._under_way and now - self._heard >= silence_s:
            self._missing |= OrderedDict((number, None) for _, number in self._under_way.values())
            self._under_way.clear()
            self._cut(now)
            self._window = 2.0
            self._heard = now
            self._send()
        self._model.clock.at(now + 0.05, self._watch)

    def _send(self) -> None:
        while len(self._under_way) < self._window:
            if self._missing:
                packet, _ = self._missing.popitem(last=False)
            else:
                packet = self._next_packet
                self._next_packet += 1
            self._sendings += 1
            self._under_way[self._sendings] = (self._model.clock.now, packet)
            self._model.send(self._number, self._sendings, packet)


class TransferModel:
    """Streams from one end to the other, over one way or several."""

    def __init__(self, links: Sequence[Impairment], scheduler: str, *, streams: int = 1, seed: int = 1) -> None:
        self.clock = _Clock()
        self.arrived: list[int] = []
        """Packets that arrived for the first time, by tenths of a second."""
        self._ways = [_Way(number, link, seed) for number, link in enumerate(links, 1)]
        self._scheduler = create(scheduler, 1)
        self._hold = Hold()
        self._hold_s = 0.0
        self._counter = 0
        self._held: dict[bytes, Callable[[], None]] = {}
        self._reorder = Reorder(self._delivered_before)
        self._accepted: set[int] = set()
        self._seen: list[set[int]] = [set() for _ in range(streams)]
        self._streams = [_Stream(self, number) for number in range(streams)]
        self._selection = Selection((), 1)
        self._lanes: list[Lane] = []
        for way in self._ways:
            self._beat(way, forth=True)
            self._beat(way, forth=False)
        self.clock.run(3.0)  # three heartbeats of each
        self._began = self.clock.now
        for stream in self._streams:
            stream.begin()
        for way in self._ways:
            self._hurry(way)

    def run(self, seconds: float) -> float:
        """Go on for a while; returns payload delivered in it, in bits per second."""
        before = sum(self.arrived)
        self.clock.run(self.clock.now + seconds)
        return (sum(self.arrived) - before) * PACKET_BYTES * 8 / seconds

    # The sender.

    def send(self, stream: int, sending: int, packet: int) -> None:
        """A stream sends a packet."""
        counter = self._counter
        self._counter += 1

        def arrive(way: _Way) -> None:
            self._account(way)
            if counter in self._accepted:
                return
            self._accepted.add(counter)
            self._take(counter, lambda: self._deliver(stream, sending, packet))

        if self._lanes:
            chosen = choose_lane(self._lanes, _DATAGRAM_BYTES, self.clock.now)
            self._transmit(self._way(chosen.hops[0].address[1]), arrive)
            return
        for path in self._selection.paths[: self._selection.copies]:
            self._transmit(self._way(path.path), arrive)

    def _way(self, number: int) -> _Way:
        return self._ways[number - 1]

    def _transmit(self, way: _Way, arrive: Callable[[_Way], None]) -> None:
        way.sent += 1
        self._cross(way.out, _DATAGRAM_BYTES, lambda: arrive(way))

    def _cross(self, queue: FrameQueue, size_bytes: int, arrive: Callable[[], None]) -> None:
        moments = queue.admit(self.clock.now, size_bytes + _OUTSIDE_BYTES)
        if not isinstance(moments, Drop):
            for moment in moments:
                self.clock.at(moment, arrive)

    # The receiver.

    def _delivered_before(self, counter: int) -> bool:
        return counter in self._accepted

    def _account(self, way: _Way) -> None:
        way.received += 1
        way.received_at = self.clock.now

    def _take(self, counter: int, deliver: Callable[[], None]) -> None:
        if not self._hold_s:
            deliver()
            return
        key = counter.to_bytes(8)
        self._held[key] = deliver
        self._release(self._reorder.take(counter, key, self.clock.now))
        due = self._reorder.due()
        if due is not None:
            self.clock.at(max(self.clock.now, due + self._hold_s), self._expire)

    def _expire(self) -> None:
        self._release(self._reorder.expire(self.clock.now - self._hold_s + 1e-9))

    def _release(self, keys: Sequence[bytes]) -> None:
        for key in keys:
            self._held.pop(key)()

    def _deliver(self, stream: int, sending: int, packet: int) -> None:
        if packet not in self._seen[stream]:
            self._seen[stream].add(packet)
            tenth = int((self.clock.now - self._began) * 10)
            self.arrived += [0] * (tenth + 1 - len(self.arrived))
            self.arrived[tenth] += 1
        acknowledged_at = self.clock.now + min(way.out.impairment.delay_ms for way in self._ways) / 1e3
        self.clock.at(acknowledged_at, lambda: self._streams[stream].acknowledge(sending, packet))

    # Heartbeats.

    def _beat(self, way: _Way, *, forth: bool) -> None:
        """Send a heartbeat, and plan the next."""
        path = way.near if forth else way.far
        if path.next_beat > self._time(forth=forth) + 1e-6:
            return  # another was sent meanwhile
        self._observe(way)
        carrying = {one.path for one in self._selection.paths}
        busy = self._counter and (self._scheduler.compares or way.near.number in carrying)
        next_in_s = _BEAT_S if busy else _SPARE_BEAT_S
        now = self._time(forth=forth)
        heartbeat = path.compose(now, next_in_s=next_in_s, k=0, aggregating=forth and self._selection.spread)
        path.next_beat = now + next_in_s
        way.beats += 1
        number = way.beats

        def arrive() -> None:
            at = self._time(forth=not forth)
            other = way.far if forth else way.near
            self._observe(way)
            other.receive_control(_BEAT_BYTES, at)
            received = other.counters.rx_packets
            other.receive_heartbeat(
                heartbeat, session=1, counter=number, path_received=received, arrived=at, timing=Timing()
            )
            if forth:
                self._hold_s = self._hold.choose([[each.far for each in self._ways]])
            else:
                self._choose()

        self._cross(way.out if forth else way.back, _BEAT_BYTES, arrive)
        self.clock.at(self.clock.now + next_in_s, partial(self._beat, way, forth=forth))

    def _time(self, *, forth: bool) -> float:
        """The time by an end's clock."""
        return self.clock.now if forth else self.clock.now + _SKEW_S

    def _observe(self, way: _Way) -> None:
        size = _DATAGRAM_BYTES
        way.near.observe(PathCounters(tx_packets=way.sent, tx_bytes=way.sent * size))
        heard = way.received_at + _SKEW_S if way.received else 0.0
        way.far.observe(PathCounters(rx_packets=way.received, rx_bytes=way.received * size, last_rx=heard))

    def _choose(self) -> None:
        for way in self._ways:
            way.near.expire(self.clock.now, Timing())
        ways = [way.near for way in self._ways if way.near.usable]
        if not ways:  # full queues took the heartbeats of all
            return
        self._selection = self._scheduler.choose([candidate(path, metered=False) for path in ways])
        self._lanes = [
            Lane(
                (self._way(lane.path.path).hop,),
                self._way(lane.path.path).lane,
                lane.rate_bytes_per_s,
                lane.delay_s,
            )
            for lane in self._selection.lanes
        ]

    def _hurry(self, way: _Way) -> None:
        """There is data from now on, so the path is measured more often, by both ends."""
        for forth in (True, False):
            path = way.near if forth else way.far
            path.next_beat = min(path.next_beat, max(self._time(forth=forth), path.last_beat + _BEAT_S))
            self.clock.at(path.next_beat - (0 if forth else _SKEW_S), partial(self._beat, way, forth=forth))
