"""Hold: how long packets of a peer that spreads them over several paths wait for earlier ones."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

from centipede.protocol.path import Path
from centipede.protocol.table import LONGEST_REORDER_S

_STEP_S = 0.01
_SLACK_STEPS = 2
"""It takes so much more than what is needed before the wait becomes shorter: each change is a new table."""


class Hold:
    """The wait, with the memory that keeps it from following every measurement."""

    __slots__ = ("_steps",)

    def __init__(self) -> None:
        self._steps = 0

    def choose(self, paths: Sequence[Path]) -> float:
        """Seconds, by the usable paths if packets are spread: what the slowest takes longer, and twice the jitter.

        All count once the peer says so on one: its packets may come by the others before it could say it there.
        0 before the peer did for the first time; from then on never again, for packets may be waiting.
        """
        transits = [path.transit_s for path in paths if path.transit_s is not None]
        if not any(path.aggregating for path in paths):
            transits = []
        if len(transits) < 2:
            self._steps = min(self._steps, 1)
            return self._steps * _STEP_S
        needed_s = max(transits) - min(transits) + 2 * max(path.jitter_s for path in paths)
        steps = max(1, ceil(min(LONGEST_REORDER_S, needed_s) / _STEP_S))
        if steps > self._steps or steps < self._steps - _SLACK_STEPS:
            self._steps = steps
        return min(LONGEST_REORDER_S, self._steps * _STEP_S)
