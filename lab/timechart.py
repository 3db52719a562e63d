"""The time chart of a scenario: what became of the traffic of every contender while the timeline went by.

Drawn from results alone, so that the same files always give the same picture, down to the bytes of the SVG. Owns the
drawing; what is drawn is worked out in lab/curves.py. Every panel has the same time axis, events run through all of
them, and the figures of the whole run stand to the right.
"""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from lab.comparison import render
from lab.curves import Contender, LinePanel, Panel, StripPanel, TimeChart, read
from lab.labels import Label, place_labels, width_in
from lab.palette import INK, MUTED, RULE, STYLE, colour
from lab.path_rows import Half, PathPanel
from lab.results import RunResult

STATES = {"usable": "#2a9d8f", "suspect": "#e9a83b", "lost": "#c8413b", "probing": "#9fb3c8"}
"""Colours of path states."""
_PALE = 0.38
_WIDTH, _LEFT, _RIGHT = 10.0, 1.62, 1.78
_PLOT = _WIDTH - _LEFT - _RIGHT
_TITLE_SIZE, _PANEL_SIZE, _NAME_SIZE, _SMALL, _TINY = 12.5, 9.2, 8.4, 7.8, 7.0
_LANES, _LANE = 4, 0.165
_LINE_HEIGHT, _STRIP_HEIGHT, _PATH_HEIGHT, _LONG_PATH_HEIGHT = 1.0, 0.25, 0.37, 0.47
_PANEL_TITLE, _GAP = 0.2, 0.17
_GROUND = {"facecolor": "white", "linewidth": 0, "pad": 1.2}
_LEAST_SHOWN = 0.14
"""A share of lost datagrams that is not 0 is drawn at least this high, or one lost datagram could not be seen."""
_LOGARITHMIC_FROM = 30.0
_CUT_FROM, _CUT_AT = 3.0, 2.0
"""What goes up to so many times what is usual is cut off, at so many times it, and its height is said."""
_LONG_NUMBER = re.compile(rb"-?\d+\.\d{3,}")
_GEOMETRY = re.compile(rb'(?<= d=")[^"]+')


def draw(results: Sequence[RunResult], svg: Path, png: Path | None = None) -> None:
    """Draw runs of one scenario, one for each contender. Raises LabError if a result cannot be read."""
    svg.write_bytes(render_svg(results, png))


def render_svg(results: Sequence[RunResult], png: Path | None = None) -> bytes:
    """Return the chart as SVG; ``png`` is written besides."""
    chart = read(results)
    with mpl.rc_context(dict(STYLE)):
        figure = _figure(chart)
        written = io.BytesIO()
        figure.savefig(written, format="svg", metadata={"Date": None, "Creator": "centipede lab"})
        if png is not None:
            figure.savefig(png, dpi=160, metadata={"Software": "centipede lab"})
    return _GEOMETRY.sub(lambda found: _LONG_NUMBER.sub(_rounded, found[0]).replace(b"\n", b""), written.getvalue())


def _rounded(number: re.Match[bytes]) -> bytes:
    """Return a coordinate to a hundredth of a point, which is all that can be seen."""
    return f"{float(number[0]):.2f}".encode()


