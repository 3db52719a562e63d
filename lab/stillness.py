"""Whether the machine itself stood still while something was measured.

A virtual machine gets no processor while its host has other things to do: 100 ms at a time, which nothing inside causes
or can prevent, and which looks like an outage of whatever is measured. Owns a process with a thread for each processor,
ahead of all ordinary ones (SCHED_FIFO), that only sleeps and sees how late it wakes up. Must not know what is measured.
Invariant: the process ends with its parent, however that ends.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Self

LEAST_S = 0.06
"""A shorter delay is none: the kernel itself may take 50 ms of each second from real-time threads."""
_INTERVAL_S = 0.005
_REAL_TIME_PRIORITY = 20
"""Above the emulator's."""


class Stillness:
    """A context manager around what is measured."""

    longest_s = 0.0
    """After the end: the longest time in which a processor stood still; 0 if it was short, or nobody may look."""

    def __enter__(self) -> Self:
        """Begin to look."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lab.stillness"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parent.parent,
            start_new_session=True,
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Look no longer."""
        told, _ = self._process.communicate()
        self.longest_s = float(told or 0)

    @property
    def pid(self) -> int:
        """The process that looks."""
        return self._process.pid


class _Watch:
    """One processor."""

    def __init__(self, processor: int, ended: threading.Event) -> None:
        self.longest_s = 0.0
        self._processor = processor
        self._ended = ended

    def run(self) -> None:
        try:
            os.sched_setaffinity(0, {self._processor})  # of this thread alone, and so is the class
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_REAL_TIME_PRIORITY))
        except OSError:
            return  # an ordinary thread could not tell a machine that stands still from one that is busy
        while not self._ended.is_set():
            began = time.monotonic()
            time.sleep(_INTERVAL_S)  # what is measured is how long this takes
            late_s = time.monotonic() - began - _INTERVAL_S
            if late_s >= LEAST_S:
                self.longest_s = max(self.longest_s, late_s)


def main() -> None:
    """Look until standard input ends, then print the longest time in seconds."""
    ended = threading.Event()
    watches = [_Watch(processor, ended) for processor in sorted(os.sched_getaffinity(0))]
    threads = [threading.Thread(target=watch.run) for watch in watches]
    for thread in threads:
        thread.start()
    sys.stdin.buffer.read()
    ended.set()
    for thread in threads:
        thread.join()
    print(max(watch.longest_s for watch in watches))


if __name__ == "__main__":
    main()
