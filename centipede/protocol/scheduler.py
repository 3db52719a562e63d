"""Schedulers: on which paths a peer's packets go. docs/protocol.md "Schedulers".

A scheduler ranks the usable paths of one run of the peer's shards and answers with a :class:`Selection`; the engine
sends each packet on its first ``copies`` paths, an urgent one on those for urgent packets. It is asked again whenever a
path or a measurement changed. A path that holds a place keeps it until another was a fifth better for three beats, so
measurements that wander do not make traffic wander, and has delivered something meanwhile, so that traffic does not
move to one that is dead. What a session, a heartbeat or an address is, is not known here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from centipede.protocol.table import Lane, TablePath

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

MOST_LOSS = 0.005
"""Share of the packets that ``adaptive`` lets be lost: while it is more, another path carries them too."""
LITTLE_LOSS = 0.0025
"""A copy ends when there would be less loss than this without it."""
LOSS_BEATS = 3
"""For so many beats, either of them: a full queue loses packets now and then, and copies would not help it."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A usable path and what is known of it."""

    path: TablePath
    suspect: bool = False
    """Whether it missed a heartbeat."""
    rtt_s: float | None = None
    unloaded_rtt_s: float | None = None
    """Round trip without the queues that traffic makes; None for the same as ``rtt_s``."""
    jitter_s: float = 0.0
    loss: float = 0.0
    """Share lost, 0..1."""
    unloaded_loss: float | None = None
    """The same without what its full queue lost; None for the same as ``loss``."""
    beats: int = 0
    """Measurements made so far."""
    delivered: float = float("-inf")
    """When the newest heartbeat went out that is known to have arrived, s."""
    metered: bool = False
    """Whether its link is to be spared."""
    transit_s: float | None = None
    """One way without queues, but for a constant that all candidates share; None before the first measurement."""
    rate_bytes_per_s: float | None = None
    """What it can carry; None until that was seen."""
    delivered_bytes_per_s: float = 0.0
    """What it delivers at the moment, and"""
    peak_bytes_per_s: float = 0.0
    """the most it delivered lately."""
    queued: bool = False
    """Whether it has a queue, which may not last."""
    full: bool = False
    """Whether it has one that lasts."""

    @property
    def score(self) -> float:
        """Seconds; the lower the better."""
        rtt_s = _UNMEASURED_S if self.rtt_s is None else self.rtt_s
        return _RESOLUTION_S + rtt_s + 4 * self.jitter_s + _LOSS_PENALTY_S * self.loss

    @property
    def unloaded_score(self) -> float:
        """Seconds; the same without what a path's own load does to it, so that carrying data is not held against it."""
        return self.distance_s + _LOSS_PENALTY_S * self.loss

    @property
    def distance_s(self) -> float:
        """How far the peer is, loss and queues apart; the less the better."""
        rtt_s = self.rtt_s if self.unloaded_rtt_s is None else self.unloaded_rtt_s
        return _RESOLUTION_S + (_UNMEASURED_S if rtt_s is None else rtt_s)

    @property
    def lossy(self) -> bool:
        """Whether it is known to lose packets, its queue apart."""
        return (self.unloaded_loss or 0.0) > LITTLE_LOSS

    def meets(self, others: Sequence[Candidate]) -> bool:
        """Whether it shares a local or remote address with any of them, ports aside: one cut link may take both."""
        local, remote = self.path.local.host, self.path.remote.host
        return any(local == other.path.local.host or remote == other.path.remote.host for other in others)


@dataclass(frozen=True, slots=True)
class Selection:
    """The paths that carry the packets, and how many of them each packet goes to."""

    paths: tuple[TablePath, ...]
    copies: int
    urgent: tuple[TablePath, ...] = ()
    """Where urgent packets go instead; empty: where all go."""
    lanes: tuple[Lane, ...] = ()
    """If there are any, each of the other packets goes to one of these."""
    spread: bool = False
    """Whether packets may overtake each other by going different ways, now or soon: the peer is to be told."""

    @classmethod
    def of(cls, chosen: Sequence[Candidate]) -> Selection:
        """Each packet on all of the chosen: sound paths first, else in the order of choice."""
        ordered = sorted(chosen, key=lambda candidate: candidate.suspect)
        return cls(tuple(candidate.path for candidate in ordered), len(ordered))


