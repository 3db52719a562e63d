"""Window: the counters accepted so far of one (session, direction, class, source shard).

An array of words, each tag | bitmap of 32 bits. Counter c belongs to block b = c div 32; block b lives in word
b mod (W/32) under tag b div (W/32). A word whose tag is smaller is overwritten, one whose tag is greater makes the
counter Old. Nothing slides and nothing is zeroed, so an authentic jump of any size costs one store, and a counter that
lags behind is Old only once a block a multiple of W ahead has taken its word: at least W - 31 counters behind. See
docs/protocol.md "Replay window".

Invariants: a word's tag only grows; a bit once set under a tag stays set while the tag stands; hence each counter is
New at most once. The words are not locked here: a caller with several threads holds its lock around ``insert``, whereas
``test`` only reads.
"""

from __future__ import annotations

from array import array
from enum import Enum, auto

from centipede.protocol.session import COUNTER_LIMIT

SMALLEST_WINDOW = 4096
"""Also the size for the control class."""
DEFAULT_WINDOW = 65536
LARGEST_WINDOW = 2**20

_BLOCK_BITS = 5
_BITMAP_BITS = 32


class Verdict(Enum):
    """What the window says of a counter."""

    NEW = auto()
    SEEN = auto()
    """Accepted before: a copy that came over another path, or a replay."""
    OLD = auto()
    """Too far behind to tell, or not below COUNTER_LIMIT and so no counter at all."""


class Window:
    """Remembers which of about the last ``size`` counters were inserted."""

    __slots__ = ("_mask", "_shift", "_words")

    def __init__(self, size: int = DEFAULT_WINDOW) -> None:
        """``size`` W is a power of two in 4096..2^20, else ValueError."""
        if not SMALLEST_WINDOW <= size <= LARGEST_WINDOW or size & (size - 1):
            raise ValueError(f"a window's size is a power of two in {SMALLEST_WINDOW}..{LARGEST_WINDOW}, not {size}")
        words = size >> _BLOCK_BITS
        self._words = array("Q", bytes(8 * words))
        self._mask = words - 1
        self._shift = words.bit_length() - 1

    @property
    def size(self) -> int:
        return len(self._words) << _BLOCK_BITS

    def test(self, counter: int) -> Verdict:
        """What ``insert`` would say now. Changes nothing; any thread may ask at any time."""
        block = counter >> _BLOCK_BITS
        word = self._words[block & self._mask]
        tag = block >> self._shift
        held = word >> _BITMAP_BITS
        if held > tag or counter >= COUNTER_LIMIT:
            return Verdict.OLD
        if held == tag and word >> (counter & 31) & 1:
            return Verdict.SEEN
        return Verdict.NEW

    def insert(self, counter: int) -> Verdict:
        """Accept a counter whose packet opened: NEW at most once per counter, provided calls do not overlap."""
        verdict = self.test(counter)
        if verdict is Verdict.NEW:
            block = counter >> _BLOCK_BITS
            index = block & self._mask
            tag = block >> self._shift
            word = self._words[index]
            kept = word if word >> _BITMAP_BITS == tag else tag << _BITMAP_BITS
            self._words[index] = kept | 1 << (counter & 31)
        return verdict
