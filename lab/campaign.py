"""A campaign: the runs of one command, what an earlier command has already made of them, and how far it has come.

Owns the choice of runs and of results that stand. Must not know how a run goes. A result stands if the scenario's file
is the same, something was found out, and, for Centipede, the checkout was in the same state.
"""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from lab.errors import LabError
from lab.machine import Machine
from lab.progress import Estimate, render_seconds
from lab.results import FILE, RunResult, Verdict, load
from lab.runner import Run
from lab.scenario import Scenario

_AGAIN = (Verdict.VOID, Verdict.UNAVAILABLE)


def choose(
    scenarios: Sequence[Scenario],
    *,
    full: bool = False,
    tunnels: Sequence[str] = (),
    repeat: int | None = None,
    pcap: bool = False,
) -> list[Run]:
    """Return the runs that were asked for, repetition by repetition, so that tunnels take turns.

    A full run repeats the tunnel that a scenario is for as often as the scenario says. The others, whom nothing binds,
    come once. Whoever says ``repeat`` says it of all; of a pairing it is the number of pairs.
    """
    if repeat is not None:
        scenarios = [each.repeated(repeat) for each in scenarios]
    most = max((each.repetitions for each in scenarios), default=1) if full or repeat else 1
    return [
        Run(each, tunnel, repetition, pcap)
        for repetition in range(1, most + 1)
        for each in scenarios
        for tunnel in _rotated(tunnels or (each.tunnels if full else each.tunnels[:1]), repetition)
        if repetition == 1 or (repetition <= each.repetitions and (repeat or tunnel == each.tunnels[0]))
    ]


def standing(run: Run, directory: Path, here: Machine) -> RunResult | None:
    """Return the result of a run that an earlier command has left below ``directory``, None if it must be made."""
    try:
        found = load(run.directory(directory) / FILE)
    except LabError:
        return None
    if found.scenario_sha256 != run.scenario.digest or found.verdict in _AGAIN:
        return None
    ours = run.tunnel == "centipede" or run.tunnel.startswith("centipede-")
    return None if ours and found.machine.git != here.git else found


def clear(runs: Iterable[Run], directory: Path) -> None:
    """Remove what earlier commands have left of runs that are to be made."""
    for run in runs:
        shutil.rmtree(run.directory(directory), ignore_errors=True)


def continuation(argv: Sequence[str], directory: Path) -> str:
    """Return the command line that goes on where this one was interrupted, given its words without the program's."""
    words = [*argv]
    if not any(word == "--results" or word.startswith("--results=") for word in words):
        words += ["--results", str(directory)]
    if "--resume" not in words:
        words.append("--resume")
    return shlex.join([sys.executable, "-m", "lab", *words])


class Tally:
    """How far a campaign has come. Seconds; ``now`` is monotonic."""

    def __init__(self, total: int, planned_s: Sequence[float], now: float) -> None:
        """``planned_s`` are the runs still to be made, of ``total``."""
        self._total = total
        self._planned_s = planned_s
        self._done = self._begun = 0
        self._estimate = Estimate(sum(planned_s), now)

    def begin(self, now: float, runs: int = 1) -> str:
        """Count whatever had begun as done, begin the next ``runs``, and return how far that is, in words."""
        self._estimate.advance(sum(self._planned_s[self._done : self._begun]), now)
        self._done, self._begun = self._begun, self._begun + runs
        first, last = (self._total - len(self._planned_s) + number for number in (self._done + 1, self._begun))
        which = str(first) if first == last else f"{first} to {last}"
        return f"{which} of {self._total}, about {render_seconds(self._estimate.remaining_s(now))} left"


def _rotated(tunnels: Sequence[str], repetition: int) -> list[str]:
    """Return the tunnels in another order each time, so that drift of the machine favours none."""
    turn = (repetition - 1) % len(tunnels)
    return [*tunnels[turn:], *tunnels[:turn]]
