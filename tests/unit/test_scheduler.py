"""Which paths carry the packets."""

from __future__ import annotations

from dataclasses import replace

import pytest

from centipede.protocol.endpoint import Endpoint
from centipede.protocol.scheduler import Candidate, Scheduler
from centipede.protocol.schedulers import SCHEDULERS, create
from centipede.protocol.table import TablePath


def candidate(number: int, *, rtt_ms: float | None, local: int, remote: int, **more: object) -> Candidate:
    """A path from link ``local`` to link ``remote``."""
    path = TablePath(number, Endpoint(f"10.1.{local}.1", 1), Endpoint(f"10.2.{remote}.1", 2))
    made = Candidate(path, rtt_s=None if rtt_ms is None else rtt_ms / 1e3)
    return replace(made, **more)  # type: ignore[arg-type]  # the fields of Candidate, by name


def chosen(scheduler: Scheduler, candidates: list[Candidate]) -> list[int]:
    """Numbers of the paths each packet goes to."""
    selection = scheduler.choose(candidates)
    assert len(selection.paths) == selection.copies
    return [path.path for path in selection.paths]


def beaten(candidates: list[Candidate], times: int) -> list[Candidate]:
    """The same after more heartbeats."""
    return [heard(one, one.beats + times) for one in candidates]


def heard(one: Candidate, beats: int) -> Candidate:
    """The same after so many heartbeats in all, each of them answered."""
    return replace(one, beats=beats, delivered=beats)


# Two links at each end, all four pairs routable; 1 and 4 cross no common address.
FOUR = [
    candidate(1, rtt_ms=10, local=1, remote=1),
    candidate(2, rtt_ms=11, local=1, remote=2),
    candidate(3, rtt_ms=12, local=2, remote=1),
    candidate(4, rtt_ms=90, local=2, remote=2),
]


@pytest.mark.parametrize(
    ("copies", "expected"),
    [
        (1, [1]),
        (2, [1, 4]),  # the slow one shares no address with the first, the quick ones do
        (3, [1, 4, 2]),
        (4, [1, 2, 3, 4]),
        (9, [1, 2, 3, 4]),
        (None, [1, 2, 3, 4]),
    ],
)
def test_redundant_prefers_diversity(copies: int | None, expected: list[int]) -> None:
    assert chosen(create("redundant", copies), FOUR) == expected


def test_a_port_does_not_make_a_path_diverse() -> None:
    same_hosts = [
        Candidate(TablePath(number, Endpoint("10.1.1.1", number), Endpoint("10.2.1.1", number)), rtt_s=0.01)
        for number in (1, 2)
    ]
    apart = candidate(3, rtt_ms=500, local=2, remote=2)
    assert chosen(create("redundant", 2), [*same_hosts, apart]) == [1, 3]


@pytest.mark.parametrize(
    ("suspects", "copies", "expected"),
    [
        ({1}, 2, [2, 3]),  # 2 and 3 share nothing and are sound
        ({1, 2}, 2, [3, 4, 2]),  # 2 stays for its diversity, and one more carries the packets
        ({1, 2, 3}, 2, [4, 1, 2]),
        ({1, 2, 3, 4}, 2, [1, 4, 2, 3]),
        ({4}, 1, [1]),
        ({1, 2, 3, 4}, 1, [1, 4]),
    ],
)
def test_redundant_makes_up_for_suspect_paths(suspects: set[int], copies: int, expected: list[int]) -> None:
    candidates = [replace(one, suspect=one.path.path in suspects) for one in FOUR]
    assert chosen(create("redundant", copies), candidates) == expected


def test_fastest_takes_the_lowest_delay() -> None:
    assert chosen(create("fastest", None), FOUR) == [1]


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        ({"rtt_s": 0.030}, "round trip"),
        ({"jitter_s": 0.010}, "jitter counts four times"),
        ({"loss": 0.05}, "one lost in twenty"),
        ({"rtt_s": None}, "not measured"),
    ],
)
def test_fastest_weighs(worse: dict[str, float | None], reason: str) -> None:
    first = replace(candidate(1, rtt_ms=10, local=1, remote=1), **worse)  # type: ignore[arg-type]  # as above
    second = candidate(2, rtt_ms=25, local=2, remote=2)
    assert chosen(create("fastest", None), [first, second]) == [2], reason


def test_a_path_that_delivers_nothing_meanwhile_takes_nothing_over() -> None:
    scheduler = create("fastest", None)
    used = heard(candidate(1, rtt_ms=50, local=1, remote=1), 40)
    spare = heard(candidate(2, rtt_ms=100, local=2, remote=1), 38)
    assert chosen(scheduler, [used, spare]) == [1]
    spare = replace(spare, rtt_s=0.020)  # measured a moment before it went dead in our direction
    for beat in range(40, 60):  # the peer's heartbeats go on to arrive, and the last of ours that did arrived late
        spare = replace(spare, beats=beat, delivered=39)
        assert chosen(scheduler, [heard(used, beat), spare]) == [1]
    assert chosen(scheduler, [heard(used, 60), heard(spare, 60)]) == [2]


