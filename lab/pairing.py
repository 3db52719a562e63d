"""A pairing: a tunnel over all its links, and beside it the same confined to each link alone, for links of many kinds.

Owns the order of it. Each pair is measured side by side, in networks of their own that differ only in the links the
tunnel may use and in its scheduler, so that whatever the machine does meanwhile is done to all of them. The rows take
turns, so that drift favours none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from msgspec.structs import replace

from lab.attempt import Attempt
from lab.budget import Budget
from lab.errors import LabError
from lab.expectation import read_figure
from lab.ratios import PairRecord, RowRecord
from lab.scenario import PairingModel, RowModel, Scenario
from lab.tunnels.base import Tunnel

ATTEMPTS = 5
TOGETHER = "together"
"""The network in which the tunnel has all links; each of the others has the name of its link."""
_SEEDS = 1000
"""From one pair to the next."""


class VoidPairError(LabError):
    """Every attempt at a pair was void: the machine was not up to it."""


@dataclass(frozen=True, slots=True)
class Pairing:
    """A pairing as a scenario has it."""

    scenario: Scenario
    make: Callable[[], Tunnel]
    """Makes a new contender: each network has one."""
    directory: Path
    """Takes what the programs wrote, of each row, pair and network; it must exist."""
    tell: Callable[[str], None] = lambda line: None
    pcap: bool = False

    def hold(self, budget: Budget) -> dict[str, RowRecord]:
        """Measure all pairs and return what came of them, by row. Raises LabError, VoidPairError if one stayed void."""
        pairing = self.scenario.pairing
        assert pairing is not None
        found: dict[str, list[PairRecord]] = {row.name: [] for row in pairing.row}
        with ThreadPoolExecutor(max_workers=pairing.at_once) as threads:
            try:
                for number in range(1, pairing.pairs + 1):
                    under_way = [threads.submit(self._pair, pairing, row, number, budget) for row in pairing.row]
                    for row, each in zip(pairing.row, under_way, strict=True):
                        found[row.name].append(each.result())
                    self.tell(f"  pair {number}: " + ", ".join(f"{row} {found[row][-1].ratio:.3f}" for row in found))
            except BaseException:
                budget.expire()  # or the rest would be measured first
                raise
        return {row: RowRecord.of(pairs) for row, pairs in found.items()}

    def _pair(self, pairing: PairingModel, row: RowModel, number: int, budget: Budget) -> PairRecord:
        void: list[str] = []
        while len(void) < ATTEMPTS:
            where = self.directory / row.name / str(number)
            if void:
                where /= f"attempt-{len(void) + 1}"
            attempts: dict[str, Attempt] = {}
            for name, scenario in networks(self.scenario, row, number).items():
                (where / name).mkdir(parents=True)
                attempts[name] = Attempt(scenario, self.make(), where / name, pcap=self.pcap)
            with ThreadPoolExecutor(max_workers=len(attempts)) as threads:
                for each in [threads.submit(attempt.go, budget) for attempt in attempts.values()]:
                    each.result()
            records = {name: each.record for name, each in attempts.items()}
            reasons = [f"{name}: {reason}" for name, each in records.items() for reason in each.emulators + each.void]
            if not reasons:
                figures = {name: _figure(attempt, pairing.figure) for name, attempt in attempts.items()}
                return PairRecord.of(figures.pop(TOGETHER), figures, void)
            void.append("; ".join(reasons))
            self.tell(f"  {row.name}, pair {number}: attempt {len(void)} is void: {void[-1]}")
        raise VoidPairError(f"{row.name}, pair {number}: {ATTEMPTS} attempts were void: {void[-1]}")


def networks(scenario: Scenario, row: RowModel, number: int) -> Mapping[str, Scenario]:
    """Return what is measured side by side for a pair of a row: the scenarios of the networks, by name."""
    assert scenario.pairing is not None
    links = tuple(
        replace(link, both=row.links[link.name], sends={}) if link.name in row.links else link for link in scenario.link
    )
    together = replace(
        scenario, link=links, pairing=None, expect=(), seed=scenario.seed + _SEEDS * number, serial=False
    )
    return {TOGETHER: together} | {
        name: _confined(together, name, scenario.pairing.scheduler) for name in scenario.tunnel.left.links
    }


def _confined(scenario: Scenario, name: str, scheduler: str) -> Scenario:
    """Return the scenario with a tunnel that has only one of its links, the others of which are not laid."""
    tunnel = scenario.tunnel
    number, link = next((number, link) for number, link in enumerate(scenario.link) if link.name == name)
    others = {*tunnel.left.links, name} - {name}
    return replace(
        scenario,
        link=tuple(each for each in scenario.link if each.name not in others),
        tunnel=replace(
            tunnel,
            scheduler=scheduler,
            left=replace(tunnel.left, links=(link.name,)),
            right=replace(tunnel.right, links=(link.name,)),
        ),
        seed=scenario.seed + number,
    )


def _figure(attempt: Attempt, path: str) -> float:
    for name, probe in attempt.record.probes.items():
        if probe.failure is not None:
            raise LabError(f"{name}: {probe.failure}")
    found = read_figure({name: probe.result for name, probe in attempt.record.probes.items()}, path)
    if found is None:
        raise LabError(f"{path} is not there")
    return found
