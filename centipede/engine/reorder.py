"""Reorder: packets of one source shard that wait for those before them. The reference engine's; docs/protocol.md.

Touched by one worker only. Knows counters, times and opaque packets; what was accepted elsewhere it asks the replay
window. Each packet handed in comes out exactly once: at once, in its turn, or when its time is over. At most
REORDER_PACKETS wait.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from centipede.protocol.table import REORDER_PACKETS


class Reorder:
    """The packets that wait, and the counter they wait for."""

    __slots__ = ("_accepted", "_arrivals", "_held", "_next")

    def __init__(self, accepted: Callable[[int], bool]) -> None:
        """``accepted`` says whether a counter was delivered, by whatever worker, so that nobody waits for it."""
        self._accepted = accepted
        self._next: int | None = None
        self._held: dict[int, bytes] = {}
        self._arrivals: deque[tuple[float, int]] = deque()

    def take(self, counter: int, packet: bytes, now: float) -> list[bytes]:
        """Take in a packet, new to the window; returns what is to be delivered now, in this order."""
        if self._next is None:
            self._next = counter
        if counter < self._next:
            return [packet]
        out = self._release_below(counter - REORDER_PACKETS + 1)
        self._held[counter] = packet
        self._arrivals.append((now, counter))
        return out + self._advance()

    def due(self) -> float | None:
        """When the packet came that waits longest; None if none waits."""
        while self._arrivals and self._arrivals[0][1] not in self._held:
            self._arrivals.popleft()
        return self._arrivals[0][0] if self._arrivals else None

    def expire(self, before: float) -> list[bytes]:
        """Give up waiting on behalf of packets that came by then; returns what is to be delivered now."""
        out: list[bytes] = []
        while (came := self.due()) is not None and came <= before:
            out += self._release_below(self._arrivals[0][1] + 1) + self._advance()
        return out

    def _release_below(self, counter: int) -> list[bytes]:
        assert self._next is not None
        if counter <= self._next:
            return []
        self._next = counter
        return [self._held.pop(held) for held in sorted(held for held in self._held if held < counter)]

    def _advance(self) -> list[bytes]:
        assert self._next is not None
        out = []
        while self._held:
            packet = self._held.pop(self._next, None)
            if packet is not None:
                out.append(packet)
            elif not self._accepted(self._next):
                break
            self._next += 1
        return out
