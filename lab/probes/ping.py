"""ping: round-trip times between two hosts, at a stated interval or back to back.

Idle and back-to-back round trips are different things: between packets 4 ms apart the processors fall asleep, and
waking them is most of what is measured. A result therefore says at which interval it was taken.
"""

from __future__ import annotations

import re
import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from lab.errors import LabError
from lab.host import Host

_ANSWER = re.compile(
    rb"^(?:\[(?P<at>\d+\.\d+)\] )?\d+ bytes from .* icmp_seq=(?P<seq>\d+) "
    rb".*time=(?P<ms>[0-9.]+) ms(?P<twice> \(DUP!\))?",
    re.MULTILINE,
)
_SUMMARY = re.compile(rb"(\d+) packets transmitted, (\d+) received")
_SEQUENCE_NUMBERS = 1 << 16
_LATEST = 64
"""Among so many answers at the end is that to the last ping answered, though answers overtake each other."""


class PingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A series of pings."""

    host: str
    count: int = 500
    interval_s: float | None = 0.004
    """Time between two packets; None sends the next when the answer to the last has come."""
    payload_bytes: int = 56
    deadline_s: int = 20
    """Give up after this long."""
    series_s: float | None = None
    """Length of one interval of the series; None makes none."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the pings sent in one interval."""

    start_s: float
    sent: int
    answered: int
    median_us: float | None
    max_us: float | None
    """None where nothing was answered."""


class RoundTrips(msgspec.Struct, frozen=True, kw_only=True):
    """What a series of pings gave. Times in microseconds; ping's own resolution is 1 us."""

    sent: int
    received: int
    duplicated: int
    interval_s: float | None
    min_us: float
    p10_us: float
    median_us: float
    p90_us: float
    p99_us: float
    max_us: float
    began_ns: int = 0
    """Monotonic time of the first ping, from which ``series`` counts; 0 without one."""
    series: list[Interval] = []


def ping(near: Host, spec: PingSpec) -> RoundTrips:
    """Ping from ``near``. Raises LabError if nothing was answered."""
    pace = ["-A"] if spec.interval_s is None else ["-i", f"{spec.interval_s:g}"]
    size = ["-s", str(spec.payload_bytes), "-w", str(spec.deadline_s), "-W", "1"]
    stamps = [] if spec.series_s is None else ["-D"]
    argv = ["ping", "-n", "-c", str(spec.count), *stamps, *pace, *size, spec.host]
    clocks_differ_by_ns = time.time_ns() - time.monotonic_ns()
    done = near.run(argv, timeout_s=spec.deadline_s + 5.0, check=False, env={"LC_ALL": "C"})
    if not _SUMMARY.search(done.stdout.encode()):
        raise LabError(f"ping {spec.host} on {near.name} failed: {(done.stderr or done.stdout).strip()}")
    return read_round_trips(spec, done.stdout.encode(), clocks_differ_by_ns=clocks_differ_by_ns)


def read_round_trips(spec: PingSpec, output: bytes, *, clocks_differ_by_ns: int = 0) -> RoundTrips:
    """Return what the output of ping says. Raises LabError if nothing was answered.

    ``clocks_differ_by_ns`` is how far the wall clock is ahead of the monotonic one.
    """
    summary = _SUMMARY.search(output)
    answers = list(_ANSWER.finditer(output))
    if summary is None or not answers:
        raise LabError(f"no answer from {spec.host} to {spec.count} pings")
    sent, received = int(summary[1]), int(summary[2])
    if received >= spec.count:
        # Given a deadline, ping goes on until it has as many answers as asked for; the last ones sent had no time.
        sent -= (sent - max(int(answer["seq"]) for answer in answers[-_LATEST:])) % _SEQUENCE_NUMBERS
    times_us = np.array([float(answer["ms"]) for answer in answers]) * 1e3
    p10, median, p90, p99 = (float(value) for value in np.percentile(times_us, (10, 50, 90, 99)))
    began_s, series = (0.0, []) if spec.series_s is None else _series(spec, spec.series_s, sent, answers)
    return RoundTrips(
        sent=sent,
        received=received,
        duplicated=sum(answer["twice"] is not None for answer in answers),
        interval_s=spec.interval_s,
        min_us=float(times_us.min()),
        p10_us=round(p10, 3),
        median_us=round(median, 3),
        p90_us=round(p90, 3),
        p99_us=round(p99, 3),
        max_us=float(times_us.max()),
        began_ns=int(began_s * 1e9) - clocks_differ_by_ns if series else 0,
        series=series,
    )


def _series(spec: PingSpec, series_s: float, sent: int, answers: list[re.Match[bytes]]) -> tuple[float, list[Interval]]:
    """Return the wall time of the first ping, and the pings by when they were sent.

    ping says when an answer came. When a ping was sent that nothing answered is reckoned from those sent before and
    after it, or from the interval.
    """
    turns = 0
    first: dict[int, tuple[float, float]] = {}
    highest = 0
    for answer in answers:
        if answer["at"] is None:
            return 0.0, []
        number = int(answer["seq"]) + turns * _SEQUENCE_NUMBERS
        if number < highest - _SEQUENCE_NUMBERS // 2:
            turns += 1
            number += _SEQUENCE_NUMBERS
        highest = max(highest, number)
        rtt_us = float(answer["ms"]) * 1e3
        first.setdefault(number, (float(answer["at"]) - rtt_us / 1e6, rtt_us))
    numbers = np.array(sorted(first))
    known = np.array([first[number][0] for number in numbers])
    pace_s = spec.interval_s or 0.0
    every = np.arange(1, max(sent, int(numbers[-1])) + 1)
    times = np.interp(every, numbers, known)
    times[every < numbers[0]] = known[0] - (numbers[0] - every[every < numbers[0]]) * pace_s
    times[every > numbers[-1]] = known[-1] + (every[every > numbers[-1]] - numbers[-1]) * pace_s
    began = float(times.min())
    rtts = np.full(len(every), np.nan)
    rtts[numbers - 1] = [first[number][1] for number in numbers]
    return began, _intervals(series_s, times - began, rtts)


def _intervals(series_s: float, times_s: NDArray[np.float64], rtts_us: NDArray[np.float64]) -> list[Interval]:
    bins = (times_s / series_s).astype(np.int64)
    found = []
    for number in range(int(bins.max()) + 1):
        here = rtts_us[bins == number]
        answered = here[~np.isnan(here)]
        found.append(
            Interval(
                start_s=round(number * series_s, 6),
                sent=len(here),
                answered=len(answered),
                median_us=round(float(np.median(answered)), 1) if len(answered) else None,
                max_us=float(answered.max()) if len(answered) else None,
            )
        )
    return found
