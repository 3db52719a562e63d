"""RateEstimate: how much a path delivers, by what the peer's heartbeats say. docs/protocol.md "Schedulers".

Only a path with a queue shows what it can carry: there, what is delivered is its rate. On one without, all that is
known is that it carries what it was given. Times are of the peer's clock, or differences between both clocks: only
their changes mean something, and those of all paths to one machine are off by the same amount.
"""

from __future__ import annotations

_WINDOW_S = 0.15
"""Shortest time over which deliveries are counted: the peer counts in KiB, and answers may come close together."""
_QUEUE_S = 0.03
"""A longer queue, twice running, is made by traffic; a shorter one may be the machine's own delays."""
_SHORT_QUEUE_S = 0.01
_LOSS = 0.02
"""A queue that is small for want of room shows by loss as well."""
_DRAIN_S = 0.5
"""A full path is given so much less than it delivers that its queue would be gone in about this time,"""
_LEAST_DRAIN = 0.05
_MOST_DRAIN = 0.2
"""within these shares."""
_GROWTH = 1.05
"""Without a queue it can do a little more than it delivers;"""
_RECOVERY = 1.25
"""by so much more, while that is less than it did before."""
_PEAK_DECAY = 0.995
_OTHER_CLOCK_S = 10.0
"""What takes so much longer is measured by another clock: the address is another machine's now."""
_BASE_BEATS = 256
_BURST, _BURST_LOSS = 3, 0.05
"""More than this number that are lost at once, and more than this share and twice what is usual, count only if the same
is true of those before: a queue overflowed and is gone."""
_LOSS_PRIOR_PACKETS = 256
"""A path is taken for one that loses nothing until it was sent many times as much without a queue;"""
_LOSS_WINDOW_PACKETS = 8192
"""of more than this the older half counts half."""
_MOST_EARLY, _MOST_EARLY_SHARE = 8, 0.05
"""What is sent and what arrives is not counted at one moment. Packets that arrive before they are counted as sent are
set off against those that seem lost next, up to so many, or this share of those sent."""
_LEAST_BYTES_PER_S = 8_000.0
_COUNT_MASK = 0xFFFF_FFFF


class RateEstimate:
    """What one path delivers."""

    __slots__ = (
        "_base_s",
        "_burst",
        "_early",
        "_echo_us",
        "_kib",
        "_let_pass",
        "_lost",
        "_queue_s",
        "_queued",
        "_sent",
        "_t1_us",
        "bytes_per_s",
        "delivered_bytes_per_s",
        "full",
        "peak_bytes_per_s",
    )

    def __init__(self) -> None:
        self.bytes_per_s: float | None = None
        """What the path can carry; None until it was full once."""
        self.delivered_bytes_per_s = 0.0
        """What it delivers at the moment."""
        self.peak_bytes_per_s = 0.0
        """The most it delivered lately."""
        self.full = False
        """Whether it has more to carry than it can."""
        self._sent = self._lost = 0.0
        """Packets, of those that went out while there was no queue."""
        self._early = self._let_pass = 0.0
        """Packets of the interval before: more of them arrived than were sent; seemed lost but did not count."""
        self._burst = False
        """Whether many of them seemed lost."""
        self._base_s: float | None = None
        self._queue_s = 0.0
        self._queued = 0
        self._echo_us = -1
        self._t1_us: int | None = None
        self._kib = 0

    @property
    def loss(self) -> float:
        """Share lost without a queue, 0..1."""
        return min(1.0, max(0.0, self._lost / (self._sent + _LOSS_PRIOR_PACKETS)))

    @property
    def queued(self) -> bool:
        """Whether there is a queue, be it a short one."""
        return self._queue_s > _SHORT_QUEUE_S

    @property
    def transit_s(self) -> float | None:
        """One way, without a queue, but for the difference of the clocks; None before the first measurement."""
        return self._base_s

    def note(
        self,
        *,
        t1_us: int,
        received_kib: int,
        echo_us: int,
        arrival_us: int,
        loss: float,
        sent: int = 0,
        lost: int = 0,
    ) -> None:
        """Take what a heartbeat says, newest first heard.

        Its own words, the path's ``loss``, 0..1, and how many packets were ``sent`` from the own heartbeat that was
        measured before to this one, and how many of them ``lost``; less than none where counts were taken in between.
        """
        if echo_us > self._echo_us:  # an own heartbeat that was not measured yet
            self._echo_us = echo_us
            queue_s = self._queue_s
            self._note_transit((arrival_us - echo_us) / 1e6, loss)
            self._note_loss(sent, lost, queued=max(queue_s, self._queue_s) > _QUEUE_S)
        if self._t1_us is None or t1_us < self._t1_us:
            self._t1_us, self._kib = t1_us, received_kib
            return
        passed_s = (t1_us - self._t1_us) / 1e6
        if passed_s < _WINDOW_S:
            return
        came_kib = (received_kib - self._kib) & _COUNT_MASK
        self._t1_us, self._kib = t1_us, received_kib
        if came_kib <= _COUNT_MASK >> 1:  # else the peer counts anew
            self._note_delivered(came_kib * 1024 / passed_s)

    def _note_loss(self, sent: int, lost: int, *, queued: bool) -> None:
        missing = lost - self._early
        if missing < 0:  # what seemed lost before, and was let pass, has come
            missing = min(0.0, missing + self._let_pass)
        self._early = min(max(0.0, -missing), max(_MOST_EARLY, _MOST_EARLY_SHARE * sent))
        missing = max(0.0, missing)
        burst = missing > max(_BURST, (_BURST_LOSS + 2 * self.loss) * sent)
        overflowed, self._burst = burst and not self._burst, burst
        self._let_pass = missing if queued or overflowed else 0.0
        if queued or overflowed:
            return
        self._sent += sent
        self._lost += missing
        if self._sent > _LOSS_WINDOW_PACKETS:
            self._sent /= 2
            self._lost /= 2

    def _note_transit(self, transit_s: float, loss: float) -> None:
        if self._base_s is None or transit_s < self._base_s or transit_s > self._base_s + _OTHER_CLOCK_S:
            self._base_s = transit_s
        else:
            self._base_s += (transit_s - self._base_s) / _BASE_BEATS
        self._queue_s = transit_s - self._base_s
        self._queued = self._queued + 1 if self._queue_s > (_SHORT_QUEUE_S if loss > _LOSS else _QUEUE_S) else 0
        self.full = self._queued > 1

    def _note_delivered(self, delivered_bytes_per_s: float) -> None:
        self.delivered_bytes_per_s = delivered_bytes_per_s
        self.peak_bytes_per_s = max(delivered_bytes_per_s, _PEAK_DECAY * self.peak_bytes_per_s)
        if self.full:
            drain = min(_MOST_DRAIN, max(_LEAST_DRAIN, self._queue_s / _DRAIN_S))
            self.bytes_per_s = max(_LEAST_BYTES_PER_S, (1 - drain) * delivered_bytes_per_s)
        elif self.bytes_per_s is not None and not self.queued:
            regained = min(_RECOVERY * delivered_bytes_per_s, self.peak_bytes_per_s)
            self.bytes_per_s = max(self.bytes_per_s, regained, _GROWTH * delivered_bytes_per_s)
