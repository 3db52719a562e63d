"""The time chart: what stands in it, where labels go, and that the same results give the same picture."""

from __future__ import annotations

import itertools
import math
import re
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lab import curves, timechart
from lab.curves import LinePanel, StripPanel, edges
from lab.errors import LabError
from lab.labels import place_labels, width_in
from lab.path_rows import MOST_ROWS, PathPanel, path_panels
from lab.results import FILE, Verdict, load
from lab.timechart import draw, render_svg
from lab.tracks import Span
from tests.unit.runs import LABELS, cut, datagrams, event, flow, probe, run, track

REFERENCE = Path(__file__).resolve().parent.parent.parent / "results" / "reference" / "scenarios"


def panel(chart: curves.TimeChart, title: str, details: str = "") -> LinePanel | StripPanel | PathPanel:
    (found,) = (each for each in chart.panels if each.title.startswith(title) and each.details.startswith(details))
    return found


def test_contenders_have_one_order_whatever_the_order_of_results() -> None:
    results = [cut(name) for name in ("plain", "wireguard-go", "centipede-python", "centipede")]
    chart = curves.read(results)
    order = ["centipede", "centipede-python", "wireguard-go", "plain"]
    assert [contender.name for contender in chart.contenders] == order
    throughput = panel(chart, "TCP")
    assert isinstance(throughput, LinePanel)
    assert [line.contender for line in throughput.lines] == order


def test_series_count_from_when_traffic_began() -> None:
    chart = curves.read([cut("centipede")])
    throughput = panel(chart, "TCP")
    assert isinstance(throughput, LinePanel)
    assert throughput.lines[0].edges == pytest.approx([0.1, 1.1, 2.1, 3.1, 4.1, 5.1, 6.1])
    back = panel(chart, "Datagrams lost", "stream-back")
    assert isinstance(back, StripPanel)
    assert back.strips[0].edges[0] == pytest.approx(-0.2)


def test_the_time_axis_ends_with_the_plan() -> None:
    assert curves.read([cut("centipede")]).end_s == 6.0
    assert curves.read([run(timeline=[event(8, "link-down one")])]).end_s == pytest.approx(9.02)


def test_lines_have_gaps_where_nothing_was_answered() -> None:
    trips = panel(curves.read([cut("wireguard-go")]), "Round trip")
    assert isinstance(trips, LinePanel)
    (line,) = trips.lines
    assert [math.isnan(value) for value in line.values] == [False, False, True, True, False, False]
    assert line.peaks[4] == 80.0
    assert line.words == "median 0.50, 20 lost"


def test_the_longest_stall_of_a_flow_stands_beside_it_and_at_its_time() -> None:
    chart = curves.read([run(probes={"tcp": probe(flow([4, 4, 0, 2, 6, 4]), "flow", began_s=0.25)})])
    throughput = panel(chart, "TCP")
    assert isinstance(throughput, LinePanel)
    (line,) = throughput.lines
    assert line.values == [4.0, 4.0, 0.0, 2.0, 6.0, 4.0]
    assert (line.words, line.stall) == ("stall 1.5 s", (2.25, 3.75))
    assert b"<svg" in render_svg([run(probes={"tcp": probe(flow([4, 4, 0, 2, 6, 4]), "flow")})])


def test_strips_tell_shares_of_lost_and_doubled_datagrams() -> None:
    strips = panel(curves.read([cut("wireguard-go")]), "Datagrams lost", "stream-back")
    assert isinstance(strips, StripPanel)
    (strip,) = strips.strips
    assert strip.lost == [0.0, 0.0, 1.0, 1.0, 0.0, 0.0]
    assert strip.doubled == [0.0, 0.1, 0.0, 0.0, 0.0, 0.0]
    assert strip.words == "20 lost, 1 twice, gap 100 ms"


def test_delays_of_a_stream_are_shown_where_nobody_pings() -> None:
    without = run(probes={"stream": probe(datagrams([0, 10, 0]), "datagrams")})
    delays = panel(curves.read([without]), "Longest delay one way")
    assert isinstance(delays, LinePanel)
    assert [math.isnan(value) for value in delays.lines[0].values] == [False, True, False]
    assert not any(each.title.startswith("Longest") for each in curves.read([cut("plain")]).panels)


def test_events_of_one_moment_are_one_mark_and_the_plan_says_when() -> None:
    happened = [event(1, "link-down one"), event(1, "link-down two"), event(3, "link-up one")]
    chart = curves.read([run(), run("plain", timeline=happened)])
    assert chart.marks == [(1.0, "link-down one, link-down two"), (3.0, "link-up one")]


