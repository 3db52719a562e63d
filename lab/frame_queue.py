"""One direction of an emulated link as a model: what becomes of a frame, and when it comes out.

Owns the state that frames leave behind for each other: the queue before the rate, whether loss is in its bad state,
the sequences of chance. Must not know frames' contents, descriptors or the clock: time comes in as ``now``, monotonic
seconds that never go back. Invariants: equal seeds and equal calls give equal answers; whether the n-th frame is lost
does not depend on when it comes, nor on the other impairments.
"""

from __future__ import annotations

import enum
import random
from collections import deque

from lab.impairment import ETHERNET_HEADER_BYTES, Impairment


class Drop(enum.Enum):
    """Why a frame did not get through."""

    BLACKHOLE = "blackhole"
    """The direction is dead."""
    OVERSIZE = "oversize"
    """It is larger than this link lets pass."""
    LOST = "lost"
    """Chance, alone or in a burst."""
    OVERFLOW = "overflow"
    """The queue before the rate was full."""


class FrameQueue:
    """The model of one direction."""

    def __init__(self, impairment: Impairment, *, seed: int | str) -> None:
        # A sequence of chance for each purpose: a frame that draws once more for one must not shift the others.
        self._chance_of_loss = random.Random(f"{seed}/loss").random
        self._chance_of_copy = random.Random(f"{seed}/duplicate").random
        self._chance_of_overtaking = random.Random(f"{seed}/reorder").random
        self._chance_of_jitter = random.Random(f"{seed}/jitter").random
        self._bad_state = False
        self._free_at = 0.0
        self._order = 0.0
        self._departures: deque[float] = deque()
        self.impairment = impairment
        self.change(impairment)

    def change(self, impairment: Impairment) -> None:
        """Treat frames from now on as ``impairment`` says. Frames admitted earlier keep their times."""
        self.impairment = impairment
        self._loses = bool(impairment.loss)
        self._bursts = impairment.burst_transitions if impairment.burst_frames else None
        self._largest_bytes = impairment.mtu_bytes + ETHERNET_HEADER_BYTES if impairment.mtu_bytes else 0
        self._byte_s = 8 / impairment.rate_bps if impairment.rate_bps else 0.0
        self._limit = impairment.queue_packets
        self._delay_s = impairment.delay_ms / 1000
        self._jitter_s = impairment.jitter_ms / 1000

    def admit(self, now: float, length_bytes: int) -> tuple[float, ...] | Drop:
        """Take a frame of ``length_bytes``, Ethernet header included, that arrives at ``now``.

        Returns the times at which it comes out, one or, if it is duplicated, two; or why it does not.
        """
        impairment = self.impairment
        if impairment.blackhole:
            return Drop.BLACKHOLE
        if self._largest_bytes and length_bytes > self._largest_bytes:
            return Drop.OVERSIZE
        if self._loses and self._lose():
            return Drop.LOST
        due = self._enqueue(now, length_bytes)
        if due is None:
            return Drop.OVERFLOW
        if impairment.duplicate and self._chance_of_copy() < impairment.duplicate:
            again = self._enqueue(now, length_bytes)
            if again is not None:  # a copy that finds the queue full is not made
                return (due, again)
        return (due,)

    def _lose(self) -> bool:
        if self._bursts is None:
            return self._chance_of_loss() < self.impairment.loss
        # As netem does: the state the frame meets decides about it, then the state may change for the next.
        chance = self._chance_of_loss
        to_bad, to_good = self._bursts
        lost = self._bad_state and chance() < self.impairment.burst_loss
        if chance() < (to_good if self._bad_state else to_bad):
            self._bad_state = not self._bad_state
        return lost

    def _enqueue(self, now: float, length_bytes: int) -> float | None:
        impairment = self.impairment
        delay_s = self._delay_s
        jitter_s = 0.0
        if impairment.reorder and self._chance_of_overtaking() < impairment.reorder:
            delay_s = 0.0
        elif self._jitter_s:
            jitter_s = (2 * self._chance_of_jitter() - 1) * self._jitter_s
        if not self._byte_s:
            return now + jitter_s + delay_s
        departures = self._departures
        while departures and departures[0] <= now:
            departures.popleft()
        if len(departures) >= self._limit:
            return None
        transmission_s = length_bytes * self._byte_s
        self._free_at = max(now, self._free_at) + transmission_s
        departures.append(self._free_at)
        # Jitter counts as before the queue, which hands out frames in the order they came and no faster than the rate.
        # The delay counts as after it, so that a change of the delay acts at once, whatever is under way.
        self._order = max(now + jitter_s, self._order) + transmission_s
        return self._order + delay_s
