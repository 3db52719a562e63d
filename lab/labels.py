"""Labels above a time axis: where each goes so that none covers another and no mark's line runs through one.

Owns widths of text and the placing. Must not know what is marked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath

from lab.palette import STYLE

_PAD_IN = 0.05
_POINTS_PER_INCH = 72.0


class Label(NamedTuple):
    """A label in its place. Its mark's line comes down from it, through all lanes below."""

    words: str
    line: float
    """Where the mark is, in inches from the left."""
    lane: int | None
    """From below, None if there is no room."""
    begin: float
    end: float
    leftward: bool
    """Whether the words end at the line in place of beginning there."""


@lru_cache(maxsize=4096)
def width_in(words: str, size: float, weight: str = "normal") -> float:
    """Return how wide a text is in inches."""
    if not words.strip():
        return 0.0
    font = FontProperties(family=STYLE["font.family"], weight=weight)
    return float(TextPath((0, 0), words, size=size, prop=font).get_extents().width) / _POINTS_PER_INCH


def place_labels(
    marks: Sequence[tuple[float, str]], *, width: float, lanes: int, measure: Callable[[str], float]
) -> list[Label]:
    """Return a label for each (position, words), both positions and ``width`` in inches.

    From the last to the first, each takes the lowest lane in which it fits; one that fits in none gets only its line.
    """
    placed: list[Label] = []
    for line, words in sorted(marks, reverse=True):
        length = measure(words) + 2 * _PAD_IN
        leftward = line + length > width and line >= length
        begin, end = (line - length, line) if leftward else (line, line + length)
        wanted = Label(words, line, None, begin, end, leftward)
        fitting = (wanted._replace(lane=lane) for lane in range(lanes))
        placed.append(next((label for label in fitting if _fits(label, placed)), wanted))
    return placed[::-1]


def _fits(label: Label, placed: Sequence[Label]) -> bool:
    assert label.lane is not None
    for other in placed:
        if other.lane is None:
            continue
        if label.lane == other.lane and label.begin < other.end and other.begin < label.end:
            return False
        upper, lower = (label, other) if label.lane > other.lane else (other, label)
        if upper.lane != lower.lane and lower.begin < upper.line < lower.end:
            return False
    return True
