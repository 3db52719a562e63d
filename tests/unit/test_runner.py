"""Expectations, verdicts and result files."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec
import pytest

from lab import results, scenario
from lab.attempt import Attempt, Record
from lab.errors import LabError
from lab.expectation import Expectation, Outcome, read_figure
from lab.machine import Machine
from lab.pairing import ATTEMPTS
from lab.results import ProbeRecord, RunResult, TunnelFacts, Verdict
from lab.runner import Run, execute, judge
from lab.tunnels import make_tunnel

VALUES = {"stream": {"lost": 3, "delay_us": {"p99": 1.5}, "series": [{"received": 7}], "errors": {"EIO": 1}}}

FIGURES = (
    ("stream.lost", 3.0),
    ("stream.delay_us.p99", 1.5),
    ("stream.series.0.received", 7.0),
    ("stream.series.1.received", None),
    ("stream.series.x", None),
    ("stream.errors", None),
    ("stream.lost.more", None),
    ("nobody", None),
)


@pytest.mark.parametrize(("path", "value"), FIGURES)
def test_figures_are_read_by_path(path: str, value: float | None) -> None:
    assert read_figure(VALUES, path) == value


BOUNDS = (
    ({"equals": 3}, Outcome.MET, "= 3"),
    ({"equals": 0}, Outcome.MISSED, "= 0"),
    ({"at_least": 3}, Outcome.MET, ">= 3"),
    ({"at_least": 3.1}, Outcome.MISSED, ">= 3.1"),
    ({"at_most": 3}, Outcome.MET, "<= 3"),
    ({"at_most": 2.9}, Outcome.MISSED, "<= 2.9"),
    ({"at_least": 1, "at_most": 4}, Outcome.MET, ">= 1 and <= 4"),
    ({"at_least": 1, "at_most": 2}, Outcome.MISSED, ">= 1 and <= 2"),
)


@pytest.mark.parametrize(("bounds", "outcome", "words"), BOUNDS)
def test_a_figure_is_held_to_its_bounds(bounds: dict[str, float], outcome: Outcome, words: str) -> None:
    judgement = Expectation(figure="stream.lost", **bounds).judge("centipede", VALUES)  # type: ignore[arg-type]
    assert (judgement.outcome, judgement.bound, judgement.found) == (outcome, words, 3.0)


ABOVE = (
    ({"at_most": 0.006}, "gap_s", "echo.max_us", Outcome.MET),
    ({"at_most": 0.004}, "gap_s", "echo.max_us", Outcome.MISSED),
    ({"at_most": 0.006}, "gap_s", "echo.min_us", Outcome.MISSED),
    ({"at_least": 0.005, "at_most": 0.005}, "gap_s", "echo.max_ms", Outcome.MISSED),
)


@pytest.mark.parametrize(("bounds", "figure", "above", "outcome"), ABOVE)
def test_a_time_is_held_to_another_time_of_the_run(
    bounds: dict[str, float], figure: str, above: str, outcome: Outcome
) -> None:
    values = {"stream": {"gap_s": 0.105}, "echo": {"max_us": 100_000.0}}
    expectation = Expectation(figure=f"stream.{figure}", above=above, **bounds)  # type: ignore[arg-type]
    judgement = expectation.judge("centipede", values)
    assert (judgement.outcome, judgement.found) == (outcome, 0.105)
    assert judgement.bound.endswith(f" above {above}")


def test_a_figure_that_is_not_there_is_a_miss() -> None:
    judgement = Expectation(figure="stream.late", equals=0).judge("centipede", VALUES)
    assert (judgement.outcome, judgement.found) == (Outcome.MISSED, None)


@pytest.mark.parametrize(
    ("tunnel", "bound"),
    [("centipede", True), ("centipede-python", True), ("centipedes", False), ("wireguard-go", False), ("plain", False)],
)
def test_an_expectation_binds_a_tunnel_with_its_variants(tunnel: str, bound: bool) -> None:
    expectation = Expectation(figure="stream.lost", equals=0)
    assert expectation.binds(tunnel) is bound
    assert (expectation.judge(tunnel, VALUES).outcome is Outcome.MEASURED) is not bound


SCENARIO = scenario.parse(
    """
