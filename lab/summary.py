"""A summary of scenario runs: what was expected and what each tunnel came to, in one small file, and its table.

Owns the format of ``summary.json`` and the Markdown made from it; nothing but the file is needed for that. Must not
know how a run went: series, raw output and logs stay with the results it is made from.
"""

from __future__ import annotations

import re
import statistics
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import click
import msgspec

from lab.curves import place
from lab.errors import LabError
from lab.machine import Machine
from lab.matrix import read_runs
from lab.results import RunResult, Verdict, dump
from lab.scenario import Scenario, find, load
from lab.timeline import ClockStep

SCHEMA_VERSION = 1
FILE = "summary.json"
PAGE = "README.md"
_OWN, _RIVAL, _KERNEL = "centipede", "wireguard-go", "wireguard-kernel"
_NUMBER = re.compile(r"-?\d[\d.]*(?:e[+-]?\d+)?")
_UNITS = (("_bits_per_second", 1e6, "Mbit/s"), ("_bytes", 1e6, "MB"), ("_ms", 1.0, "ms"), ("_us", 1e3, "ms"))
_COLUMNS = {_OWN: "Centipede", _RIVAL: "wireguard-go", _KERNEL: "kernel WireGuard, emulated"}
_BAD = (Verdict.FAILED.value, Verdict.VOID.value)
_SLOW_BPS = 1e5
_MINUS = "\N{MINUS SIGN}"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """What a tunnel came to in a scenario, all repetitions together."""

    tunnel: str
    label: str
    versions: dict[str, str]
    verdicts: list[str]
    """Of each repetition."""
    reasons: list[str]
    """What was missed or went wrong, each once."""
    figures: dict[str, list[float | None]]
    """What each repetition found, by figure; None where there was none."""
    began_at: list[str]
    machines: list[int]
    """Where each repetition was made: a place in the summary's list."""


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One scenario."""

    name: str
    title: str
    sha256: str
    expected: list[tuple[str, str]]
    """Figures and their bounds."""
    found: list[Found]
    cannot: dict[str, str]
    """Tunnels that have no result because they cannot take part, and why."""


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    schema: int = SCHEMA_VERSION
    command: str
    """What had the runs made."""
    machines: list[Machine]
    scenarios: list[Row]


def cannot(scenario: Scenario) -> str | None:
    """Return why WireGuard has no part in a scenario, in words, None if it has one."""
    if scenario.members:
        return "it serves an identity from one machine"
    if any(isinstance(event, ClockStep) for event in scenario.timeline):
        return "it has no clock that can be set apart from the machine's"
    return None


def summarise(runs: Sequence[RunResult], command: str) -> Summary:
    """Return the summary of results, in the order of the scenarios' names. Raises LabError for an unknown scenario."""
    machines: list[Machine] = []
    for run in runs:
        if run.machine not in machines:
            machines.append(run.machine)
    names = sorted({run.scenario for run in runs})
    rows = [_row(name, [run for run in runs if run.scenario == name], machines) for name in names]
    return Summary(command=command, machines=machines, scenarios=rows)


def _row(name: str, runs: Sequence[RunResult], machines: Sequence[Machine]) -> Row:
    tunnels = sorted({run.tunnel.name for run in runs}, key=place)
    first = next((run for run in runs if run.tunnel.name == tunnels[0]), runs[0])
    reason = None if _RIVAL in tunnels else cannot(load(find(name)))
    return Row(
        name=name,
        title=first.title,
        sha256=first.scenario_sha256,
        expected=[(judgement.figure, judgement.bound) for judgement in first.judgements],
        found=[_found([run for run in runs if run.tunnel.name == tunnel], machines) for tunnel in tunnels],
        cannot={} if reason is None else {_RIVAL: reason, _KERNEL: reason},
    )


def _found(runs: Sequence[RunResult], machines: Sequence[Machine]) -> Found:
    figures = dict.fromkeys(judgement.figure for run in runs for judgement in run.judgements)
    return Found(
        tunnel=runs[0].tunnel.name,
        label=runs[0].tunnel.label,
        versions=runs[0].tunnel.versions,
        verdicts=[run.verdict.value for run in runs],
        reasons=list(dict.fromkeys(run.reason for run in runs if run.reason)),
        figures={
            figure: [next((j.found for j in run.judgements if j.figure == figure), None) for run in runs]
            for figure in figures
        },
        began_at=[run.began_at for run in runs],
        machines=[machines.index(run.machine) for run in runs],
    )


def renew(before: Summary, later: Summary) -> Summary:
    """Return a summary with the scenarios of another in place of what was known of them before."""
    names = {row.name for row in later.scenarios}
    kept = [row for row in before.scenarios if row.name not in names]
    rows = kept + [_moved(row, lambda number: number + len(before.machines)) for row in later.scenarios]
    machines = [*before.machines, *later.machines]
    used = sorted({number for row in rows for found in row.found for number in found.machines})
    return msgspec.structs.replace(
        before,
        machines=[machines[number] for number in used],
        scenarios=sorted((_moved(row, used.index) for row in rows), key=lambda row: row.name),
    )


