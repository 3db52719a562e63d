"""The report of scenario runs: verdicts of several repetitions as one, the page, the command."""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from lab import cli, matrix, results
from lab.errors import LabError
from lab.meeting import MeetingRecord, PairRecord
from lab.ratios import PairRecord as Pair
from lab.ratios import RowRecord
from lab.results import RunResult, Verdict
from tests.unit.runs import MACHINE, cut, judgement, run


def store(directory: Path, *found: RunResult) -> Path:
    for each in found:
        results.dump(each, directory / each.scenario / each.tunnel.name / str(each.repetition) / results.FILE)
    return directory


ABSENT = run("wireguard-kernel", verdict=Verdict.UNAVAILABLE, reason="this kernel has no WireGuard")
FAILED = run(
    "centipede",
    scenario="other",
    verdict=Verdict.FAILED,
    reason="stream.lost is 3, expected = 0 <really>",
    judgements=[judgement(found=3.0, met=False)],
)


def test_the_worst_of_the_repetitions_counts_and_says_why() -> None:
    good, bad = cut("centipede"), msgspec.structs.replace(FAILED, repetition=2)
    found = matrix.cell([good, bad])
    assert found is not None
    assert found.verdict == "failed"
    assert found.words == "1 of 2 runs; 1 of 2 met; stream.lost is 3, expected = 0 <really>"


@pytest.mark.parametrize(
    ("verdicts", "worst"),
    [
        ([Verdict.PASSED, Verdict.VOID], "void"),
        ([Verdict.VOID, Verdict.FAILED], "failed"),
        ([Verdict.PASSED, Verdict.PASSED], "passed"),
        ([Verdict.MEASURED, Verdict.UNAVAILABLE], "measured"),
    ],
)
def test_verdicts_have_an_order(verdicts: Sequence[Verdict], worst: str) -> None:
    found = matrix.cell([run(verdict=verdict) for verdict in verdicts])
    assert found is not None
    assert found.verdict == worst


def test_a_run_that_was_not_made_has_no_cell() -> None:
    assert matrix.cell([]) is None


def test_figures_stand_beside_what_was_expected_for_each_tunnel_and_repetition() -> None:
    own = [cut("centipede"), cut("centipede", repetition=2)]
    rival = [run("wireguard-go", judgements=[judgement(found=12_345.678, met=False)])]
    (figure,) = matrix.figures([own, rival, [ABSENT]])
    assert (figure.name, figure.bound) == ("stream.lost", "= 0")
    assert figure.values == [[("0", True), ("0", True)], [("12,346", False)], []]


def test_a_figure_that_is_not_there_is_said_to_be_missing() -> None:
    (figure,) = matrix.figures([[run(judgements=[judgement(found=None, met=False)])]])
    assert figure.values == [[("not there", False)]]


def test_results_come_in_the_order_of_their_runs_and_tunnels(tmp_path: Path) -> None:
    late = msgspec.structs.replace(run(scenario="a-later-one"), began_at="2026-01-03T00:00:00+00:00")
    store(tmp_path, late, cut("plain"), cut("centipede", repetition=2), cut("centipede"), ABSENT)
    assert [run.directory for run in matrix.read_runs(tmp_path)] == [
        "cut/centipede/1",
        "cut/centipede/2",
        "cut/wireguard-kernel/1",
        "cut/plain/1",
        "a-later-one/centipede/1",
    ]


def test_a_directory_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="no results of scenarios"):
        matrix.write_report(tmp_path)