title = "A scenario"
description = "For tests."
budget_s = 10
host = [{ name = "left" }, { name = "right" }]
link = [{ name = "one", ends = ["left", "right"] }]
tunnel = { left = { host = "left", links = ["one"] }, right = { host = "right", links = ["one"] } }
probe = [{ name = "stream", kind = "datagrams", duration_s = 1 }]
expect = [{ figure = "stream.lost", equals = 0 }]
""",
    name="tests",
)


def record(lost: int | None) -> Record:
    probe = ProbeRecord(
        kind="datagrams",
        sender="left",
        began_s=0.0,
        settings={},
        result=None if lost is None else {"lost": lost},
        error="the receiver failed" if lost is None else None,
    )
    return Record(probes={"stream": probe})


VERDICTS = (
    ("centipede", 0, None, None, Verdict.PASSED, None),
    ("centipede", 3, None, None, Verdict.FAILED, "stream.lost is 3, expected = 0"),
    (
        "centipede",
        None,
        None,
        None,
        Verdict.FAILED,
        "stream: the receiver failed; stream.lost is not there, expected = 0",
    ),
    ("centipede", 0, "it fell", None, Verdict.FAILED, "it fell"),
    ("centipede", 0, None, "no TUN", Verdict.UNAVAILABLE, "no TUN"),
    ("wireguard-go", 3, None, None, Verdict.MEASURED, None),
    ("wireguard-go", None, None, None, Verdict.MEASURED, "stream: the receiver failed"),
    ("wireguard-go", 0, "it fell", None, Verdict.MEASURED, "it fell"),
)


@pytest.mark.parametrize(("tunnel", "lost", "failure", "unavailable", "verdict", "reason"), VERDICTS)
def test_the_verdict_follows_from_the_record(
    tunnel: str, lost: int | None, failure: str | None, unavailable: str | None, verdict: Verdict, reason: str | None
) -> None:
    assert judge(Run(SCENARIO, tunnel), record(lost), failure, unavailable)[:2] == (verdict, reason)


def test_a_connection_that_broke_fails_whatever_its_figures_are() -> None:
    broken = record(0)
    broken.probes["tcp"] = msgspec.structs.replace(
        broken.probes["stream"], kind="flow", result={"longest_stall_s": 0.01, "error": "Connection reset by peer"}
    )
    verdict, reason, _ = judge(Run(SCENARIO, "centipede"), broken, None, None)
    assert (verdict, reason) == (Verdict.FAILED, "tcp: Connection reset by peer")


def test_a_run_is_planned_to_take_as_long_as_its_probes_and_events() -> None:
    ends = [probe.at + probe.seconds for probe in SCENARIO.probe] + [event.at for event in SCENARIO.timeline]
    assert max(ends) < Run(SCENARIO, "centipede").planned_s < max(ends) + 10


def test_what_the_kernel_discarded_is_told_with_a_miss_and_is_none_itself() -> None:
    run = Run(SCENARIO, "centipede")
    starved = record(3)
    starved.discards = {"left": {"cpd0.tx_dropped": 3}, "right": {}}
    verdict, reason, _ = judge(run, starved, None, None)
    assert verdict is Verdict.FAILED
    assert reason == "stream.lost is 3, expected = 0; kernel of left discarded 3 (cpd0.tx_dropped)"
    fine = record(0)
    fine.discards = starved.discards
    assert judge(run, fine, None, None)[0] is Verdict.PASSED


LATE = "link one: the emulator was late by 118 ms"
OVERSLEPT = "the sender slept too long"
STILL = "the machine stood still for 120 ms"


@dataclass(frozen=True, slots=True)
class Play:
    """An attempt as the machine and the tunnel make it."""

    lost: int
    stood_still_s: float = 0.0
    emulators: tuple[str, ...] = ()
    void: tuple[str, ...] = ()


@pytest.mark.parametrize(
    ("attempts", "verdict", "void", "endured"),
    [
        # What is missed while the machine stands still says nothing.
        ([Play(3, 0.12), Play(0)], Verdict.PASSED, [STILL], []),
        ([Play(0, 0.12)], Verdict.PASSED, [], [STILL]),
        ([Play(3)], Verdict.FAILED, [], []),
        ([Play(3, 0.12)] * ATTEMPTS, Verdict.VOID, [STILL] * ATTEMPTS, []),
        ([Play(0, 0.12, (LATE,))], Verdict.PASSED, [], [LATE, STILL]),
        ([Play(3, 0.12, (LATE,)), Play(0)], Verdict.PASSED, [f"{LATE}; {STILL}"], []),
        ([Play(0, 0.0, (LATE,)), Play(0)], Verdict.PASSED, [LATE], []),  # late by itself
        ([Play(0, 0.12, (), (OVERSLEPT,)), Play(0)], Verdict.PASSED, [f"{OVERSLEPT}; {STILL}"], []),
        ([Play(0, 0.0, (LATE,))] * ATTEMPTS, Verdict.VOID, [LATE] * ATTEMPTS, []),
    ],
)
def test_what_is_missed_while_the_machine_stands_still_is_void_and_what_is_met_counts(
    attempts: list[Play],
    verdict: Verdict,
    void: list[str],
    endured: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    begun: list[int] = []

    class Played:
        options = Attempt(SCENARIO, make_tunnel("plain"), tmp_path).options

        def __init__(self, *_: object, **__: object) -> None:
            self.record = Record()

        def go(self, _budget: object) -> None:
            play = attempts[len(begun)]
            self.record = record(play.lost)
            self.record.emulators = list(play.emulators)
            self.record.void = list(play.void)
            begun.append(len(begun))

    class Still:
        longest_s = 0.0

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None:
            self.longest_s = attempts[len(begun) - 1].stood_still_s

    monkeypatch.setattr("lab.runner.Attempt", Played)
    monkeypatch.setattr("lab.runner.Stillness", Still)
    monkeypatch.setattr("lab.runner.unavailable", lambda *_: None)
    found = execute(Run(SCENARIO, "centipede"), tmp_path, result().machine)
    assert (found.verdict, len(begun)) == (verdict, len(attempts))
    assert (found.void, found.endured) == (void, endured)


def result() -> RunResult:
    machine = Machine(
        host="here",
        system="",
        kernel="",
        architecture="",
        processor="",
        cores=2,
        memory_bytes=1,
        virtualization="",
        tools={},
        git={},
    )
    return RunResult(
        scenario="tests",
        scenario_sha256=SCENARIO.digest,
        title=SCENARIO.title,
        tunnel=TunnelFacts(name="centipede", label="Centipede"),
        repetition=1,
        seed=1,
        began_at="2026-01-01T00:00:00+00:00",
        seconds=1.0,
        machine=machine,
        probes=record(0).probes,
        judgements=judge(Run(SCENARIO, "centipede"), record(3), None, None)[2],
        verdict=Verdict.FAILED,
    )


def test_a_result_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "result.json"
    results.dump(result(), path)
    assert results.load(path) == result()
    assert [judgement.figure for judgement in results.load(path).missed] == ["stream.lost"]
    assert [each.name for each in path.parent.iterdir()] == ["result.json"], "nothing but the whole file"


def test_a_file_that_is_no_result_is_refused_in_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "result.json"
    with pytest.raises(LabError, match="cannot read"):
        results.load(path)
    path.write_text("[]")
    with pytest.raises(LabError, match="is no result of a run"):
        results.load(path)
    path.write_text('{"schema": 99}')
    with pytest.raises(LabError, match="has version 99 of the format; this is version 1"):
        results.load(path)


def test_the_schema_in_the_repository_is_that_of_the_code() -> None:
    path = scenario.SCENARIOS.parent / "results" / "schema.json"
    assert json.loads(path.read_text()) == json.loads(json.dumps(results.schema()))


def test_each_command_gets_a_directory_of_its_own(tmp_path: Path) -> None:
    began = dt.datetime(2026, 3, 4, 5, 6, tzinfo=dt.UTC)
    made = [results.new_directory(tmp_path, began, "here").name for _ in range(3)]
    assert made == ["2026-03-04-here", "2026-03-04-here-2", "2026-03-04-here-3"]
