"""Leave: what is left to do for a peer whose sessions another machine took over. docs/protocol.md "Handing over".

```
DRAINING ── no data for 3 s ──► GONE (bye, keys erased)
   └─ the peer sends here when 35 s are over ──► not taken over: serve on
```

That is judged at this moment and not again: a peer that was taken over may come back for a packet later, as one that
roams does, or whose other machine is not heard for a moment.

Until the peer moves it is served as before, and told where the other machine is. It is the other machine that answers
the peer's Initiates from now on; only a peer that gets no answer for a while is answered here.
"""

from __future__ import annotations

from collections.abc import Sequence

from centipede.protocol.endpoint import Endpoint
from centipede.protocol.timing import Timing

_TELL_AGAIN_S = 8.0
"""The peer tries an address for some seconds each time it is told of it."""
_PATIENCE_ATTEMPTS = 1.8
"""A peer that has begun its third attempt by then is answered by nobody else."""
_ATTEMPTS = 3
_REPEATED_S = 1.5
"""And one whose Initiate comes again after so long, as none does that was answered."""
_LULL_ATTEMPTS = 5.0
"""Initiates further apart than this do not belong to one effort: a peer pauses for three attempts at most."""


class Leave:
    """One peer's leaving."""

    def __init__(self, addresses: Sequence[Endpoint], timing: Timing, now: float, *, gone: bool = False) -> None:
        """``addresses`` are the other machine's; ``gone`` when all was done before the daemon was restarted."""
        self._timing = timing
        self._since = now
        self._addresses = tuple(addresses)
        self._tell_at = now
        self._asked_from = float("-inf")
        self._asked_last = float("-inf")
        """When the greatest of those Initiates came first."""
        self._timestamp = -1
        """The greatest of those Initiates."""
        self._attempts = 0
        """How many there were of one effort."""
        self.gone = gone
        self.judged = False
        """Whether it was asked if this is in vain."""

    def quiet_at(self, last_traffic: float) -> float:
        """When the peer may be left, if there is no data any more."""
        return max(self._since, last_traffic) + self._timing.leave_s

    def judge(self, last_rx: float, now: float) -> bool:
        """Whether it is in vain: the other machine would have taken over by now, and the peer still sends here."""
        self.judged = True
        return now < last_rx + self._timing.leave_s

    def in_vain_at(self) -> float:
        return self._since + self._timing.taken_over_s

    def take(self, now: float) -> tuple[Endpoint, ...]:
        """The addresses of the other machine, if the peer is to be told of them now."""
        if now < self._tell_at:
            return ()
        self._tell_at = now + _TELL_AGAIN_S
        return self._addresses

    def tell_at(self) -> float:
        return self._tell_at

    def answers(self, timestamp: int, now: float) -> bool:
        """Whether an authentic Initiate is to be answered, because nobody else does. Replayed ones do not count."""
        if timestamp > self._timestamp:
            if now > self._asked_last + _LULL_ATTEMPTS * self._timing.attempt_s:
                self._asked_from, self._attempts = now, 0
            self._attempts += 1
            self._asked_last = now
            self._timestamp = timestamp
        repeated = self._asked_last + _REPEATED_S <= now < self._asked_last + self._timing.attempt_s
        waited = now >= self._asked_from + patience_s(self._timing)
        return timestamp == self._timestamp and waited and (repeated or self._attempts >= _ATTEMPTS)


def patience_s(timing: Timing) -> float:
    """For how long Initiates must have come before a machine that handed the peer over answers them."""
    return _PATIENCE_ATTEMPTS * timing.attempt_s