class Seat:
    """One place in a selection, with the memory that keeps it from changing hands over noise."""

    __slots__ = ("_challenged_at", "_score", "_since", "holder")

    def __init__(self, score: Callable[[Candidate], float] = lambda candidate: candidate.score) -> None:
        self._score = score
        self.holder: int | None = None
        """Number of the path that has it."""
        self._challenged_at: int | None = None
        self._since = float("-inf")
        """The newest moment of which it was known, when the challenge began, that something sent then arrived."""

    def take(self, candidates: Sequence[Candidate]) -> Candidate:
        """Who has the place from now on; ``candidates`` is not empty, and all in it are on one footing."""
        best = min(candidates, key=lambda candidate: (self._score(candidate), candidate.path.path))
        holder = next((candidate for candidate in candidates if candidate.path.path == self.holder), None)
        if holder is None:
            return self._give(best)
        if self._score(best) > BETTER * self._score(holder):
            self._challenged_at = None
            return holder
        if self._challenged_at is None:
            self._challenged_at = holder.beats
            self._since = max(candidate.delivered for candidate in candidates)
        # What was measured of a spare path may be a second old, and the path be dead since, perhaps in our direction
        # only: the peer's heartbeats go on to measure it then. So something that went out later must arrive there.
        if best.delivered > self._since and holder.beats - self._challenged_at + 1 >= BETTER_BEATS:
            return self._give(best)
        return holder

    def take_first(self, candidates: Sequence[Candidate], stand_in: int | None) -> Candidate:
        """Who carries all packets, where ``stand_in`` carried those of a suspect holder besides, if there was one.

        A suspect holder stays until it is lost or well again: it may only have missed a beat. When it is lost, who
        stood in for it and is sound goes on. What is better by what was measured may be as dead: the wire that failed
        is perhaps its own as well.
        """
        sound = [candidate for candidate in candidates if not candidate.suspect]
        holder = next((candidate for candidate in candidates if candidate.path.path == self.holder), None)
        if holder is None and any(candidate.path.path == stand_in for candidate in sound):
            self.holder = stand_in
            self._challenged_at = None
        return self.take([holder] if holder is not None and holder.suspect else sound or candidates)

    def _give(self, candidate: Candidate) -> Candidate:
        self.holder = candidate.path.path
        self._challenged_at = None
        return candidate


class Scheduler(ABC):
    """Chooses paths for one peer; keeps what it must remember from one choice to the next."""

    name: ClassVar[str]
    """As in the configuration."""
    one_machine: ClassVar[bool] = False
    """Whether all packets for a peer are to go to one of its machines at a time."""
    compares: ClassVar[bool] = False
    """Whether it needs every path measured as often as those that carry data."""

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
            return Selection.of(candidates)
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
        return Selection.of(chosen)

    def _seat(self, index: int) -> Seat:
        if index == len(self._seats):
            self._seats.append(Seat())
        return self._seats[index]


class Fastest(Scheduler):
    """Each packet once, on the path of least delay; twice as long as that path is suspect."""

    name = "fastest"

    def __init__(
        self, copies: int | None, score: Callable[[Candidate], float] = lambda candidate: candidate.score
    ) -> None:
        super().__init__(copies)
        self._seat = Seat(score)
        self._second = Seat(score)

    @property
    def holder(self) -> int | None:
        """Number of the path that was chosen last."""
        return self._seat.holder

    def choose(self, candidates: Sequence[Candidate]) -> Selection:
        first = self._seat.take_first(candidates, self._second.holder)
        chosen = [first]
        if first.suspect and len(candidates) > 1:
            rest = [candidate for candidate in candidates if candidate is not first]
            chosen.append(self._second.take(_sound(rest, chosen)))
        else:
            self._second.holder = None
        return Selection.of(chosen)


