"""Path tracks: how moments become spans and samples, and who asks for the moments."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from lab.observer import Observer
from lab.process import Process
from lab.tracks import MOST_SAMPLES, PathReport, Span, TrackLog
from lab.tunnels.base import Tunnel, TunnelEnd


def report(state: str = "usable", *, remote: str = "b:1", carries: bool = True, tx_bytes: int = 0) -> PathReport:
    return PathReport(
        local="a:1",
        remote=remote,
        state=state,
        carries=carries,
        rtt_ms=1.23456,
        loss=None,
        tx_bytes=tx_bytes,
        rx_bytes=0,
    )


def spans(*moments: tuple[float, list[PathReport] | None]) -> list[list[Span]]:
    log = TrackLog()
    for now, reports in moments:
        log.add(now, reports)
    return [track.spans for track in log.tracks("left", 10.0)]


def test_a_state_lasts_until_another_is_seen() -> None:
    found = spans((10, [report()]), (11, [report()]), (12, [report("suspect")]), (13, [report("suspect")]))
    assert found == [[Span(0.0, 2.0, "usable", True), Span(2.0, 3.0, "suspect", True)]]


def test_a_path_that_ceases_to_carry_is_in_another_span() -> None:
    found = spans((10, [report()]), (11, [report(carries=False)]), (12, [report(carries=False)]))
    assert found == [[Span(0.0, 1.0, "usable", True), Span(1.0, 2.0, "usable", False)]]


@pytest.mark.parametrize("gap", [[], None])
def test_nothing_is_said_of_a_time_in_which_the_path_was_not_there_or_nobody_answered(
    gap: list[PathReport] | None,
) -> None:
    found = spans((10, [report()]), (11, [report()]), (12, gap), (13, [report()]), (14, [report()]))
    assert found == [[Span(0.0, 1.0, "usable", True), Span(3.0, 4.0, "usable", True)]]


def test_every_address_pair_has_its_own_track_in_the_order_of_appearance() -> None:
    log = TrackLog()
    log.add(1.0, [report(remote="c:1")])
    log.add(2.0, [report(), report(remote="c:1")])
    assert [(track.end, track.remote) for track in log.tracks("right", 0.0)] == [("right", "c:1"), ("right", "b:1")]


def test_a_long_run_has_no_more_samples_than_fit_and_they_cover_it_all() -> None:
    log = TrackLog()
    for number in range(20_000):
        log.add(number / 10, [report(tx_bytes=number)])
    (track,) = log.tracks("left", 0.0)
    times = [sample.at_s for sample in track.samples]
    assert len(times) <= MOST_SAMPLES
    assert times == sorted(times)
    assert times[0] == 0.0
    assert times[-1] > 1980.0
    assert track.spans == [Span(0.0, 1999.9, "usable", True)]
    assert track.samples[0].rtt_ms == 1.235


class _Told:
    """A tunnel of which one end answers and the other one hangs until it is let go."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.release = threading.Event()

    def paths(self, end: object) -> list[PathReport] | None:
        if end == "hangs":
            self.release.wait(10.0)
            return None
        self.asked.release()
        return [report()]

    def processes(self, end: object) -> list[Process]:
        return []


def test_an_end_that_hangs_does_not_keep_the_other_from_being_watched() -> None:
    told = _Told()
    ends = cast("dict[str, TunnelEnd]", {"left": "answers", "right": "hangs"})
    observer = Observer(cast("Tunnel", cast("Any", told)), ends, interval_s=0.001)
    try:
        for _ in range(3):
            assert told.asked.acquire(timeout=10.0)
    finally:
        told.release.set()
        observer.stop()
    (track,) = observer.tracks(0.0)
    assert (track.end, len(track.spans)) == ("left", 1)
    observer.stop()
    assert not any(thread.name.startswith("observer") for thread in threading.enumerate())
