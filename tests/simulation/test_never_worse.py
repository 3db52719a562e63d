"""Scheduler aggregate beside the best single path, in memory: lab/transfer_model.py."""

from __future__ import annotations

from functools import cache
from itertools import product

import pytest

from lab.impairment import Impairment
from lab.transfer_model import TransferModel

SECONDS = 20.0
NEAR = Impairment(rate_bps=12_000_000, delay_ms=10)
CASES = {
    f"{rate_bps // 10**6} Mbit/s, {delay_ms} ms, jitter {jitter_ms} ms, loss {loss:.0%}": Impairment(
        rate_bps=rate_bps, delay_ms=delay_ms, jitter_ms=jitter_ms, loss=loss
    )
    for rate_bps, delay_ms, jitter_ms, loss in product((12_000_000, 4_000_000), (10, 40), (0, 5), (0.0, 0.01))
}
"""What the other link is like."""


@cache
def alone(link: Impairment, streams: int) -> float:
    return TransferModel([link], "fastest", streams=streams).run(SECONDS)


@pytest.mark.parametrize(("case", "streams"), list(product(CASES, (1, 4))))
def test_two_links_are_never_worse_than_the_better_one(case: str, streams: int) -> None:
    far = CASES[case]
    together = TransferModel([NEAR, far], "aggregate", streams=streams).run(SECONDS)
    assert together >= 0.95 * max(alone(NEAR, streams), alone(far, streams))


def test_what_overflows_a_short_queue_is_not_held_against_its_path() -> None:
    near = Impairment(rate_bps=12_000_000, delay_ms=10, limit_packets=12)
    far = Impairment(rate_bps=12_000_000, delay_ms=30)
    assert TransferModel([near, far], "aggregate").run(SECONDS) >= 0.95 * alone(near, 1)


@pytest.mark.parametrize("far_bps", [12_000_000, 4_000_000])
def test_rates_add_up(far_bps: int) -> None:
    far = Impairment(rate_bps=far_bps, delay_ms=30)
    together = TransferModel([NEAR, far], "aggregate", streams=4).run(SECONDS)
    assert together >= 0.9 * (alone(NEAR, 4) + alone(far, 4))


def test_a_transfer_is_repeated_exactly_by_its_seed() -> None:
    far = Impairment(rate_bps=4_000_000, delay_ms=30, jitter_ms=5, loss=0.01)
    first, again, other = (TransferModel([NEAR, far], "aggregate", seed=seed).run(3.0) for seed in (1, 1, 2))
    assert first == again != other
