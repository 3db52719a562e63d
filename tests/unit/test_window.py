"""Window: a numbered table of counters, the limits, and what the words keep."""

import pytest

from centipede.protocol.session import COUNTER_LIMIT
from centipede.protocol.window import DEFAULT_WINDOW, LARGEST_WINDOW, SMALLEST_WINDOW, Verdict, Window

NEW, SEEN, OLD = Verdict.NEW, Verdict.SEEN, Verdict.OLD
W = DEFAULT_WINDOW

# One window of 65536 counters from the first row to the last.
TABLE = [
    (1, 0, NEW),
    (2, 1, NEW),
    (3, 1, SEEN),
    (4, 9, NEW),
    (5, 8, NEW),
    (6, 7, NEW),
    (7, 7, SEEN),
    (8, 31, NEW),  # last of block 0
    (9, 32, NEW),  # first of block 1
    (10, 31, SEEN),
    (11, W - 1, NEW),  # the last place
    (12, W, NEW),  # takes the place of block 0: 0..31 are forgotten
    (13, W, SEEN),
    (14, 0, OLD),
    (15, 2, OLD),
    (16, 31, OLD),
    (17, 32, SEEN),  # block 1 stands
    (18, 33, NEW),  # W - 33 behind the greatest: still told apart
    (19, W + 31, NEW),
    (20, W + 31, SEEN),
    (21, 34, NEW),
    (22, W + 32, NEW),  # takes the place of block 1
    (23, 35, OLD),
    (24, 63, OLD),
    (25, 64, NEW),
    (26, 3 * W + 64, NEW),  # two turns at once
    (27, 2 * W + 64, OLD),
    (28, 64, OLD),
    (29, 2 * W + 96, NEW),  # its own place was never passed
    (30, 3 * W + 65, NEW),
    (31, 3 * W + 64, SEEN),
    (32, 2**32 - 1, NEW),
    (33, 2**32, NEW),
    (34, 2**32 - 1, SEEN),
    (35, 2**32 - W, OLD),  # exactly W behind
    (36, 2**32 - W + 32, NEW),
    (37, 2**43, NEW),
    (38, 2**43 + 1, NEW),
    (39, 2**43, SEEN),
    (40, 2**32, OLD),
    (41, 2**43 - 1, NEW),
    (42, COUNTER_LIMIT - 1, NEW),
    (43, COUNTER_LIMIT - 1, SEEN),
    (44, COUNTER_LIMIT, OLD),  # no counter
    (45, COUNTER_LIMIT + W, OLD),
    (46, 2**48 - 1, OLD),
    (47, COUNTER_LIMIT - 2, NEW),
    (48, W - 1, OLD),
    (49, 2**43 + 2, NEW),  # no counter near the limit took place 0
]


def test_table() -> None:
    window = Window()
    assert [row for row, _, _ in TABLE] == list(range(1, len(TABLE) + 1))
    for row, counter, verdict in TABLE:
        assert (row, window.test(counter)) == (row, verdict)
        assert (row, window.insert(counter)) == (row, verdict)


@pytest.mark.parametrize("size", [SMALLEST_WINDOW, DEFAULT_WINDOW, LARGEST_WINDOW])
def test_window_holds_its_size(size: int) -> None:
    """Whatever is the greatest counter, the size - 31 newest are told apart, and each is new once."""
    window = Window(size)
    assert window.size == size
    start = 10**9
    newest = start + size - 32
    assert window.insert(newest) is NEW
    counters = range(newest - 1, start - 1, -1) if size < LARGEST_WINDOW else range(newest - 1, start - 1, -97)
    assert {window.insert(counter) for counter in counters} == {NEW}
    assert {window.insert(counter) for counter in counters} == {SEEN}


def test_test_changes_nothing() -> None:
    window = Window()
    assert [window.test(5), window.test(5), window.insert(5), window.test(5)] == [NEW, NEW, NEW, SEEN]


def test_all_of_a_block() -> None:
    window = Window()
    assert [window.insert(counter) for counter in range(64)] == [NEW] * 64
    assert [window.insert(counter) for counter in range(64)] == [SEEN] * 64


def test_jump_over_all_places_forgets_nothing_that_was_not_passed() -> None:
    window = Window(SMALLEST_WINDOW)
    for counter in range(0, SMALLEST_WINDOW, 32):
        window.insert(counter)
    window.insert(COUNTER_LIMIT - 32)
    verdicts = [window.test(counter) for counter in range(0, SMALLEST_WINDOW, 32)]
    assert verdicts == [SEEN] * (len(verdicts) - 1) + [OLD]


@pytest.mark.parametrize("size", [0, -4096, 32, 2048, 4095, 4097, 6144, 2**21])
def test_impossible_sizes(size: int) -> None:
    with pytest.raises(ValueError, match=r"power of two in 4096\.\.1048576"):
        Window(size)
