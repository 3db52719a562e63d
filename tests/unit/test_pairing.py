"""A pairing: what is measured side by side, what a void attempt costs, and what a row comes to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from lab import pairing, scenario
from lab.budget import Budget
from lab.campaign import choose
from lab.errors import LabError
from lab.expectation import Outcome
from lab.impairment import Impairment
from lab.pairing import ATTEMPTS, TOGETHER, Pairing, VoidPairError, networks
from lab.ratios import PairRecord, RowRecord
from lab.runner import Run, judge
from lab.scenario import Scenario
from lab.tunnels.plain import Plain

TEXT = """
title = "A pairing"
description = "For tests."
budget_s = 10
host = [{ name = "left" }, { name = "right" }]
link = [
  { name = "near", ends = ["left", "right"], both = { delay_ms = 10 } },
  { name = "far", ends = ["left", "right"] },
  { name = "other", ends = ["left", "right"] },
]
probe = [{ name = "transfer", kind = "tcp", duration_s = 1 }]

[tunnel]
scheduler = "aggregate"
left = { host = "left", links = ["near", "far"] }
right = { host = "right", links = ["near", "far"] }

[pairing]
figure = "transfer.bits_per_second"
pairs = 3
row = [
  { name = "slow", links = { far = { delay_ms = 40 } } },
  { name = "lossy", links = { far = { loss = 0.1 } } },
]

