"""Ratios: what a tunnel over all its links carried beside one confined to the best of them, row by row.

Owns the record of a pairing and its arithmetic. Must not know how it was measured: lab/pairing.py does.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Self

import msgspec


class PairRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured side by side, in one unit."""

    together: float
    """Over all links."""
    alone: dict[str, float]
    """Over each link, by its name."""
    ratio: float
    """The first to the best of the others."""
    void: list[str] = []
    """Why earlier attempts at this pair said nothing and were repeated."""

    @classmethod
    def of(cls, together: float, alone: dict[str, float], void: Sequence[str] = ()) -> Self:
        """Return the record of these figures. Nothing through any link alone makes a ratio of 0."""
        best = max(alone.values())
        ratio = round(together / best, 4) if best else 0.0
        return cls(together=together, alone=alone, ratio=ratio, void=list(void))


class RowRecord(msgspec.Struct, frozen=True, kw_only=True):
    """All pairs over links of one kind."""

    ratio: float
    """Median of the pairs'."""
    pairs: list[PairRecord]

    @property
    def together(self) -> float:
        """Median over all links."""
        return statistics.median(pair.together for pair in self.pairs)

    @property
    def alone(self) -> dict[str, float]:
        """Median over each link, by its name."""
        return {link: statistics.median(pair.alone[link] for pair in self.pairs) for link in self.pairs[0].alone}

    @classmethod
    def of(cls, pairs: Sequence[PairRecord]) -> Self:
        """Return the record of these pairs, of which there is at least one."""
        return cls(ratio=statistics.median(pair.ratio for pair in pairs), pairs=list(pairs))
