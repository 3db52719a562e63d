"""Running scenarios: attempts, repetitions, verdicts, and where the results go.

Owns the judgement of an attempt and the repetition of a void one. Must not know how an attempt goes. Invariants: every
run yields exactly one result, whatever happened; a void attempt is repeated a few times, then the run is void.
"""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec

from lab.attempt import Attempt, Record, unavailable
from lab.budget import Budget
from lab.errors import LabError
from lab.expectation import MEETING, PAIRING, Judgement, Outcome
from lab.machine import Machine, load
from lab.pairing import ATTEMPTS, Pairing, VoidPairError
from lab.ratios import RowRecord
from lab.results import FILE, RunResult, TunnelFacts, Verdict, dump
from lab.scenario import Scenario
from lab.stillness import Stillness
from lab.tunnels import make_mesh, make_tunnel
from lab.tunnels.base import Tunnel

_AROUND_S = 4.0
"""Building, waiting for traffic and taking down, about."""
_MEETING_S = 10.0
"""What a meeting takes."""


@dataclass(frozen=True, slots=True)
class Run:
    """One scenario, one tunnel, one repetition."""

    scenario: Scenario
    tunnel: str
    repetition: int = 1
    pcap: bool = False

    @property
    def title(self) -> str:
        """How the run is called in a progress line."""
        again = f", repetition {self.repetition}" if self.repetition > 1 else ""
        return f"{self.scenario.name} through {self.tunnel}{again}"

    @property
    def planned_s(self) -> float:
        """How long it takes, about, where it need not be repeated; in an emulated guest three times as long."""
        ends = [probe.at + probe.seconds for probe in self.scenario.probe]
        ends += [event.at for event in self.scenario.timeline]
        once_s = _AROUND_S + max(ends, default=_MEETING_S)
        pairing = self.scenario.pairing
        if pairing is None:
            return once_s
        return once_s * pairing.pairs * math.ceil(len(pairing.row) / pairing.at_once)

    def directory(self, results: Path) -> Path:
        """Where its result and its files go."""
        return results / self.scenario.name / self.tunnel / str(self.repetition)


@dataclass(slots=True)
class _Found:
    """What the attempts at a run have come to."""

    record: Record
    rows: Mapping[str, RowRecord] = field(default_factory=dict)
    """What a pairing came to."""
    failure: str | None = None
    """Why there is no whole record."""
    void: tuple[str, ...] = ()
    endured: tuple[str, ...] = ()
    unavailable: str | None = None
    exhausted: bool = False
    """Every attempt was void."""


def execute(run: Run, results: Path, machine: Machine, tell: Callable[[str], None] = lambda line: None) -> RunResult:
    """Do a run, write its result below ``results`` and return it. Raises LabError for a tunnel that is not there."""
    tunnel = make_tunnel(run.tunnel) if run.scenario.meeting is None else make_mesh(run.tunnel)
    directory = run.directory(results)
    directory.mkdir(parents=True)
    began_at = dt.datetime.now(dt.UTC)
    began = time.monotonic()
    before = load()
    found = _make(run, tunnel, directory, tell)
    verdict, reason, judgements = judge(run, found.record, found.failure, found.unavailable, found.rows)
    if found.exhausted:
        verdict = Verdict.VOID
    attempt = Attempt(run.scenario, tunnel, directory)
    result = RunResult(
        scenario=run.scenario.name,
        scenario_sha256=run.scenario.digest,
        title=run.scenario.title,
        tunnel=TunnelFacts(
            name=run.tunnel,
            label=tunnel.label,
            versions=tunnel.version(),
            options=msgspec.to_builtins(attempt.options),
        ),
        repetition=run.repetition,
        seed=run.scenario.seed,
        began_at=began_at.isoformat(timespec="seconds"),
        seconds=round(time.monotonic() - began, 3),
        machine=machine,
        load=before,
        links=found.record.links,
        interfaces=found.record.interfaces,
        sysctls=found.record.sysctls,
        timeline=found.record.timeline,
        probes=found.record.probes,
        meeting=found.record.meeting,
        pairing=dict(found.rows),
        paths=found.record.paths,
        footprints=found.record.footprints,
        sockets=found.record.sockets,
        processes=found.record.processes,
        states=found.record.states,
        discards=found.record.discards,
        judgements=judgements,
        verdict=verdict,
        reason=reason,
        void=list(found.void),
        endured=list(found.endured),
    )
    dump(result, directory / FILE)
    return result


