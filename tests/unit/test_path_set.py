"""Which pairs are paths, and the bounds."""

from __future__ import annotations

from itertools import count

import pytest

from centipede.protocol.counters import PathCounters
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.path import Path, PathState
from centipede.protocol.path_mtu import PathMtu
from centipede.protocol.path_set import (
    MOST_LEARNED,
    MOST_LOCALS,
    MOST_PATHS,
    MOST_REMOTES,
    MOST_TOLD,
    PathSet,
    compatible,
)
from centipede.protocol.timing import Timing

TIMING = Timing()


def new_set() -> PathSet:
    numbers = count(1)

    def new_path(local: Endpoint, remote: Endpoint, expected: bool, now: float) -> Path:
        return Path(
            next(numbers), local, remote, challenge=bytes(8), expected=expected, now=now, mtu=PathMtu(4, 0, TIMING)
        )

    return PathSet(new_path, TIMING)


def local(number: int) -> Endpoint:
    return Endpoint(f"10.1.{number}.1", 51820)


def remote(number: int) -> Endpoint:
    return Endpoint(f"10.2.{number}.1", 51820)


def pairs(paths: PathSet) -> set[tuple[Endpoint, Endpoint]]:
    return {(path.local, path.remote) for path in paths}


def validate(paths: PathSet, path: Path, now: float) -> None:
    """What the owner of the set does when a path becomes valid."""
    path.validate()
    paths.remember(path.remote, now)
    paths.refresh(now)


def lose(paths: PathSet, path: Path, now: float) -> None:
    path.part()
    paths.remember(path.remote, now)
    paths.refresh(now)


@pytest.mark.parametrize(
    ("ours", "theirs", "possible"),
    [
        ("192.0.2.1:1", "198.51.100.1:2", True),
        ("192.0.2.1:1", "198.51.100.1:0", False),
        ("192.0.2.1:1", "[2001:db8::1]:2", False),
        ("[2001:db8::2]:1", "[2001:db8::1]:2", True),
        ("[fe80::2%eth0]:1", "[fe80::1%eth0]:2", True),
        ("[fe80::2%eth0]:1", "[2001:db8::1]:2", False),
        ("[2001:db8::2]:1", "[fe80::1%eth0]:2", False),
        ("127.0.0.1:1", "127.0.0.2:2", True),
        ("127.0.0.1:1", "198.51.100.1:2", False),
        ("192.0.2.1:1", "127.0.0.1:2", False),
        ("[::]:1", "[2001:db8::1]:2", True),
        ("0.0.0.0:1", "127.0.0.1:2", True),
        ("192.0.2.1:1", "0.0.0.0:2", False),
        ("192.0.2.1:1", "239.1.2.3:2", False),
        ("[2001:db8::2]:1", "[ff0e::1]:2", False),
    ],
)
def test_compatible(ours: str, theirs: str, possible: bool) -> None:
    assert compatible(Endpoint.parse(ours), Endpoint.parse(theirs)) is possible


def test_every_own_address_meets_every_known_one() -> None:
    paths = new_set()
    paths.set_remotes([remote(1), remote(2)], 0.0)
    assert not len(paths)
    paths.set_locals([local(1), local(2), Endpoint("2001:db8::1", 1)], 0.0)
    assert pairs(paths) == {(local(i), remote(j)) for i in (1, 2) for j in (1, 2)}
    assert all(path.expected and path.state is PathState.NEW for path in paths)
    assert len(paths.pairs) == 4
    assert not paths.usable


def test_paths_of_an_address_that_went_away_end_and_its_peer_is_remembered() -> None:
    paths = new_set()
    paths.set_locals([local(1)], 0.0)
    learned = paths.learn(local(1), remote(9), 0.0)
    assert learned is not None
    learned.observe(PathCounters(rx_packets=3, rx_bytes=300))
    validate(paths, learned, 0.0)
    paths.set_locals([local(2)], 5000.0)
    assert pairs(paths) == {(local(2), remote(9))}, "where it was reached last is tried from the new address"
    assert paths.retired.rx_bytes == 300


def test_endpoints_that_are_replaced_end_unless_they_work() -> None:
    paths = new_set()
    paths.set_locals([local(1)], 0.0)
    paths.set_remotes([remote(1), remote(2)], 0.0)
    path = paths.find(local(1), remote(1))
    assert path is not None
    validate(paths, path, 1.0)
    paths.set_remotes([remote(3)], 2.0)
    assert {(local(1), remote(1)), (local(1), remote(3))} <= pairs(paths)
    paths.refresh(2.0 + TIMING.new_s)
    assert pairs(paths) == {(local(1), remote(1)), (local(1), remote(3))}


def test_numbers_are_not_used_again() -> None:
    paths = new_set()
    paths.set_remotes([remote(1)], 0.0)
    numbers = []
    for _ in range(3):
        paths.set_locals([local(1)], 0.0)
        numbers += [path.number for path in paths]
        paths.set_locals([], 0.0)
    assert numbers == [1, 2, 3]


def test_an_address_that_was_valid_is_remembered_for_ten_minutes() -> None:
    paths = new_set()
    paths.set_locals([local(1)], 0.0)
    path = paths.learn(local(1), remote(1), 0.0)
    assert path is not None
    validate(paths, path, 0.0)
    paths.refresh(10_000.0)
    assert len(paths) == 1, "a path in use needs no remembering"
    lose(paths, path, 10_000.0)
    assert paths.refresh_at(10_000.0) == 10_600.0
    paths.refresh(10_599.0)
    assert len(paths) == 1
    assert list(paths.addresses) == [remote(1)]
    paths.refresh(10_600.0)
    assert not len(paths)
    assert not paths.addresses
    assert paths.refresh_at(10_600.0) == float("inf")


