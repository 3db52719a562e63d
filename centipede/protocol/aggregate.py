"""Aggregate: the scheduler that spreads packets over several paths. docs/protocol.md "Schedulers".

It begins with one path, the quickest, and adds lanes when that is full. What the paths can carry, and what they lose,
is measured by heartbeats (rate.py); that packets are in order again is the peer's affair (hold.py, engine/reorder.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from centipede.protocol.scheduler import BETTER, MOST_LOSS, Candidate, Fastest, Scheduler, Selection
from centipede.protocol.table import LONGEST_REORDER_S, Lane

_LOSS_PENALTY_S = 4.0
"""What is spread is bulk: TCP that fills a link is held back far more by loss than by delay."""
_TRIAL = 0.1
"""A path that was never full begins with this share of the quickest one's rate,"""
_TRIAL_GROWTH = 2.0
"""and is given so many times what it has delivered, until that is half of the quickest one's rate;"""
_LATE_TRIAL_GROWTH = 1.25
"""from then on so many times, until its queue tells what it can carry."""
_UNTRIED_BYTES_PER_S = 64_000.0
"""Any path is taken to carry this much."""
_ANNOUNCED_BEATS = 2
"""Lanes begin so many beats after it was clear that there may be some."""
_RATE_CHANGE = 0.05
_DELAY_CHANGE_S = 0.002
"""Smaller changes are not worth a new table."""
_WORSE = 0.95
"""Lanes that are full, or lose packets, and deliver together less than this share of what one did are given up,"""
_IDLE = 0.2
"""unless it is as little as this without a queue: then there is little to send, and the loss is of earlier."""
_WORSE_BEATS = 4
"""after so many beats, half as many where one is known to lose packets,"""
_REST_BEATS = 40
"""for so many; each time for twice as long,"""
_MOST_REST_BEATS = 640
"""but not longer than this."""
_LONGEST_DELAY_S = 60.0
"""A peer may say anything of its clock; no packet is under way for longer."""


