"""ping: round-trip times between two hosts, at a stated interval or back to back.

Idle and back-to-back round trips are different things: between packets 4 ms apart the processors fall asleep, and
waking them is most of what is measured. A result therefore says at which interval it was taken.
"""

from __future__ import annotations

import re

import msgspec
import numpy as np

from lab.errors import LabError
from lab.host import Host

_TIME = re.compile(rb"^\d+ bytes from .* time=([0-9.]+) ms", re.MULTILINE)
_SUMMARY = re.compile(rb"(\d+) packets transmitted, (\d+) received")
_DUPLICATE = re.compile(rb"\(DUP!\)")


class PingSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A series of pings."""

    host: str
    count: int = 500
    interval_s: float | None = 0.004
    """Time between two packets; None sends the next when the answer to the last has come."""
    payload_bytes: int = 56
    deadline_s: int = 20
    """Give up after this long."""


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


def ping(near: Host, spec: PingSpec) -> RoundTrips:
    """Ping from ``near``. Raises LabError if nothing was answered."""
    pace = ["-A"] if spec.interval_s is None else ["-i", f"{spec.interval_s:g}"]
    size = ["-s", str(spec.payload_bytes), "-w", str(spec.deadline_s), "-W", "1"]
    argv = ["ping", "-n", "-c", str(spec.count), *pace, *size, spec.host]
    done = near.run(argv, timeout_s=spec.deadline_s + 5.0, check=False, env={"LC_ALL": "C"})
    if not _SUMMARY.search(done.stdout.encode()):
        raise LabError(f"ping {spec.host} on {near.name} failed: {(done.stderr or done.stdout).strip()}")
    return read_round_trips(spec, done.stdout.encode())


def read_round_trips(spec: PingSpec, output: bytes) -> RoundTrips:
    """Return what the output of ping says. Raises LabError if nothing was answered."""
    summary = _SUMMARY.search(output)
    times_ms = [float(time) for time in _TIME.findall(output)]
    if summary is None or not times_ms:
        raise LabError(f"no answer from {spec.host} to {spec.count} pings")
    times_us = np.array(times_ms) * 1e3
    p10, median, p90, p99 = (float(value) for value in np.percentile(times_us, (10, 50, 90, 99)))
    return RoundTrips(
        sent=int(summary[1]),
        received=int(summary[2]),
        duplicated=len(_DUPLICATE.findall(output)),
        interval_s=spec.interval_s,
        min_us=float(times_us.min()),
        p10_us=round(p10, 3),
        median_us=round(median, 3),
        p90_us=round(p90, 3),
        p99_us=round(p99, 3),
        max_us=float(times_us.max()),
    )