[[expect]]
figure = "pairing.*.ratio"
at_least = 0.95
"""
PAIRING = scenario.parse(TEXT, name="pairing")
BAD = {
    "two rows of one name": ('"lossy"', '"slow"', "pairing: there are no rows, or two have one name"),
    "a row with a dot": ('"lossy"', '"1.5"', "pairing: row '1.5': letters, digits and hyphens"),
    "a link there is not": ("{ far = { loss", "{ farther = { loss", "pairing: row lossy: there is no link 'farther'"),
    "a probe there is not": ('"transfer.bits', '"flow.bits', "pairing: there is no probe for 'flow.bits_per_second'"),
    "no pairs": ("pairs = 3", "pairs = 0", "pairing: pairs and at_once must be at least 1"),
    "unlike ends": ('right", links = ["near", "far"]', 'right", links = ["near"]', "must have the same links"),
    "a row nobody has": ("pairing.*.ratio", "pairing.fast.ratio", "there is no probe 'pairing'"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_pairing_that_is_none_is_refused(name: str) -> None:
    old, new, words = BAD[name]
    assert old in TEXT
    with pytest.raises(LabError, match="scenario x: ") as caught:
        scenario.parse(TEXT.replace(old, new), name="x")
    assert words in str(caught.value)


def test_networks_differ_in_the_links_that_the_tunnel_may_use() -> None:
    assert PAIRING.pairing is not None
    found = networks(PAIRING, PAIRING.pairing.row[0], 2)
    assert list(found) == [TOGETHER, "near", "far"]
    assert [each.tunnel.scheduler for each in found.values()] == ["aggregate", "fastest", "fastest"]
    assert [each.tunnel.left.links for each in found.values()] == [("near", "far"), ("near",), ("far",)]
    assert [each.tunnel.right.links for each in found.values()] == [("near", "far"), ("near",), ("far",)]
    laid = {name: [link.name for link in each.link] for name, each in found.items()}
    assert laid == {TOGETHER: ["near", "far", "other"], "near": ["near", "other"], "far": ["far", "other"]}
    both = {link.name: link.both for link in found[TOGETHER].link}
    assert both["near"] == Impairment(delay_ms=10), "the row does not name it"
    assert both["far"] == found["far"].link[0].both == Impairment(delay_ms=40)
    assert not any(each.pairing or list(each.problems()) for each in found.values())


def test_a_link_has_the_same_seed_wherever_it_is_and_another_in_each_pair() -> None:
    assert PAIRING.pairing is not None
    seeds = []
    for number in (1, 2):
        found = networks(PAIRING, PAIRING.pairing.row[0], number)
        together, near, far = (
            {link.name: link.seed for link in found[name].plan().links} for name in (TOGETHER, "near", "far")
        )
        assert (near["near"], far["far"]) == (together["near"], together["far"])
        seeds.append(together["far"])
    assert seeds[0] != seeds[1]


def test_a_row_is_the_median_of_its_pairs_and_a_pair_is_held_against_the_best_link() -> None:
    pairs = [PairRecord.of(together, {"near": 10.0, "far": 4.0}) for together in (12.0, 9.0, 11.0)]
    assert [pair.ratio for pair in pairs] == [1.2, 0.9, 1.1]
    row = RowRecord.of(pairs)
    assert (row.ratio, row.together, row.alone) == (1.1, 11.0, {"near": 10.0, "far": 4.0})
    assert PairRecord.of(1.0, {"near": 0.0}).ratio == 0, "nothing went through, and nothing is known"


class Played:
    """An attempt that builds nothing: what comes of it is told beforehand, by the links of the tunnel."""

    void: ClassVar[Iterator[list[str]]] = iter(())
    figures: ClassVar[dict[tuple[str, ...], float | None]] = {}

    def __init__(self, what: Scenario, tunnel: Plain, directory: Path, *, pcap: bool) -> None:
        assert directory.is_dir()
        assert not pcap
        figure = self.figures[what.tunnel.left.links]
        probe = SimpleNamespace(failure=None, result={"bits_per_second": figure})
        self.record = SimpleNamespace(probes={"transfer": probe}, emulators=[], void=[])

    def go(self, budget: Budget) -> None:
        budget.check()
        self.record.void = next(self.void, [])


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> type[Played]:
    monkeypatch.setattr(pairing, "Attempt", Played)
    monkeypatch.setattr(Played, "figures", {("near", "far"): 12.0, ("near",): 10.0, ("far",): 4.0})
    monkeypatch.setattr(Played, "void", iter(()))
    return Played


def hold(directory: Path) -> tuple[dict[str, RowRecord], list[str]]:
    told: list[str] = []
    with Budget(60) as budget:
        return Pairing(PAIRING, Plain, directory, told.append).hold(budget), told


def test_all_pairs_of_all_rows_are_measured_and_judged(played: type[Played], tmp_path: Path) -> None:
    rows, told = hold(tmp_path)
    assert {name: [pair.ratio for pair in row.pairs] for name, row in rows.items()} == {
        "slow": [1.2, 1.2, 1.2],
        "lossy": [1.2, 1.2, 1.2],
    }
    assert told[-1] == "  pair 3: slow 1.200, lossy 1.200"
    assert (tmp_path / "lossy" / "3" / "far").is_dir()
    record: Any = SimpleNamespace(states={}, footprints=[], sockets=[], probes={}, meeting=None, discards={})
    _, _, judgements = judge(Run(PAIRING, "centipede"), record, None, None, rows)
    assert [(each.figure, each.found, each.outcome) for each in judgements] == [
        ("pairing.slow.ratio", 1.2, Outcome.MET),
        ("pairing.lossy.ratio", 1.2, Outcome.MET),
    ]


def test_a_pair_of_which_one_network_is_void_is_measured_again(
    played: type[Played], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(played, "void", iter([["it was late"]]))
    rows, told = hold(tmp_path)
    (void,) = [reason for row in rows.values() for pair in row.pairs for reason in pair.void]
    assert void.endswith(": it was late")
    assert len(told) == 4, "one attempt and three pairs"
    assert (tmp_path / "slow" / "1" / "attempt-2" / TOGETHER).is_dir()


def test_a_pair_that_stays_void_ends_it(played: type[Played], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(played, "void", iter([["it was late"]] * 3 * ATTEMPTS))
    with pytest.raises(VoidPairError, match=f"slow, pair 1: {ATTEMPTS} attempts were void"):
        hold(tmp_path)


def test_a_figure_that_is_not_there_ends_it(
    played: type[Played], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(played, "figures", dict.fromkeys(played.figures))
    with pytest.raises(LabError, match=r"^transfer.bits_per_second is not there$"):
        hold(tmp_path)


def test_who_says_how_often_says_how_many_pairs() -> None:
    (run,) = choose([PAIRING], repeat=7)
    assert (run.repetition, run.scenario.repetitions) == (1, 1)
    assert run.scenario.pairing is not None
    assert run.scenario.pairing.pairs == 7
    (as_it_is,) = choose([PAIRING])
    assert as_it_is.scenario is PAIRING
    assert as_it_is.planned_s == 3 * 2 * 5.0


def test_time_that_is_up_ends_all_that_is_watched() -> None:
    ended: list[str] = []

    def topology(name: str) -> Any:
        return SimpleNamespace(abort=lambda: ended.append(name))

    with Budget(60) as budget:
        with budget.watching(topology("gone")):
            pass
        with budget.watching(topology("one")), budget.watching(topology("other")):
            budget.expire()
        with pytest.raises(LabError, match="longer than its budget of 60 s"):
            budget.check()
    assert ended == ["one", "other"]