def test_an_address_known_from_a_packet_that_answers_nothing_ends_soon() -> None:
    paths = new_set()
    paths.set_locals([local(1)], 0.0)
    assert paths.learn(local(1), remote(1), 7.0)
    assert paths.refresh_at(7.0) == 7.0 + TIMING.new_s
    assert not paths.pairs, "it is no place to send Initiates to"
    paths.refresh(6.99 + TIMING.new_s)
    assert len(paths) == 1
    paths.refresh(7.0 + TIMING.new_s)
    assert not len(paths)


def test_what_comes_in_on_an_address_that_is_not_ours_is_no_path() -> None:
    assert new_set().learn(local(1), remote(1), 0.0) is None


def test_four_new_addresses_at_most() -> None:
    paths = new_set()
    paths.set_locals([local(1)], 0.0)
    for number in range(MOST_LEARNED):
        assert paths.learn(local(1), remote(number), 0.0)
    assert paths.learn(local(1), remote(99), 0.0) is None
    valid = paths.find(local(1), remote(0))
    assert valid is not None
    validate(paths, valid, 0.0)
    assert paths.learn(local(1), remote(99), 0.0), "a valid one is not counted"


def test_bounds_of_addresses_and_pairs() -> None:
    paths = new_set()
    paths.set_locals([local(number) for number in range(20)], 0.0)
    paths.set_remotes([remote(number) for number in range(100)], 0.0)
    assert len(paths) == MOST_PATHS
    assert len({path.local for path in paths}) <= MOST_LOCALS
    assert len({path.remote for path in paths}) <= MOST_REMOTES


def test_a_new_address_takes_the_place_of_what_was_heard_longest_ago_never_of_what_works() -> None:
    paths = new_set()
    paths.set_locals([local(number) for number in range(MOST_LOCALS)], 0.0)
    paths.set_remotes([remote(number) for number in range(MOST_PATHS // MOST_LOCALS)], 0.0)
    assert len(paths) == MOST_PATHS
    everyone = list(paths)
    for path in everyone[:-2]:
        path.validate()
    everyone[-2].receive_control(96, 50.0)
    everyone[-1].receive_control(96, 40.0)
    assert paths.learn(local(0), remote(50), 60.0)
    assert everyone[-1] not in list(paths)
    assert paths.learn(local(0), remote(51), 60.0)
    assert everyone[-2] not in list(paths)
    assert paths.learn(local(0), remote(52), 60.0) is None, "all the others work or are new themselves"
    assert len(paths) == MOST_PATHS
    assert len(paths.usable) == MOST_PATHS - 2


def test_a_sixteenth_and_one_more_remote_address() -> None:
    paths = new_set()
    paths.set_locals([local(1), local(2)], 0.0)
    paths.set_remotes([remote(number) for number in range(MOST_REMOTES)], 0.0)
    kept = [path for path in paths if path.remote != remote(3)]
    for path in kept:
        path.validate()
    new = paths.learn(local(1), remote(50), 1.0)
    assert new is not None
    assert all(path.remote != remote(3) for path in paths), "both paths of that address made room"
    assert set(kept) < set(paths)


def test_remembering_is_bounded_too() -> None:
    paths = new_set()
    paths.set_locals([local(1)], 0.0)
    for number in range(100):
        paths.remember(remote(number), float(number))
    paths.refresh(100.0)
    assert len(paths.addresses) == MOST_REMOTES
    assert remote(99) in paths.addresses


def test_barred_addresses_end_at_once() -> None:
    paths = new_set()
    paths.set_locals([local(1)], 0.0)
    paths.set_remotes([remote(1), remote(2)], 0.0)
    path = paths.find(local(1), remote(1))
    assert path is not None
    validate(paths, path, 0.0)
    paths.bar(lambda address: address != remote(1), 1.0)
    assert pairs(paths) == {(local(1), remote(2))}
    assert paths.addresses == ()


def test_addresses_of_machines_that_are_gone_leave_room_for_those_that_come() -> None:
    paths = new_set()
    paths.set_locals([local(1)], 0.0)
    for number in range(MOST_REMOTES):
        now = 10.0 * number
        paths.tell([remote(number)], now)
        (path,) = (path for path in paths if path.remote == remote(number))
        validate(paths, path, now)
        if number:
            lose(paths, path, now + 1.0)
    paths.tell([remote(50), remote(51)], 200.0)
    tried = {path.remote for path in paths if path.told}
    assert tried == {remote(50), remote(51)}
    assert remote(0) in {path.remote for path in paths if path.usable}
    assert len(paths.pairs) <= MOST_REMOTES


def test_an_address_that_answered_leaves_its_turn_to_another() -> None:
    paths = new_set()
    paths.set_locals([local(1)], 0.0)
    named = [remote(number) for number in range(12)]
    paths.tell(named, 0.0)
    assert len(list(paths)) == MOST_TOLD
    for path in tuple(paths):
        validate(paths, path, 0.1)
    paths.tell(named, 1.0)
    assert {path.remote for path in paths} == set(named)


def test_what_is_only_told_does_not_take_the_place_of_what_is_configured() -> None:
    paths = new_set()
    paths.set_locals([local(1)], 0.0)
    configured = [remote(number) for number in range(12)]
    paths.set_remotes(configured, 0.0)
    paths.tell([remote(number) for number in range(20, 28)], 1.0)
    there = {path.remote for path in paths}
    assert there >= set(configured)
    assert len(there) == MOST_REMOTES
