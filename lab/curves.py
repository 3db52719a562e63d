"""What a time chart shows, as plain figures read from the results of one scenario's runs.

Owns the way from results to lines, strips and bars over the time of a run. Must not know how they are drawn; the paths'
part is in lab/path_rows.py. Invariant: everything comes from the results; times are seconds after a run's time zero,
when traffic could begin.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeVar

import msgspec

from lab.comparison import render
from lab.errors import LabError
from lab.path_rows import PathPanel, path_panels
from lab.probes.datagrams import StreamResult
from lab.probes.iperf3 import Transfer
from lab.probes.ping import RoundTrips
from lab.probes.stalls import FlowResult
from lab.results import ProbeRecord, RunResult, Verdict

ORDER = ("centipede", "centipede-native", "centipede-python", "wireguard-go", "wireguard-kernel", "plain")
"""Contenders from top to bottom and from left to right; others follow."""
_AFTER_LAST_EVENT_S = 1.0
_T = TypeVar("_T", bound=msgspec.Struct)


class Contender(NamedTuple):
    """Who took part."""

    name: str
    label: str
    words: str
    """What it came to."""


class Mark(NamedTuple):
    """What happened at a moment."""

    at_s: float
    words: str


class Line(NamedTuple):
    """Values of a contender over time: from ``edges[i]`` to ``edges[i + 1]`` it was ``values[i]``, NaN if unknown."""

    contender: str
    edges: list[float]
    values: list[float]
    peaks: list[float]
    """The highest inside each interval; empty where the values are all there is."""
    words: str
    """The figure of the whole run."""
    stall: tuple[float, float] | None = None
    """From when to when nothing came for longest, where that is known."""


class LinePanel(NamedTuple):
    """Lines of all contenders for one probe."""

    title: str
    details: str
    logarithmic: bool
    lines: list[Line]


class Strip(NamedTuple):
    """What share of a contender's datagrams was lost, and what share came twice, from one edge to the next."""

    contender: str
    edges: list[float]
    lost: list[float]
    doubled: list[float]
    words: str


class StripPanel(NamedTuple):
    """Strips of all contenders for one probe."""

    title: str
    details: str
    strips: list[Strip]


Panel = LinePanel | StripPanel | PathPanel


class TimeChart(NamedTuple):
    """All that is drawn of a scenario."""

    title: str
    note: str
    contenders: list[Contender]
    end_s: float
    marks: list[Mark]
    panels: list[Panel]


def place(tunnel: str) -> tuple[int, str]:
    """Return a sort key: where a tunnel stands among others."""
    return (ORDER.index(tunnel) if tunnel in ORDER else len(ORDER), tunnel)


def read(results: Sequence[RunResult]) -> TimeChart:
    """Return what there is to draw of runs of one scenario, one for each contender. Raises LabError if it cannot be."""
    if not results:
        raise LabError("there are no results to draw")
    ordered = sorted(results, key=lambda result: place(result.tunnel.name))
    return TimeChart(
        title=ordered[0].title,
        note=_note(ordered[0]),
        contenders=[Contender(each.tunnel.name, each.tunnel.label, verdict_words(each)) for each in ordered],
        end_s=_end(ordered),
        marks=list(_marks(ordered)),
        panels=[*_probe_panels(ordered), *path_panels(ordered)],
    )


def verdict_words(result: RunResult) -> str:
    """Return what a run came to, in a word or two."""
    if result.verdict is Verdict.MEASURED and result.reason is not None and not any(_answers(result)):
        return "did not run"
    return result.verdict.value


def _answers(result: RunResult) -> Iterator[bool]:
    return (probe.result is not None for probe in result.probes.values())


def _note(result: RunResult) -> str:
    machine = result.machine
    commit = f"commit {machine.git['commit'][:10]}" if "commit" in machine.git else ""
    parts = (
        f"{result.scenario}, {result.began_at[:10]}",
        f"repetition {result.repetition}, seed {result.seed}",
        f"{machine.processor or machine.architecture}, {machine.cores} cores, Linux {machine.kernel}",
        commit,
    )
    return "; ".join(part for part in parts if part)


def _end(results: Sequence[RunResult]) -> float:
    """Return where the time axis ends: with the last probe by plan, or just after the last event."""
    ends = [event.ended_s + _AFTER_LAST_EVENT_S for result in results for event in result.timeline]
    settings = (probe.settings for result in results for probe in result.probes.values())
    ends += [float(each.get("at", 0.0)) + float(each.get("duration_s", 0.0)) for each in settings]
    return max((end for end in ends if end > 0), default=1.0)


def _marks(results: Sequence[RunResult]) -> Iterator[Mark]:
    """Yield the events of a run that has them all. Those of one moment are one."""
    moments: dict[float, list[str]] = {}
    for event in max((result.timeline for result in results), key=len):
        moments.setdefault(event.planned_s, []).append(event.title)
    for at_s, titles in sorted(moments.items()):
        yield Mark(at_s, ", ".join(dict.fromkeys(titles)))


