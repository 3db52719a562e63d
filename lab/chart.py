"""The chart of a comparison: throughput and added latency side by side, one bar for each contender.

What was measured in a guest stands below, in panels and on scales of its own, with throughput as the guest's processor
allows it and over links too narrow for the processor to matter.

Drawn from a results file alone, so that the same file always gives the same picture, down to the bytes of the SVG. A
contender without a figure keeps its row, with the reason in words. A baseline that would dwarf all others is cut off at
the edge, visibly, and its figure says how far it really goes.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import click
import matplotlib as mpl
from matplotlib.figure import Figure

from lab.comparison import (
    ADDED,
    BASELINE,
    GUEST,
    LIMITED,
    RIVAL,
    USUAL,
    Comparison,
    Contender,
    Summary,
    absence,
    limits,
    load,
    load_guest,
    ratios,
    render,
    summarise,
    summary,
)
from lab.palette import INK, MUTED, RULE, STYLE, colour


class Panel(NamedTuple):
    """What one panel shows."""

    measure: str
    setting: str
    title: str
    axis: str


PANELS = (
    Panel("tcp-1", USUAL, "TCP throughput, one stream", "Gbit/s, more is better"),
    Panel("added-idle", USUAL, "Added latency, idle", "µs on a round trip, less is better"),
)
GUEST_PANELS = (
    Panel("tcp-1", USUAL, "TCP throughput, one stream", "Mbit/s, more is better; not to be put beside figures above"),
    Panel("tcp-1", LIMITED, "over narrow, lossy links", "Mbit/s, more is better; not to be put beside figures above"),
)
"""The same of what was measured in a guest."""
_BAR = 0.62
_DWARFS = 3.0
_WORDS_WIDTH = 52
_NOTE_WIDTH = 186


class Row(NamedTuple):
    """One contender's bar in one panel."""

    key: str
    figure: Summary | None
    ratio: Summary | None
    """To the rival, formed inside each repetition; None where it says nothing."""
    words: str
    """What stands in place of a figure."""


def rows(comparison: Comparison, measure: str, setting: str = USUAL) -> list[Row]:
    """Return the bars of a panel, from top to bottom."""
    return [_row(comparison, contender, measure, setting) for contender in comparison.contenders]


def draw(comparison: Comparison, directory: Path, guest: Comparison | None = None) -> None:
    """Write ``benchmark.svg`` and ``benchmark.png`` into an existing directory; ``guest`` goes below."""
    with mpl.rc_context(dict(STYLE)):
        figure = _figure([comparison] if guest is None else [comparison, guest])
        figure.savefig(directory / "benchmark.svg", metadata={"Date": None, "Creator": "centipede lab"})
        figure.savefig(directory / "benchmark.png", dpi=160, metadata={"Software": "centipede lab"})


def note(comparison: Comparison) -> str:
    """Return where and how it was measured, in one paragraph."""
    machine, conditions = comparison.machine, comparison.conditions
    found = {}
    for contender in comparison.contenders:
        found.update({name: version for name, version in contender.version.items() if name in ("centipede", RIVAL)})
    versions = [f"{name} {version}" for name, version in found.items()]
    if "commit" in machine.git:
        versions.append(
            f"commit {machine.git['commit'][:10]}{' with changes' if machine.git['state'] != 'clean' else ''}"
        )
    gigabytes = machine.memory_bytes / 2**30
    virtual = f" in a virtual machine ({machine.virtualization})" if machine.virtualization not in ("", "none") else ""
    parts = [
        (
            f"{comparison.began_at[:10]}, {machine.host}: {machine.processor or machine.architecture}, "
            f"{machine.cores} cores shared by both ends and the load, {gigabytes:.0f} GiB, "
            f"{machine.system}, Linux {machine.kernel}{virtual}"
        ),
        ", ".join(versions),
        (
            f"MTU {conditions.mtu}, IPv{conditions.inner_version} over IPv{conditions.outer_version}, "
            f"TCP {conditions.tcp_congestion_control}{'' if comparison.profile == GUEST else ', ping every 4 ms'}"
        ),
        limits(comparison),
        (
            f"median of {comparison.repetitions} alternated runs, whiskers from lowest to highest, "
            f"× is the ratio to {RIVAL} in the same run"
        ),
    ]
    return "; ".join(part for part in parts if part) + "."


def _row(comparison: Comparison, contender: Contender, measure: str, setting: str) -> Row:
    figure = summary(comparison, contender.key, measure, setting)
    if figure is None:
        return Row(contender.key, None, None, absence(comparison, contender.key, measure, setting))
    if contender.key == BASELINE and measure in ADDED:
        bare = summary(comparison, contender.key, ADDED[measure])
        return Row(contender.key, None, None, f"the baseline: {render(bare.median)} µs" if bare else "the baseline")
    ratio = (
        None if contender.key in (BASELINE, RIVAL) else summarise(ratios(comparison, contender.key, measure, setting))
    )
    return Row(contender.key, figure, ratio, "")


