"""The summary of scenario runs and its page; and that the committed page, charts and results say the same."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from lab import cli, summary
from lab.errors import LabError
from lab.results import FILE, RunResult, Verdict, dump, load
from tests.unit.runs import MACHINE, judgement, run

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference" / "scenarios"
KEPT = sorted(REFERENCE.glob(f"*/*/*/{FILE}"))


def stalled(tunnel: str, stall_s: float | None, **facts: object) -> RunResult:
    judgements = [
        judgement("stream.lost", 0.0),
        judgement("tcp.longest_stall_s", stall_s, bound="<= 0.3", met=False),
        judgement("tcp.bits_per_second", 3.96e6, bound=">= 3.9e+06"),
    ]
    return msgspec.structs.replace(run(tunnel, scenario="wifi-to-lte", judgements=judgements), **facts)


def cells(page: str, scenario: str) -> list[str]:
    """Return the cells of a scenario's row."""
    (line,) = (line for line in page.splitlines() if line.startswith(f"| [{scenario}]"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_figures_stand_in_their_units_beside_what_is_expected_of_them() -> None:
    made = summary.summarise([stalled("centipede", 0.0506), stalled("wireguard-go", 4.08)], "x")
    assert cells(summary.page(made, ["wifi-to-lte"]), "wifi-to-lte") == [
        "[wifi-to-lte](../../../scenarios/wifi-to-lte.toml)<br>[time chart](wifi-to-lte/timechart-1.svg)",
        "stream lost = 0<br>tcp longest stall ≤ 300 ms<br>tcp rate ≥ 3.9 Mbit/s",
        "0<br>50.6 ms<br>3.96 Mbit/s",
        "0<br>4.08 s<br>3.96 Mbit/s",
    ]


def test_of_several_runs_there_are_the_median_and_the_range_and_failures_are_not_hidden() -> None:
    runs = [stalled("centipede", stall_s, repetition=number) for number, stall_s in enumerate((0.05, 0.1, None), 1)]
    runs.append(stalled("centipede", 0.9, repetition=4, verdict=Verdict.FAILED, reason="a|b <c>"))
    _, _, own, rival = cells(summary.page(summary.summarise(runs, "x"), []), "wifi-to-lte")
    assert own == "0<br>100 ms (50 to 900)<br>3.96 Mbit/s<br>**1 of 4 failed**<br>a/b &lt;c>"
    assert rival == "not run"


def test_what_became_of_an_engine_that_a_scenario_names_stands_in_the_cell() -> None:
    runs = [stalled("centipede", 0.05), stalled("centipede-python", 0.06), stalled("wireguard-go", 4.0)]
    _, _, own, rival = cells(summary.page(summary.summarise(runs, "x"), []), "wifi-to-lte")
    assert own.endswith("<br>3.96 Mbit/s<br>Python engine: 1 passed")
    assert "engine" not in rival
    runs.append(stalled("centipede-python", 0.9, repetition=2, verdict=Verdict.FAILED, reason="a|b"))
    _, _, own, _ = cells(summary.page(summary.summarise(runs, "x"), []), "wifi-to-lte")
    assert own.endswith("<br>**Python engine: 1 failed, 1 passed**; a/b")


def test_who_cannot_take_part_has_a_reason_in_place_of_figures() -> None:
    runs = [
        run("centipede", scenario=name, judgements=[judgement()]) for name in ("balance", "clock-steps", "wifi-to-lte")
    ]
    page = summary.page(summary.summarise(runs, "x"), [])
    assert [cells(page, name)[3] for name in ("balance", "clock-steps", "wifi-to-lte")] == [
        "cannot: it serves an identity from one machine",
        "cannot: it has no clock that can be set apart from the machine's",
        "not run",
    ]


def test_one_who_could_not_run_or_found_nothing_says_why() -> None:
    absent = run("wireguard-go", scenario="wifi-to-lte", verdict=Verdict.UNAVAILABLE, reason="not there")
    made = summary.summarise([stalled("centipede", 0.1), absent], "x")
    assert cells(summary.page(made, []), "wifi-to-lte")[3] == "–<br>–<br>–<br>not there"
    nothing = [judgement("stream.lost", None, met=False)]
    silent = run("wireguard-go", scenario="wifi-to-lte", judgements=nothing, reason="the flow did not begin")
    made = summary.summarise([stalled("centipede", 0.1), silent], "x")
    assert cells(summary.page(made, []), "wifi-to-lte")[3].endswith("–<br>the flow did not begin")


def test_the_kernel_has_a_column_once_it_was_measured() -> None:
    guest = msgspec.structs.replace(MACHINE, host="guest", virtualization="QEMU")
    runs = [stalled("centipede", 0.1), stalled("wireguard-kernel", 5.0, machine=guest)]
    page = summary.page(summary.summarise(runs, "x"), [])
    assert cells(page, "wifi-to-lte")[4] == "0<br>5 s<br>3.96 Mbit/s"
    assert "- guest: " in page
    assert "a tenth of the load" in page
    assert len(cells(summary.page(summary.summarise(runs[:1], "x"), []), "wifi-to-lte")) == 4


@pytest.mark.parametrize(
    ("figure", "words"),
    [
        ("stream-back.longest_gap_s", "stream-back longest gap"),
        ("left.peers.0.session.rekeys", "left session rekeys"),
        ("left.peers.0.paths.1.tx_share", "left paths 1 tx share"),
        ("right-programs.memory_grown_bytes", "right-programs memory grown"),
        ("tcp-v6.bits_per_second", "tcp-v6 rate"),
        ("many.flows_with_loss", "many flows with loss"),
    ],
)
def test_figures_have_names_for_people(figure: str, words: str) -> None:
    assert summary.figure_words(figure) == words


def test_a_rate_that_is_next_to_nothing_is_still_to_be_read() -> None:
    slow = [judgement("tcp.bits_per_second", 10_900.0, bound=">= 7e+06")]
    page = summary.page(summary.summarise([run(scenario="both-lossy", judgements=slow)], "x"), [])
    assert cells(page, "both-lossy")[1:3] == ["tcp rate ≥ 7 Mbit/s", "10.9 kbit/s"]


def test_a_bound_may_stand_above_another_time_of_the_run() -> None:
    late = [judgement("stream.median_outage_s", 0.104, bound="<= 0.006 above echo.p90_us")]
    page = summary.page(summary.summarise([run(scenario="nat-rebind", judgements=late)], "x"), [])
    assert cells(page, "nat-rebind")[1:3] == ["stream median outage ≤ 6 ms above echo p90", "104 ms"]


def test_the_command_makes_summary_and_page(tmp_path: Path) -> None:
    made = stalled("centipede", 0.1)
    dump(made, tmp_path / "results" / made.scenario / "centipede" / "1" / FILE)
    out = tmp_path / "out"
    out.mkdir()
    done = CliRunner().invoke(cli.cli, ["summary", str(out), "--from", str(tmp_path / "results"), "--command", "said"])
    assert done.exit_code == 0, done.output
    first = (out / summary.PAGE).read_text()
    assert "`said`" in first
    (out / summary.PAGE).unlink()
    assert CliRunner().invoke(cli.cli, ["summary", str(out)]).exit_code == 0
    assert (out / summary.PAGE).read_text() == first


def test_what_is_measured_later_takes_the_place_of_its_scenario_alone() -> None:
    then, now = (msgspec.structs.replace(MACHINE, git={"commit": commit}) for commit in ("then", "now"))
    one = [stalled("centipede", 0.1, machine=then), stalled("wireguard-go", 5.0, machine=then)]
    other = msgspec.structs.replace(stalled("centipede", 0.2, machine=then), scenario="both-lossy")
    again = stalled("centipede", 0.3, machine=now)
    made = summary.renew(summary.summarise([*one, other], "x"), summary.summarise([again], "y"))
    page = summary.page(made, [])
    assert made.command == "x"
    assert [row.name for row in made.scenarios] == ["both-lossy", "wifi-to-lte"]
    assert [cells(page, name)[2].split("<br>")[1] for name in ("both-lossy", "wifi-to-lte")] == ["200 ms", "300 ms"]
    assert cells(page, "wifi-to-lte")[3] == "not run", "of another state of the project"
    assert [made.machines[row.found[0].machines[0]].git["commit"] for row in made.scenarios] == ["then", "now"]
    assert "commit then, now" in page
    assert "- measured again, commit now: wifi-to-lte\n" in page
    both = summary.summarise([again, msgspec.structs.replace(other, machine=now)], "y")
    assert [machine.git["commit"] for machine in summary.renew(made, both).machines] == ["now"]


def test_a_file_that_is_no_summary_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / summary.FILE
    with pytest.raises(LabError, match="cannot read"):
        summary.read(path)
    path.write_text("{}")
    with pytest.raises(LabError, match="is no summary"):
        summary.read(path)


def test_the_committed_page_is_what_the_command_makes_of_the_committed_summary() -> None:
    made = summary.page(summary.read(REFERENCE / summary.FILE), summary.charts(REFERENCE))
    assert (REFERENCE / summary.PAGE).read_text() == made


@pytest.mark.parametrize("path", KEPT, ids=lambda path: "-".join(path.parts[-4:-1]))
def test_the_committed_results_are_among_those_of_the_summary(path: Path) -> None:
    kept = load(path)
    (row,) = (row for row in summary.read(REFERENCE / summary.FILE).scenarios if row.name == kept.scenario)
    (found,) = (found for found in row.found if found.tunnel == kept.tunnel.name)
    number = found.began_at.index(kept.began_at)
    assert {figure: values[number] for figure, values in found.figures.items()} == {
        each.figure: each.found for each in kept.judgements
    }


def test_figures_of_uses_in_the_readme_are_those_of_the_page() -> None:
    page = (REFERENCE / summary.PAGE).read_text()
    readme = (ROOT / "README.md").read_text()
    uses = [line for line in readme.splitlines() if line.startswith("|") and "timechart-1.svg" in line]
    assert uses
    for use in uses:
        told = " ".join(" ".join(cells(page, name)) for name in re.findall(r"\(scenarios/([a-z0-9-]+)\.toml\)", use))
        measured = use.strip("|").split("|")[1]
        figures = re.findall(r"\d[\d,.]*(?: (?:ms|s|Mbit/s)\b)?", measured)
        assert figures
        for figure in figures:
            assert re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d.,])", told), f"{figure} in: {use}"