def test_fastest_switches_when_a_fifth_better_for_three_beats() -> None:
    scheduler = create("fastest", None)
    slow, quick = candidate(1, rtt_ms=50, local=1, remote=1), candidate(2, rtt_ms=100, local=2, remote=2)
    pair = [slow, quick]
    assert chosen(scheduler, pair) == [1]
    pair = [slow, replace(quick, rtt_s=0.042)]  # better, but not by a fifth
    for _ in range(10):
        pair = beaten(pair, 1)
        assert chosen(scheduler, pair) == [1]
    pair = [slow, replace(quick, rtt_s=0.030)]
    answers = []
    for _ in range(4):
        answers += chosen(scheduler, pair)
        answers += chosen(scheduler, pair)  # asked again without news: nothing changes
        pair = beaten(pair, 1)
    assert answers == [1, 1, 1, 1, 2, 2, 2, 2]


def test_fastest_forgets_a_challenge_that_was_not_kept_up() -> None:
    scheduler = create("fastest", None)
    holder, rival = candidate(1, rtt_ms=50, local=1, remote=1), candidate(2, rtt_ms=60, local=2, remote=2)
    chosen(scheduler, [holder, rival])
    for beat in range(20):
        quick = replace(rival, rtt_s=0.030 if beat % 3 != 2 else 0.049)
        assert chosen(scheduler, beaten([holder, quick], beat)) == [1]


def test_fastest_doubles_on_a_suspect_path_at_once_and_leaves_it_when_it_is_lost() -> None:
    scheduler = create("fastest", None)
    one, two, three = (candidate(number, rtt_ms=10 * number, local=number, remote=number) for number in (1, 2, 3))
    assert chosen(scheduler, [one, two, three]) == [1]
    suspect = replace(one, suspect=True)
    assert chosen(scheduler, [suspect, two, three]) == [2, 1]
    assert chosen(scheduler, [one, two, three]) == [1], "well again"
    assert chosen(scheduler, [suspect, replace(two, suspect=True), three]) == [3, 1]
    assert chosen(scheduler, [two, three]) == [3], "two was suspect a moment ago"
    assert chosen(scheduler, [one, two, three]) == [3], "the place was given away"


@pytest.mark.parametrize("name", ["fastest", "adaptive"])
def test_when_a_path_is_lost_the_one_that_carried_its_packets_goes_on_with_them(name: str) -> None:
    scheduler = create(name, None)
    assert chosen(scheduler, FOUR) == [1]
    assert chosen(scheduler, [replace(FOUR[0], suspect=True), *FOUR[1:]]) == [4, 1]
    rest = FOUR[1:]  # 2 and 3 are quicker, but each shares what 1 used, and was not heard since
    assert chosen(scheduler, rest) == [4]
    for _ in range(3):
        rest = [rest[0], *beaten(rest[1:], 1)]
        assert chosen(scheduler, rest) == [4], "the quicker path has not answered"
    answers = []
    for _ in range(3):
        rest = beaten(rest, 1)
        answers += chosen(scheduler, rest)
    assert answers[-1] == 2


@pytest.mark.parametrize("name", ["fastest", "adaptive"])
def test_a_path_that_once_stood_in_has_no_claim(name: str) -> None:
    scheduler = create(name, None)
    suspicious = [replace(FOUR[0], suspect=True), *FOUR[1:]]
    for paths in (FOUR, suspicious, FOUR):
        chosen(scheduler, paths)
    assert chosen(scheduler, FOUR[1:]) == [2]


def test_fastest_with_only_suspect_paths_uses_two() -> None:
    suspects = [candidate(n, rtt_ms=10 * n, local=n, remote=n, suspect=True) for n in (1, 2, 3)]
    assert chosen(create("fastest", None), suspects) == [1, 2]
    assert chosen(create("fastest", None), suspects[:1]) == [1]


def test_noise_does_not_move_the_second_copy() -> None:
    scheduler = create("redundant", 2)
    noisy = [candidate(n, rtt_ms=10, local=n, remote=n) for n in (1, 2, 3)]
    first = chosen(scheduler, noisy)
    for beat in range(30):
        noise = [replace(one, rtt_s=0.010 + (beat * 7 + n * 3) % 5 / 1000, beats=beat) for n, one in enumerate(noisy)]
        assert chosen(scheduler, noise) == first


@pytest.mark.parametrize(("name", "copies"), [("hasty", 2), ("redundant", 0)])
def test_what_cannot_be_is_refused(name: str, copies: int) -> None:
    with pytest.raises(ValueError, match=r"scheduler|copy"):
        create(name, copies)


def test_names() -> None:
    assert set(SCHEDULERS) == {"redundant", "fastest", "adaptive", "aggregate"}
