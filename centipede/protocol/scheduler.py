"""Schedulers: on which paths a peer's packets go. docs/protocol.md "Schedulers".

A scheduler ranks the usable paths of one run of the peer's shards and answers with a :class:`Selection`; the engine
sends each packet on its first ``copies`` paths. It is asked again whenever a path or a measurement changed. A path that
holds a place keeps it until another was a fifth better for three beats, so measurements that wander do not make traffic
wander. What a session, a heartbeat or an address is, is not known here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from centipede.protocol.table import TablePath

BETTER = 0.8
"""A challenger counts as better from this share of the holder's score."""
BETTER_BEATS = 3
"""For so many beats of the holder's."""

_UNMEASURED_S = 1.0
"""Round trip assumed of a path before its first measurement: any that was measured is likely better."""
_LOSS_PENALTY_S = 1.0
"""A lost packet costs about what a retransmission timeout costs; 1 % of loss weighs as 10 ms."""
_RESOLUTION_S = 0.001
"""Added to every score, so that paths a few hundred microseconds short do not compete over noise."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A usable path and what is known of it."""

    path: TablePath
    suspect: bool = False
    """Whether it missed a heartbeat."""
    rtt_s: float | None = None
    jitter_s: float = 0.0
    loss: float = 0.0
    """Share lost, 0..1."""
    beats: int = 0
    """Measurements made so far."""

    @property
    def score(self) -> float:
        """Seconds; the lower the better."""
        rtt_s = _UNMEASURED_S if self.rtt_s is None else self.rtt_s
        return _RESOLUTION_S + rtt_s + 4 * self.jitter_s + _LOSS_PENALTY_S * self.loss

    def meets(self, others: Sequence[Candidate]) -> bool:
        """Whether it shares a local or remote address with any of them, ports aside: one cut link may take both."""
        local, remote = self.path.local.host, self.path.remote.host
        return any(local == other.path.local.host or remote == other.path.remote.host for other in others)


@dataclass(frozen=True, slots=True)
class Selection:
    """The paths that carry the packets, and how many of them each packet goes to."""

    paths: tuple[TablePath, ...]
    copies: int


class Seat:
    """One place in a selection, with the memory that keeps it from changing hands over noise."""

    __slots__ = ("_challenged_at", "holder")

    def __init__(self) -> None:
        self.holder: int | None = None
        """Number of the path that has it."""
        self._challenged_at: int | None = None

    def take(self, candidates: Sequence[Candidate]) -> Candidate:
        """Who has the place from now on; ``candidates`` is not empty, and all in it are on one footing."""
        best = min(candidates, key=lambda candidate: (candidate.score, candidate.path.path))
        holder = next((candidate for candidate in candidates if candidate.path.path == self.holder), None)
        if holder is None:
            return self._give(best)
        if best.score > BETTER * holder.score:
            self._challenged_at = None
            return holder
        if self._challenged_at is None:
            self._challenged_at = holder.beats
        if holder.beats - self._challenged_at + 1 >= BETTER_BEATS:
            return self._give(best)
        return holder

    def _give(self, candidate: Candidate) -> Candidate:
        self.holder = candidate.path.path
        self._challenged_at = None
        return candidate


class Scheduler(ABC):
    """Chooses paths for one peer; keeps what it must remember from one choice to the next."""

    name: ClassVar[str]
    """As in the configuration."""

    def __init__(self, copies: int | None) -> None:
        """``copies`` as in the configuration, None for all; a scheduler without use for it ignores it."""
        self._copies = copies

    @abstractmethod
    def choose(self, candidates: Sequence[Candidate]) -> Selection:
        """Choose among the usable paths of one run; there is at least one."""


class Redundant(Scheduler):
    """Each packet on the ``copies`` best paths, chosen for diversity first.

    A path that shares no address with those already chosen goes before a better one that does, or one cut link takes
    all copies. For each suspect path among the chosen one more carries the packets, so a lost heartbeat costs nothing.
    """

    name = "redundant"

    def __init__(self, copies: int | None) -> None:
        super().__init__(copies)
        self._seats: list[Seat] = []

    def choose(self, candidates: Sequence[Candidate]) -> Selection:
        wanted = len(candidates) if self._copies is None else self._copies
        if wanted >= len(candidates):
            return _selection(candidates)
        chosen: list[Candidate] = []
        rest = list(candidates)
        while len(chosen) < wanted:
            pick = self._seat(len(chosen)).take(_diverse(rest, chosen))
            chosen.append(pick)
            rest.remove(pick)
        for _ in range(min(len(rest), sum(candidate.suspect for candidate in chosen))):
            pick = self._seat(len(chosen)).take(_sound(rest, chosen))
            chosen.append(pick)
            rest.remove(pick)
        return _selection(chosen)

    def _seat(self, index: int) -> Seat:
        if index == len(self._seats):
            self._seats.append(Seat())
        return self._seats[index]


class Fastest(Scheduler):
    """Each packet once, on the path of least delay; twice as long as that path is suspect."""

    name = "fastest"

    def __init__(self, copies: int | None) -> None:
        super().__init__(copies)
        self._seat = Seat()
        self._second = Seat()

    def choose(self, candidates: Sequence[Candidate]) -> Selection:
        holder = [candidate for candidate in candidates if candidate.path.path == self._seat.holder]
        sound = [candidate for candidate in candidates if not candidate.suspect]
        # A suspect holder stays until it is lost or well again: it may only have missed a beat.
        first = self._seat.take(holder if holder and holder[0].suspect else sound or candidates)
        chosen = [first]
        if first.suspect and len(candidates) > 1:
            rest = [candidate for candidate in candidates if candidate is not first]
            chosen.append(self._second.take(_sound(rest, chosen)))
        return _selection(chosen)


SCHEDULERS: dict[str, type[Scheduler]] = {scheduler.name: scheduler for scheduler in (Redundant, Fastest)}
"""Every scheduler by its name in the configuration."""


def create(name: str, copies: int | None) -> Scheduler:
    """A scheduler by name. Raises ValueError for an unknown name and for fewer copies than 1."""
    if name not in SCHEDULERS:
        raise ValueError(f"{name!r} is no scheduler; there are {', '.join(sorted(SCHEDULERS))}")
    if copies is not None and copies < 1:
        raise ValueError(f"a packet needs at least 1 copy, not {copies}")
    return SCHEDULERS[name](copies)


def _diverse(candidates: Sequence[Candidate], chosen: Sequence[Candidate]) -> list[Candidate]:
    """Those on the best footing, apart from the chosen before sound."""
    footing = {candidate.path.path: (candidate.meets(chosen), candidate.suspect) for candidate in candidates}
    best = min(footing.values())
    return [candidate for candidate in candidates if footing[candidate.path.path] == best]


def _sound(candidates: Sequence[Candidate], chosen: Sequence[Candidate]) -> list[Candidate]:
    """Those on the best footing, sound before apart from the chosen."""
    footing = {candidate.path.path: (candidate.suspect, candidate.meets(chosen)) for candidate in candidates}
    best = min(footing.values())
    return [candidate for candidate in candidates if footing[candidate.path.path] == best]


def _selection(chosen: Sequence[Candidate]) -> Selection:
    """Sound paths first, else in the order of choice."""
    ordered = sorted(chosen, key=lambda candidate: candidate.suspect)
    return Selection(tuple(candidate.path for candidate in ordered), len(ordered))
