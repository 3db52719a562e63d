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

    def choose(self, machines: Sequence[Sequence[Path]]) -> float:
        """Seconds, by the usable paths to each machine of the peer: the longest that any of them makes necessary.

        0 before a machine first said that it spreads packets; from then on never again, for packets may be waiting.
        """
        needed = [needed_s for paths in machines if (needed_s := _needed_s(paths)) is not None]
        if not needed:
            self._steps = min(self._steps, 1)
            return self._steps * _STEP_S
        steps = max(1, ceil(min(LONGEST_REORDER_S, max(needed)) / _STEP_S))
        if steps > self._steps or steps < self._steps - _SLACK_STEPS:
            self._steps = steps
        return min(LONGEST_REORDER_S, self._steps * _STEP_S)


def _needed_s(paths: Sequence[Path]) -> float | None:
    """What the slowest path to one machine takes longer, and twice the jitter; None if it does not spread packets.

    All paths count once it says so on one: its packets may come by the others before it could say it there. Times of
    two machines are not compared, for they are told by their own clocks.
    """
    transits = [path.transit_s for path in paths if path.transit_s is not None]
    if len(transits) < 2 or not any(path.aggregating for path in paths):
        return None
    return max(transits) - min(transits) + 2 * max(path.jitter_s for path in paths)
