"""The observer: asks a tunnel again and again, while a run goes on, how its paths are and what its programs hold.

Owns the threads that ask, one for each end, for an end that hangs must not keep the other from being asked. Must not
know what the answers are for. Invariant: after ``stop`` nobody asks any more.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping

from lab.footprint import Footprint, FootprintLog
from lab.tracks import PathTrack, TrackLog
from lab.tunnels.base import Tunnel, TunnelEnd

INTERVAL_S = 0.15


class Observer:
    """Watches the paths of a tunnel that is up."""

    def __init__(self, tunnel: Tunnel, ends: Mapping[str, TunnelEnd], interval_s: float = INTERVAL_S) -> None:
        """Begin to watch."""
        self._tunnel = tunnel
        self._interval_s = interval_s
        self._logs = {name: TrackLog() for name in ends}
        self._footprints = {name: FootprintLog() for name in ends}
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=self._watch, args=(name, end), name=f"observer of {name}")
            for name, end in ends.items()
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Watch no longer. Twice is harmless."""
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def tracks(self, zero: float) -> list[PathTrack]:
        """Return what was seen, in seconds after ``zero``. Not before ``stop``."""
        return [track for name, log in self._logs.items() for track in log.tracks(name, zero)]

    def footprints(self, zero: float) -> list[Footprint]:
        """Return what the programs held, where there were any, in seconds after ``zero``. Not before ``stop``."""
        found = (log.footprint(name, zero) for name, log in self._footprints.items())
        return [each for each in found if each is not None]

    def _watch(self, name: str, end: TunnelEnd) -> None:
        while not self._stopping.wait(self._interval_s):
            reports = self._tunnel.paths(end)
            now = time.monotonic()
            self._logs[name].add(now, reports)
            self._footprints[name].add(now, [process.pid for process in self._tunnel.processes(end) if process.running])
