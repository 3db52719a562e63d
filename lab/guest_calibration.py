"""Calibration across two machines: the emulator on this one, netem on this one or in a guest.

Owns the results file and the table of both. Must not know how a link is measured: lab/calibration.py does.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from lab import capabilities
from lab.calibration import BARE, CASES, FILE, BackendResults, Calibration, CaseResult, measure
from lab.errors import LabError
from lab.guest import make_available
from lab.impairment import Backend
from lab.results import dump

__all__ = ["FILE", "calibrate", "lines"]

_NETEM = "netem.json"
_LIMIT_S = 900.0


def calibrate(directory: Path, tell: Callable[[str], None]) -> Calibration:
    """Measure both back ends and write the results file into a directory. Raises LabError."""
    netem = _netem(directory, tell)
    found = Calibration(asked=dict(CASES), emulator=measure(Backend.EMULATOR, tell), netem=netem)
    dump(found, directory / FILE)
    return found


def _netem(directory: Path, tell: Callable[[str], None]) -> BackendResults:
    here = {each.name: each for each in capabilities.probe()}
    if "netem" in here and here["netem"].there:
        return measure(Backend.NETEM, tell)
    file = directory.resolve() / _NETEM
    sys.stderr.flush()
    words = sys.stderr.fileno()
    done = make_available(tell).run(
        [sys.executable, "-m", "lab.calibration", Backend.NETEM.value, str(file)],
        out=directory,
        limit_s=_LIMIT_S,
        tell=tell,
        stdout=words,
        stderr=words,
    )
    if done.status != 0:
        raise LabError(f"netem could not be measured in the guest: it ended with {done.status}")
    found = msgspec.json.decode(file.read_bytes(), type=BackendResults)
    file.unlink()
    return found


def lines(found: Calibration) -> Iterator[str]:
    """Yield the figures as a table in Markdown: each cell has the emulator's and netem's."""
    heads = ("asked", "lost", "longest run", "twice", "late", "delay 10 %", "median", "90 %", "Mbit/s")
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for ours, theirs in zip(found.emulator.cases, found.netem.cases, strict=True):
        if ours.case == BARE:
            continue
        cells = [" / ".join(pair) for pair in zip(_cells(ours), _cells(theirs), strict=True)]
        yield f"| {ours.case} | {' | '.join(cells)} |"
    for name, part in (("emulator", found.emulator), ("netem", found.netem)):
        yield f"{name}: {part.machine.host}, Linux {part.machine.kernel}, {part.machine.virtualization or 'no guest'}"
        yield from (f"{name}, {case.case}: {case.fault}" for case in part.cases if case.fault)


def _cells(case: CaseResult) -> list[str]:
    delays = [f"{case.delay_us[key] / 1e3:.1f} ms" for key in ("p10", "median", "p90")]
    return [
        f"{case.lost / case.sent:.2%}",
        str(case.longest_lost_run),
        f"{case.duplicated / case.sent:.2%}",
        f"{case.reordered / case.sent:.2%}",
        *delays,
        f"{case.received_bps / 1e6:.2f}",
    ]
