"""The model of one direction of an emulated link, under a virtual clock."""

from __future__ import annotations

from itertools import groupby, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab.frame_queue import Drop, FrameQueue
from lab.impairment import Change, Impairment

FULL = 1514
MANY = 50_000


def outcomes(
    queue: FrameQueue, count: int, *, gap_s: float = 0.001, length: int = 100
) -> list[tuple[float, ...] | Drop]:
    return [queue.admit(number * gap_s, length) for number in range(count)]


def dues(queue: FrameQueue, arrivals: list[float], length: int = FULL) -> list[float]:
    times: list[float] = []
    for now in arrivals:
        fate = queue.admit(now, length)
        assert not isinstance(fate, Drop)
        times += fate
    return times


def share(fates: list[tuple[float, ...] | Drop], drop: Drop) -> float:
    return sum(fate is drop for fate in fates) / len(fates)


def test_an_unimpaired_link_does_nothing() -> None:
    assert FrameQueue(Impairment(), seed=1).admit(5.0, FULL) == (5.0,)


def test_the_delay_is_the_same_for_every_frame() -> None:
    queue = FrameQueue(Impairment(delay_ms=20), seed=1)
    assert dues(queue, [1.0, 1.0, 2.0], length=60) == pytest.approx([1.02, 1.02, 2.02])


def test_the_rate_counts_the_ethernet_header_and_idle_time_is_not_saved_up() -> None:
    queue = FrameQueue(Impairment(rate_bps=FULL * 8 * 10), seed=1)  # ten full frames a second
    assert dues(queue, [0.0, 0.0, 0.0, 9.0, 9.0]) == pytest.approx([0.1, 0.2, 0.3, 9.1, 9.2])


def test_rate_then_delay() -> None:
    queue = FrameQueue(Impairment(rate_bps=FULL * 8 * 10, delay_ms=1000), seed=1)
    assert dues(queue, [0.0, 0.0, 9.0]) == pytest.approx([1.1, 1.2, 10.1])


def test_the_limit_counts_what_waits_and_not_what_is_under_way() -> None:
    queue = FrameQueue(Impairment(rate_bps=FULL * 8 * 10, delay_ms=60_000, limit_packets=3), seed=1)
    dues(queue, [0.0, 0.0, 0.0])
    assert queue.admit(0.0, FULL) is Drop.OVERFLOW
    assert queue.admit(0.09, FULL) is Drop.OVERFLOW
    assert queue.admit(0.1, FULL) == pytest.approx((60.4,))  # the first has been sent, though it arrives in a minute
    assert queue.admit(0.1, FULL) is Drop.OVERFLOW


def test_without_a_rate_there_is_no_queue_to_overflow() -> None:
    dues(FrameQueue(Impairment(delay_ms=1000, limit_packets=1), seed=1), [0.0] * 1000)


@pytest.mark.parametrize("loss", [0.001, 0.05, 0.3, 1.0])
def test_random_loss(loss: float) -> None:
    fates = outcomes(FrameQueue(Impairment(loss=loss), seed=3), MANY)
    assert share(fates, Drop.LOST) == pytest.approx(loss, rel=0.2 if loss < 0.01 else 0.05)


@pytest.mark.parametrize(("loss", "burst_frames"), [(0.05, 1), (0.05, 8), (0.3, 20), (0.01, 3)])
def test_loss_in_bursts_has_the_mean_length_and_the_same_share(loss: float, burst_frames: float) -> None:
    fates = outcomes(FrameQueue(Impairment(loss=loss, burst_frames=burst_frames), seed=4), 4 * MANY)
    runs = [len(list(run)) for lost, run in groupby(fates, lambda fate: fate is Drop.LOST) if lost]
    assert share(fates, Drop.LOST) == pytest.approx(loss, rel=0.1)
    assert sum(runs) / len(runs) == pytest.approx(burst_frames, rel=0.1)
    if burst_frames == 1:
        assert set(runs) == {1}


def test_bursts_that_let_some_through_lose_the_same_share() -> None:
    fates = outcomes(FrameQueue(Impairment(loss=0.1, burst_frames=10, burst_loss=0.5), seed=5), 4 * MANY)
    assert share(fates, Drop.LOST) == pytest.approx(0.1, rel=0.1)


