"""Seeded storms between two nodes; `python -m lab.simulate` runs more of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from lab import simulate
from lab.promises import InvariantError
from lab.simulate import KINDS, Kind, Outcome, Storm, Tally, main, plan, run_storm
from lab.world_model import Clock

SEEDS = 24
"""Of each kind: with those of test_members.py, 300 storms and more."""


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.parametrize("kind", KINDS, ids=[kind.name for kind in KINDS])
def test_a_storm_breaks_no_promise(kind: Kind, seed: int) -> None:
    report = Storm(kind, seed).run()  # raises, saying how to see it again
    assert report.packets > 400


def test_a_storm_is_repeated_exactly_by_its_seed() -> None:
    kind = KINDS[-1]
    first, second, other = Storm(kind, 77).run(), Storm(kind, 77).run(), Storm(kind, 78).run()
    assert first == second
    assert first.log != other.log


def test_the_command_line_reports(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seeds", "2", "--kind", "clocks", "--jobs", "2"]) == 0
    output = capsys.readouterr().out
    assert "2 of 2 seeds kept every promise" in output
    assert "2 of 2 storms ended, 0 of them badly" in output


def test_the_kinds_take_turns() -> None:
    assert plan(KINDS[:2], 5, 3) == [(KINDS[0], 5), (KINDS[1], 5), (KINDS[0], 6)]


def test_a_long_run_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    tally = Tally({"loss": 3}, clock=lambda: now)
    tally.add("loss", Outcome(None, "loss 0: broken"))
    now = 30.0
    tally.add("loss", Outcome(None, "loss 1: broken"))
    captured = capsys.readouterr()
    assert captured.out == "2 of 3 storms ended, 2 of them badly, 30 s\n"
    assert captured.err == "loss 0: broken\nloss 1: broken\n"
    assert tally.conclude() == 1


def test_a_failing_seed_is_named_with_the_command_that_repeats_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "RECONNECT_S", -1.0)
    assert main(["--seed", "3", "--kind", "clocks"]) == 1
    captured = capsys.readouterr()
    assert "python -m lab.simulate --kind clocks --seed 3 --log" in captured.err
    assert "1 of 1 storms ended, 1 of them badly" in captured.out


def test_an_error_of_the_code_is_the_result_of_its_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_storm: Storm) -> None:
        raise KeyError("lost")

    monkeypatch.setattr(Storm, "_strike", fail)
    outcome = run_storm(KINDS[0], 5)
    assert outcome.report is None
    assert "KeyError: 'lost'" in outcome.failure
    assert "--kind clocks --seed 5" in outcome.failure


def die(_kind: Kind, _seed: int) -> Outcome:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("unreachable")


def test_a_killed_process_is_told_and_fails_the_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "run_storm", die)
    assert main(["--seeds", "1", "--kind", "clocks"]) == 1
    captured = capsys.readouterr()
    assert "was killed" in captured.err
    assert "0 of 1 storms ended" in captured.out


def test_a_run_that_is_ended_says_how_far_it_came() -> None:
    command = [sys.executable, "-m", "lab.simulate", "--kind", "clocks", "--seeds", "1000", "--log"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert "session" in process.stdout.readline()  # the first storm is over
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "of 1000 storms ended, 0 of them badly" in out
    assert "ended by SIGTERM" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_whole_group_ends_it_and_its_workers(number: signal.Signals) -> None:
    """As `timeout` and a terminal send it."""
    command = [sys.executable, "-m", "lab.simulate", "--kind", "clocks", "--seeds", "1000", "--log", "--jobs", "2"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        assert "session" in process.stdout.readline()  # the first storm is over
        os.killpg(process.pid, number)
        out, _ = process.communicate(timeout=60)  # until no worker holds its end of the pipes
    assert process.returncode != 0
    assert "of 1000 storms ended, 0 of them badly" in out


def test_time_that_stands_still_is_found() -> None:
    clock = Clock()

    def again() -> None:
        clock.at(clock.now, again)

    repeat: Callable[[], None] = again
    clock.at(1.0, repeat)
    with pytest.raises(InvariantError, match="time does not advance beyond 1"):
        clock.run_until(2.0)
