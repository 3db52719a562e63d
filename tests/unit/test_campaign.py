"""Which runs a command makes, which results of an earlier one stand, and what it says on the way."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from lab import scenario
from lab.campaign import Tally, choose, clear, continuation, standing
from lab.results import FILE, RunResult, Verdict, dump
from lab.runner import Run
from tests.unit.runs import MACHINE
from tests.unit.runs import run as made

SHORT, ONCE = (
    msgspec.structs.replace(scenario.load(scenario.find("two-hosts")), name=name, repetitions=repetitions)
    for name, repetitions in (("short", 2), ("once", 1))
)


def names(runs: Sequence[Run]) -> list[tuple[str, str, int]]:
    return [(run.scenario.name, run.tunnel, run.repetition) for run in runs]


def test_a_run_is_made_once_through_the_tunnel_that_the_scenario_is_for() -> None:
    assert names(choose([SHORT, ONCE])) == [("short", "centipede", 1), ("once", "centipede", 1)]


def test_a_full_run_repeats_what_is_bound_and_has_the_others_once() -> None:
    assert names(choose([SHORT, ONCE], full=True)) == [
        *(("short", tunnel, 1) for tunnel in SHORT.tunnels),
        *(("once", tunnel, 1) for tunnel in ONCE.tunnels),
        ("short", "centipede", 2),
    ]


def test_who_says_how_often_says_it_of_all_and_they_take_turns() -> None:
    assert names(choose([ONCE], tunnels=["plain", "centipede"], repeat=2)) == [
        ("once", "plain", 1),
        ("once", "centipede", 1),
        ("once", "centipede", 2),
        ("once", "plain", 2),
    ]


def result(tunnel: str = "centipede", **changes: object) -> RunResult:
    same = {"scenario_sha256": SHORT.digest, **changes}
    return msgspec.structs.replace(made(tunnel, scenario="short"), **same)


ELSEWHERE = msgspec.structs.replace(MACHINE, git={"commit": "another", "state": "clean"})


@pytest.mark.parametrize(
    ("found", "stands"),
    [
        (result(), True),
        (result(verdict=Verdict.FAILED), True),
        (result(verdict=Verdict.VOID), False),
        (result(verdict=Verdict.UNAVAILABLE), False),
        (result(scenario_sha256="of another file"), False),
        (result(machine=ELSEWHERE), False),
        (result("centipede-python", machine=ELSEWHERE), False),
        (result("wireguard-go", machine=ELSEWHERE), True),
    ],
)
def test_a_result_stands_unless_it_says_nothing_or_is_of_something_else(
    found: RunResult, stands: bool, tmp_path: Path
) -> None:
    run = Run(SHORT, found.tunnel.name)
    dump(found, run.directory(tmp_path) / FILE)
    assert standing(run, tmp_path, MACHINE) == (found if stands else None)


def test_what_is_no_whole_result_does_not_stand_and_makes_room(tmp_path: Path) -> None:
    run, other = Run(SHORT, "centipede"), Run(SHORT, "plain")
    assert standing(run, tmp_path, MACHINE) is None
    for each in (run, other):
        each.directory(tmp_path).mkdir(parents=True)
        (each.directory(tmp_path) / FILE).write_text("{")
    assert standing(run, tmp_path, MACHINE) is None
    clear([run], tmp_path)
    assert [each.directory(tmp_path).exists() for each in (run, other)] == [False, True]


@pytest.mark.parametrize(
    ("words", "rest"),
    [
        ("run --full", " --results 'a place' --resume"),
        ("run two-hosts --results 'a place'", " --resume"),
        ("run --results='a place' --resume --full", ""),
    ],
)
def test_the_command_that_goes_on_names_the_directory_once(words: str, rest: str) -> None:
    found = continuation(shlex.split(words), Path("a place"))
    assert shlex.split(found) == shlex.split(f"{sys.executable} -m lab {words}{rest}")


def test_a_tally_counts_on_from_what_was_there_and_learns_how_long_things_take() -> None:
    tally = Tally(92, [60.0, 60.0, 120.0], now=1000.0)
    assert tally.begin(1000.0) == "90 of 92, about 4 min 0 s left"
    assert tally.begin(1030.0, 2) == "91 to 92 of 92, about 1 min 30 s left", "half as long as planned"