def test_duplicates_and_overtaking_have_their_shares() -> None:
    fates = outcomes(FrameQueue(Impairment(delay_ms=10, duplicate=0.05, reorder=0.1), seed=6), MANY)
    copies = [fate for fate in fates if not isinstance(fate, Drop) and len(fate) == 2]
    assert len(copies) / MANY == pytest.approx(0.05, rel=0.1)
    at_once = sum(
        fate[0] == pytest.approx(number * 0.001) for number, fate in enumerate(fates) if isinstance(fate, tuple)
    )
    assert at_once / MANY == pytest.approx(0.1, rel=0.1)


def test_a_copy_takes_its_own_place_in_the_queue_or_is_not_made() -> None:
    queue = FrameQueue(Impairment(rate_bps=FULL * 8 * 10, duplicate=1, limit_packets=3), seed=1)
    assert queue.admit(0.0, FULL) == pytest.approx((0.1, 0.2))
    assert queue.admit(0.0, FULL) == pytest.approx((0.3,))
    assert queue.admit(0.0, FULL) is Drop.OVERFLOW


def test_jitter_spreads_evenly_both_ways_and_lets_frames_overtake() -> None:
    times = dues(FrameQueue(Impairment(delay_ms=20, jitter_ms=5), seed=7), [number * 0.001 for number in range(MANY)])
    delays = [due - number * 0.001 for number, due in enumerate(times)]
    assert 0.015 <= min(delays) < 0.0151
    assert 0.0249 < max(delays) <= 0.025
    assert sum(delays) / MANY == pytest.approx(0.02, rel=0.01)
    assert any(later < earlier for earlier, later in pairwise(times))


@given(
    arrivals=st.lists(st.floats(0, 0.01), min_size=2, max_size=200),
    lengths=st.lists(st.integers(60, FULL), min_size=200, max_size=200),
    jitter_ms=st.floats(0, 20),
    seed=st.integers(),
)
def test_a_link_with_a_rate_keeps_the_order_and_the_rate(
    arrivals: list[float], lengths: list[int], jitter_ms: float, seed: int
) -> None:
    queue = FrameQueue(Impairment(rate_bps=10_000_000, delay_ms=20, jitter_ms=jitter_ms), seed=seed)
    now, last = 0.0, 0.0
    for gap, length in zip(arrivals, lengths, strict=False):
        now += gap
        fate = queue.admit(now, length)
        if isinstance(fate, Drop):
            continue
        (due,) = fate
        assert due >= now
        assert due - last >= length * 8 / 10_000_000 - 1e-9
        last = due


def test_blackhole_and_size() -> None:
    queue = FrameQueue(Impairment(mtu_bytes=1280), seed=1)
    assert queue.admit(0.0, 1280 + 14) == (0.0,)
    assert queue.admit(0.0, 1280 + 15) is Drop.OVERSIZE
    queue.change(queue.impairment.merge(Change(blackhole=True)))
    assert queue.admit(0.0, 60) is Drop.BLACKHOLE
    queue.change(queue.impairment.merge(Change(blackhole=False, mtu_bytes=0)))
    assert queue.admit(0.0, FULL) == (0.0,)


def test_a_change_of_the_delay_acts_at_once_even_behind_a_full_queue() -> None:
    queue = FrameQueue(Impairment(rate_bps=FULL * 8 * 10, delay_ms=1000), seed=1)
    assert dues(queue, [0.0, 0.0]) == pytest.approx([1.1, 1.2])
    queue.change(queue.impairment.merge(Change(delay_ms=100)))
    assert dues(queue, [0.0]) == pytest.approx([0.4])


def test_which_frames_are_lost_depends_on_the_seed_and_on_nothing_else() -> None:
    def lost(impairment: Impairment, seed: str, gap_s: float) -> list[int]:
        fates = outcomes(FrameQueue(impairment, seed=seed), 2000, gap_s=gap_s)
        return [number for number, fate in enumerate(fates) if fate is Drop.LOST]

    bare = Impairment(loss=0.1)
    busy = Impairment(loss=0.1, delay_ms=10, jitter_ms=2, duplicate=0.2, reorder=0.1, rate_bps=10_000)
    assert lost(bare, "1/ab", 0.001) == lost(busy, "1/ab", 0.07)
    assert lost(bare, "1/ab", 0.001) != lost(bare, "1/ba", 0.001)


def test_equal_seeds_give_equal_times() -> None:
    impairment = Impairment(loss=0.1, delay_ms=10, jitter_ms=2, duplicate=0.2, reorder=0.1, rate_bps=1_000_000)
    first, second = (outcomes(FrameQueue(impairment, seed=8), 2000) for _ in range(2))
    assert first == second
