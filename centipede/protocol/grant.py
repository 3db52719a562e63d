"""Grant: the shards of one session that one machine has for its own. docs/protocol.md "Several machines".

A machine uses one run and may own a range beyond it, out of which it gives runs to others. What was given is never
taken back, so no two machines ever seal with one source shard, whatever became of either. A machine that made the
session, or whose Acknowledge did, begins with all shards.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from centipede.protocol.session import LAST_SHARD
from centipede.protocol.table import Run

SHARDS_END = LAST_SHARD + 1


@dataclass(frozen=True, slots=True)
class Grant:
    """A run, and the range of further shards: from ``first`` up to, but without, ``end``; empty if they are equal.

    Raises ValueError if the range is none or the run lies in it.
    """

    run: Run
    first: int
    end: int

    def __post_init__(self) -> None:
        if not 0 <= self.first <= self.end <= SHARDS_END:
            raise ValueError(f"no such range of shards: {self.first} to {self.end}")
        if self.first < self.run.first + self.run.size and self.run.first < self.end:
            raise ValueError("a run is not in the range that may be granted on")

    def cut(self, k: int, *, rest: bool) -> tuple[Grant, Grant]:
        """What remains, and what another machine gets: a run of 2^k and half of the range, or the ``rest`` of it.

        Raises ValueError if there are too few shards.
        """
        size = 1 << k
        start = -(-self.first // size) * size
        if start + size > self.end:
            raise ValueError("no shards are left to be granted")
        run, behind = Run(start, k), start + size
        middle = behind if rest else behind + (self.end - behind) // 2
        return replace(self, first=behind, end=middle), Grant(run, middle, self.end)
