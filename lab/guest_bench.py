"""The benchmark in a guest: all contenders on a kernel that has WireGuard, where this machine's has not.

Owns how the guest's comparison is asked for and found again: in the directory ``guest`` beside the results of this
machine's own run, in a results file of its own, for figures of the two must never be mixed. Must not know how a guest
is made or how a comparison is drawn.

``python -m lab.guest_bench DIRECTORY REPETITIONS [KEY]...`` is what runs in the guest.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from lab import comparison
from lab.bench import Bench, chosen, failed
from lab.comparison import GUEST, Comparison
from lab.contest import PROFILES, Entrant
from lab.errors import LabError
from lab.guest import Guest
from lab.progress import Progress, render_seconds
from lab.results import dump

PROFILE = PROFILES["guest"]
_LIMIT_TIMES = 4.0
"""How many times longer than planned the guest may take: the plan is for a machine that does nothing else."""
_BOOT_S = 60.0


@dataclass(frozen=True, slots=True)
class GuestBench:
    """What is to be measured in a guest."""

    repetitions: int = PROFILE.repetitions
    wanted: tuple[str, ...] = ()
    """Keys of contenders; none for all that the size has."""

    @property
    def entrants(self) -> list[Entrant]:
        """Who takes part."""
        return chosen(PROFILE, self.wanted)

    def planned_s(self) -> float:
        """Return about how long it takes."""
        return PROFILE.turn_s() * len(self.entrants) * self.repetitions


def measure(asked: GuestBench, guest: Guest, directory: Path, tell: Callable[[str], None]) -> Comparison:
    """Measure in a guest and return the comparison, which is then in ``directory``/guest. Raises LabError.

    What is said in the guest goes to standard output as it comes.
    """
    expected_s = asked.planned_s()
    tell(
        f"in a guest, {len(asked.entrants)} contenders, repetitions: {asked.repetitions}, "
        f"at most about {render_seconds(expected_s)}"
    )
    sys.stdout.flush()
    out = sys.stdout.fileno()
    target = directory.resolve() / GUEST
    done = guest.run(
        [sys.executable, "-m", "lab.guest_bench", str(target), str(asked.repetitions), *asked.wanted],
        out=directory,
        limit_s=expected_s * _LIMIT_TIMES + _BOOT_S,
        tell=tell,
        stdout=out,
        stderr=out,
    )
    if done.status != 0:
        raise LabError(f"the benchmark in the guest ended with {done.status}; what it said is in {target}/stderr")
    return comparison.load(target)


def main(argv: Sequence[str]) -> int:
    """Measure and write the results file into a directory."""
    directory, asked = Path(argv[0]), GuestBench(int(argv[1]), tuple(argv[2:]))
    # a pipe to a file, whose lines somebody reads on a terminal
    progress = Progress(Console(width=200, force_terminal=False))
    try:
        result = Bench(PROFILE, asked.entrants, asked.repetitions, progress).run()
    except LabError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    finally:
        progress.end()
    dump(result, directory / comparison.FILE)
    for failure in failed(result):
        print(failure)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
