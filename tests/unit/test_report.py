"""The table for the terminal and the page."""

from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import msgspec
from rich.console import Console

from lab.comparison import NO_TRAINS, Contender, Cost
from lab.report import cell, render_report, render_table
from tests.unit.comparisons import FIGURES, KERNEL, make_comparison, sample

SVG = '<?xml version="1.0"?>\n<!DOCTYPE svg>\n<svg id="chart"></svg>'


class Outline(HTMLParser):
    """What a page asks for, and whether its elements are closed in order."""

    VOID = frozenset({"meta", "br"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.references += [value or "" for name, value in attrs if name in ("src", "href", "srcset")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def page() -> str:
    made = make_comparison(FIGURES, KERNEL, Contender(key="centipede-2x", label="Twice", failures=["it broke"]))
    made.samples.append(sample("centipede", "tcp-1", 0, 3e9, NO_TRAINS))
    made.contenders[1].state = {"engine": "native"}
    made.costs = [Cost(name="seal a packet", ns=123.4, bytes=1420)]
    return render_report(made, SVG)


def test_the_page_is_complete_in_itself() -> None:
    outline = Outline()
    text = page()
    outline.feed(text)
    assert outline.open == []
    assert outline.references == []
    assert "url(" not in text
    assert "<?xml" not in text
    assert '<svg id="chart">' in text


def test_the_page_shows_figures_reasons_and_conditions() -> None:
    text = re.sub(r"\s+", " ", page())
    for fact in (
        "<strong>8.00</strong>",
        "6.00 to 10.0",
        "3.00× (2.00 to 4.00)",
        "this kernel has no WireGuard",
        "did not come up: it broke",
        "links without UDP segmentation offload",
        "tx-udp-segmentation on",
        "net.core.rmem_max",
        "0123456789abcdef0123",
        "iperf3",
        "seal a packet",
    ):
        assert fact in text


def test_text_of_the_machine_cannot_become_markup() -> None:
    text = page()
    assert "Some &lt;Processor&gt;" in text
    assert "<Processor>" not in text


def test_the_table_has_ratios_below_the_figures_and_reasons_below_the_table() -> None:
    console = Console(file=io.StringIO(), width=100)
    console.print(render_table(make_comparison(FIGURES, KERNEL)))
    output = console.file
    assert isinstance(output, io.StringIO)
    lines = [line.strip() for line in output.getvalue().splitlines()]
    own = next(i for i, line in enumerate(lines) if line.startswith("Centipede"))
    assert "8.00" in lines[own]
    assert lines[own + 1].startswith("× wireguard-go")
    assert "3.00×" in lines[own + 1]
    assert "Kernel WireGuard: this kernel has no WireGuard" in lines


def test_a_lower_bound_is_marked_and_its_ratio_too_unless_the_rivals_is_one() -> None:
    made = make_comparison()

    def bound(*keys: str) -> tuple[str, str]:
        made.samples = [msgspec.structs.replace(each, at_least=each.contender in keys) for each in made.samples]
        found = cell(made, "centipede", "tcp-1")
        return found.text, found.short_ratio

    assert bound() == ("8.00", "3.00×")
    assert bound("centipede") == ("≥8.00", "≥3.00×")
    assert bound("centipede", "wireguard-go") == ("≥8.00", "3.00×")