def _figure(chart: TimeChart) -> Figure:
    scale = _PLOT / chart.end_s
    labels = place_labels(
        [(mark.at_s * scale, mark.words) for mark in chart.marks],
        width=_PLOT + _RIGHT - 0.1,
        lanes=_LANES,
        measure=lambda words: width_in(words, _SMALL),
    )
    lanes = max((label.lane + 1 for label in labels if label.lane is not None), default=0)
    chips = list(_chip_rows(chart.contenders))
    title = textwrap.wrap(chart.title, 88)
    foot = textwrap.wrap(_unlabelled(labels), 160)
    head = 0.14 + 0.22 * len(title) + 0.2 + 0.21 * len(chips) + 0.06
    heights = [_height(panel) for panel in chart.panels]
    body = sum(heights) + (_PANEL_TITLE + _GAP) * len(heights)
    height = head + _LANE * lanes + body + 0.28 + 0.13 * len(foot) + 0.06
    sheet = _Sheet(Figure(figsize=(_WIDTH, height), facecolor="white"), height)
    _head(sheet, chart, title, chips)
    top = head + _LANE * lanes
    bottom = top + body - _GAP
    for label in labels:
        _mark(sheet, label, top, bottom)
    last = None
    y = top
    for panel, panel_height in zip(chart.panels, heights, strict=True):
        sheet.text(_LEFT, y + 0.135, panel.title, size=_PANEL_SIZE, weight="bold", bbox=_GROUND)
        after = _LEFT + width_in(panel.title, _PANEL_SIZE, "bold") + 0.14
        sheet.text(after, y + 0.135, _details(panel), size=_SMALL, color=MUTED, bbox=_GROUND)
        y += _PANEL_TITLE
        last = sheet.axes(y, panel_height, chart.end_s)
        if isinstance(panel, LinePanel):
            _line_panel(sheet, last, panel, y)
        elif isinstance(panel, StripPanel):
            _strip_panel(sheet, last, panel, chart.contenders, y)
        else:
            _path_panel(sheet, last, panel, y)
        y += panel_height + _GAP
    if last is not None:
        last.tick_params(axis="x", labelbottom=True, labelsize=8.5, pad=3)
        sheet.text(_LEFT + _PLOT + 0.12, bottom + 0.13, "seconds", size=8.5, color=MUTED)
    for number, line in enumerate(foot):
        sheet.text(0.14, bottom + 0.42 + 0.13 * number, line, size=_TINY, color=MUTED)
    return sheet.figure


class _Sheet:
    """A figure that is laid out in inches from its upper left corner."""

    def __init__(self, figure: Figure, height: float) -> None:
        self.figure = figure
        self.height = height

    def text(self, x: float, y: float, words: str, **style: Any) -> None:
        """Write with the base line at ``y``."""
        style = {"va": "baseline", **style}
        self.figure.text(x / _WIDTH, 1 - y / self.height, words, **style)

    def name(self, y: float, words: str) -> None:
        """Write the name of a row to the left of the plot, smaller if it is long."""
        size = _NAME_SIZE * min(1.0, (_LEFT - 0.2) / max(width_in(words, _NAME_SIZE), 0.1))
        self.text(_LEFT - 0.1, y, words, size=size, ha="right")

    def axes(self, y: float, height: float, end_s: float) -> Any:
        """Return a panel below ``y`` with the time axis."""
        axes = self.figure.add_axes(
            (_LEFT / _WIDTH, 1 - (y + height) / self.height, _PLOT / _WIDTH, height / self.height)
        )
        axes.set_xlim(0.0, end_s)
        axes.patch.set_alpha(0.0)
        for spine in ("top", "right", "left", "bottom"):
            axes.spines[spine].set_visible(False)
        axes.tick_params(axis="both", length=0, labelsize=8.0)
        axes.tick_params(axis="x", labelbottom=False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=15, integer=True, steps=[1, 2, 5, 10]))
        axes.xaxis.grid(visible=True, color=RULE, linewidth=0.4)
        axes.set_axisbelow(True)
        return axes

    def box(self, x: float, y: float, width: float, height: float, fill: str, alpha: float = 1.0) -> None:
        """Fill a rectangle whose lower left corner is given."""
        corner = (x / _WIDTH, 1 - y / self.height)
        size = (width / _WIDTH, height / self.height)
        self.figure.add_artist(Rectangle(corner, *size, facecolor=fill, alpha=alpha, linewidth=0))

    def rule(self, x: float, top: float, bottom: float) -> None:
        """Draw a mark's line from ``top`` down to ``bottom``."""
        ends = [1 - top / self.height, 1 - bottom / self.height]
        line = mpl.lines.Line2D([x / _WIDTH] * 2, ends, color=MUTED, linewidth=0.8, linestyle=(0, (4, 2.5)), zorder=0.5)
        self.figure.add_artist(line)


def _details(panel: Panel) -> str:
    """Return what follows a panel's title, a peak that is cut off included."""
    if not isinstance(panel, LinePanel) or _cut(panel) is None:
        return panel.details
    peak = max(value for line in panel.lines for value in line.values if not math.isnan(value))
    return f"{panel.details}; cut off, highest {render(peak)}"


def _height(panel: Panel) -> float:
    if isinstance(panel, LinePanel):
        return _LINE_HEIGHT
    if isinstance(panel, StripPanel):
        return _STRIP_HEIGHT * len(panel.strips)
    return _path_height(panel) * len(panel.rows)