def _figure(comparisons: Sequence[Comparison]) -> Figure:
    heights = [0.46 * len(comparison.contenders) + 1.61 for comparison in comparisons]
    figure = Figure(figsize=(11.0, sum(heights)), facecolor="white")
    parts = figure.subfigures(len(comparisons), 1, height_ratios=heights, squeeze=False)[:, 0]
    for part, comparison, height in zip(parts, comparisons, heights, strict=True):
        _fill(part, comparison, height)
    return figure


def _fill(part: Any, comparison: Comparison, height: float) -> None:
    number = len(comparison.contenders)
    panels = GUEST_PANELS if comparison.profile == GUEST else PANELS
    where = ""
    if comparison.profile == GUEST:
        where = "Emulated: " if "emulated" in comparison.machine.virtualization else "Virtual machine: "
    columns = part.subplots(1, len(panels), sharey=True)
    part.subplots_adjust(left=0.205, right=0.985, wspace=0.07, top=1 - 0.5 / height, bottom=1.06 / height)
    for axes, panel in zip(columns, panels, strict=True):
        _panel(axes, rows(comparison, panel.measure, panel.setting))
        axes.set_title(f"{where}{panel.title}", loc="left", fontsize=11.5, fontweight="bold", pad=10)
        axes.set_xlabel(panel.axis, fontsize=9, labelpad=5)
    columns[0].set_yticks(range(number), [contender.label for contender in comparison.contenders], fontsize=10.5)
    columns[0].set_ylim(number - 0.45, -0.55)
    part.text(
        0.012,
        0.10 / height,
        textwrap.fill(note(comparison), _NOTE_WIDTH),
        fontsize=7.6,
        color=MUTED,
        va="bottom",
        linespacing=1.35,
    )


def _panel(axes: Any, bars: Sequence[Row]) -> None:
    edge = _edge(bars)
    axes.set_xlim(0, edge)
    for spine in ("top", "right", "bottom"):
        axes.spines[spine].set_visible(False)
    axes.tick_params(axis="both", length=0)
    axes.tick_params(axis="x", labelsize=8.5)
    axes.xaxis.grid(visible=True, color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    for y, row in enumerate(bars):
        if row.figure is None:
            words = textwrap.shorten(row.words, 2 * _WORDS_WIDTH, placeholder=" ...")
            axes.text(
                edge * 0.012,
                y,
                textwrap.fill(words, _WORDS_WIDTH),
                va="center",
                fontsize=8.5,
                color=MUTED,
                style="italic",
            )
        else:
            _bar(axes, y, row, row.figure, edge)


def _bar(axes: Any, y: int, row: Row, figure: Summary, edge: float) -> None:
    fill = colour(row.key)
    label = render(figure.median)
    if figure.median > edge:
        _cut_bar(axes, y, fill, label, edge)
        return
    axes.barh(y, figure.median, height=_BAR, color=fill, linewidth=0)
    low, high = max(0.0, figure.low), min(figure.high, edge)
    if figure.number > 1:
        axes.plot([low, high], [y, y], color=INK, linewidth=1.1, solid_capstyle="butt")
        for end in (low, high):
            axes.plot([end, end], [y - 0.12, y + 0.12], color=INK, linewidth=1.1)
    end = max(high, figure.median) + edge * 0.014
    written = axes.text(end, y, label, va="center", fontsize=10, fontweight="bold")
    if row.ratio is not None:
        axes.annotate(
            f"{render(row.ratio.median)}×",
            xy=(1.0, 0.5),
            xycoords=written,
            xytext=(5, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=MUTED,
        )


def _cut_bar(axes: Any, y: int, fill: str, label: str, edge: float) -> None:
    """A bar that goes on beyond the panel: a gap shows that it is cut, and the figure stands inside."""
    axes.barh(y, edge, height=_BAR, color=fill, linewidth=0, clip_on=True)
    for offset in (0.0, 0.013):
        x = edge * (0.80 + offset)
        slant = edge * 0.008
        axes.plot([x - slant, x + slant], [y + _BAR / 2 + 0.02, y - _BAR / 2 - 0.02], color="white", linewidth=2.4)
    axes.text(edge * 0.985, y, label, va="center", ha="right", fontsize=10, fontweight="bold")


def _edge(bars: Sequence[Row]) -> float:
    """Where a panel ends: room for the figures of all but a baseline that would dwarf them."""
    others = max((row.figure.high for row in bars if row.figure is not None and row.key != BASELINE), default=0.0)
    baseline = max((row.figure.high for row in bars if row.figure is not None and row.key == BASELINE), default=0.0)
    dwarfs = others > 0.0 and baseline > _DWARFS * others
    return (others if dwarfs else max(others, baseline)) * 1.3 or 1.0


@click.command("chart")
@click.argument("results", type=click.Path(path_type=Path))
@click.option(
    "--output", type=click.Path(path_type=Path, file_okay=False), help="Directory; by default that of RESULTS."
)
def chart(results: Path, output: Path | None) -> None:
    """Draw the chart of RESULTS, a results.json or its directory, once more."""
    directory = output or (results if results.is_dir() else results.parent)
    directory.mkdir(parents=True, exist_ok=True)
    draw(load(results), directory, load_guest(results))
    click.echo(directory / "benchmark.png")