class Aggregate(Scheduler):
    """Each packet once, on the path that would deliver it first by rate and delay.

    While the quickest path is not known to be full, it is the only one, so that nothing is reordered for no gain. From
    then on the others are lanes beside it, but not those whose packets the peer would not wait for.
    """

    name = "aggregate"
    one_machine = True
    compares = True

    def __init__(self, copies: int | None) -> None:
        super().__init__(copies)
        self._scores: dict[int, float] = {}
        """Of each path, when it was not full last."""
        self._single = Fastest(copies, self._score)
        self._lanes: tuple[Lane, ...] = ()
        self._beats: dict[int, int] = {}
        self._announced_beats = 0.0
        """Since the peer was told first."""
        self._worse_beats = 0.0
        self._resting_beats = 0.0
        """Left of the rest,"""
        self._rest_beats = _REST_BEATS
        """and how long the next one takes."""

    def choose(self, candidates: Sequence[Candidate]) -> Selection:
        numbers = {candidate.path.path for candidate in candidates}
        self._scores = {number: score for number, score in self._scores.items() if number in numbers}
        single = self._single.choose(self._fit(candidates))
        first = next(candidate for candidate in candidates if candidate.path.path == self._single.holder)
        passed = self._count(candidates)
        self._follow_goodput(candidates, passed)
        lanes = _lanes(first, candidates)
        self._rest_first(lanes[1:], candidates)
        spread = not self._resting_beats and (bool(lanes) or (first.queued and len(candidates) > 1))
        self._announced_beats = self._announced_beats + passed if spread else 0.0
        # The peer has to know before that packets will overtake each other, or it takes them for lost.
        self._lanes = self._update(lanes) if self._announced_beats >= _ANNOUNCED_BEATS else ()
        if self._resting_beats and not first.suspect:
            sound = [candidate for candidate in candidates if not candidate.suspect and candidate.lossy <= first.lossy]
            best = max(sound, key=lambda candidate: candidate.peak_bytes_per_s)
            if first.peak_bytes_per_s < BETTER * best.peak_bytes_per_s:
                return Selection.of([best])  # the quickest is not what the lanes were compared with
        return Selection(single.paths, single.copies, lanes=self._lanes, spread=spread)

    def _fit(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Those that may be the quickest: none in place of one that delivers more than was ever seen of it."""
        holder = next((candidate for candidate in candidates if candidate.path.path == self._single.holder), None)
        if holder is None or holder.suspect or holder.lossy:
            return candidates
        needed = holder.delivered_bytes_per_s
        if needed < _UNTRIED_BYTES_PER_S:
            return candidates
        return [each for each in candidates if each is holder or BETTER * needed <= each.peak_bytes_per_s]

    def _score(self, candidate: Candidate) -> float:
        """Seconds; what a path's full queue does to its delay and loss is not held against it."""
        number = candidate.path.path
        if not candidate.full or number not in self._scores:
            loss = candidate.loss if candidate.unloaded_loss is None else candidate.unloaded_loss
            self._scores[number] = candidate.distance_s + _LOSS_PENALTY_S * loss
        return self._scores[number]

    def _update(self, lanes: tuple[Lane, ...]) -> tuple[Lane, ...]:
        """The new lanes, or those before if they are nearly the same."""
        if [lane.path for lane in lanes] != [lane.path for lane in self._lanes]:
            return lanes
        for new, old in zip(lanes, self._lanes, strict=True):
            if abs(new.rate_bytes_per_s / old.rate_bytes_per_s - 1) > _RATE_CHANGE:
                return lanes
            if abs(new.delay_s - old.delay_s) > _DELAY_CHANGE_S:
                return lanes
        return self._lanes

    def _count(self, candidates: Sequence[Candidate]) -> float:
        """How many beats passed, on the average of all paths: the measure of time."""
        counts = {candidate.path.path: candidate.beats for candidate in candidates}
        passed = sum(max(0, count - self._beats.get(number, count)) for number, count in counts.items()) / len(counts)
        self._beats = counts
        return passed

    def _follow_goodput(self, candidates: Sequence[Candidate], passed: float) -> None:
        """Give several lanes up for a while when one would do better."""
        self._resting_beats = max(0.0, self._resting_beats - passed)
        lanes = _carrying(self._lanes, candidates)
        best = max((candidate.peak_bytes_per_s for candidate in lanes), default=0.0)
        together = sum(candidate.delivered_bytes_per_s for candidate in lanes)
        known_lossy = any(candidate.lossy for candidate in lanes)
        lossy = known_lossy or any(candidate.loss > MOST_LOSS for candidate in lanes)
        held_back = any(candidate.full for candidate in lanes) or (lossy and together > _IDLE * best)
        if not held_back or together >= _WORSE * best:
            self._worse_beats = max(0.0, self._worse_beats - passed)
            return
        self._worse_beats += 2 * passed if known_lossy else passed
        if self._worse_beats >= _WORSE_BEATS:
            self._rest()

    def _rest_first(self, others: Sequence[Lane], candidates: Sequence[Candidate]) -> None:
        """Before lanes of which one is known to lose packets are tried, the quickest path shows what it does alone."""
        if self._rest_beats == _REST_BEATS and any(candidate.lossy for candidate in _carrying(others, candidates)):
            self._rest()

    def _rest(self) -> None:
        self._worse_beats = 0.0
        self._resting_beats = self._rest_beats
        self._rest_beats = min(_MOST_REST_BEATS, 2 * self._rest_beats)


def _carrying(lanes: Sequence[Lane], candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those of the candidates that are lanes."""
    used = {lane.path.path for lane in lanes}
    return [candidate for candidate in candidates if candidate.path.path in used]


def _apart(first: Candidate, sound: Sequence[Candidate]) -> list[Candidate]:
    """The first and those that add an address of either end; another pair of the same ones would share their links."""
    chosen = [first]
    rest = [candidate for candidate in sound if candidate is not first]
    while rest:
        locals_ = {candidate.path.local.host for candidate in chosen}
        remotes = {candidate.path.remote.host for candidate in chosen}
        added = {
            candidate.path.path: (candidate.path.local.host not in locals_)
            + (candidate.path.remote.host not in remotes)
            for candidate in rest
        }
        best = max(rest, key=lambda candidate: (added[candidate.path.path], -candidate.path.path))
        if not added[best.path.path]:
            break
        chosen.append(best)
        rest.remove(best)
    return chosen


def _lanes(first: Candidate, candidates: Sequence[Candidate]) -> tuple[Lane, ...]:
    """A lane for each path that can help the first; none if that does not need help."""
    if first.rate_bytes_per_s is None or first.transit_s is None or first.suspect:
        return ()
    sound = [candidate for candidate in candidates if not candidate.suspect and candidate.transit_s is not None]
    transits = {candidate.path.path: candidate.transit_s or 0.0 for candidate in sound}
    least_s = min(transits.values())
    lanes = []
    for candidate in _apart(first, sound):
        delay_s = min(transits[candidate.path.path] - least_s, _LONGEST_DELAY_S)
        if candidate is not first and delay_s > LONGEST_REORDER_S:
            continue  # the peer would not wait for what comes this way
        rate = candidate.rate_bytes_per_s
        if rate is None:
            peak = candidate.peak_bytes_per_s
            doubled = min(_TRIAL_GROWTH * peak, first.rate_bytes_per_s)
            grown = peak if candidate.queued else max(doubled, _LATE_TRIAL_GROWTH * peak)
            rate = max(_TRIAL * first.rate_bytes_per_s, grown)
        lanes.append(Lane(candidate.path, max(1, round(rate)), delay_s))
    return tuple(lanes) if len(lanes) > 1 else ()
