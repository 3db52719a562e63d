"""The search for the highest rate, over a link that is only arithmetic."""

from __future__ import annotations

import pytest

from lab.probes.rate import RateSpec, Trial, search

SPEC = RateSpec(host="192.0.2.1")


def link(capacity: float, sender: float, trials: list[int] | None = None) -> object:
    """Return an attempt over a link that loses all beyond ``capacity``, by a sender that offers ``sender`` at most."""

    def attempt(rate: int) -> Trial:
        if trials is not None:
            trials.append(rate)
        offered = min(rate or sender, sender)
        lost = max(0.0, 1.0 - capacity / offered)
        return Trial(rate=rate, offered_per_s=offered, lost=lost, kept_pace=not rate or offered >= rate * 0.95)

    return attempt


@pytest.mark.parametrize("capacity", [9_000.0, 40_000.0, 90_000.0, 300_000.0, 590_000.0])
def test_the_capacity_is_found_to_the_resolution(capacity: float) -> None:
    trials: list[int] = []
    found = search(link(capacity, 600_000.0, trials), SPEC)  # type: ignore[arg-type]
    assert capacity / SPEC.resolution <= found.datagrams_per_s <= capacity * 1.002
    assert not found.limited_by_sender
    assert len(trials) <= SPEC.most_trials


def test_a_link_faster_than_the_sender_gives_a_lower_bound() -> None:
    found = search(link(1e9, 350_000.0), SPEC)  # type: ignore[arg-type]
    assert found.limited_by_sender
    assert found.datagrams_per_s == 350_000.0
    assert len(found.trials) == 1


def test_a_link_that_always_loses_gives_nothing() -> None:
    found = search(link(10.0, 350_000.0), SPEC)  # type: ignore[arg-type]
    assert found.datagrams_per_s == 0.0
