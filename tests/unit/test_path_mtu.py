"""How large datagrams may be: what one path finds out by probes, and what the interface makes of it."""

from __future__ import annotations

import random

import pytest

from centipede.protocol.path_mtu import SIZES, PathMtu
from centipede.protocol.timing import Timing
from lab.world_model import Machine, Uplink, Weather, World

CHECK_S = 1.0
BEAT_S = 0.2
RTT_S = 0.05


class Road:
    """A path on which datagrams up to a size pass, most of the time; time in steps of 10 ms."""

    def __init__(
        self, largest: int, *, loss: float = 0.0, version: int = 4, configured: int = 0, seed: int = 1
    ) -> None:
        self.mtu = PathMtu(version, configured, Timing())
        self.largest = largest
        self.loss = loss
        self.now = 0.0
        self.tried: list[int] = []
        self.sizes = [self.mtu.size]
        self._dice = random.Random(seed)
        self._answers: list[tuple[float, int]] = []
        self._beat_at = 0.0
        self._t1_us = 0
        self.mtu.restart()

    def run_until(self, moment: float) -> None:
        while self.now < moment:
            self.now += 0.01
            for answer in [answer for answer in self._answers if answer[0] <= self.now]:
                self._answers.remove(answer)
                self.mtu.note_echo(answer[1], self.now)
            if self.mtu.expire(self.now) or self.now >= self._beat_at:
                self._beat_at = self.now + BEAT_S
                self._send(96)
            size = self.mtu.wanted(self.now, CHECK_S)
            if size is not None:
                self.tried.append(size)
                self.mtu.note_probe(size, self._send(size), self.now, RTT_S)
            if self.mtu.size != self.sizes[-1]:
                self.sizes.append(self.mtu.size)

    def _send(self, size: int) -> int:
        self._t1_us += 1
        if size <= self.largest and self._dice.random() >= self.loss and self._dice.random() >= self.loss:
            self._answers.append((self.now + RTT_S, self._t1_us))
        return self._t1_us


@pytest.mark.parametrize(
    ("largest", "options", "found"),
    [
        (1472, {}, 1472),
        (1471, {}, 1452),
        (1451, {}, 1372),
        (1371, {}, 1232),
        (500, {}, 1232),
        (9000, {}, 1472),
        (9000, {"configured": 8952}, 8952),
        (8951, {"configured": 8952}, 1472),
        (1472, {"version": 6}, 1452),
        (9000, {"version": 6, "configured": 8952}, 8952),
    ],
)
def test_the_largest_size_that_passes_is_found(largest: int, options: dict[str, int], found: int) -> None:
    road = Road(largest, **options)
    road.run_until(5.0)
    assert road.mtu.size == found


def test_a_size_in_use_that_passes_is_tried_each_second_and_no_other() -> None:
    road = Road(1472)
    road.run_until(1.0)
    road.tried.clear()
    road.run_until(11.0)
    assert set(road.tried) == {1472}
    assert 8 <= len(road.tried) <= 11


@pytest.mark.parametrize(("largest", "found"), [(1460, 1452), (1400, 1372), (1252, 1232)])
def test_a_path_that_becomes_narrow_is_followed_within_two_seconds(largest: int, found: int) -> None:
    road = Road(1472)
    road.run_until(60.0)
    road.largest = largest
    road.run_until(62.3)
    assert road.mtu.size == found
    road = Road(1472)
    road.run_until(60.0)
    road.largest = largest
    road.mtu.suspect()  # data that got lost tells sooner than the next check
    road.run_until(61.3)
    assert road.mtu.size == found


def test_a_larger_size_is_tried_ever_more_seldom() -> None:
    road = Road(1452)
    road.run_until(3000.0)
    larger = [size for size in road.tried if size > 1452]
    assert road.sizes == [1452]
    assert 2 * 5 <= len(larger) <= 2 * 9  # after 5, 20, 80, 320, 600, 600, 600 s, twice each


def test_a_path_that_becomes_wide_again_is_used_in_full() -> None:
    road = Road(1472)
    road.run_until(10.0)
    road.largest = 1252
    road.run_until(20.0)
    road.largest = 1472
    road.run_until(120.0)
    assert road.mtu.size == 1472


@pytest.mark.parametrize("loss", [0.01, 0.05, 0.1, 0.2])
def test_loss_is_not_taken_for_narrowness(loss: float) -> None:
    for seed in range(5):
        road = Road(1472, loss=loss, seed=seed)
        road.run_until(300.0)
        assert min(road.sizes) >= 1452, (seed, road.sizes)


@pytest.mark.parametrize("loss", [0.05, 0.1])
def test_a_lossy_path_that_becomes_narrow_is_noticed_all_the_same(loss: float) -> None:
    road = Road(1472, loss=loss)
    road.run_until(60.0)
    road.largest = 1252
    road.run_until(70.0)
    assert road.mtu.size == 1232


