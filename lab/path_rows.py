"""The paths of a tunnel over the time of a run, as rows of a chart.

Owns which paths get a row, how both ends' views of one path come together, and how much each end sends on it. Must not
know how rows are drawn. Invariant: every span shown was seen by the end that it is shown for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec

from lab.results import RunResult
from lab.tracks import PathTrack, Sample, Span

MOST_ROWS = 8
"""As many address pairs get a row of their own; if there are more, those between the same links take turns in one."""
USABLE = "usable"


class Half(NamedTuple):
    """A path as one end sees it, and what this end sends on it, in Mbit/s from one edge to the next."""

    spans: list[Span]
    edges: list[float]
    rates_mbps: list[float]


class PathRow(NamedTuple):
    """A path, or several that took turns, from both ends."""

    words: str
    details: str
    left: Half
    right: Half


class PathPanel(NamedTuple):
    """The paths of one contender."""

    contender: str
    title: str
    details: str
    rows: list[PathRow]


class _Pair(NamedTuple):
    """The tracks of both ends that are one path; an end behind a NAT sees other addresses and stands alone."""

    left: PathTrack | None
    right: PathTrack | None

    @property
    def both(self) -> list[PathTrack]:
        return [track for track in self if track is not None]

    @property
    def links(self) -> tuple[str | None, str | None]:
        return (self.left.link if self.left else None, self.right.link if self.right else None)

    @property
    def began_s(self) -> float:
        """When one of the ends first found it usable."""
        return min(span.from_s for track in self.both for span in track.spans if span.state == USABLE)

    @property
    def ever_usable(self) -> bool:
        return any(span.state == USABLE for track in self.both for span in track.spans)


def path_panels(results: Sequence[RunResult]) -> Iterator[PathPanel]:
    """Yield a panel for every contender that told of its paths."""
    for result in results:
        pairs = list(_pairs(result.paths))
        used = [pair for pair in pairs if pair.ever_usable]
        if not used:
            continue
        unused = len(pairs) - len(used)
        details = f"{unused} more never answered" if unused else ""
        rows = _turns(used) if len(used) > MOST_ROWS else _singles(used)
        yield PathPanel(result.tunnel.name, f"Paths of {result.tunnel.label}", details, list(rows))


def _pairs(tracks: Sequence[PathTrack]) -> Iterator[_Pair]:
    rights = {(track.remote, track.local): track for track in tracks if track.end == "right"}
    for left in (track for track in tracks if track.end == "left"):
        yield _Pair(left, rights.pop((left.local, left.remote), None))
    yield from (_Pair(None, right) for right in rights.values())


def _singles(pairs: Sequence[_Pair]) -> Iterator[PathRow]:
    ports = {
        address.rpartition(":")[2] for pair in pairs for track in pair.both for address in (track.local, track.remote)
    }
    for pair in pairs:
        left, right = _addresses(pair)
        if len(ports) == 1:
            left, right = (address.rpartition(":")[0].strip("[]") for address in (left, right))
        words = _link_words(pair.links) + _seen_by(pair)
        yield PathRow(words, f"{left} – {right}", _half([pair.left]), _half([pair.right]))


def _turns(pairs: Sequence[_Pair]) -> Iterator[PathRow]:
    groups: dict[tuple[str | None, str | None], list[_Pair]] = {}
    for pair in sorted(pairs, key=lambda pair: pair.began_s):
        groups.setdefault(pair.links, []).append(pair)
    for links, group in groups.items():
        details = (
            f"{len(group)} address pairs, the newest shown" if len(group) > 1 else " – ".join(_addresses(group[0]))
        )
        yield PathRow(
            _link_words(links), details, _half([pair.left for pair in group]), _half([pair.right for pair in group])
        )


def _addresses(pair: _Pair) -> tuple[str, str]:
    if pair.left is not None:
        return pair.left.local, pair.left.remote
    assert pair.right is not None
    return pair.right.remote, pair.right.local


def _link_words(links: tuple[str | None, str | None]) -> str:
    return " – ".join(dict.fromkeys(link for link in links if link is not None))


def _seen_by(pair: _Pair) -> str:
    """Say which end a path is told of by, if not by both."""
    return "" if len(pair.both) == 2 else f", {pair.both[0].end}'s view"


def _half(tracks: Sequence[PathTrack | None]) -> Half:
    """Return an end's view of paths that took turns: each until the next one is usable."""
    spans: list[Span] = []
    rates: list[tuple[float, float, float]] = []
    for track in tracks:
        if track is None:
            continue
        begin_s = min((span.from_s for span in track.spans if span.state == USABLE), default=None)
        if spans and begin_s is None:
            continue
        if spans and begin_s is not None:
            spans = [_until(span, begin_s) for span in spans if span.from_s < begin_s]
            rates = [rate for rate in rates if rate[0] < begin_s]
        first_s = begin_s if spans and begin_s is not None else float("-inf")
        spans += [span for span in track.spans if span.from_s >= first_s]
        rates += [rate for rate in _rates(track.samples) if rate[0] >= first_s]
    return Half(spans, *_steps(rates))


def _until(span: Span, end_s: float) -> Span:
    return msgspec.structs.replace(span, to_s=min(span.to_s, end_s))


def _rates(samples: Sequence[Sample]) -> Iterator[tuple[float, float, float]]:
    """Yield from when to when how much was sent; an end that has begun to count anew says nothing of before."""
    for before, after in pairwise(samples):
        sent = after.tx_bytes - before.tx_bytes
        if sent >= 0 and after.at_s > before.at_s:
            yield before.at_s, after.at_s, sent * 8e-6 / (after.at_s - before.at_s)


def _steps(rates: Sequence[tuple[float, float, float]]) -> tuple[list[float], list[float]]:
    """Return edges and values; where nothing is known nothing was sent."""
    edges: list[float] = []
    values: list[float] = []
    for from_s, to_s, rate in rates:
        if not edges:
            edges.append(from_s)
        elif from_s > edges[-1]:
            edges.append(from_s)
            values.append(0.0)
        edges.append(max(to_s, edges[-1]))
        values.append(rate)
    return edges, values
