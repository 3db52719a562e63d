"""The highest rate of a datagram stream at which nearly nothing is lost, found by trying.

A machine that is also used by others gives such a search a wide spread: one hiccup at a rate that would have passed
sends it downwards. Repetitions and their median belong to the caller.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from lab.host import Host
from lab.probes.datagrams import DatagramProbe
from lab.probes.stream import StreamSpec

_KEPT_PACE = 1.05


class RateSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What is searched for."""

    host: str
    port: int = 5300
    size: int = 64
    """Bytes of UDP payload."""
    largest_loss: float = 0.001
    """Share that may be lost."""
    duration_s: float = 0.5
    """Length of one trial."""
    lowest: int = 2_000
    ceiling: int = 1_500_000
    """Datagrams a second that no trial exceeds."""
    resolution: float = 1.1
    """The search ends when the lowest rate that failed is at most this many times the highest that passed."""
    most_trials: int = 9
    """It ends in any case after so many; the figure is then the highest rate that passed."""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One stream of the search."""

    rate: int
    """Datagrams a second asked of the sender; 0 for as many as it can."""
    offered_per_s: float
    """What the sender did."""
    lost: float
    """Share lost."""
    kept_pace: bool
    """Whether the sender sent as many as it was asked, as fast as it was asked."""


class HighestRate(msgspec.Struct, frozen=True, kw_only=True):
    """What was found."""

    datagrams_per_s: float
    """Highest rate that passed; 0 if none did."""
    limited_by_sender: bool
    """Whether nothing was lost even at the most that the sender could offer: the figure is a lower bound."""
    trials: list[Trial]


def highest_rate(sender: Host, receiver: Host, spec: RateSpec, directory: Path) -> HighestRate:
    """Search between two hosts."""

    def attempt(rate: int) -> Trial:
        asked = rate or spec.ceiling
        stream = StreamSpec(
            host=spec.host,
            port=spec.port,
            rate=rate,
            count=max(1, round(asked * spec.duration_s)),
            size=spec.size,
            interval_s=spec.duration_s,
            longest_s=spec.duration_s if rate == 0 else None,
            quiet_s=0.1,
            nap_s=0.0005,
        )
        result = DatagramProbe(sender, receiver, stream, directory).run()
        kept = rate == 0 or (result.complete and result.seconds <= spec.duration_s * _KEPT_PACE)
        return Trial(
            rate=rate,
            offered_per_s=result.sent / result.seconds,
            lost=result.lost / max(1, result.sent),
            kept_pace=kept,
        )

    return search(attempt, spec)


def search(attempt: Callable[[int], Trial], spec: RateSpec) -> HighestRate:
    """Find the highest rate for which ``attempt`` loses no more than allowed.

    The first attempt is unpaced; it bounds the search, and what came through of it is the first guess.
    """
    first = attempt(0)
    trials = [first]
    if first.lost <= spec.largest_loss:
        return HighestRate(datagrams_per_s=first.offered_per_s, limited_by_sender=True, trials=trials)
    low, high = 0.0, first.offered_per_s
    guess = first.offered_per_s * (1.0 - first.lost)
    while len(trials) < spec.most_trials and high > spec.lowest and high > max(low, 1.0) * spec.resolution:
        rate = round(min(max(guess, spec.lowest), high / spec.resolution**0.5))
        trial = attempt(rate)
        trials.append(trial)
        if trial.kept_pace and trial.lost <= spec.largest_loss:
            low = float(rate)
        else:
            high = float(rate)
        # between two bounds their geometric mean; without a lower one, half
        guess = (low * high) ** 0.5 if low else high / 2
    return HighestRate(datagrams_per_s=low, limited_by_sender=False, trials=trials)