def _probe_panels(results: Sequence[RunResult]) -> Iterator[Panel]:
    probes = {name: probe for result in results for name, probe in sorted(result.probes.items())}
    ordered = sorted(
        probes.items(), key=lambda item: (item[1].kind not in ("tcp", "flow"), item[1].kind != "ping", item[0])
    )
    for name, probe in ordered:
        which = _which(name, probe)
        if probe.kind == "tcp":
            yield LinePanel("TCP, Mbit/s", which, False, list(_lines(results, name, Transfer, _throughput)))
        elif probe.kind == "flow":
            which += "; thick: longest stall"
            yield LinePanel("TCP, Mbit/s", which, False, list(_lines(results, name, FlowResult, _flow)))
        elif probe.kind == "ping":
            yield LinePanel("Round trip, ms", which, True, list(_lines(results, name, RoundTrips, _round_trip)))
    streams = [(name, probe) for name, probe in ordered if probe.kind == "datagrams"]
    if streams and not any(probe.kind == "ping" for probe in probes.values()):
        name, probe = streams[0]
        lines = list(_lines(results, name, StreamResult, _delay))
        yield LinePanel("Longest delay one way, ms", _which(name, probe), True, lines)
    for name, probe in streams:
        if strips := list(_strips(results, name)):
            yield StripPanel("Datagrams lost", _which(name, probe), strips)


def _which(name: str, probe: ProbeRecord) -> str:
    far = "right" if probe.sender == "left" else "left"
    details = [f"{probe.settings['rate']} a second"] if "rate" in probe.settings else []
    details += ["IPv6"] if probe.settings.get("version") == 6 else []
    return f"{name}: " + ", ".join([f"{probe.sender} to {far}", *details])


def _found(results: Sequence[RunResult], name: str, kind: type[_T]) -> Iterator[tuple[RunResult, float, _T]]:
    """Yield what a probe gave in each run that has it, and when its traffic began."""
    for result in results:
        probe = result.probes.get(name)
        if probe is None or probe.result is None:
            continue
        began_s = probe.began_s if probe.traffic_began_s is None else probe.traffic_began_s
        try:
            yield result, began_s, msgspec.convert(probe.result, kind)
        except msgspec.ValidationError as error:
            raise LabError(
                f"{result.scenario} through {result.tunnel.name}, repetition {result.repetition}, {name}: {error}"
            ) from None


def _lines(
    results: Sequence[RunResult], name: str, kind: type[_T], make: Callable[[str, float, _T], Line]
) -> Iterator[Line]:
    for result, began_s, found in _found(results, name, kind):
        line = make(result.tunnel.name, began_s, found)
        if line.values:
            yield line


def _throughput(contender: str, began_s: float, found: Transfer) -> Line:
    return Line(
        contender,
        edges(began_s, [each.start_s for each in found.series]),
        [each.bits_per_second / 1e6 for each in found.series],
        [],
        f"mean {render(found.bits_per_second / 1e6)}",
    )


def _flow(contender: str, began_s: float, found: FlowResult) -> Line:
    stall_s = began_s + found.longest_stall_at_s
    return Line(
        contender,
        edges(began_s, [each.start_s for each in found.series]),
        [each.bits_per_second / 1e6 for each in found.series],
        [],
        f"stall {_seconds(found.longest_stall_s)}",
        (stall_s, stall_s + found.longest_stall_s),
    )


def _round_trip(contender: str, began_s: float, found: RoundTrips) -> Line:
    unanswered = sum(each.sent - each.answered for each in found.series)
    return Line(
        contender,
        edges(began_s, [each.start_s for each in found.series]),
        [_milliseconds(each.median_us) for each in found.series],
        [_milliseconds(each.max_us) for each in found.series],
        f"median {render(found.median_us / 1e3)}" + (f", {unanswered:,} lost" if unanswered else ""),
    )


def _delay(contender: str, began_s: float, found: StreamResult) -> Line:
    return Line(
        contender,
        edges(began_s, [each.start_s for each in found.series]),
        [_milliseconds(each.delay_max_us if each.received else None) for each in found.series],
        [],
        f"median of all {render(found.delay_us['median'] / 1e3)}" if found.delay_us else "nothing came",
    )


def _strips(results: Sequence[RunResult], name: str) -> Iterator[Strip]:
    for result, began_s, found in _found(results, name, StreamResult):
        yield Strip(
            result.tunnel.name,
            edges(began_s, [each.start_s for each in found.series]),
            [1.0 - each.received / each.planned if each.planned else 0.0 for each in found.series],
            [each.duplicated / each.planned if each.planned else 0.0 for each in found.series],
            f"{found.lost:,} lost"
            + (f", {found.duplicated:,} twice" if found.duplicated else "")
            + f", gap {_seconds(found.longest_gap_s)}",
        )


def edges(began_s: float, starts_s: Sequence[float]) -> list[float]:
    """Return where intervals begin and, the last being as long as the one before, end."""
    if not starts_s:
        return []
    length_s = starts_s[-1] - starts_s[-2] if len(starts_s) > 1 else 1.0
    return [began_s + start_s for start_s in (*starts_s, starts_s[-1] + length_s)]


def _milliseconds(time_us: float | None) -> float:
    return math.nan if time_us is None else time_us / 1e3


def _seconds(time_s: float) -> str:
    return f"{time_s * 1e3:.0f} ms" if time_s < 1.0 else f"{time_s:.1f} s"
