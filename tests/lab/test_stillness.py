"""Whether a machine that stands still is noticed; the process that looks is made to stand still in its place."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from lab.process import wait_until
from lab.stillness import LEAST_S, Stillness

PAUSE_S = 3 * LEAST_S


def real_time(pid: int) -> bool:
    """Whether a thread for each processor has begun to look."""
    classes = [os.sched_getscheduler(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()]
    return classes.count(os.SCHED_FIFO) == len(os.sched_getaffinity(0))


def may_run_ahead() -> bool:
    before, priority = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    except PermissionError:
        return False
    os.sched_setscheduler(0, before, priority)
    return True


def test_a_pause_is_noticed() -> None:
    if not may_run_ahead():
        pytest.skip("real-time threads are not allowed here, so nobody looks")
    with Stillness() as stillness:
        wait_until(lambda: real_time(stillness.pid), timeout_s=20, what="the threads that look")
        os.kill(stillness.pid, signal.SIGSTOP)
        paused = time.monotonic()
        wait_until(lambda: time.monotonic() > paused + PAUSE_S, timeout_s=20, what="the end of the pause")
        os.kill(stillness.pid, signal.SIGCONT)
    assert stillness.longest_s > LEAST_S
    assert not Path(f"/proc/{stillness.pid}").exists()
