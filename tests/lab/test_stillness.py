"""Whether a machine that stands still is noticed; the process that looks is made to stand still in its place."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from lab.capabilities import real_time_refusal
from lab.process import wait_until
from lab.stillness import LEAST_S, Stillness

PAUSE_S = 3 * LEAST_S


def real_time(pid: int) -> bool:
    """Whether a thread for each processor has begun to look."""
    classes = [os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()]
    return classes.count(os.SCHED_FIFO) == len(os.sched_getaffinity(0))


def test_a_pause_is_noticed() -> None:
    refusal = real_time_refusal()
    if refusal is not None:
        pytest.skip(f"nobody looks, for real-time threads are not allowed here: {refusal}")
    with Stillness() as stillness:
        wait_until(lambda: real_time(stillness.pid), timeout_s=20, what="the threads that look")
        os.kill(stillness.pid, signal.SIGSTOP)
        paused = time.monotonic()
        wait_until(lambda: time.monotonic() > paused + PAUSE_S, timeout_s=20, what="the end of the pause")
        os.kill(stillness.pid, signal.SIGCONT)
    assert stillness.longest_s > LEAST_S
    assert not Path(f"/proc/{stillness.pid}").exists()
