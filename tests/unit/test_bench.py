"""The benchmark's order, sizes, verdict and places."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from lab import bench, contest
from lab.comparison import BASELINE, MEASURES, Contender, Cost
from lab.contest import ENTRANTS, PROFILES
from lab.errors import LabError
from lab.progress import Estimate, Progress, render_seconds
from lab.tunnels import TUNNELS
from tests.unit.comparisons import FIGURES, KERNEL, make_comparison


def test_every_contender_begins_a_repetition_and_follows_a_different_one() -> None:
    entrants = [ENTRANTS[key] for key in PROFILES["usual"].entrants]
    orders = [bench.rotated(entrants, repetition) for repetition in range(len(entrants))]
    assert {order[0].key for order in orders} == {entrant.key for entrant in entrants}
    assert all(sorted(e.key for e in order) == sorted(e.key for e in entrants) for order in orders)
    assert bench.rotated([], 3) == []


@pytest.mark.parametrize(("size", "limit_s"), [("quick", 60.0), ("usual", 360.0)])
def test_the_sizes_are_planned_within_their_limits(size: str, limit_s: float) -> None:
    profile = PROFILES[size]
    present = [key for key in profile.entrants if key != "wireguard-kernel"]
    assert profile.repetitions >= 3
    assert profile.turn_s() * len(present) * profile.repetitions < limit_s * 0.9


def test_everything_that_is_measured_has_a_name_and_everybody_a_tunnel() -> None:
    for profile in PROFILES.values():
        assert {each.measure for each in profile.measurements} <= set(MEASURES)
        assert set(profile.entrants) <= set(ENTRANTS)
    assert {entrant.tunnel for entrant in ENTRANTS.values()} <= set(TUNNELS)


def test_all_contenders_share_queue_length_and_mtu() -> None:
    options = [entrant.tunnel_options() for entrant in ENTRANTS.values()]
    assert {each.txqueuelen for each in options} == {contest.QUEUE_PACKETS}
    assert len({each.mtu for each in options}) == 1


def test_the_baseline_takes_part_even_if_not_asked_for() -> None:
    chosen = bench.chosen(PROFILES["quick"], ["wireguard-go"])
    assert [entrant.key for entrant in chosen] == [BASELINE, "wireguard-go"]
    with pytest.raises(LabError, match="no contender 'ipsec'"):
        bench.chosen(PROFILES["quick"], ["ipsec"])


def test_only_what_is_ours_decides_the_verdict() -> None:
    figures = {**FIGURES, "wireguard-go": {"tcp-1": [None, None, None]}}
    assert bench.failed(make_comparison(figures, KERNEL)) == []
    absent = Contender(key="centipede-2x", label="Twice", unavailable="not built")
    broken = Contender(key="centipede-python", label="Python", failures=["it broke"])
    figures["centipede"] = {"tcp-1": [1e9, None, 1e9]}
    assert bench.failed(make_comparison(figures, absent, broken)) == ["Python: it broke", "Centipede, tcp-1: no answer"]


def test_a_machine_on_which_nothing_of_ours_can_run_is_a_failure() -> None:
    absent = Contender(key="centipede", label="Centipede", unavailable="this machine has no /dev/net/tun")
    only_others = {key: figures for key, figures in FIGURES.items() if key != "centipede"}
    assert bench.failed(make_comparison(only_others, absent)) == [
        "Centipede cannot run here: this machine has no /dev/net/tun"
    ]
    assert bench.failed(make_comparison(only_others)) == []


def test_costs_are_read_line_by_line_and_their_absence_is_told(tmp_path: Path) -> None:
    console = Console(file=io.StringIO(), width=200)
    progress = Progress(console)
    program = tmp_path / "run.py"
    program.write_text("""print('{"name": "seal", "ns": 1.5, "bytes": 64}')""")
    assert bench.costs(progress, program) == [Cost(name="seal", ns=1.5, bytes=64)]
    program.write_text("raise SystemExit('no compiler')")
    assert bench.costs(progress, program) == []
    assert bench.costs(progress, tmp_path / "nowhere.py") == []
    assert isinstance(console.file, io.StringIO)
    assert "no compiler" in console.file.getvalue()


def test_remaining_time_follows_the_pace_so_far() -> None:
    estimate = Estimate(100.0, now=1000.0)
    assert estimate.remaining_s(1000.0) == 100.0
    estimate.advance(20.0, now=1040.0)  # twice as slow as planned
    assert estimate.remaining_s(1040.0) == pytest.approx(160.0)
    assert estimate.remaining_s(1050.0) == pytest.approx(150.0)
    estimate.advance(500.0, now=1100.0)
    assert estimate.remaining_s(1100.0) == 0.0


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.6, "1 min 0 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")]
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert render_seconds(seconds) == text