def test_a_result_of_another_form_is_named() -> None:
    broken = msgspec.structs.replace(probe(datagrams([0]), "datagrams"), result={"lost": 0})
    with pytest.raises(LabError, match=r"cut through centipede, repetition 1, stream: .*planned"):
        curves.read([run(probes={"stream": broken})])


def test_both_ends_of_a_path_share_a_row_and_ports_that_say_nothing_are_left_out() -> None:
    (paths,) = path_panels([cut("centipede")])
    assert [(row.words, row.details) for row in paths.rows] == [
        ("one", "10.1.0.1 – 10.1.0.2"),
        ("two", "10.2.0.1 – 10.2.0.2"),
    ]
    one = paths.rows[0]
    assert [span.state for span in one.left.spans] == ["usable", "suspect", "lost"]
    assert [span.state for span in one.right.spans] == ["usable", "lost"]
    assert one.left.rates_mbps == [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_behind_a_nat_each_end_has_its_own_row_with_the_ports() -> None:
    tracks = [
        track("left", "10.1.0.1:51820", "192.0.2.2:51820", [(0, 6, "usable")]),
        track("right", "192.0.2.2:51820", "192.0.2.1:4711", [(0, 6, "usable")], link="wan"),
    ]
    (paths,) = path_panels([run(paths=tracks)])
    assert [row.details for row in paths.rows] == [
        "10.1.0.1:51820 – 192.0.2.2:51820",
        "192.0.2.1:4711 – 192.0.2.2:51820",
    ]
    assert [row.words for row in paths.rows] == ["one, left's view", "wan, right's view"]
    assert paths.rows[0].right.spans == []
    assert paths.rows[1].left.spans == []


def test_pairs_that_never_answered_have_no_row_and_are_counted() -> None:
    tracks = [
        track("left", "10.1.0.1:1", "10.1.0.2:1", [(0, 6, "usable")]),
        track("left", "10.2.0.1:1", "10.1.0.2:1", [(0, 6, "probing")]),
    ]
    (paths,) = path_panels([run(paths=tracks)])
    assert len(paths.rows) == 1
    assert paths.details == "1 more never answered"
    assert not list(path_panels([run(paths=tracks[1:])]))


def test_many_address_pairs_take_turns_in_the_row_of_their_links() -> None:
    number = MOST_ROWS + 1
    tracks = [
        track(
            "left",
            "10.1.0.1:1",
            f"10.1.0.{turn + 2}:1",
            [(turn / 2, turn / 2 + 0.5, "usable"), (turn / 2 + 0.5, 6, "lost")],
        )
        for turn in range(number)
    ]
    (paths,) = path_panels([run(paths=tracks)])
    (row,) = paths.rows
    assert row.details == f"{number} address pairs, the newest shown"
    usable = [span for span in row.left.spans if span.state == "usable"]
    assert usable == [Span(turn / 2, turn / 2 + 0.5, "usable", True) for turn in range(number)]
    assert all(before.to_s <= after.from_s for before, after in itertools.pairwise(row.left.spans))
    assert row.left.edges == sorted(row.left.edges)


def test_an_end_that_counts_anew_has_sent_nothing_negative() -> None:
    path = track("left", "10.1.0.1:1", "10.1.0.2:1", [(0, 6, "usable")])
    samples = [msgspec.structs.replace(each, tx_bytes=each.tx_bytes % 250_000) for each in path.samples]
    (paths,) = path_panels([run(paths=[msgspec.structs.replace(path, samples=samples)])])
    assert paths.rows[0].left.rates_mbps == [1.0, 0.0, 1.0, 0.0, 1.0]


def test_edges_end_as_far_apart_as_they_began() -> None:
    assert edges(1.0, [0.0, 0.5, 1.0]) == [1.0, 1.5, 2.0, 2.5]
    assert edges(1.0, []) == []


marks = st.lists(st.tuples(st.floats(0, 10), st.sampled_from(["a", "b" * 10, "c" * 30])), max_size=25)


@given(marks)
def test_no_label_covers_another_and_no_line_runs_through_one(given_marks: list[tuple[float, str]]) -> None:
    labels = place_labels(given_marks, width=10.0, lanes=4, measure=lambda words: len(words) / 10)
    assert sorted((label.line, label.words) for label in labels) == sorted(given_marks)
    placed = [label for label in labels if label.lane is not None]
    for one, other in itertools.permutations(placed, 2):
        assert one.lane is not None
        assert other.lane is not None
        if one.lane == other.lane:
            assert one.end <= other.begin or other.end <= one.begin
        if one.lane > other.lane:
            assert not other.begin < one.line < other.end
    assert all(label.end <= 10.0 or label.begin == label.line for label in labels)


def test_a_single_label_is_in_the_lowest_lane_and_one_at_the_edge_ends_at_its_line() -> None:
    left, right = place_labels([(1.0, "one"), (9.9, "two")], width=10.0, lanes=2, measure=len)
    assert (left.lane, left.leftward) == (0, False)
    assert (right.lane, right.leftward, right.end) == (0, True, 9.9)


def test_longer_words_are_wider() -> None:
    assert 0.0 == width_in(" ", 8) < width_in("l", 8) < width_in("link", 8) < width_in("link", 8, "bold")


@pytest.mark.parametrize("names", [list(LABELS)[:number] for number in range(1, len(LABELS) + 1)])
def test_the_same_results_give_the_same_picture_whatever_their_order(names: list[str]) -> None:
    results = [cut(name) for name in names]
    picture = render_svg(results)
    assert picture == render_svg(results[::-1])
    root = ET.fromstring(picture)
    assert root.tag.endswith("svg")
    assert root.attrib["width"] == "720pt"


def test_the_picture_in_the_readme_is_what_its_results_say() -> None:
    directory = REFERENCE / "wifi-to-lte"
    results = [load(path) for path in sorted(directory.glob(f"*/1/{FILE}"))]
    assert [each.tunnel.name for each in results] == ["centipede", "wireguard-go"]
    picture = (directory / "timechart-1.svg").read_text()
    words = set(re.findall("<!-- (.*?) -->", picture))
    assert words >= set(re.findall("<!-- (.*?) -->", render_svg(results).decode()))
    told = " ".join(
        line.words for each in curves.read(results).panels if isinstance(each, LinePanel) for line in each.lines
    )
    readme = (REFERENCE.parent.parent.parent / "README.md").read_text()
    for stall in re.findall(r"stall ([\d.]+ m?s)", told):
        assert f"stalls for {stall}" in readme


def test_coordinates_have_no_digits_that_cannot_be_seen() -> None:
    root = ET.fromstring(render_svg([cut("centipede")]))
    for path in root.iter("{http://www.w3.org/2000/svg}path"):
        assert not re.search(r"\.\d{3}", path.get("d", ""))


def test_a_contender_that_could_not_run_is_named_and_no_more(tmp_path: Path) -> None:
    absent = run("wireguard-kernel", verdict=Verdict.UNAVAILABLE, reason="this kernel has no WireGuard")
    chart = curves.read([absent, cut("centipede")])
    assert [(each.label, each.words) for each in chart.contenders] == [
        ("Centipede", "passed"),
        ("Kernel WireGuard", "unavailable"),
    ]
    draw([absent, cut("centipede")], tmp_path / "chart.svg", tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")


def test_runs_that_came_to_nothing_can_be_drawn() -> None:
    broken = {"tcp": probe(None, "tcp"), "stream": probe(None, "datagrams")}
    failed = run(verdict=Verdict.FAILED, reason="it did not come up", probes=broken)
    assert render_svg([failed]).startswith(b"<?xml")
    assert curves.verdict_words(msgspec.structs.replace(failed, verdict=Verdict.MEASURED)) == "did not run"
    with pytest.raises(LabError, match="no results"):
        curves.read([])


def test_a_storm_of_events_and_paths_can_be_drawn() -> None:
    happened = [event(number / 10, f"link-{'down' if number % 2 else 'up'} one") for number in range(60)]
    tracks = [
        track("left", f"10.{local}.0.1:1", f"10.{remote}.0.2:1", [(0, 6, "usable")], link=f"link{local}")
        for local in range(4)
        for remote in range(4)
    ]
    assert render_svg([run(timeline=happened, paths=tracks)])


def test_a_peak_is_cut_off_and_its_height_is_said() -> None:
    rates = [20.0] * 39
    usual = LinePanel(
        "TCP", "tcp", False, [curves.Line("plain", [float(i) for i in range(41)], [*rates, 30.0], [], "")]
    )
    peak = LinePanel(
        "TCP", "tcp", False, [curves.Line("plain", [float(i) for i in range(41)], [*rates, 777.0], [], "")]
    )
    assert timechart._details(usual) == "tcp"
    assert timechart._details(peak) == "tcp; cut off, highest 777"
