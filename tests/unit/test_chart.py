"""The chart: what stands in it, and that the same results give the same picture."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from lab import chart, results
from tests.unit.comparisons import FIGURES, KERNEL, make_comparison


def test_there_is_a_row_for_every_contender_with_words_in_place_of_a_figure() -> None:
    rows = {row.key: row for row in chart.rows(make_comparison(FIGURES, KERNEL), "tcp-1")}
    assert list(rows) == ["plain", "centipede", "wireguard-go", "wireguard-kernel"]
    assert rows["wireguard-kernel"].figure is None
    assert rows["wireguard-kernel"].words == "this kernel has no WireGuard"


def test_only_others_than_baseline_and_rival_have_a_ratio() -> None:
    rows = {row.key: row for row in chart.rows(make_comparison(), "tcp-1")}
    assert rows["plain"].ratio is None
    assert rows["wireguard-go"].ratio is None
    assert rows["centipede"].ratio is not None
    assert rows["centipede"].ratio.median == 3.0


def test_the_baseline_of_added_latency_is_said_in_words() -> None:
    row = chart.rows(make_comparison(), "added-idle")[0]
    assert row.figure is None
    assert row.words == "the baseline: 5.00 µs"


def test_the_note_names_machine_kernel_date_and_versions() -> None:
    note = chart.note(make_comparison())
    facts = ("2026-01-02", "Some <Processor>", "2 cores", "Linux 6.1.0 in a virtual machine (kvm)", "wireguard-go 1.2")
    for fact in (*facts, "centipede 1.2", "commit 0123456789", "1420"):
        assert fact in note


def test_the_same_results_give_the_same_picture(tmp_path: Path) -> None:
    pictures = []
    for name in ("one", "two"):
        directory = tmp_path / name
        directory.mkdir()
        chart.draw(make_comparison(FIGURES, KERNEL), directory)
        pictures.append((directory / "benchmark.svg").read_bytes())
        assert (directory / "benchmark.png").read_bytes().startswith(b"\x89PNG")
    assert pictures[0] == pictures[1]


def test_a_run_in_which_everything_failed_can_be_drawn(tmp_path: Path) -> None:
    chart.draw(make_comparison({"plain": {"tcp-1": [None]}, "centipede": {}}, KERNEL), tmp_path)
    assert (tmp_path / "benchmark.svg").exists()


def test_the_command_draws_from_a_results_file(tmp_path: Path) -> None:
    results.dump(make_comparison(), tmp_path / "results.json")
    done = CliRunner().invoke(chart.chart, [str(tmp_path), "--output", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out" / "benchmark.svg").exists()