def _path_height(panel: PathPanel) -> float:
    """Return the height of a row, which has to hold two lines of addresses if they are long."""
    return _LONG_PATH_HEIGHT if any(_is_long(row.details) for row in panel.rows) else _PATH_HEIGHT


def _is_long(details: str) -> bool:
    return width_in(details, _TINY) > _LEFT - 0.2


def _chip_rows(contenders: Sequence[Contender]) -> Iterator[list[tuple[Contender, float]]]:
    """Yield the contenders with their positions, as many in a row as there is room for."""
    row: list[tuple[Contender, float]] = []
    x = 0.14
    for contender in contenders:
        width = 0.17 + width_in(f"{contender.label}: {contender.words}", _PANEL_SIZE) + 0.25
        if row and x + width > _WIDTH:
            yield row
            row, x = [], 0.14
        row.append((contender, x))
        x += width
    if row:
        yield row


def _head(
    sheet: _Sheet, chart: TimeChart, title: Sequence[str], chips: Sequence[Sequence[tuple[Contender, float]]]
) -> None:
    y = 0.14
    for line in title:
        y += 0.22
        sheet.text(0.14, y - 0.03, line, size=_TITLE_SIZE, weight="bold")
    y += 0.2
    sheet.text(0.14, y - 0.05, chart.note, size=_SMALL, color=MUTED)
    for row in chips:
        y += 0.21
        for contender, x in row:
            sheet.box(x, y, 0.11, 0.11, colour(contender.name))
            sheet.text(x + 0.17, y - 0.01, f"{contender.label}: {contender.words}", size=_PANEL_SIZE)


def _mark(sheet: _Sheet, label: Label, top: float, bottom: float) -> None:
    lane = -1 if label.lane is None else label.lane
    sheet.rule(_LEFT + label.line, top - _LANE * (lane + 1) + 0.03, bottom)
    if label.lane is not None:
        x, align = (label.line - 0.04, "right") if label.leftward else (label.line + 0.04, "left")
        sheet.text(_LEFT + x, top - _LANE * lane - 0.04, label.words, size=_SMALL, ha=align)


def _unlabelled(labels: Sequence[Label]) -> str:
    counts = Counter(label.words for label in labels if label.lane is None)
    if not counts:
        return ""
    return "Not labelled: " + ", ".join(f"{words} ({number} times)" for words, number in counts.items())


def _line_panel(sheet: _Sheet, axes: Any, panel: LinePanel, top: float) -> None:
    values = [value for line in panel.lines for value in (*line.values, *line.peaks) if not math.isnan(value)]
    highest = max(values, default=1.0) or 1.0
    lowest = min((value for value in values if value > 0), default=highest)
    if panel.logarithmic and highest > _LOGARITHMIC_FROM * lowest:
        axes.set_yscale("log")
        axes.set_ylim(lowest / 1.5, highest * 1.5)
        axes.yaxis.set_major_locator(LogLocator(base=10, numticks=5))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(axis="y", which="minor", length=0)
    else:
        edge = _cut(panel) or highest
        axes.set_ylim(-0.03 * edge, 1.1 * edge)
        axes.yaxis.set_major_locator(MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.grid(visible=True, color=RULE, linewidth=0.6)
    for line in reversed(panel.lines):
        fill = colour(line.contender)
        if line.peaks:
            axes.stairs(line.peaks, line.edges, baseline=line.values, fill=True, color=fill, alpha=0.22, linewidth=0)
        axes.stairs(line.values, line.edges, baseline=None, color=fill, linewidth=1.3)
        if line.stall is not None:
            axes.plot(line.stall, [0.0, 0.0], color=fill, linewidth=3.5, solid_capstyle="butt", clip_on=False)
    for number, line in enumerate(panel.lines):
        y = top + 0.1 + 0.15 * number
        sheet.box(_LEFT + _PLOT + 0.12, y, 0.11, 0.035, colour(line.contender))
        sheet.text(_LEFT + _PLOT + 0.29, y + 0.02, line.words, size=_SMALL)


def _cut(panel: LinePanel) -> float | None:
    """Return where a panel ends that a short peak would make unreadable, None if it shows everything."""
    if panel.logarithmic:
        return None
    values = [[value for value in line.values if not math.isnan(value)] for line in panel.lines]
    usual = max((_quantile(each, 0.95) for each in values), default=0.0)
    highest = max((value for each in values for value in each), default=0.0)
    return _CUT_AT * usual if highest > _CUT_FROM * usual > 0.0 else None


def _quantile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))] if values else 0.0