def _make(run: Run, tunnel: Tunnel, directory: Path, tell: Callable[[str], None]) -> _Found:
    lack = unavailable(run.scenario, tunnel)
    if lack is not None:
        return _Found(Record(), unavailable=lack)
    if run.scenario.pairing is not None:
        return _pairing(run, directory, tell)
    return _attempts(run, tunnel, directory, tell)


def _attempts(run: Run, tunnel: Tunnel, directory: Path, tell: Callable[[str], None]) -> _Found:
    void: tuple[str, ...] = ()
    for number in range(1, ATTEMPTS + 1):
        where = directory if number == 1 else directory / f"attempt-{number}"
        where.mkdir(exist_ok=True)
        attempt = Attempt(run.scenario, tunnel, where, pcap=run.pcap)
        try:
            with Budget(run.scenario.budget_s) as budget, Stillness() as stillness:
                attempt.go(budget)
        except LabError as error:
            return _Found(attempt.record, failure=str(error), void=void)
        reasons = [*attempt.record.emulators, *attempt.record.void]
        if stillness.longest_s:
            still = f"the machine stood still for {stillness.longest_s * 1e3:.0f} ms"
            verdict, _, _ = judge(run, attempt.record, None, None)
            if verdict is Verdict.PASSED and not attempt.record.void:
                # It makes nothing better, nor does the lateness it causes, so what passes in spite of it counts.
                return _Found(attempt.record, void=void, endured=(*reasons, still))
            if reasons or verdict is Verdict.FAILED:
                reasons.append(still)
        if not reasons:
            return _Found(attempt.record, void=void)
        void = (*void, "; ".join(reasons))
        tell(f"  attempt {number} is void: {void[-1]}")
    return _Found(attempt.record, failure=f"{ATTEMPTS} attempts were void: {void[-1]}", void=void, exhausted=True)


def _pairing(run: Run, directory: Path, tell: Callable[[str], None]) -> _Found:
    pairing = Pairing(run.scenario, lambda: make_tunnel(run.tunnel), directory, tell, run.pcap)
    try:
        with Budget(run.scenario.budget_s) as budget:
            return _Found(Record(), pairing.hold(budget))
    except LabError as error:
        return _Found(Record(), failure=str(error), exhausted=isinstance(error, VoidPairError))


def judge(
    run: Run,
    record: Record,
    failure: str | None,
    unavailable: str | None,
    rows: Mapping[str, RowRecord] = MappingProxyType({}),
) -> tuple[Verdict, str | None, list[Judgement]]:
    """Return the verdict on a record, the reason if it needs one, and the judgement of each expectation."""
    if unavailable is not None:
        return Verdict.UNAVAILABLE, unavailable, []
    values: dict[str, Any] = dict(record.states)
    values.update({f"{each.end}-programs": msgspec.to_builtins(each) for each in record.footprints})
    values.update({f"{each.end}-sockets": msgspec.to_builtins(each) for each in record.sockets})
    values.update({name: probe.result for name, probe in record.probes.items() if probe.result is not None})
    if record.meeting is not None:
        values[MEETING] = msgspec.to_builtins(record.meeting)
    values[PAIRING] = msgspec.to_builtins(dict(rows))
    judgements = [expectation.judge(run.tunnel, values) for expectation in run.scenario.expect]
    bound = any(expectation.binds(run.tunnel) for expectation in run.scenario.expect)
    errors = [f"{name}: {error}" for name, probe in record.probes.items() if (error := probe.failure) is not None]
    reasons = [failure] if failure is not None else errors
    missed = [j for j in judgements if j.outcome is Outcome.MISSED]
    if not bound:
        return Verdict.MEASURED, "; ".join(reasons) or None, judgements
    if failure is None:
        reasons += [f"{j.figure} is {_render(j.found)}, expected {j.bound}" for j in missed]
    if not reasons:
        return Verdict.PASSED, None, judgements
    # A tunnel that got too little of the processor lets its interface overflow, which looks like any other loss.
    reasons += [f"kernel of {host} discarded {_listing(counts)}" for host, counts in record.discards.items() if counts]
    return Verdict.FAILED, "; ".join(reasons), judgements


def figures(result: RunResult) -> Mapping[str, str]:
    """Return the figures that expectations are about, as a table shows them."""
    return {judgement.figure: _render(judgement.found) for judgement in result.judgements}


def _listing(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} ({name})" for name, count in counts.items())


def _render(value: float | None) -> str:
    return "not there" if value is None else f"{value:.6g}"