class Adaptive(Scheduler):
    """Urgent packets on two paths that share as little as possible, the others once on the quickest.

    The others go on more paths while those they are on lose too much of them together, and on one more for each that is
    suspect. A metered path is used if there is no other, and for copies when loss or suspicion asks for them.
    """

    name = "adaptive"

    def __init__(self, copies: int | None) -> None:
        super().__init__(copies)
        self._first = Seat(_unloaded_score)
        self._second = Seat(_unloaded_score)
        self._more: list[Seat] = []
        self._stand_in: int | None = None
        """The first path that carries copies because the one before it is suspect."""
        self._copies_for_loss = 0
        self._changing_since: int | None = None
        self._beats: dict[int, int] = {}
        self._beat = 0

    def choose(self, candidates: Sequence[Candidate]) -> Selection:
        self._count(candidates)
        free = [candidate for candidate in candidates if not candidate.metered]
        first = self._first.take_first(free or candidates, self._stand_in)
        rest = [candidate for candidate in candidates if candidate is not first]
        order = self._rank(first, rest)
        wanted = 1 + self._follow_loss([first, *order])
        chosen = [first, *order[: wanted - 1]]
        spare = order[wanted - 1 :]
        for _ in range(min(len(spare), sum(candidate.suspect for candidate in chosen))):
            pick = min(spare, key=lambda candidate: (candidate.suspect, order.index(candidate)))
            chosen.append(pick)
            spare.remove(pick)
        self._stand_in = chosen[1].path.path if first.suspect and len(chosen) > 1 else None
        bulk = Selection.of(chosen)
        return Selection(bulk.paths, bulk.copies, self._urgent(first, rest, chosen))

    def _count(self, candidates: Sequence[Candidate]) -> None:
        """Count beats of any path: the measure of time that hysteresis goes by."""
        beats = {candidate.path.path: candidate.beats for candidate in candidates}
        self._beat += max((count - self._beats.get(number, count) for number, count in beats.items()), default=0)
        self._beats = beats

    def _rank(self, first: Candidate, rest: Sequence[Candidate]) -> list[Candidate]:
        """The others in the order in which they would carry copies: not metered before sound before diverse."""
        chosen, left = [first], list(rest)
        while left:
            footing = {
                candidate.path.path: (candidate.metered, candidate.suspect, candidate.meets(chosen))
                for candidate in left
            }
            best = min(footing.values())
            while len(self._more) < len(chosen):
                self._more.append(Seat(_unloaded_score))
            seat = self._more[len(chosen) - 1]
            pick = seat.take([candidate for candidate in left if footing[candidate.path.path] == best])
            chosen.append(pick)
            left.remove(pick)
        return chosen[1:]

    def _follow_loss(self, order: Sequence[Candidate]) -> int:
        """How many copies beyond the first the loss asks for."""
        left = 1.0
        enough = plenty = 0  # copies with which the loss is below either bound
        for candidate in order:
            left *= candidate.loss
            enough += left > MOST_LOSS
            plenty += left > LITTLE_LOSS
        most = len(order) - 1
        wanted = min(most, max(enough, min(plenty, self._copies_for_loss)))
        self._copies_for_loss = min(most, self._copies_for_loss)
        if wanted == self._copies_for_loss:
            self._changing_since = None
            return wanted
        if self._changing_since is None:
            self._changing_since = self._beat
        if self._beat - self._changing_since + 1 >= LOSS_BEATS:
            self._copies_for_loss = wanted
            self._changing_since = None
        return self._copies_for_loss

    def _urgent(self, first: Candidate, rest: Sequence[Candidate], bulk: Sequence[Candidate]) -> tuple[TablePath, ...]:
        """At least two paths, and all that carry the others' copies."""
        if len(bulk) > 1:
            return ()
        free = [candidate for candidate in rest if not candidate.metered]
        if not free:
            return ()
        return (first.path, self._second.take(_diverse(free, [first])).path)


def _unloaded_score(candidate: Candidate) -> float:
    return candidate.unloaded_score


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