def test_silence_says_nothing_about_sizes() -> None:
    road = Road(1472, loss=0.0)
    road.run_until(10.0)
    road.loss = 1.0
    road.run_until(20.0)
    assert road.mtu.size == 1472
    road.mtu.rest()
    road.loss = 0.0
    road.run_until(30.0)
    assert road.sizes == [1452, 1472]


def test_a_path_that_comes_back_is_tried_anew() -> None:
    road = Road(1252)
    road.run_until(5.0)
    assert road.mtu.size == 1232
    road.largest = 1472
    road.mtu.restart()
    road.run_until(6.0)
    assert road.mtu.size == 1472


def test_an_answer_that_comes_late_counts() -> None:
    mtu = PathMtu(4, 0, Timing())
    assert mtu.wanted(0.0, CHECK_S) == 1452
    mtu.note_probe(1452, 1, 0.0, 0.1)
    assert mtu.wanted(0.0, CHECK_S) is None
    assert mtu.expire(1.0)
    mtu.note_echo(1, 1.0)
    assert mtu.wanted(1.0, CHECK_S) == 1472
    for echo in (0, 1, 77):
        mtu.note_echo(echo, 1.1)
    assert mtu.size == 1452


def test_sizes_ascend() -> None:
    assert sorted(SIZES) == list(SIZES)


# In a node.


def started(**options: object) -> tuple[World, Machine, Machine]:
    world = World.quiet(**options)  # type: ignore[arg-type]  # by name
    a, b = world.machines
    b.start()
    a.start()
    return world, a, b


def sizes(machine: Machine) -> list[int]:
    return [path.mtu for path in machine.node.status(machine.now).peers[0].paths]


def test_the_interface_follows_the_narrowest_path_down_at_once_and_up_after_a_while() -> None:
    world, a, _ = started(links=(2, 1))
    world.send_packets(a, 0.02, 100.0)
    world.clock.run_until(9.0)
    assert (a.mtu, sizes(a)) == (1420, [1472, 1472])
    world.clock.run_until(11.5)
    assert a.mtu == 1440
    a.uplinks[1].up.largest_bytes = 1400
    world.clock.run_until(14.0)
    assert (a.mtu, sorted(sizes(a))) == (1340, [1372, 1472])
    a.uplinks[1].up.largest_bytes = 1000
    world.clock.run_until(17.0)
    assert (a.mtu, sorted(sizes(a))) == (1200, [1232, 1472])
    a.move(a.uplinks[:1])
    world.clock.run_until(20.0)
    assert a.mtu == 1200
    world.clock.run_until(31.0)
    assert a.mtu == 1440


def test_large_packets_go_on_within_two_seconds_after_a_path_became_narrow() -> None:
    world, a, b = started()
    world.send_packets(a, 0.01, 30.0, whole=True)
    world.clock.run_until(20.0)
    assert a.mtu == 1440
    a.uplinks[0].up.largest_bytes = 1252
    world.clock.run_until(30.0)
    lost = [at for key, at in world.sent.items() if key not in world.received and at < 29.5]
    assert min(lost) >= 20.0
    assert max(lost) < 21.5
    assert a.mtu == 1200
    assert b.mtu == 1440, "the other direction is as wide as before"


def test_probes_are_not_fragmented_and_nothing_else_is_kept_whole() -> None:
    world, a, _ = started()
    whole: list[tuple[int, bool]] = []
    take = a.node.take_effects

    def taken() -> object:
        effects = take()
        whole.extend((len(datagram.data), datagram.dont_fragment) for datagram in effects.datagrams)
        return effects

    a.node.take_effects = taken  # type: ignore[method-assign, assignment]  # a look at what passes
    world.send_packets(a, 0.1, 5.0)
    world.clock.run_until(5.0)
    assert {size for size, kept in whole if kept} == {1452, 1472}
    assert max(size for size, kept in whole if not kept) < 250


def test_a_quiet_peer_is_not_probed() -> None:
    world, a, _ = started()
    world.send_packets(a, 0.1, 1.0)
    world.clock.run_until(30.0)
    large: list[float] = []
    world.watch = lambda machine, local, remote, data: large.append(world.clock.now) if len(data) > 1000 else None
    world.clock.run_until(150.0)
    assert large == []


def test_any_weather_leaves_a_size() -> None:
    for seed in range(10):
        dice = random.Random(seed)
        world, a, b = started(links=(2, 2), seed=seed)
        for machine in (a, b):
            world.send_packets(machine, 0.1, 30.0)
        for moment in range(1, 20):
            world.clock.run_until(moment)
            uplink: Uplink = dice.choice([*a.uplinks, *b.uplinks])
            uplink.up = Weather(loss=dice.choice((0.0, 0.3, 1.0)), largest_bytes=dice.choice((900, 1252, 1400, 1472)))
        for uplink in (*a.uplinks, *b.uplinks):
            uplink.up = Weather()
        world.clock.run_until(60.0)
        for machine in (a, b):
            assert 1200 <= machine.mtu <= 1440