def _strip_panel(sheet: _Sheet, axes: Any, panel: StripPanel, contenders: Sequence[Contender], top: float) -> None:
    names = {contender.name: contender.label for contender in contenders}
    axes.set_ylim(len(panel.strips), 0)
    axes.set_yticks([])
    for number, strip in enumerate(panel.strips):
        base = number + 0.86
        axes.axhline(base, color=RULE, linewidth=0.6)
        for shares, fill in ((strip.lost, colour(strip.contender)), (strip.doubled, INK)):
            heights = [base - 0.74 * min(1.0, max(share, _LEAST_SHOWN)) if share > 0 else base for share in shares]
            if any(height < base for height in heights):
                axes.stairs(heights, strip.edges, baseline=base, fill=True, color=fill, linewidth=0)
        y = top + _STRIP_HEIGHT * base
        sheet.name(y, names[strip.contender])
        sheet.text(_LEFT + _PLOT + 0.12, y, strip.words, size=_SMALL)


def _path_panel(sheet: _Sheet, axes: Any, panel: PathPanel, top: float) -> None:
    axes.set_ylim(len(panel.rows), 0)
    axes.set_yticks([])
    halves = [half for row in panel.rows for half in (row.left, row.right)]
    highest = max((rate for half in halves for rate in half.rates_mbps), default=0.0)
    for number, row in enumerate(panel.rows):
        middle = number + 0.5
        _half(axes, row.left, middle, -1.0, highest, panel.contender)
        _half(axes, row.right, middle, 1.0, highest, panel.contender)
        details = row.details.replace(" – ", "\n– ") if _is_long(row.details) else row.details
        y = top + _path_height(panel) * middle - (0.06 if "\n" in details else 0.0)
        sheet.name(y - 0.01, row.words)
        sheet.text(_LEFT - 0.1, y + 0.03, details, size=_TINY, color=MUTED, ha="right", va="top", linespacing=1.1)
    _path_key(sheet, panel, top, highest)


def _half(axes: Any, half: Half, middle: float, direction: float, highest: float, contender: str) -> None:
    """One end's view of a path: its state in a bar at the middle, what it sends growing away from it."""
    inner, outer, most = middle + direction * 0.015, middle + direction * 0.14, direction * 0.3
    for (state, pale), spans in _by_look(half).items():
        bars = [(from_s, to_s - from_s) for from_s, to_s in spans]
        axes.broken_barh(
            bars,
            (min(inner, outer), 0.125),
            facecolor=STATES.get(state, MUTED),
            alpha=_PALE if pale else 1.0,
            linewidth=0,
        )
    if highest > 0.0 and half.rates_mbps:
        heights = [outer + most * rate / highest for rate in half.rates_mbps]
        axes.stairs(heights, half.edges, baseline=outer, fill=True, color=colour(contender), alpha=0.45, linewidth=0)


def _by_look(half: Half) -> dict[tuple[str, bool], list[tuple[float, float]]]:
    looks: dict[tuple[str, bool], list[tuple[float, float]]] = {}
    for span in half.spans:
        pale = not span.carries and span.state in ("usable", "suspect")
        looks.setdefault((span.state, pale), []).append((span.from_s, span.to_s))
    return looks


def _path_key(sheet: _Sheet, panel: PathPanel, top: float, highest: float) -> None:
    """What colours and heights of a path panel mean, above it and to its right."""
    x = _LEFT + _PLOT
    seen = {span.state for row in panel.rows for half in (row.left, row.right) for span in half.spans}
    words = "pale: carries no data"
    x -= width_in(words, _SMALL)
    sheet.text(x, top - 0.065, words, size=_SMALL, color=MUTED, bbox=_GROUND)
    for state in reversed([state for state in STATES if state in seen]):
        x -= width_in(state, _SMALL) + 0.16
        sheet.text(x, top - 0.065, state, size=_SMALL, color=MUTED, bbox=_GROUND)
        x -= 0.15
        sheet.box(x, top - 0.06, 0.11, 0.09, STATES[state])
    key = ("above: left's view, and what it", "sends; below: right's;", f"full height {render(highest)} Mbit/s")
    for number, line in enumerate(key):
        sheet.text(_LEFT + _PLOT + 0.12, top + 0.08 + 0.13 * number, line, size=_TINY, color=MUTED)