class Outline(HTMLParser):
    """What a page refers to, and whether its elements are closed in order."""

    VOID = frozenset({"meta", "br", "img"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            self.images += [value or ""] if name == "src" else []
            self.links += [value or ""] if name == "href" else []
            self.ids += [value or ""] if name == "id" else []

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.fixture(name="page")
def make_page(tmp_path: Path) -> str:
    store(tmp_path, cut("centipede"), cut("centipede", repetition=2), cut("wireguard-go"), ABSENT, FAILED)
    logs = tmp_path / "other" / "centipede" / "1" / "logs"
    logs.mkdir()
    (logs / "left-01 python.log").write_text("\n".join(f"line {number} <b>" for number in range(100)))
    (logs / "right.log").touch()
    return matrix.write_report(tmp_path).read_text()


def test_the_page_is_whole_and_shows_nothing_that_is_elsewhere(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert all(image.startswith("data:image/svg+xml;base64,") for image in outline.images)
    assert len(outline.images) == 2
    assert base64.b64decode(outline.images[0].partition(",")[2]).startswith(b"<?xml")
    assert {link[1:] for link in outline.links if link.startswith("#")} == set(outline.ids)
    assert "url(" not in page


def test_files_beside_the_page_are_found_from_it(page: str, tmp_path: Path) -> None:
    files = {link.replace("%20", " ") for link in Outline(page).links if not link.startswith("#")}
    assert "cut/centipede/2/result.json" in files
    assert "other/centipede/1/logs/left-01 python.log" in files
    assert all((tmp_path / file).is_file() for file in files)


def test_the_page_tells_verdicts_figures_conditions_and_logs_of_failures(page: str) -> None:
    text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", page))
    for fact in (
        "5 runs, 2 passed, 1 failed, 1 measured, 1 unavailable",
        "2 of 2 runs; 2 of 2 met",
        "0 of 1 met",
        "this kernel has no WireGuard",
        "not run",
        "stream.lost is 3, expected = 0",
        "line 99",
        "link-up one",
        "4.010",
        "wireguard-go 1.2",
        "Seed 7, file abababababab",
        "mtu = 1420",
        "Linux 6.1.0",
        "0123456789abcdef0123",
    ):
        assert fact in text
    assert "line 1 " not in text


def test_text_of_results_and_logs_cannot_become_markup(page: str) -> None:
    for text in ("Some <Processor>", "<nothing>", "<really>", "<b>"):
        assert text not in page
        assert text.replace("<", "&lt;").replace(">", "&gt;") in page


def test_every_machine_is_told_once(tmp_path: Path) -> None:
    elsewhere = msgspec.structs.replace(cut("wireguard-go"), machine=msgspec.structs.replace(MACHINE, host="guest"))
    store(tmp_path, cut("centipede"), cut("plain"), elsewhere)
    page = matrix.write_report(tmp_path).read_text()
    assert page.count("<h2>Machine</h2>") == 2
    assert "desk, guest" in page


def test_the_command_makes_the_same_report_again(tmp_path: Path) -> None:
    store(tmp_path, cut("centipede"), cut("plain"))
    first = matrix.write_report(tmp_path).read_bytes()
    done = CliRunner().invoke(cli.cli, ["report", str(tmp_path), "--png"])
    assert done.exit_code == 0, done.output
    assert done.output.strip() == str(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes() == first
    assert (tmp_path / "cut" / "timechart-1.svg").read_bytes().startswith(b"<?xml")
    assert (tmp_path / "cut" / "timechart-1.png").read_bytes().startswith(b"\x89PNG")


def test_a_time_chart_that_is_younger_than_its_results_may_stay(tmp_path: Path) -> None:
    store(tmp_path, cut("centipede"), FAILED)
    page = matrix.write_report(tmp_path)
    chart = tmp_path / "cut" / "timechart-1.svg"
    drawn = chart.read_bytes()
    chart.write_bytes(b"<?xml kept?>")
    matrix.write_report(tmp_path, anew=False)
    assert chart.read_bytes() == b"<?xml kept?>"
    assert base64.b64encode(b"<?xml kept?>").decode() in page.read_text()
    store(tmp_path, cut("centipede"))
    matrix.write_report(tmp_path, anew=False)
    assert chart.read_bytes() == drawn


def test_the_command_says_what_is_wrong_in_one_sentence(tmp_path: Path) -> None:
    done = CliRunner().invoke(cli.cli, ["report", str(tmp_path)])
    assert done.exit_code == 1
    assert done.output == f"Error: there are no results of scenarios in {tmp_path}\n"


def test_a_pairing_is_told_row_by_row(tmp_path: Path) -> None:
    pairs = [Pair.of(together, {"near": 10.0, "far": 4.0}) for together in (12.0, 9.5, 11.0)]
    found = msgspec.structs.replace(run(), pairing={"slow": RowRecord.of(pairs)})
    page = matrix.write_report(store(tmp_path, found)).read_text()
    assert '<td>slow</td><td class="number">1.100</td>' in page
    assert "1.200, 0.950, 1.100" in page
    assert "Only far" in page


def test_a_meeting_is_told_pair_by_pair(tmp_path: Path) -> None:
    outcomes = [(False, True, None), (True, True, None), (False, False, "unfound"), (True, False, "other port")]
    pairs = [
        PairRecord(
            left="none" if connected else "symmetric",
            right="symmetric",
            told=told,
            connected=connected,
            cause=cause,
            expected=cause,
            seconds=0.1,
        )
        for told, connected, cause in outcomes
    ]
    record = MeetingRecord(pairs=pairs, untold=1, told=1, unexplained=0)
    assert all(pair.explained for pair in pairs)
    assert record.table() == {"none": {"symmetric": "connects"}, "symmetric": {"symmetric": "no: other port"}}
    page = matrix.write_report(store(tmp_path, msgspec.structs.replace(run(), meeting=record))).read_text()
    assert "<td>no: other port</td>" in page
