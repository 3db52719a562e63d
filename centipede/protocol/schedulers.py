"""Schedulers: all there are, by their names in the configuration."""

from __future__ import annotations

from centipede.protocol.aggregate import Aggregate
from centipede.protocol.scheduler import Adaptive, Fastest, Redundant, Scheduler

SCHEDULERS: dict[str, type[Scheduler]] = {
    scheduler.name: scheduler for scheduler in (Redundant, Fastest, Adaptive, Aggregate)
}
"""Every scheduler by its name in the configuration."""


def create(name: str, copies: int | None) -> Scheduler:
    """A scheduler by name. Raises ValueError for an unknown name and for fewer copies than 1."""
    if name not in SCHEDULERS:
        raise ValueError(f"{name!r} is no scheduler; there are {', '.join(sorted(SCHEDULERS))}")
    if copies is not None and copies < 1:
        raise ValueError(f"a packet needs at least 1 copy, not {copies}")
    return SCHEDULERS[name](copies)
