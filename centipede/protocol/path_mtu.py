"""PathMtu: how large a datagram one path carries, found out by probes. docs/protocol.md "Path MTU".

A probe is a heartbeat padded to the size that is tried, sent with the don't-fragment bit. It has passed when its own t1
comes back as an echo. What the peer calls the largest payload it ever received would not do: it never falls, so it
cannot tell that a size passes no longer. One probe is out at a time:

- the size in use is tried when the path becomes valid, then every now and then, and at once when much is lost;
- while it passes, the next larger size is tried from time to time, ever more seldom if it does not pass;
- missed several times running, while heartbeats sent later did pass, it gives way to the next smaller size at once.

How many misses condemn a size follows from how often probes were missed for no reason before, so that a lossy path is
not taken for a narrow one. All sizes are UDP payloads in bytes. Sends nothing and knows no clock.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from centipede.protocol.timing import Timing

SIZES = (1232, 1372, 1452, 1472)
"""What IPv6 guarantees; room for tunnels on the way; Ethernet with IPv6 and with IPv4, both without options."""
START_BYTES = 1452
IPV6_LARGEST_BYTES = 1452
"""Of those up to Ethernet's: IPv6 takes 20 bytes more than IPv4."""
JUMBO_BYTES = 8952
LEAST_INTERFACE_MTU = 1280
"""With less an interface would lose its IPv6 addresses (RFC 8200 section 5)."""

_FIRST_PAUSE_S = 5.0
_PAUSE_FACTOR = 4
_FEWEST_MISSES = 2
_MOST_MISSES = 12
_DOUBT = 1e-5
"""Chance, at most, that a size is condemned by ordinary loss."""
_LEAST_MISSED = 0.003
_FIRST_MISSED = 0.01
_REMEMBERED = 8
_GRACE_S = 0.15
"""Answers are limited to ten a second, so one may come this much later than the path alone would make it."""


class _Probe(NamedTuple):
    t1_us: int
    size: int
    until: float


class PathMtu:
    """The size of datagrams on one path."""

    def __init__(self, version: int, largest_bytes: int, timing: Timing) -> None:
        """``version`` is IP's, ``largest_bytes`` the UDP payload of the configured MTU."""
        most = IPV6_LARGEST_BYTES if version == 6 else SIZES[-1]
        self._sizes = [size for size in SIZES if size <= most]
        if largest_bytes >= JUMBO_BYTES:
            self._sizes.append(JUMBO_BYTES)
        self._at = self._sizes.index(START_BYTES)
        self._timing = timing
        self._out: _Probe | None = None
        self._past: dict[int, int] = {}
        """Sizes of the latest probes, by t1."""
        self._growing = False
        """Whether the probe that is out, or missed, is of the next larger size."""
        self._misses = 0
        self._missed_us = 0
        """t1 of the first of them."""
        self._limit = _FEWEST_MISSES
        self._small_us = 0
        """Newest t1 of an ordinary heartbeat that came back."""
        self._missed_share = _FIRST_MISSED
        self._proven = False
        self._checked = float("-inf")
        self._grow_at = float("-inf")
        self._pause_s = _FIRST_PAUSE_S
        self._reduced = False

    @property
    def size(self) -> int:
        """The largest payload that is used."""
        return self._sizes[self._at]

    def restart(self) -> None:
        """The path is valid, for the first time or again: nothing is known of it now."""
        self._out = None
        self._misses = 0
        self._growing = False
        self._proven = False
        self._grow_at = float("-inf")
        self._pause_s = _FIRST_PAUSE_S

    def rest(self) -> None:
        """Nothing passes just now, of whatever size: what is missed means nothing."""
        self._out = None
        self._misses = 0

    def suspect(self) -> None:
        """Much was lost just now: see whether it was for its size."""
        if not self._misses:
            self._checked = float("-inf")

    def wanted(self, now: float, check_s: float) -> int | None:
        """The size to probe now, if any; ``check_s`` is how often the size in use is tried at present."""
        if now < self.due_at(check_s):
            return None
        if not self._misses:
            self._growing = self._proven and now < self._checked + check_s
        return self._sizes[self._at + self._growing]

    def due_at(self, check_s: float) -> float:
        """When :meth:`wanted` has an answer, or :meth:`expire` something to do."""
        if self._out is not None:
            return self._out.until
        if self._misses:
            return float("inf") if self._misses >= self._limit else float("-inf")
        if not self._proven:
            return float("-inf")
        larger = self._at + 1 < len(self._sizes)
        return min(self._checked + check_s, self._grow_at if larger else float("inf"))

    def note_probe(self, size: int, t1_us: int, now: float, patience_s: float) -> None:
        """A probe went out; an answer may take ``patience_s`` on this path."""
        self._out = _Probe(t1_us, size, now + patience_s + _GRACE_S)
        self._past[t1_us] = size
        while len(self._past) > _REMEMBERED:
            del self._past[next(iter(self._past))]

    def note_echo(self, t1_us: int, now: float) -> None:
        """A heartbeat of this node's came back; any may be told more than once."""
        size = self._past.get(t1_us)
        if size is None:
            self._small_us = max(self._small_us, t1_us)
            self._judge(now)
            return
        if self._out is not None and self._out.t1_us <= t1_us:
            self._out = None
        if size == self.size:
            self._pass(now)
        elif size > self.size:
            self._at = self._sizes.index(size)
            self._grow_at = now
            self._pause_s = _FIRST_PAUSE_S
            self._reduced = False
            self._pass(now)
        del self._past[t1_us]

    def expire(self, now: float) -> bool:
        """Give up waiting for a probe. True if it is missed now: an ordinary heartbeat shows whether those pass."""
        probe = self._out
        if probe is None or now < probe.until:
            return False
        self._out = None
        if not self._misses:
            self._missed_us = probe.t1_us
            self._limit = self._tolerated()
        self._misses += 1
        self._judge(now)
        return True

    def _tolerated(self) -> int:
        """The number of misses running that condemns a size."""
        if self._growing:
            return _FEWEST_MISSES
        if self._reduced:
            return 1  # the path is narrow, traffic waits; were it wrong, the next larger size is tried soon
        needed = math.ceil(math.log(_DOUBT) / math.log(max(self._missed_share, _LEAST_MISSED)))
        return min(max(needed, _FEWEST_MISSES), _MOST_MISSES)

    def _pass(self, now: float) -> None:
        """The size in use has passed."""
        for missed in (*[1.0] * self._misses, 0.0):
            self._missed_share += (missed - self._missed_share) / 16
        self._misses = 0
        self._growing = False
        self._proven = True
        self._checked = now

    def _judge(self, now: float) -> None:
        if self._misses < self._limit or self._small_us <= self._missed_us:
            return
        self._grow_at = now + self._pause_s
        if self._growing:
            self._pause_s = min(_PAUSE_FACTOR * self._pause_s, self._timing.mtu_retry_s)
        else:
            if self._at:
                self._at -= 1
                self._reduced = True
                self._proven = False
            else:
                self._proven = True  # there is no smaller one; whether it passes at all is for heartbeats to say
                self._checked = now
        self._misses = 0
        self._growing = False
