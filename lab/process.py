"""Programs the lab has started: readiness, CPU time, ending.

Owns one child process each, with whatever it started in its process group. Must not know namespaces: lab/host.py
starts the child in the right place and hands it over. Invariant: only processes of groups made here are ever signalled.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from lab.errors import LabError, NotReadyError
from lab.pace import slowness

POLL_INTERVAL_S = 0.01
_LOG_TAIL_LINES = 5


def wait_until(
    condition: Callable[[], bool], *, timeout_s: float, what: str, interval_s: float = POLL_INTERVAL_S
) -> float:
    """Poll until ``condition()`` is true and return the seconds it took. The only place of the lab that sleeps.

    Raises NotReadyError, naming ``what``, after ``timeout_s``, stretched by this machine's slowness.
    """
    timeout_s *= slowness()
    begin = time.monotonic()
    while not condition():
        if time.monotonic() - begin >= timeout_s:
            raise NotReadyError(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(interval_s)  # polling with a deadline: most of what is awaited has no descriptor to wait on
    return time.monotonic() - begin


def _cpu_time_s(pid: int) -> float:
    """Return the CPU time of one process, by its clock as clock_getcpuclockid(3) composes it (CPUCLOCK_SCHED)."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0  # it has just ended


class Process:
    """A started program, leader of a process group of its own. Its output goes to ``log``."""

    def __init__(self, popen: subprocess.Popen[bytes], *, host: str, argv: Sequence[str], log: Path | None) -> None:
        self._popen = popen
        self._last_cpu_s = 0.0
        self.host = host
        self.argv = tuple(argv)
        self.log = log

    def __repr__(self) -> str:
        return f"<Process {self.name} {self.pid} on {self.host}>"

    @property
    def name(self) -> str:
        """The program's file name."""
        return Path(self.argv[0]).name

    @property
    def pid(self) -> int:
        """The process number as the lab's own process sees it; also the number of its process group."""
        return self._popen.pid

    def poll(self) -> int | None:
        """Return the exit status (negative: signal number) if the process has ended, else None."""
        if self._popen.returncode is not None:
            return self._popen.returncode
        # Looked at, not collected: as long as the dead leader is there, no other group can be given its number.
        ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return None
        return ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status

    @property
    def running(self) -> bool:
        """Whether the process has not ended yet."""
        return self.poll() is None

    def wait(self, timeout_s: float) -> int:
        """Wait for the end and return the exit status. Raises NotReadyError after ``timeout_s``."""
        wait_until(lambda: not self.running, timeout_s=timeout_s, what=f"the end of {self.name} on {self.host}")
        status = self.poll()
        assert status is not None
        return status

    def wait_ready(self, ready: Callable[[], bool], *, timeout_s: float) -> None:
        """Wait until ``ready()`` is true.

        Raises LabError, with the end of the log, if the process ends first or time runs out.
        """
        try:
            wait_until(
                lambda: ready() or not self.running, timeout_s=timeout_s, what=f"{self.name} on {self.host} being ready"
            )
        except NotReadyError as error:
            raise NotReadyError(f"{error}{self.log_tail()}") from None
        if not self.running:
            raise LabError(f"{self.name} on {self.host} ended with {self.poll()} before it was ready{self.log_tail()}")

    def log_tail(self) -> str:
        """Return the last lines of the log as an addition to a message; empty if there is nothing."""
        if self.log is None or not self.log.exists():
            return ""
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
        return ": " + " | ".join(line.strip() for line in lines) if lines else ""

    def signal(self, number: int) -> None:
        """Send a signal to the process alone. Nothing happens if it has ended."""
        if self.running:
            self._popen.send_signal(number)

    def stop(self, deadline_s: float = 2.0) -> int:
        """End the process by SIGTERM, its whole group by SIGKILL after ``deadline_s``. Returns the exit status."""
        if self.running:
            self._signal_group(signal.SIGTERM)
            with contextlib.suppress(NotReadyError):
                self.wait(deadline_s)
        return self.kill()

    def kill(self) -> int:
        """End what is left of the process group by SIGKILL. Returns the process's exit status."""
        if self._popen.returncode is None:
            self.cpu_seconds()
            self._signal_group(signal.SIGKILL)
            self.wait(5.0)
            # wait4 and not Popen.wait: the resource usage of a child can be had only here, and only once.
            _, status, usage = os.wait4(self.pid, 0)
            self._popen.returncode = os.waitstatus_to_exitcode(status)
            self._last_cpu_s = max(self._last_cpu_s, usage.ru_utime + usage.ru_stime)
        assert self._popen.returncode is not None
        return self._popen.returncode

    def cpu_seconds(self) -> float:
        """Return the CPU seconds of the process so far: all threads, and its children, living or waited for.

        The scheduler's own accounting in nanoseconds (schedstat's figures, dead threads included); after the end the
        kernel's final account.
        """
        if self._popen.returncode is None:
            try:
                process = psutil.Process(self.pid)
                times = process.cpu_times()
                total_s = times.children_user + times.children_system
                for member in (process, *process.children(recursive=True)):
                    total_s += _cpu_time_s(member.pid)
            except psutil.NoSuchProcess:
                return self._last_cpu_s
            self._last_cpu_s = max(self._last_cpu_s, total_s)
        return self._last_cpu_s

    def _signal_group(self, number: int) -> None:
        try:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)
        except PermissionError:
            self.signal(number)
