"""Scenario runs that are made in a guest: which those are, how they get there, and how their results come back.

Owns the list of runs that a guest is given, a file beside the results. Must not know what a guest is made of. The
results are written where those of this machine's own runs are, in the same form; each says what machine it was made on.

``python -m lab.guest_runs FILE DIRECTORY`` is what runs in the guest.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from lab.errors import LabError
from lab.guest import Guest, GuestError, make_available
from lab.initramfs import FILES, STARTED
from lab.machine import machine
from lab.pace import slowness
from lab.results import FILE, RunResult, load
from lab.runner import Run, execute
from lab.scenario import Scenario
from lab.steady import steady
from lab.tunnels import make_tunnel
from lab.tunnels.wireguard_interop import WireguardInterop
from lab.tunnels.wireguard_kernel import WireguardKernel

_LIST = "guest-runs.json"
_ASIDE_S = 60.0
"""What a run may take besides its scenario's budget, without being slowed: starting Python, above all."""


_AT_A_TIME = 8
"""Runs of one guest: starting takes it as long as a run does, and one that hangs is given up only after all of them."""


class GuestRunSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One run, as the guest is told of it."""

    scenario: Scenario
    tunnel: str
    repetition: int
    pcap: bool


def guest_only(runs: Sequence[Run], tell: Callable[[str], None]) -> list[Run]:
    """Return the runs that can be made in a guest but not on this machine: those through the kernel's WireGuard.

    None if there can be no guest; that is told.
    """
    chosen = [run for run in runs if _needs_guest(run.tunnel)]
    if chosen:
        try:
            make_available(tell)
        except LabError as error:
            tell(f"kernel WireGuard stays unavailable: {error}")
            return []
    return chosen


def _needs_guest(name: str) -> bool:
    return (
        isinstance(make_tunnel(name), WireguardKernel | WireguardInterop)
        and WireguardKernel().unavailable() is not None
    )


def execute_in_guest(
    runs: Sequence[Run],
    results: Path,
    tell: Callable[[str], None],
    announce: Callable[[Sequence[Run]], None] = lambda runs: None,
) -> list[RunResult]:
    """Make runs in guests, and return the results there are: one for each, if all went well.

    ``announce`` is called with the runs of each guest before it starts. What is said in a guest goes to standard
    error as it comes. Raises LabError if there is no guest here. A guest that does not come to its end is
    told, and another makes the runs after the one that it broke at; but one that did not even begin is the last.
    """
    guest = make_available(tell)
    results.mkdir(parents=True, exist_ok=True)
    for first in range(0, len(runs), _AT_A_TIME):
        each = runs[first : first + _AT_A_TIME]
        announce(each)
        if not _make_all(each, guest, results, tell):
            break
    files = (run.directory(results) / FILE for run in runs)
    return [load(file) for file in files if file.exists()]


def _make_all(runs: Sequence[Run], guest: Guest, results: Path, tell: Callable[[str], None]) -> bool:
    """Make runs in one guest if that holds. False if a guest did not even begin."""
    left = list(runs)
    while True:
        _set_aside(results)
        try:
            _make(left, guest, results, tell)
        except GuestError as error:
            tell(str(error))
        left = [run for run in left if not (run.directory(results) / FILE).exists()]
        begun = (results / FILES / STARTED).exists()
        if len(left) < 2 or not begun:
            return begun
        tell(f"{left[0].title} has no result; another guest makes the {len(left) - 1} runs that follow")
        left = left[1:]


def _set_aside(results: Path) -> None:
    """Give what an earlier guest has left a name with a number, as each needs a place of its own."""
    if (results / FILES).exists():
        number = next(number for number in itertools.count(1) if not (results / f"{FILES}-{number}").exists())
        (results / FILES).rename(results / f"{FILES}-{number}")


def _make(runs: Sequence[Run], guest: Guest, results: Path, tell: Callable[[str], None]) -> None:
    """Make runs in one guest. Raises GuestError."""
    specs = [
        GuestRunSpec(scenario=run.scenario, tunnel=run.tunnel, repetition=run.repetition, pcap=run.pcap) for run in runs
    ]
    listed = results.resolve() / _LIST
    listed.write_bytes(msgspec.json.encode(specs))
    sys.stderr.flush()
    words = sys.stderr.fileno()
    times = guest.accelerator.slowness
    try:
        guest.run(
            [sys.executable, "-m", "lab.guest_runs", str(listed), str(results.resolve())],
            out=results,
            limit_s=sum(run.scenario.budget_s * times + _ASIDE_S for run in runs),
            tell=tell,
            stdout=words,
            stderr=words,
        )
    finally:
        listed.unlink()


def main(argv: Sequence[str]) -> int:
    """Make the runs that a file lists; results go below a directory. 1 if one could not be made at all."""
    file, results = (Path(word) for word in argv)
    with steady():
        return _make_here(msgspec.json.decode(file.read_bytes(), type=list[GuestRunSpec]), results)


def _make_here(specs: Sequence[GuestRunSpec], results: Path) -> int:
    here = machine()
    status = 0
    for number, spec in enumerate(specs, 1):
        try:
            run = Run(spec.scenario.slowed(slowness()), spec.tunnel, spec.repetition, spec.pcap)
            print(f"[guest {number}/{len(specs)}] {run.title}", flush=True)
            result = execute(run, results, here, lambda line: print(line, flush=True))
        except LabError as error:
            print(f"  {error}", flush=True)
            status = 1
            continue
        reason = f": {result.reason}" if result.reason else ""
        print(f"  {result.verdict.value} after {result.seconds:.1f} s{reason}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
