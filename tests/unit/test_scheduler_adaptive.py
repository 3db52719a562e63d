"""The adaptive scheduler: urgent packets twice, the others as often as loss and suspicion ask."""

from __future__ import annotations

from dataclasses import replace

import pytest

from centipede.protocol.endpoint import Endpoint
from centipede.protocol.scheduler import LOSS_BEATS, Candidate, Scheduler
from centipede.protocol.schedulers import create
from centipede.protocol.table import TablePath


def candidate(number: int, rtt_ms: float, *, local: int | None = None, **more: object) -> Candidate:
    """A path from a link of its own, unless ``local`` names one, to a remote address of its own."""
    path = TablePath(number, Endpoint(f"10.1.{local or number}.1", 1), Endpoint(f"10.2.{number}.1", 2))
    made = Candidate(path, rtt_s=rtt_ms / 1e3)
    return replace(made, **more)  # type: ignore[arg-type]  # the fields of Candidate, by name


def choose(scheduler: Scheduler, candidates: list[Candidate]) -> tuple[list[int], list[int]]:
    """The paths of bulk, and of urgent packets where these are others."""
    selection = scheduler.choose(candidates)
    assert selection.copies == len(selection.paths)
    return [path.path for path in selection.paths], [path.path for path in selection.urgent]


def settled(scheduler: Scheduler, candidates: list[Candidate], beats: int = LOSS_BEATS) -> tuple[list[int], list[int]]:
    """The same after so many more beats of each."""
    start = max(one.beats for one in candidates)
    answer = choose(scheduler, candidates)
    for beat in range(start + 1, start + 1 + beats):
        answer = choose(scheduler, [replace(one, beats=beat, delivered=beat) for one in candidates])
    return answer


def test_urgent_packets_take_two_diverse_paths_the_others_the_quickest() -> None:
    paths = [candidate(1, 20), candidate(2, 30, local=1), candidate(3, 90)]
    assert choose(create("adaptive", None), paths) == ([1], [1, 3])


def test_a_lone_path_carries_all() -> None:
    assert choose(create("adaptive", None), [candidate(1, 20, loss=0.5)]) == ([1], [])


@pytest.mark.parametrize(
    ("losses", "copies"),
    [
        ((0.0, 0.0, 0.0), 1),
        ((0.004, 0.3, 0.3), 1),
        ((0.006, 0.05, 0.3), 2),
        ((0.05, 0.05, 0.05), 2),  # 0.25 % is lost on both
        ((0.1, 0.1, 0.1), 3),
        ((0.5, 0.5, 0.5), 3),  # all there are
    ],
)
def test_as_many_copies_as_the_loss_asks_for(losses: tuple[float, ...], copies: int) -> None:
    paths = [candidate(n, 10 * n, loss=loss) for n, loss in enumerate(losses, 1)]
    paths = [replace(one, unloaded_rtt_s=0.001 * one.path.path) for one in paths]
    bulk, urgent = settled(create("adaptive", None), paths)
    assert len(bulk) == copies
    assert len(urgent) == (2 if copies == 1 else 0)


def test_a_moment_of_loss_changes_nothing_and_copies_end_late() -> None:
    scheduler = create("adaptive", None)
    sound, lossy = [candidate(n, 20 * n) for n in (1, 2)], [candidate(n, 20 * n, loss=0.02) for n in (1, 2)]
    assert settled(scheduler, sound)[0] == [1]
    for beat in range(10, 60, 4):
        assert choose(scheduler, [replace(one, beats=beat) for one in lossy])[0] == [1]
        assert choose(scheduler, [replace(one, beats=beat + 2) for one in sound])[0] == [1]
    assert settled(scheduler, [replace(one, beats=100) for one in lossy])[0] == [1, 2]
    between = [replace(one, loss=0.003, beats=200) for one in sound]
    assert settled(scheduler, between, beats=50)[0] == [1, 2], "between the two bounds"
    assert settled(scheduler, [replace(one, beats=300) for one in sound])[0] == [1]


def test_asked_again_without_news_nothing_changes() -> None:
    scheduler = create("adaptive", None)
    paths = [candidate(n, 20 * n, loss=0.1) for n in (1, 2)]
    assert [choose(scheduler, paths)[0] for _ in range(10)] == [[1]] * 10


def test_suspicion_doubles_at_once() -> None:
    scheduler = create("adaptive", None)
    one, two, three = (candidate(n, 10 * n) for n in (1, 2, 3))
    assert choose(scheduler, [one, two, three]) == ([1], [1, 2])
    assert choose(scheduler, [replace(one, suspect=True), two, three]) == ([2, 1], [])
    assert choose(scheduler, [one, two, three]) == ([1], [1, 2])
    assert choose(scheduler, [two, three]) == ([2], [2, 3])


def test_the_queue_that_data_make_does_not_drive_them_away() -> None:
    scheduler = create("adaptive", None)
    other = candidate(2, 60)
    assert choose(scheduler, [candidate(1, 20), other])[0] == [1]
    loaded = candidate(1, 180, unloaded_rtt_s=0.022, jitter_s=0.02)
    assert settled(scheduler, [loaded, other], beats=20)[0] == [1]
    worse = candidate(1, 180, unloaded_rtt_s=0.170, beats=40)
    assert settled(scheduler, [worse, other], beats=20)[0] == [2]


def test_a_metered_path_is_spared() -> None:
    scheduler = create("adaptive", None)
    wired, mobile = candidate(1, 50), candidate(2, 10, metered=True)
    assert settled(scheduler, [wired, mobile]) == ([1], [])
    assert choose(scheduler, [replace(wired, suspect=True), mobile])[0] == [2, 1], "suspicion"
    assert settled(scheduler, [replace(wired, loss=0.1, beats=20), mobile])[0] == [1, 2], "loss"
    assert choose(scheduler, [mobile])[0] == [2], "nothing else"
