"""Path tracks: what became of each path of a tunnel in the course of a run, as one end saw it.

Owns the form in which results keep it, and how it is made of moments. Must not know where the moments come from. A
track is small however long the run: states are kept where they change, figures at most ``MOST_SAMPLES`` times.

Invariant: the spans of a track are in order and do not overlap; between two of them the path was not there, or nobody
could be asked.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import msgspec

MOST_SAMPLES = 400
_SAMPLE_S = 0.45
"""Figures are kept this far apart, and ever farther in long runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PathReport:
    """A path at one moment, by what its end tells."""

    local: str
    remote: str
    state: str
    carries: bool
    """Whether data goes over it now."""
    rtt_ms: float | None
    loss: float | None
    """Share of what was sent on it that did not arrive, 0 to 1."""
    tx_bytes: int
    rx_bytes: int


class Span(msgspec.Struct, frozen=True, array_like=True):
    """A time in which the state of a path did not change."""

    from_s: float
    to_s: float
    state: str
    carries: bool


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """Figures of a path at one moment; bytes count from whenever the end began to count."""

    at_s: float
    rtt_ms: float | None
    loss: float | None
    tx_bytes: int
    rx_bytes: int


class PathTrack(msgspec.Struct, frozen=True, kw_only=True):
    """One path in the course of a run. Times are those of the run."""

    end: str
    """``left`` or ``right``."""
    local: str
    remote: str
    link: str | None = None
    """The link that has the local address."""
    spans: list[Span]
    samples: list[Sample]


@dataclass(slots=True)
class _Track:
    spans: list[Span] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    spacing_s: float = _SAMPLE_S
    seen: bool = False
    """Whether the path was there when the end was last asked."""

    def add(self, now: float, report: PathReport) -> None:
        last = self.spans[-1] if self.seen else None
        if last is not None:
            # what is seen now may have begun any time since the last look; until now the old state is assumed
            self.spans[-1] = last = msgspec.structs.replace(last, to_s=now)
        if last is None or (last.state, last.carries) != (report.state, report.carries):
            self.spans.append(Span(now, now, report.state, report.carries))
        self.seen = True
        if not self.samples or now - self.samples[-1].at_s >= self.spacing_s:
            self.samples.append(Sample(now, report.rtt_ms, report.loss, report.tx_bytes, report.rx_bytes))
        if len(self.samples) > MOST_SAMPLES:
            del self.samples[1::2]
            self.spacing_s *= 2


class TrackLog:
    """The tracks of one end's paths, in the making."""

    def __init__(self) -> None:
        self._tracks: dict[tuple[str, str], _Track] = {}

    def add(self, now: float, reports: Iterable[PathReport] | None) -> None:
        """Take in the paths there are ``now``, None if the end did not answer."""
        seen = {(report.local, report.remote): report for report in reports or ()}
        for key in self._tracks.keys() - seen.keys():
            self._tracks[key].seen = False
        for key, report in seen.items():
            self._tracks.setdefault(key, _Track()).add(now, report)

    def tracks(self, end: str, zero: float) -> list[PathTrack]:
        """Return what was taken in, in seconds after ``zero``, in the order in which the paths appeared."""
        return [
            PathTrack(
                end=end,
                local=local,
                remote=remote,
                spans=[
                    msgspec.structs.replace(span, from_s=round(span.from_s - zero, 3), to_s=round(span.to_s - zero, 3))
                    for span in track.spans
                ],
                samples=[_relative(sample, zero) for sample in track.samples],
            )
            for (local, remote), track in self._tracks.items()
        ]


def _relative(sample: Sample, zero: float) -> Sample:
    return Sample(
        round(sample.at_s - zero, 3),
        None if sample.rtt_ms is None else round(sample.rtt_ms, 3),
        None if sample.loss is None else round(sample.loss, 5),
        sample.tx_bytes,
        sample.rx_bytes,
    )
