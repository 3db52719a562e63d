"""The report of scenario runs: which tunnel passed which scenario, and what happened in each.

Made from the result files below one directory, and the logs that lie beside them. Owns the verdict of several
repetitions as one and the page, which needs nothing but itself; the time charts in it come from lab/timechart.py.
"""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import click
import jinja2

from lab.comparison import render
from lab.curves import place
from lab.errors import LabError
from lab.machine import Machine
from lab.palette import colour
from lab.results import FILE, RunResult, Verdict, load
from lab.timechart import render_svg

PAGE = "report.html"
_WORST_FIRST = (Verdict.FAILED, Verdict.VOID, Verdict.PASSED, Verdict.MEASURED, Verdict.UNAVAILABLE)
_LOG_TAIL_LINES = 25
_LOG_TAIL_BYTES = 8192
_LONGEST_REASON = 160


class Log(NamedTuple):
    """A log beside a result."""

    path: str
    """Seen from the run's directory."""
    tail: str
    """Its last lines, where they may say why a run failed."""


class Found(NamedTuple):
    """A result and what lies beside it."""

    directory: str
    """Seen from the report."""
    result: RunResult
    logs: list[Log]


class Tunnel(NamedTuple):
    """A column."""

    name: str
    label: str
    colour: str


class Cell(NamedTuple):
    """All repetitions of one scenario through one tunnel."""

    verdict: str
    words: str


class Value(NamedTuple):
    """A figure found in one repetition."""

    words: str
    met: bool


class Figure(NamedTuple):
    """An expectation, and what each tunnel came to."""

    name: str
    bound: str
    values: list[list[Value]]


class Happening(NamedTuple):
    """An event, and when it happened in each run."""

    at_s: str
    title: str
    began: list[str]


class Chart(NamedTuple):
    """A time chart as part of the page."""

    repetition: int
    uri: str
    alt: str


class Row(NamedTuple):
    """One scenario."""

    anchor: str
    name: str
    title: str
    seed: int
    digest: str
    cells: list[Cell | None]
    tunnels: list[Tunnel]
    """Those it ran through."""
    figures: list[Figure]
    events: list[Happening]
    charts: list[Chart]
    runs: list[Found]


def read_runs(directory: Path) -> list[Found]:
    """Return the results below a directory in the order of scenarios, tunnels and repetitions.

    Raises LabError if there are none, or one that cannot be read.
    """
    paths = sorted(directory.glob(f"*/*/*/{FILE}"))
    if not paths:
        raise LabError(f"there are no results of scenarios in {directory}")
    runs = [_found(directory, path) for path in paths]
    began = {
        run.result.scenario: run.result.began_at for run in sorted(runs, key=lambda run: run.result.began_at)[::-1]
    }
    return sorted(
        runs,
        key=lambda run: (
            began[run.result.scenario],
            run.result.scenario,
            place(run.result.tunnel.name),
            run.result.repetition,
        ),
    )


def cell(results: Sequence[RunResult]) -> Cell | None:
    """Return what repetitions of one run come to: the worst that happened, how often, and why. None for none."""
    if not results:
        return None
    verdict = min((result.verdict for result in results), key=_WORST_FIRST.index)
    alike = [result for result in results if result.verdict is verdict]
    words = [f"{len(alike)} of {len(results)} runs"] if len(results) > 1 else []
    judged = [judgement for result in results for judgement in result.judgements]
    if judged:
        words.append(f"{sum(judgement.met for judgement in judged)} of {len(judged)} met")
    reasons = list(dict.fromkeys(result.reason for result in alike if result.reason))
    words += [_shortened(reason) for reason in reasons[:1]]
    return Cell(verdict.value, "; ".join(words))


def figures(tunnels: Sequence[Sequence[RunResult]]) -> Iterator[Figure]:
    """Yield the expectations of a scenario with what was found, given the repetitions of each tunnel."""
    expected = dict.fromkeys(
        (judgement.figure, judgement.bound)
        for results in tunnels
        for result in results
        for judgement in result.judgements
    )
    for figure, bound in expected:
        yield Figure(
            figure,
            bound,
            [
                [
                    Value(_number(judgement.found), judgement.met)
                    for result in results
                    for judgement in result.judgements
                    if (judgement.figure, judgement.bound) == (figure, bound)
                ]
                for results in tunnels
            ],
        )


def write_report(directory: Path, *, png: bool = False, anew: bool = True) -> Path:
    """Write the page and the time charts into a directory of results, and return the page.

    Not ``anew``, time charts that are younger than their results stay as they are. Raises LabError if there are no
    results, or one that cannot be read.
    """
    runs = read_runs(directory)
    page = directory / PAGE
    page.write_text(_page(directory, runs, png=png, anew=anew))
    return page


