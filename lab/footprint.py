"""The footprint of an end's programs: memory and open descriptors, again and again while a run goes on.

Owns the samples and what they come to. Must not know tunnels or scenarios. A leak is what grows after programs have
warmed up, so that the second quarter of a run is held against the last one: memory by the least that was held in
each, for what comes and goes is none, and descriptors by the most, for sockets go with links that are down.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import msgspec
import psutil

INTERVAL_S = 0.5


class Sample(NamedTuple):
    """What the programs of an end held at a moment, all together."""

    at_s: float
    memory_bytes: int
    """Resident."""
    descriptors: int


class Footprint(msgspec.Struct, frozen=True, kw_only=True):
    """What an end's programs held over a run."""

    end: str
    memory_bytes: int
    """At most."""
    descriptors: int
    """At most."""
    memory_grown_bytes: int | None
    """From the second quarter of the run to the last; None where a quarter has no sample."""
    descriptors_grown: int | None
    """The same of descriptors."""
    samples: list[Sample]


class FootprintLog:
    """What was seen of an end's programs."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []

    def add(self, now: float, pids: Iterable[int]) -> None:
        """Look at these programs now, unless that was done just before or there are none."""
        if self._samples and now < self._samples[-1].at_s + INTERVAL_S:
            return
        memory_bytes = descriptors = 0
        for pid in pids:
            try:
                process = psutil.Process(pid)
                memory_bytes += process.memory_info().rss
                descriptors += process.num_fds()
            except psutil.Error:  # it has just ended
                return
        if descriptors:
            self._samples.append(Sample(now, memory_bytes, descriptors))

    def footprint(self, end: str, zero: float) -> Footprint | None:
        """Return what was seen, in seconds after ``zero``; None if nothing was."""
        if not self._samples:
            return None
        return come_to(end, [each._replace(at_s=round(each.at_s - zero, 3)) for each in self._samples])


def come_to(end: str, samples: list[Sample]) -> Footprint:
    """Return what the samples of a run, at least one, come to. Their times count from its beginning."""
    length_s = samples[-1].at_s
    early = [each for each in samples if length_s / 4 <= each.at_s < length_s / 2]
    late = [each for each in samples if 3 * length_s / 4 <= each.at_s]
    return Footprint(
        end=end,
        memory_bytes=max(each.memory_bytes for each in samples),
        descriptors=max(each.descriptors for each in samples),
        memory_grown_bytes=_grown(min, [e.memory_bytes for e in early], [e.memory_bytes for e in late]),
        descriptors_grown=_grown(max, [e.descriptors for e in early], [e.descriptors for e in late]),
        samples=samples,
    )


def _grown(measure: Callable[[Sequence[int]], int], early: Sequence[int], late: Sequence[int]) -> int | None:
    return measure(late) - measure(early) if early and late else None
