"""The window against a set that forgets nothing."""

from hypothesis import given
from hypothesis import strategies as st

from centipede.protocol.session import COUNTER_LIMIT
from centipede.protocol.window import SMALLEST_WINDOW, Verdict, Window

SIZE = SMALLEST_WINDOW

near = st.integers(0, SIZE // 2)
edge = st.builds(
    lambda turn, place, offset: max(0, turn * SIZE + place * 32 + offset),
    st.integers(0, 4),
    st.sampled_from([0, 1, 2, SIZE // 32 - 1]),
    st.sampled_from([-1, 0, 1, 31]),
)
far = st.integers(0, COUNTER_LIMIT - 1)
beyond = st.integers(COUNTER_LIMIT, 2**48 - 1)


def naive(counters: list[int]) -> list[Verdict]:
    """New unless it was accepted, or an accepted counter a multiple of the window's blocks ahead took its place."""
    accepted: set[int] = set()
    verdicts = []
    for counter in counters:
        block = counter // 32
        passed = any(a // 32 > block and (a // 32 - block) % (SIZE // 32) == 0 for a in accepted)
        if counter >= COUNTER_LIMIT or passed:
            verdicts.append(Verdict.OLD)
        elif counter in accepted:
            verdicts.append(Verdict.SEEN)
        else:
            accepted.add(counter)
            verdicts.append(Verdict.NEW)
    return verdicts


@given(st.lists(st.one_of(near, edge, far, beyond), max_size=60))
def test_window_agrees_with_a_naive_set(counters: list[int]) -> None:
    window = Window(SIZE)
    verdicts = []
    for counter in counters:
        verdict = window.test(counter)
        assert window.insert(counter) is verdict
        verdicts.append(verdict)
    assert verdicts == naive(counters)


@given(st.integers(0, COUNTER_LIMIT - 1 - SIZE), st.permutations(range(0, SIZE - 31, 13)))
def test_any_order_within_the_window_is_new_once(start: int, offsets: list[int]) -> None:
    window = Window(SIZE)
    assert {window.insert(start + offset) for offset in offsets} == {Verdict.NEW}
    assert {window.insert(start + offset) for offset in offsets} == {Verdict.SEEN}
