"""The arithmetic of comparisons, and their file."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from lab import comparison, results
from lab.comparison import Contender, Summary
from lab.errors import LabError
from tests.unit.comparisons import FIGURES, KERNEL, make_comparison


def test_a_summary_is_the_median_and_the_range_in_the_measures_unit() -> None:
    assert comparison.summary(make_comparison(), "centipede", "tcp-1") == Summary(8.0, 6.0, 10.0, 3)


def test_ratios_are_formed_inside_a_repetition() -> None:
    found = comparison.ratios(make_comparison(), "centipede", "tcp-1")
    assert found == {0: 3.0, 1: 2.0, 2: 4.0}
    # which is not the ratio of the medians, 8 / 2.5
    summarised = comparison.summarise(found)
    assert summarised is not None
    assert summarised.median == 3.0


def test_added_latency_is_counted_from_the_baseline_of_the_same_repetition() -> None:
    assert comparison.values(make_comparison(), "centipede", "added-idle") == {0: 60.0, 1: 70.0, 2: 60.0}
    assert comparison.ratios(make_comparison(), "centipede", "added-idle") == {0: 0.6, 1: 70 / 150, 2: 0.5}


def test_a_repetition_in_which_one_failed_gives_no_ratio() -> None:
    figures = {**FIGURES, "wireguard-go": {"tcp-1": [2e9, None, 2.5e9]}}
    assert comparison.ratios(make_comparison(figures), "centipede", "tcp-1") == {0: 3.0, 2: 4.0}


def test_cpu_per_gigabyte_is_of_both_ends_and_of_none_without_processes() -> None:
    made = make_comparison()
    assert comparison.values(made, "centipede", "cpu") == {0: 1.0, 1: 1.0, 2: 1.0}
    assert comparison.values(made, "plain", "cpu") == {}
    assert comparison.values(made, "plain", "machine-cpu") == {0: 1.5, 1: 1.5, 2: 1.5}


@pytest.mark.parametrize(
    ("bounded", "expected"), [(set(), False), ({6e9}, True), ({8e9}, True), ({10e9}, False), ({6e9, 10e9}, True)]
)
def test_a_bound_at_or_below_the_median_makes_it_a_bound(bounded: set[float], expected: bool) -> None:
    made = make_comparison()
    made.samples = [msgspec.structs.replace(each, at_least=each.value in bounded) for each in made.samples]
    assert comparison.at_least(made, "centipede", "tcp-1") is expected


@pytest.mark.parametrize(
    ("contender", "measure", "words"),
    [
        ("wireguard-kernel", "tcp-1", "this kernel has no WireGuard"),
        ("wireguard-go", "tcp-1", "failed: no answer"),
        ("wireguard-go", "cpu", "failed: no answer"),
        ("centipede", "tcp-4", "not measured"),
        ("plain", "cpu", "no processes of its own"),
        ("centipede-2x", "tcp-1", "failed: it broke"),
        ("nobody", "tcp-1", "did not take part"),
    ],
)
def test_an_absent_figure_is_explained(contender: str, measure: str, words: str) -> None:
    figures = {**FIGURES, "wireguard-go": {"tcp-1": [None]}}
    broken = Contender(key="centipede-2x", label="Twice", failures=["it broke"])
    made = make_comparison(figures, KERNEL, broken)
    assert comparison.summary(made, contender, measure) is None
    assert comparison.absence(made, contender, measure) == words


def test_what_was_measured_is_listed_in_the_order_of_tables() -> None:
    assert [measure for measure, _ in comparison.measured(make_comparison())] == [
        "tcp-1",
        "ping-idle",
        "added-idle",
        "cpu",
        "machine-cpu",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.00"),
        (0.0041, "0.004"),
        (0.0996, "0.10"),
        (0.354, "0.35"),
        (9.994, "9.99"),
        (9.996, "10.0"),
        (42.04, "42.0"),
        (99.94, "99.9"),
        (99.96, "100"),
        (-3.0, "-3.00"),
        (12345.6, "12,346"),
    ],
)
def test_figures_have_three_digits_that_count(value: float, text: str) -> None:
    assert comparison.render(value) == text


def test_a_file_gives_back_what_was_written(tmp_path: Path) -> None:
    made = make_comparison(FIGURES, KERNEL)
    results.dump(made, tmp_path / "results.json")
    assert comparison.load(tmp_path) == comparison.load(tmp_path / "results.json") == made


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (None, "No such file"),
        (b"{}", "not the result of a benchmark"),
        (msgspec.json.encode(msgspec.structs.replace(make_comparison(), schema_version=2)), "schema version 2"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(tmp_path: Path, content: bytes | None, complaint: str) -> None:
    file = tmp_path / "results.json"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(LabError, match=complaint):
        comparison.load(file)
