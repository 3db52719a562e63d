"""The wall clock, which a lab may set wrong for one daemon.

The protocol reads the wall clock for the timestamps of handshakes alone. To see what a clock that jumps does to them,
without touching the clock that all programs of a machine share, the environment variable ``CENTIPEDE_WALL_OFFSET_FILE``
may name a file that holds a number of seconds: they are added to the time from then on, and read anew each time, so
that a test steps the clock of a running daemon by writing the file. It is for tests; nothing else sets it.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from pathlib import Path

VARIABLE = "CENTIPEDE_WALL_OFFSET_FILE"

_LARGEST_NS = 2**63 - 1


def wall_clock() -> Callable[[], int]:
    """What gives the nanoseconds since 1970, from 0 up to what 63 bits hold."""
    name = os.environ.get(VARIABLE)
    if not name:
        return time.time_ns
    file = Path(name)
    return lambda: min(_LARGEST_NS, max(0, time.time_ns() + _offset_ns(file)))


def _offset_ns(file: Path) -> int:
    try:
        offset_s = float(file.read_text())
    except (OSError, ValueError):  # not written yet, or just being written
        return 0
    return int(offset_s * 1e9) if math.isfinite(offset_s) else 0
