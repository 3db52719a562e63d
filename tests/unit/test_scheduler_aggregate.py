"""Lanes: when there are some, at what rates; and what they are measured by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from centipede.protocol.endpoint import Endpoint
from centipede.protocol.hold import Hold
from centipede.protocol.path import Path
from centipede.protocol.path_mtu import PathMtu
from centipede.protocol.rate import RateEstimate
from centipede.protocol.scheduler import Candidate, Scheduler, Selection
from centipede.protocol.schedulers import create
from centipede.protocol.table import LONGEST_REORDER_S, TablePath
from centipede.protocol.timing import Timing

SKEW_S = 1000.0  # between the clocks
BASE_S = 0.02


class Link:
    """A path's link, as the peer's heartbeats tell of it, each 0.2 s."""

    def __init__(self) -> None:
        self.rate = RateEstimate()
        self._beat = 0
        self._kib = 0

    def beat(
        self, *, kib_per_s: float, queue_s: float = 0.0, loss: float = 0.0, sent: int = 0, lost: int = 0, times: int = 1
    ) -> None:
        for _ in range(times):
            self._beat += 1
            self._kib += round(kib_per_s / 5)
            now_us = self._beat * 200_000
            arrival_us = now_us + round((SKEW_S + BASE_S + queue_s) * 1e6)
            t1_us = now_us + round(SKEW_S * 1e6)
            kib = self._kib & 0xFFFF_FFFF
            self.rate.note(
                t1_us=t1_us, received_kib=kib, echo_us=now_us, arrival_us=arrival_us, loss=loss, sent=sent, lost=lost
            )


def near(number: int, **more: object) -> Candidate:
    """A path whose heartbeats all arrived."""
    path = TablePath(number, Endpoint(f"10.1.{number}.1", 1), Endpoint(f"10.2.{number}.1", 2))
    made = Candidate(path, rtt_s=0.02 * number, transit_s=SKEW_S + 0.01 * number)
    made = replace(made, **more)  # type: ignore[arg-type]  # the fields of Candidate, by name
    return replace(made, delivered=made.beats)


def rates(selection: Selection) -> dict[int, int]:
    return {lane.path.path: lane.rate_bytes_per_s for lane in selection.lanes}


def lanes_of(scheduler: Scheduler, candidates: Sequence[Candidate]) -> Selection:
    """What is chosen once the peer had time to hear that packets will overtake each other."""
    for _ in range(3):
        selection = scheduler.choose(candidates)
        candidates = [replace(candidate, beats=candidate.beats + 1) for candidate in candidates]
    return selection


def test_a_path_without_a_queue_does_not_tell_its_rate() -> None:
    link = Link()
    link.beat(kib_per_s=3000, times=20)
    assert link.rate.bytes_per_s is None
    assert link.rate.peak_bytes_per_s == 3000 * 1024
    assert not link.rate.full


def test_a_full_path_is_given_a_little_less_than_it_delivers() -> None:
    link = Link()
    link.beat(kib_per_s=3000)
    link.beat(kib_per_s=3000, queue_s=0.05)
    once = link.rate.bytes_per_s
    link.beat(kib_per_s=3000, queue_s=0.05)
    assert once is None, "once may be the machine's own delay"
    assert link.rate.full
    assert link.rate.bytes_per_s is not None
    assert 0.9 * 3000 * 1024 < link.rate.bytes_per_s < 3000 * 1024


def test_a_long_queue_is_given_less_than_a_short_one() -> None:
    given = []
    for queue_s in (0.04, 0.08, 1.0):
        link = Link()
        link.beat(kib_per_s=3000)
        link.beat(kib_per_s=3000, queue_s=queue_s, times=3)
        given.append((link.rate.bytes_per_s or 0.0) / (3000 * 1024))
    assert given[0] > given[1] > given[2]
    assert given[2] > 0.75, "it is not starved"


def test_an_estimate_does_not_grow_over_a_queue_that_is_no_full_one() -> None:
    link = Link()
    link.beat(kib_per_s=3000)
    link.beat(kib_per_s=3000, queue_s=0.05, times=3)
    before = link.rate.bytes_per_s
    link.beat(kib_per_s=3000, queue_s=0.02, times=10)
    assert link.rate.bytes_per_s == before
    link.beat(kib_per_s=3000, times=2)
    assert link.rate.bytes_per_s is not None
    assert link.rate.bytes_per_s == 1.05 * 3000 * 1024


def test_an_estimate_follows_a_link_down_and_up_again() -> None:
    link = Link()
    link.beat(kib_per_s=3000)
    link.beat(kib_per_s=3000, queue_s=0.05, times=3)
    link.beat(kib_per_s=300, queue_s=0.3, times=3)
    assert link.rate.bytes_per_s is not None
    assert link.rate.bytes_per_s < 300 * 1024
    link.beat(kib_per_s=10, times=5)
    kept = link.rate.bytes_per_s
    link.beat(kib_per_s=10, times=5)
    assert link.rate.bytes_per_s == kept, "what is not used says nothing of what could be"
    for _ in range(20):
        link.beat(kib_per_s=link.rate.bytes_per_s / 1024)
    assert link.rate.bytes_per_s > 10 * kept


def test_loss_makes_a_short_queue_count() -> None:
    link = Link()
    link.beat(kib_per_s=3000)
    link.beat(kib_per_s=3000, queue_s=0.02, times=5)
    before = link.rate.full
    link.beat(kib_per_s=3000, queue_s=0.02, loss=0.05, times=2)
    assert (before, link.rate.full) == (False, True)


def test_a_peer_that_counts_anew_delivers_nothing_absurd() -> None:
    link = Link()
    link.beat(kib_per_s=3000, times=3)
    link._kib = 0
    link.beat(kib_per_s=3000, times=2)
    assert link.rate.peak_bytes_per_s <= 3000 * 1024


def test_one_path_is_enough_while_it_is_not_known_to_be_full() -> None:
    selection = create("aggregate", 2).choose([near(1), near(2)])
    assert selection.lanes == ()
    assert [path.path for path in selection.paths] == [1]
    assert selection.copies == 1


def test_the_others_help_from_a_tenth_upwards() -> None:
    scheduler = create("aggregate", 2)
    first = near(1, rate_bytes_per_s=1e6)
    assert rates(lanes_of(scheduler, [first, near(2)])) == {1: 1_000_000, 2: 100_000}
    assert rates(scheduler.choose([first, near(2, peak_bytes_per_s=2e5)])) == {1: 1_000_000, 2: 400_000}
    full = near(2, peak_bytes_per_s=4e5, rate_bytes_per_s=3e5)
    selection = scheduler.choose([first, full])
    assert rates(selection) == {1: 1_000_000, 2: 300_000}
    assert [round(lane.delay_s, 6) for lane in selection.lanes] == [0, 0.01]


def test_a_path_that_was_never_full_catches_up_in_a_few_beats() -> None:
    scheduler, peak, beats = create("aggregate", 2), 0.0, 0
    lanes_of(scheduler, [near(1, rate_bytes_per_s=1e6), near(2)])
    while peak < 1e6:  # it delivers what it is given
        lanes = rates(scheduler.choose([near(1, rate_bytes_per_s=1e6), near(2, peak_bytes_per_s=peak)]))
        peak, beats = float(lanes[2]), beats + 1
    assert beats <= 5


def test_it_is_not_given_far_more_than_the_quickest_at_once() -> None:
    scheduler = create("aggregate", 2)
    selection = lanes_of(scheduler, [near(1, rate_bytes_per_s=1e6), near(2, peak_bytes_per_s=9e5)])
    assert rates(selection)[2] == 1_125_000
    begins_to_queue = near(2, peak_bytes_per_s=2e5, queued=True)
    selection = scheduler.choose([near(1, rate_bytes_per_s=1e6), begins_to_queue])
    assert rates(selection)[2] == 200_000


def test_small_changes_make_no_new_lanes() -> None:
    scheduler = create("aggregate", 2)
    before = lanes_of(scheduler, [near(1, rate_bytes_per_s=1e6), near(2)])
    after = scheduler.choose([near(1, rate_bytes_per_s=1.04e6), near(2, transit_s=SKEW_S + 0.021)])
    assert after.lanes == before.lanes != ()


def test_no_lane_for_what_the_peer_would_not_wait_for() -> None:
    scheduler = create("aggregate", 2)
    late = near(2, transit_s=SKEW_S + 0.02 + LONGEST_REORDER_S)
    assert lanes_of(scheduler, [near(1, rate_bytes_per_s=1e6), late]).lanes == ()


def test_a_suspect_path_is_no_lane() -> None:
    scheduler = create("aggregate", 2)
    paths = [near(1, rate_bytes_per_s=1e6), near(2), near(3)]
    assert set(rates(lanes_of(scheduler, paths))) == {1, 2, 3}
    paths[1] = replace(paths[1], suspect=True)
    assert set(rates(scheduler.choose(paths))) == {1, 3}
    paths[0] = replace(paths[0], suspect=True)
    assert scheduler.choose(paths).copies == 2, "its packets are doubled"


def test_loss_counts_while_there_is_no_queue() -> None:
    link = Link()
    link.beat(kib_per_s=1000, sent=200, lost=2, times=50)
    assert 0.009 < link.rate.loss < 0.01
    link.beat(kib_per_s=0, sent=1, times=100)
    assert link.rate.loss > 0.009, "it is remembered while the path rests"
    link.beat(kib_per_s=1000, queue_s=0.05, sent=200, lost=60, times=20)
    assert link.rate.loss < 0.01, "a full queue loses packets of any path"
    link.beat(kib_per_s=1000, queue_s=0.05)
    link.beat(kib_per_s=1000, sent=200, lost=60)
    assert link.rate.loss < 0.01, "nor those that went while it emptied"
    link.beat(kib_per_s=1000, sent=200, times=200)
    assert link.rate.loss < 0.001


def test_much_that_is_lost_once_counts_little() -> None:
    once, often = Link(), Link()
    once.beat(kib_per_s=1000, sent=200, lost=60)
    often.beat(kib_per_s=1000, sent=200, lost=60, times=40)
    assert once.rate.loss < 0.01
    assert often.rate.loss > 0.15


def test_packets_that_arrive_before_they_are_counted_as_sent_are_no_gain() -> None:
    """Of 70 packets each 0.2 s one is lost at every other beat, and up to three are counted a beat early or late."""
    link, before = Link(), 0
    for index in range(400):
        ahead = (0, 3, 1, 2, 0, 3)[index % 6]
        link.beat(kib_per_s=500, sent=70, lost=index % 2 + before - ahead)
        before = ahead
    assert 0.006 < link.rate.loss < 0.009


def test_what_arrives_twice_hides_no_loss_for_long() -> None:
    link = Link()
    link.beat(kib_per_s=500, sent=70, lost=-70, times=50)
    link.beat(kib_per_s=500, sent=70, lost=1, times=100)
    assert link.rate.loss > 0.009


def test_while_lanes_rest_the_path_that_delivered_most_carries_all() -> None:
    scheduler = create("aggregate", 2)
    for beat in range(20):
        quick = near(1, beats=beat, full=True, rate_bytes_per_s=4e5, peak_bytes_per_s=4e5, delivered_bytes_per_s=2e5)
        broad = near(2, beats=beat, rate_bytes_per_s=1e6, peak_bytes_per_s=1e6, delivered_bytes_per_s=3e5)
        selection = scheduler.choose([quick, broad])
    assert not selection.lanes
    assert [path.path for path in selection.paths] == [2]
    selection = scheduler.choose([quick, replace(broad, suspect=True)])
    assert [path.path for path in selection.paths] == [1]


def test_a_delay_that_cannot_be_true_still_fits_what_engines_take() -> None:
    """The peer's clock is the peer's word: 64 bits of microseconds."""
    late = near(1, rate_bytes_per_s=1e6, transit_s=2.0**64 / 1e6)
    lanes = lanes_of(create("aggregate", None), [late, near(2)]).lanes
    assert [lane.path.path for lane in lanes] == [1, 2]
    assert max(lane.delay_s for lane in lanes) * 1e9 < 2**63


def test_lanes_that_do_worse_than_one_path_rest() -> None:
    scheduler = create("aggregate", 2)

    def lanes_over(beats: range, delivered: float) -> list[bool]:
        return [bool(_at(scheduler, beat, delivered).lanes) for beat in beats]

    assert all(lanes_over(range(20), 6e5)[2:])
    assert lanes_over(range(20, 40), 3e5)[-1] is False
    assert lanes_over(range(40, 200), 6e5)[-1] is True


def test_lanes_that_lose_packets_rest_as_well_but_not_when_there_is_nothing_to_send() -> None:
    for delivered, stay in ((3e5, False), (5e4, True)):
        scheduler = create("aggregate", 2)
        known = {"rate_bytes_per_s": 1e6, "peak_bytes_per_s": 1e6, "delivered_bytes_per_s": delivered}
        for beat in range(20):
            paths = [near(1, beats=beat, **known), near(2, beats=beat, loss=0.01, **known)]
            selection = scheduler.choose(paths)
        assert bool(selection.lanes) == stay


def test_lanes_that_are_known_to_lose_packets_are_given_up_sooner() -> None:
    beats = []
    for unloaded_loss in (0.0, 0.01):
        scheduler = create("aggregate", 2)
        known = {"rate_bytes_per_s": 1e6, "peak_bytes_per_s": 1e6, "delivered_bytes_per_s": 3e5}
        assert lanes_of(scheduler, [near(1, **known), near(2, **known)]).lanes
        for beat in range(20):
            lossy = near(1, beats=2 + beat, loss=0.01, unloaded_loss=unloaded_loss, **known)
            if not scheduler.choose([lossy, near(2, beats=2 + beat, **known)]).lanes:
                break
        beats.append(beat)
    assert beats == [4, 2]


def test_a_path_known_to_lose_packets_is_tried_as_a_lane_after_a_rest() -> None:
    scheduler = create("aggregate", 2)
    lanes = []
    for beat in range(60):
        first = near(1, beats=beat, rate_bytes_per_s=1e6, peak_bytes_per_s=1e6, delivered_bytes_per_s=1e6)
        lanes.append(bool(scheduler.choose([first, near(2, beats=beat, unloaded_loss=0.004)]).lanes))
    assert lanes.index(True) == 40 + 1
    assert all(lanes[41:])
    lossy = near(1, rate_bytes_per_s=1e6, unloaded_loss=0.004)
    assert lanes_of(create("aggregate", 2), [lossy, near(2, rtt_s=0.1)]).lanes, "another may do better: it is tried"


def test_while_lanes_rest_no_path_carries_all_that_is_known_to_lose_packets_unless_the_quickest_is_too() -> None:
    for unloaded_loss, carries in ((0.004, 1), (0.0, 2)):
        scheduler = create("aggregate", 2)
        for beat in range(20):
            quick = near(
                1, beats=beat, full=True, rate_bytes_per_s=4e5, peak_bytes_per_s=4e5, delivered_bytes_per_s=2e5
            )
            broad = near(2, beats=beat, unloaded_loss=unloaded_loss, peak_bytes_per_s=1e6, delivered_bytes_per_s=3e5)
            selection = scheduler.choose([quick, broad])
        assert [path.path for path in selection.paths] == [carries]


def test_beats_of_many_paths_count_no_more_than_those_of_few() -> None:
    scheduler, beat = create("aggregate", 2), 0
    known = {"rate_bytes_per_s": 1e6, "peak_bytes_per_s": 1e6, "delivered_bytes_per_s": 1e5, "full": True}
    paths = [near(number, **known) for number in range(1, 5)]
    assert lanes_of(scheduler, paths).lanes
    paths = [replace(path, beats=2) for path in paths]
    while scheduler.choose(paths).lanes:
        index = beat % len(paths)
        paths[index] = replace(paths[index], beats=paths[index].beats + 1)
        beat += 1
    assert beat == 4 * len(paths)


def test_a_pair_of_addresses_that_others_have_is_no_lane_of_its_own() -> None:
    """Two links have four pairs of addresses; which pairs share a link depends on the routes."""

    def pair(number: int, left: int, right: int, **more: object) -> Candidate:
        path = TablePath(number, Endpoint(f"10.1.{left}.1", 1), Endpoint(f"10.2.{right}.1", 2))
        return replace(near(number, **more), path=path)

    pairs = [pair(1, 1, 2, rate_bytes_per_s=1e6), pair(2, 1, 1), pair(3, 2, 2), pair(4, 2, 1)]
    assert set(rates(lanes_of(create("aggregate", 2), pairs))) == {1, 4}
    assert set(rates(lanes_of(create("aggregate", 2), pairs[:2]))) == {1, 2}, "one address here, two there"
    assert set(rates(lanes_of(create("aggregate", 2), pairs[:3]))) == {1, 2, 3}


def test_the_peer_is_told_before_packets_overtake_each_other() -> None:
    scheduler = create("aggregate", 2)
    seen = []
    for beat in range(8):
        first = near(1, beats=beat, queued=beat >= 2, rate_bytes_per_s=1e6 if beat >= 3 else None)
        selection = scheduler.choose([first, near(2, beats=beat)])
        seen.append((selection.spread, bool(selection.lanes)))
    assert [spread for spread, _ in seen].index(True) == 2
    assert [lanes for _, lanes in seen].index(True) == 3
    alone = create("aggregate", 2).choose([near(1, queued=True)])
    assert not alone.spread


def test_who_delivers_is_not_left_for_a_path_that_was_never_seen_to_do_as_much() -> None:
    cases: list[tuple[dict[str, object], int]] = [
        ({}, 1),
        ({"unloaded_loss": 0.004}, 2),
        ({"delivered_bytes_per_s": 1e4}, 2),
        ({"suspect": True}, 1),
    ]
    for state, carries in cases:
        scheduler = create("aggregate", 2)
        scheduler.choose([near(1), near(2, rtt_s=0.1)])
        for beat in range(10):
            holder = near(1, beats=beat, **{"delivered_bytes_per_s": 1e6, **state})
            selection = scheduler.choose([holder, near(2, beats=beat, rtt_s=0.005, peak_bytes_per_s=7e5)])
        assert selection.paths[-1].path == carries
    scheduler = create("aggregate", 2)
    for beat in range(10):
        holder = near(1, beats=beat, delivered_bytes_per_s=1e6)
        rtt_s = 0.005 if beat else 0.1
        selection = scheduler.choose([holder, near(2, beats=beat, rtt_s=rtt_s, peak_bytes_per_s=9e5)])
    assert [path.path for path in selection.paths] == [2], "it was seen to do it"


def test_what_its_full_queue_does_to_a_path_does_not_move_the_traffic() -> None:
    scheduler = create("aggregate", 2)
    scheduler.choose([near(1), near(2)])
    for beat in range(10):
        loaded = near(1, beats=beat, full=True, rtt_s=0.3, unloaded_rtt_s=0.2, loss=0.05)
        selection = scheduler.choose([loaded, near(2, beats=beat)])
    assert [path.path for path in selection.paths] == [1]


def _at(scheduler: Scheduler, beat: int, delivered: float) -> Selection:
    known = {"rate_bytes_per_s": 1e6, "peak_bytes_per_s": 1e6, "delivered_bytes_per_s": delivered}
    return scheduler.choose([near(1, beats=beat, full=True, **known), near(2, beats=beat, **known)])


def test_packets_wait_for_what_the_slower_path_takes_longer() -> None:
    hold = Hold()
    paths = [_path(number, transit_s) for number, transit_s in ((1, -5.0), (2, -4.975))]
    assert hold.choose([paths]) == 0, "nobody waits before packets are spread"
    paths[0].aggregating = True
    assert hold.choose([paths]) == 0.03, "the other path's heartbeat need not have come"
    paths[1].transit_s = -4.985
    assert hold.choose([paths]) == 0.03, "not worth a new table"
    paths[1].transit_s = 5.0
    assert hold.choose([paths]) == LONGEST_REORDER_S
    paths[0].aggregating = False
    assert 0 < hold.choose([paths]) < 0.03, "packets may be waiting"
    assert 0 < hold.choose([]) < 0.03


def test_clocks_of_different_machines_are_not_compared() -> None:
    hold = Hold()
    here, there = _path(1, 0.02), _path(2, 72_000.0)
    here.aggregating = there.aggregating = True
    assert hold.choose([[here], [there]]) == 0
    assert 0 < hold.choose([[here, _path(3, 0.04)], [there]]) <= 0.03


def test_an_address_that_is_another_machine_s_now_has_no_queue_for_that() -> None:
    rate = RateEstimate()
    for transit_s in (0.02, 0.02, 72_000.0, 72_000.0, 72_000.0, 72_000.0):
        rate._note_transit(transit_s, 0.0)
    assert not rate.full
    for _ in range(3):
        rate._note_transit(72_000.5, 0.0)
    assert rate.full


def _path(number: int, transit_s: float) -> Path:
    local, remote = Endpoint("10.1.1.1", number), Endpoint("10.2.1.1", 2)
    path = Path(number, local, remote, challenge=bytes(8), expected=True, now=0.0, mtu=PathMtu(4, 0, Timing()))
    path.transit_s = transit_s
    return path
