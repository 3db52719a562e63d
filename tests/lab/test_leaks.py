"""After a run the machine is as it was before, however the run ended. Each run is judged on a machine of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lab import registry

pytestmark = [pytest.mark.netns, pytest.mark.timeout(180)]

ROOT = Path(__file__).resolve().parent.parent.parent
WITNESS = Path(__file__).with_name("leak_witness.py")
SCENARIO = """
title = "All there is, for a moment"
description = "For tests."
budget_s = 40
host = [
  {{ name = "left" }}, {{ name = "nat", kind = "router" }}, {{ name = "hub", kind = "switch" }}, {{ name = "right" }},
]
link = [
  {{ name = "home", ends = ["left", "nat"], both = {{ delay_ms = 1 }} }},
  {{ name = "wan", ends = ["nat", "hub"] }},
  {{ name = "far", ends = ["hub", "right"], both = {{ rate_bps = 50_000_000 }} }},
]
route = [{{ host = "left", via = "nat" }}]
nat = [{{ router = "nat", kind = "symmetric", outside = "wan" }}]
probe = [{{ name = "stream", kind = "datagrams", duration_s = {seconds}, rate = 100 }}]
expect = [{{ figure = "stream.lost", equals = {expected}, tunnels = ["centipede", "plain"] }}]
lateness_ms = 10000
timeline = [
  {{ at = 0.1, do = "blackhole", link = "far", towards = "hub" }},
  {{ at = 0.2, do = "blackhole-end", link = "far", towards = "hub" }},
  {{ at = 0.3, do = "{event}", link = "home", host = "left", address = "10.9.0.1/24" }},
]
[tunnel]
left = {{ host = "left", links = ["home"], found = false }}
right = {{ host = "right", links = ["far"] }}
"""


def witness(*words: str, number: int | None = None) -> dict[str, Any]:
    """Run a command on a machine of its own and return what was there before and after."""
    # Not pytest's directory, whose path is too long for sockets.
    with tempfile.TemporaryDirectory(prefix="cpd-") as temporary:
        return _witness(temporary, *words, number=number)


def _witness(temporary: str, *words: str, number: int | None) -> dict[str, Any]:
    machine = ["unshare", "--pid", "--net", "--mount", "--fork", "--mount-proc"]
    command = [sys.executable, str(WITNESS), temporary, "-" if number is None else str(number), *words]
    environment = {**os.environ, "TMPDIR": temporary, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*machine, *command], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def command(
    tmp_path: Path, *, tunnel: str = "centipede", seconds: float = 0.6, expected: int = 0, event: str = "address-add"
) -> list[str]:
    path = tmp_path / "brief.toml"
    path.write_text(SCENARIO.format(seconds=seconds, expected=expected, event=event))
    results = str(tmp_path / "results")
    return [sys.executable, "-m", "lab", "run", str(path), "--tunnel", tunnel, "--pcap", "--results", results]


def test_a_good_run_leaves_nothing(tmp_path: Path) -> None:
    report = witness(*command(tmp_path))
    assert report["status"] == 0, report["said"]
    assert report["after"] == {**report["before"], "files": report["after"]["files"]}
    assert [path for path in report["after"]["files"] if "/" in path] == []
    assert report["cleaned"] == []


def test_a_run_that_misses_what_it_expects_leaves_nothing(tmp_path: Path) -> None:
    report = witness(*command(tmp_path, expected=7))
    assert report["status"] == 1
    assert "stream.lost is 0, expected = 7" in report["said"]
    assert report["after"] == {**report["before"], "files": report["after"]["files"]}
    assert report["cleaned"] == []


def test_a_run_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    report = witness(*command(tmp_path, event="address-remove"))
    assert report["status"] == 1
    assert "has no address 10.9.0.1/24" in report["said"]
    assert report["after"] == {**report["before"], "files": report["after"]["files"]}
    assert report["cleaned"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda number: number.name)
def test_an_interrupted_run_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    report = witness(*command(tmp_path, seconds=30), number=number)
    assert report["status"] != 0
    assert report["after"] == {**report["before"], "files": report["after"]["files"]}
    assert [path for path in report["after"]["files"] if "/" in path] == []
    assert report["cleaned"] == []


def test_a_killed_run_leaves_a_directory_which_clean_removes(tmp_path: Path) -> None:
    report = witness(*command(tmp_path, seconds=30), number=signal.SIGKILL)
    assert report["status"] == -signal.SIGKILL
    assert report["after"] == {**report["before"], "files": report["after"]["files"]}
    assert [path for path in report["after"]["files"] if "/" in path] != []
    assert [line.split()[0] for line in report["cleaned"]] == ["removed"]
    assert [path for path in report["clean"]["files"] if "/" in path] == []


@pytest.fixture
def own_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A base directory that no other test's runs are in: cleaning the common one would hide what they leave behind."""
    with tempfile.TemporaryDirectory(prefix="cpd-") as temporary:
        monkeypatch.setattr(tempfile, "tempdir", temporary)
        yield registry.base_directory()


def test_clean_does_not_touch_a_run_that_lives(own_runs: Path) -> None:
    with contextlib.closing(registry.RunDirectory()) as run:
        assert run.path.parent == own_runs
        assert registry.clean() == []
        assert run.path.is_dir()
    assert not run.path.exists()


def test_clean_does_not_touch_a_run_that_is_being_recorded(own_runs: Path) -> None:
    (own_runs / "begun").mkdir()
    assert registry.clean() == []
    (own_runs / "begun" / "owner").touch()
    assert registry.clean() == []
    (own_runs / "begun" / "owner").write_text("1 1 another-boot")
    assert registry.clean() == [f"removed {own_runs / 'begun'}"]


def test_three_runs_at_once_do_not_meet(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        runs = []
        for number in range(3):
            directory = tmp_path / str(number)
            directory.mkdir()
            words = command(directory)
            run = subprocess.Popen(words, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            runs.append(stack.enter_context(run))
            stack.callback(run.terminate)
        said = [run.communicate(timeout=150)[0] for run in runs]
        assert [run.returncode for run in runs] == [0, 0, 0], said