def _page(directory: Path, runs: Sequence[Found], *, png: bool, anew: bool) -> str:
    tunnels = _tunnels(runs)
    scenarios: dict[str, list[Found]] = {}
    for run in runs:
        scenarios.setdefault(run.result.scenario, []).append(run)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lab"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["figure"] = render
    totals = Counter(run.result.verdict for run in runs)
    return environment.get_template("matrix.html.j2").render(
        began_at=min(run.result.began_at for run in runs),
        runs=len(runs),
        totals={verdict.value: totals[verdict] for verdict in Verdict if totals[verdict]},
        tunnels=tunnels,
        rows=[
            _row(directory, f"scenario-{number}", found, tunnels, png=png, anew=anew)
            for number, found in enumerate(scenarios.values(), 1)
        ],
        machines=_machines(runs),
    )


def _row(directory: Path, anchor: str, runs: list[Found], tunnels: Sequence[Tunnel], *, png: bool, anew: bool) -> Row:
    by_tunnel: dict[str, list[RunResult]] = {}
    for run in runs:
        by_tunnel.setdefault(run.result.tunnel.name, []).append(run.result)
    first = runs[0].result
    return Row(
        anchor=anchor,
        name=first.scenario,
        title=first.title,
        seed=first.seed,
        digest=first.scenario_sha256,
        cells=[cell(by_tunnel.get(tunnel.name, ())) for tunnel in tunnels],
        tunnels=[tunnel for tunnel in tunnels if tunnel.name in by_tunnel],
        figures=list(figures([by_tunnel[tunnel.name] for tunnel in tunnels if tunnel.name in by_tunnel])),
        events=list(_events(runs)),
        charts=list(_charts(directory, runs, png=png, anew=anew)),
        runs=runs,
    )


def _charts(directory: Path, runs: Sequence[Found], *, png: bool, anew: bool) -> Iterator[Chart]:
    """Draw a time chart for each repetition, write it and yield it. A repetition in which nothing ran has none."""
    for repetition in sorted({run.result.repetition for run in runs}):
        files = [directory / run.directory / FILE for run in runs if run.result.repetition == repetition]
        chosen = [run.result for run in runs if run.result.repetition == repetition]
        if not any(result.probes for result in chosen):
            continue
        name = f"timechart-{repetition}"
        where = directory / chosen[0].scenario
        drawn = where / f"{name}.svg"
        if anew or not _younger(drawn, files):
            drawn.write_bytes(render_svg(chosen, where / f"{name}.png" if png else None))
        yield Chart(
            repetition,
            f"data:image/svg+xml;base64,{base64.b64encode(drawn.read_bytes()).decode()}",
            f"{chosen[0].title}: throughput, delays, losses and paths over time, "
            + ", ".join(f"{result.tunnel.label} {result.verdict.value}" for result in chosen),
        )


def _younger(drawn: Path, files: Sequence[Path]) -> bool:
    return drawn.exists() and drawn.stat().st_mtime_ns > max(file.stat().st_mtime_ns for file in files)


def _events(runs: Sequence[Found]) -> Iterator[Happening]:
    longest = max((run.result.timeline for run in runs), key=len)
    for number, event in enumerate(longest):
        began = (run.result.timeline[number : number + 1] for run in runs)
        yield Happening(
            f"{event.planned_s:g}", event.title, [f"{each[0].began_s:.3f}" if each else "" for each in began]
        )


def _found(directory: Path, path: Path) -> Found:
    result = load(path)
    telling = result.verdict in (Verdict.FAILED, Verdict.VOID)
    logs = [
        Log(log.relative_to(path.parent).as_posix(), _tail(log) if telling else "")
        for log in sorted(path.parent.rglob("*.log"))
        if log.stat().st_size
    ]
    return Found(path.parent.relative_to(directory).as_posix(), result, logs)


def _tail(log: Path) -> str:
    with log.open("rb") as stream:
        stream.seek(max(0, log.stat().st_size - _LOG_TAIL_BYTES))
        return "\n".join(stream.read().decode(errors="replace").splitlines()[-_LOG_TAIL_LINES:])


def _tunnels(runs: Sequence[Found]) -> list[Tunnel]:
    labels: Mapping[str, str] = {run.result.tunnel.name: run.result.tunnel.label for run in runs}
    return [Tunnel(name, labels[name], colour(name)) for name in sorted(labels, key=place)]


def _machines(runs: Sequence[Found]) -> list[Machine]:
    """Return where the runs were made, each machine once."""
    found: list[Machine] = []
    for run in runs:
        if run.result.machine not in found:
            found.append(run.result.machine)
    return found


def _number(value: float | None) -> str:
    if value is None:
        return "not there"
    return f"{value:,.0f}" if value.is_integer() or abs(value) >= 1e4 else f"{value:.4g}"


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _LONGEST_REASON else f"{reason[:_LONGEST_REASON]}…"


@click.command("report")
@click.argument("results", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--png", is_flag=True, help="Draw the time charts as PNG, too.")
def report(results: Path, png: bool) -> None:
    """Make the report of scenario runs once more: verdicts, figures and time charts from the files in RESULTS."""
    click.echo(write_report(results, png=png))
