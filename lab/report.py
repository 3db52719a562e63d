"""The report of a comparison: a table for the terminal, and a page that needs nothing but itself.

Made from a results file alone. The page shows every figure with its spread, every single value, the ratios, and all
that is known of the machine and the programs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup
from rich import box
from rich.console import Group
from rich.table import Table
from rich.text import Text

from lab.comparison import (
    ADDED,
    BASELINE,
    GUEST,
    LIMITED,
    MEASURES,
    NO_TRAINS,
    RIVAL,
    USUAL,
    Comparison,
    Contender,
    Sample,
    Summary,
    absence,
    at_least,
    limits,
    measure_of,
    measured,
    ratios,
    render,
    summarise,
    summary,
)
from lab.palette import COLOURS

SETTINGS = {
    USUAL: "",
    NO_TRAINS: ", links without UDP segmentation offload",
    LIMITED: ", over two narrow, lossy links",
}
"""What a setting adds to the name of a measure."""
_TERMINAL_COLUMNS = {
    "tcp-1": "TCP 1\nGbit/s",
    "tcp-4": "TCP 4\nGbit/s",
    "udp": "UDP\nGbit/s",
    "udp-64": "64 B\nk/s",
    "added-idle": "idle\n+µs",
    "added-busy": "busy\n+µs",
    "cpu": "CPU\ns/GB",
}
"""Measures of the table for the terminal and their headings. With these it fits 80 columns."""
_GUEST_COLUMNS = {
    ("tcp-1", USUAL): "TCP 1\nMbit/s",
    ("tcp-1", LIMITED): "narrow links\nMbit/s",
    ("added-idle", USUAL): "idle\n+µs",
}
"""The same for a guest's, with settings."""


class Cell(NamedTuple):
    """A figure in a table."""

    figure: Summary | None
    ratio: Summary | None
    words: str
    """Why there is no figure."""
    bound: str = ""
    """``≥`` for a figure that is a lower bound."""
    ratio_bound: str = ""
    """The same for the ratio."""

    @property
    def text(self) -> str:
        """The median, or in words why there is none."""
        return self.words if self.figure is None else f"{self.bound}{render(self.figure.median)}"

    @property
    def short(self) -> str:
        """The same in one word."""
        if self.figure is not None:
            return self.text
        return "failed" if self.words.startswith("failed") else "-"

    @property
    def spread(self) -> str:
        """Lowest and highest, where there are several."""
        return "" if self.figure is None or self.figure.number < 2 else _range(self.figure)

    @property
    def ratio_text(self) -> str:
        """The ratio to the rival with its spread, empty where it says nothing."""
        return "" if self.ratio is None else f"{self.short_ratio} ({_range(self.ratio)})"

    @property
    def short_ratio(self) -> str:
        """The same without the spread."""
        return "" if self.ratio is None else f"{self.ratio_bound}{render(self.ratio.median)}×"


def cell(comparison: Comparison, contender: str, measure: str, setting: str = USUAL) -> Cell:
    """Return a contender's figure, and its ratio to the rival formed inside each repetition."""
    if contender == BASELINE and measure in ADDED:
        return Cell(None, None, "the baseline")
    figure = summary(comparison, contender, measure, setting)
    if figure is None:
        return Cell(None, None, absence(comparison, contender, measure, setting))
    related = {} if contender in (BASELINE, RIVAL) else ratios(comparison, contender, measure, setting)
    bounds = [at_least(comparison, key, measure, setting) for key in (contender, RIVAL)]
    return Cell(
        figure,
        summarise(related),
        "",
        "≥" if bounds[0] else "",
        # with a rival that could do more than was asked, the ratio is neither a lower nor an upper bound
        "≥" if bounds == [True, False] else "",
    )


def render_table(comparison: Comparison) -> Group:
    """Return the main figures as a table for the terminal."""
    there = measured(comparison)
    columns = (
        _GUEST_COLUMNS if comparison.profile == GUEST else {(m, USUAL): title for m, title in _TERMINAL_COLUMNS.items()}
    )
    shown = [column for column in columns if column in there]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for column in shown:
        table.add_column(columns[column], justify="right", no_wrap=True)
    for contender in comparison.contenders:
        cells = [cell(comparison, contender.key, *column) for column in shown]
        table.add_row(contender.label, *(Text(each.short, style="bold") for each in cells))
        if any(each.ratio for each in cells):
            table.add_row(f"  × {RIVAL}", *(each.short_ratio for each in cells), style="dim")
    reasons = [
        f"{contender.label}: {reason}"
        for contender in comparison.contenders
        for reason in dict.fromkeys((contender.unavailable, *contender.failures))
        if reason
    ]
    where = f"In a guest, {comparison.machine.virtualization}: m" if comparison.profile == GUEST else "M"
    heading = f"{where}edian of {comparison.repetitions}; × is the ratio to {RIVAL}, formed in each repetition."
    return Group(Text(heading), table, *(Text(line) for line in reasons))


def render_report(comparison: Comparison, chart_svg: str, guest: Comparison | None = None) -> str:
    """Return the page. ``chart_svg`` is the chart, which becomes part of it; ``guest`` gets a part of its own."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("lab"), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    environment.filters["figure"] = render
    return environment.get_template("report.html.j2").render(
        run=comparison,
        chart=Markup(chart_svg[chart_svg.index("<svg") :]),  # noqa: S704 - our own drawing, without the XML header
        colours=COLOURS,
        rival=RIVAL,
        measure_names={key: measure.label for key, measure in MEASURES.items()},
        own=_part(comparison),
        guest=None if guest is None else _part(guest),
        limits="" if guest is None else limits(guest),
    )


def _part(comparison: Comparison) -> dict[str, Any]:
    """What the page says of one comparison."""
    return {
        "run": comparison,
        "measures": [
            (
                measure_of(comparison, measure),
                SETTINGS.get(setting, f", {setting}"),
                _rows(comparison, measure, setting),
            )
            for measure, setting in measured(comparison)
        ],
        "samples": [(sample, _sample_value(comparison, sample)) for sample in comparison.samples],
        "labels": {contender.key: contender.label for contender in comparison.contenders},
    }


def _rows(comparison: Comparison, measure: str, setting: str) -> list[tuple[Contender, Cell]]:
    return [(contender, cell(comparison, contender.key, measure, setting)) for contender in comparison.contenders]


def _sample_value(comparison: Comparison, sample: Sample) -> str:
    if sample.value is None:
        return sample.failure
    measure = measure_of(comparison, sample.measure)
    return f"{render(sample.value / measure.scale)} {measure.unit}"


def _range(figure: Summary) -> str:
    return f"{render(figure.low)} to {render(figure.high)}"