def _moved(row: Row, place_of: Callable[[int], int]) -> Row:
    """Return a row for another list of machines."""
    replace = msgspec.structs.replace
    return replace(row, found=[replace(each, machines=list(map(place_of, each.machines))) for each in row.found])


def read(path: Path) -> Summary:
    """Read a summary file. Raises LabError if it is none."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Summary)
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise LabError(f"{path} is no summary of scenario runs: {error}") from None
    if found.schema != SCHEMA_VERSION:
        raise LabError(f"{path} has version {found.schema} of the format; this is version {SCHEMA_VERSION}")
    return found


def page(summary: Summary, charts: Iterable[str]) -> str:
    """Return the Markdown page of a summary; ``charts`` names the scenarios whose time chart lies beside it."""
    tunnels = [_OWN, _RIVAL, *([_KERNEL] if _has_kernel(summary) else [])]
    drawn = set(charts)
    head = ["scenario", "expected of Centipede", *(_COLUMNS[tunnel] for tunnel in tunnels)]
    rows = [head, ["---"] * len(head), *(_cells(row, tunnels, drawn) for row in summary.scenarios)]
    table = [f"| {' | '.join(cells)} |" for cells in rows]
    return "\n".join(["# What the scenarios measured", "", *_told(summary), "", *table, ""])


def _measured(found: Found) -> bool:
    """Whether any figure was found."""
    return any(value is not None for values in found.figures.values() for value in values)


def _has_kernel(summary: Summary) -> bool:
    """Whether anything was measured of kernel WireGuard."""
    return any(found.tunnel == _KERNEL and _measured(found) for row in summary.scenarios for found in row.found)


def _told(summary: Summary) -> Iterator[str]:
    """Yield how the runs were made, and where."""
    found = [each for row in summary.scenarios for each in row.found]
    own = Counter(verdict for each in found if _is_own(each) for verdict in each.verdicts)
    began = sorted(at for each in found for at in each.began_at)
    yield textwrap.fill(
        f"`python -m lab summary` made this page from [{FILE}]({FILE}). The runs were made by `{summary.command}`, "
        f"from {_minute(began[0])} to {_minute(began[-1])} UTC. Of several a cell has the median, and in brackets the "
        "least and the most. Expectations bind Centipede alone; the other columns tell what became of the same traffic "
        f"in the same network. Runs through Centipede: {_listed(own)}.",
        width=120,
        break_long_words=False,
        break_on_hyphens=False,
    )
    yield ""
    places: dict[str, list[str]] = {}
    for machine in summary.machines:
        places.setdefault(_place(machine), []).append(_commit(machine))
    yield from (f"- {where}; commit {', '.join(dict.fromkeys(commits))}" for where, commits in places.items())
    yield from _renewed(summary)
    versions = sorted({each.versions[_RIVAL] for each in found if _RIVAL in each.versions})
    if versions:
        yield f"- wireguard-go {', '.join(versions)}"
    if _has_kernel(summary):
        yield "- kernel WireGuard in an emulated guest, with a tenth of the load: figures that stand for themselves"


def _renewed(summary: Summary) -> Iterator[str]:
    """Yield which scenarios were measured with another commit than most."""
    rows: dict[str, list[str]] = {}
    for row in summary.scenarios:
        numbers = {number for found in row.found if _is_own(found) for number in found.machines}
        for commit in sorted({_commit(summary.machines[number]) for number in numbers}):
            rows.setdefault(commit, []).append(row.name)
    for commit in sorted(rows, key=lambda each: len(rows[each]), reverse=True)[1:]:
        yield f"- measured again, commit {commit}: {', '.join(rows[commit])}"


def _place(machine: Machine) -> str:
    tools = ", ".join(f"{name} {machine.tools[name]}" for name in ("python", "iperf3", "nft") if name in machine.tools)
    virtual = "" if machine.virtualization in ("", "none") else f", virtual ({machine.virtualization})"
    return (
        f"{machine.host}: {machine.system}, Linux {machine.kernel}, {machine.cores} cores of {machine.processor}"
        f"{virtual}; {tools}"
    )


def _commit(machine: Machine) -> str:
    return machine.git.get("commit", "unknown")[:12]


def _listed(verdicts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {verdict}" for verdict, number in sorted(verdicts.items()))


def _minute(began_at: str) -> str:
    return began_at[:16].replace("T", " ")


def _is_own(found: Found) -> bool:
    return found.tunnel == _OWN or found.tunnel.startswith(f"{_OWN}-")


def _cells(row: Row, tunnels: Sequence[str], drawn: set[str]) -> list[str]:
    name = f"[{row.name}](../../../scenarios/{row.name}.toml)"
    if row.name in drawn:
        name += f"<br>[time chart]({row.name}/timechart-1.svg)"
    expected = "<br>".join(f"{figure_words(figure)} {_bound(figure, bound)}" for figure, bound in row.expected)
    return [name, expected, *(_cell(row, tunnel) for tunnel in tunnels)]


def _cell(row: Row, tunnel: str) -> str:
    found = next((each for each in row.found if each.tunnel == tunnel), None)
    if found is None:
        return f"cannot: {row.cannot[tunnel]}" if tunnel in row.cannot else "not run"
    lines = [_values(figure, found.figures.get(figure, [])) for figure, _ in row.expected]
    bad = [verdict for verdict in found.verdicts if verdict in _BAD]
    if bad:
        lines.append(f"**{len(bad)} of {len(found.verdicts)} {' and '.join(sorted(set(bad)))}**")
    if bad or not _measured(found):
        lines += map(_text, found.reasons)
    if tunnel == _OWN:
        lines += [_variant(each) for each in row.found if _is_own(each) and each.tunnel != _OWN]
    return "<br>".join(lines)


def _variant(found: Found) -> str:
    """What became of runs with an engine that the scenario names; their figures are in the file."""
    name = found.tunnel.removeprefix(f"{_OWN}-").capitalize()
    told = f"{name} engine: {_listed(Counter(found.verdicts))}"
    bad = any(verdict in _BAD for verdict in found.verdicts)
    return "; ".join([f"**{told}**", *map(_text, found.reasons)]) if bad else told


def _values(figure: str, values: Sequence[float | None]) -> str:
    there = sorted(value for value in values if value is not None)
    if not there:
        return "–"
    middle, low, high = (_quantity(figure, value) for value in (statistics.median_low(there), there[0], there[-1]))
    if low == high:
        return middle
    unit = middle.partition(" ")[2]
    if all(each.endswith(f" {unit}") for each in (low, high)):
        low, high = (each.removesuffix(f" {unit}") for each in (low, high))
    return f"{middle} ({low} to {high})"


def figure_words(figure: str) -> str:
    """Return how a figure is called in a table: ``stream longest gap``, ``left session rekeys``."""
    text = re.sub(r"\bpeers\.0\.", "", figure)
    for unit in ("bits_per_second", *(unit.removeprefix("_") for unit, _, _ in _UNITS[1:])):
        text = re.sub(rf"[._]{unit}$", ".rate" if unit == "bits_per_second" else "", text)
    return re.sub(r"_s$", "", text).replace(".", " ").replace("_", " ")


def _bound(figure: str, bound: str) -> str:
    bounds, above, base = bound.partition(" above ")
    words = _NUMBER.sub(lambda number: _quantity(figure, float(number[0])), bounds)
    return words.replace(">=", "≥").replace("<=", "≤") + above + figure_words(base)


def _quantity(figure: str, value: float) -> str:
    """Return a figure in the unit that its name says."""
    if figure.endswith("bits_per_second") and abs(value) < _SLOW_BPS:
        return f"{_digits(value / 1e3)} kbit/s"
    for ending, scale, unit in _UNITS:
        if f".{figure}".replace(".", "_").endswith(ending):
            return f"{_digits(value / scale)} {unit}"
    if figure.endswith("_s"):
        return f"{_digits(value)} s" if not value or abs(value) >= 1 else f"{_digits(value * 1e3)} ms"
    return _digits(value)


def _digits(value: float) -> str:
    words = f"{value:,.0f}" if value.is_integer() or abs(value) >= 1e3 else f"{value:.3g}"
    return words.replace("-", _MINUS)


def _text(words: str) -> str:
    """Return words that cannot break the table they stand in."""
    return " ".join(words.replace("|", "/").replace("<", "&lt;").split())


def write_page(directory: Path) -> Path:
    """Write the page of the summary in ``directory`` beside it, and return it. Raises LabError without a summary."""
    file = directory / PAGE
    file.write_text(page(read(directory / FILE), charts(directory)))
    return file


def charts(directory: Path) -> list[str]:
    """Return the scenarios whose time chart lies in a directory of results."""
    return [path.parent.name for path in directory.glob("*/timechart-1.svg")]


@click.command("summary")
@click.argument("directory", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option(
    "--from",
    "results",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Make the summary of these results; without, the page of the summary that is there.",
)
@click.option("--command", default="python -m lab run --full", help="What made the results, as the page tells it.")
@click.option("--renew", "renews", is_flag=True, help="Keep what the summary has of scenarios not among these results.")
def summary(directory: Path, results: Path | None, command: str, renews: bool) -> None:
    """Write what scenario runs came to into DIRECTORY: summary.json, and its table as a page, README.md."""
    if renews and results is None:
        raise click.UsageError("--renew takes later results: name them by --from")
    if results is not None:
        made = summarise([run.result for run in read_runs(results)], command)
        dump(renew(read(directory / FILE), made) if renews else made, directory / FILE)
    click.echo(write_page(directory))
