"""CPU time over a stretch of a run: of the processes that carry the traffic, and of the whole machine.

Processes are accounted in nanoseconds by the scheduler, and what interrupts do in their name is charged to them. The
machine's total also holds the load generator and the kernel; it is the only figure for what has no process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from lab.process import Process

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class CpuUse(msgspec.Struct, frozen=True, kw_only=True):
    """CPU seconds used between two moments."""

    seconds: float
    """Time between the moments."""
    ends: dict[str, float]
    """CPU seconds of the processes of each end, by the name given."""
    machine: float
    """CPU seconds of the whole machine, other programs included. Resolution: one clock tick."""

    @property
    def processes(self) -> float:
        """CPU seconds of the processes of all ends."""
        return sum(self.ends.values())


class CpuProbe:
    """An account from its making to :meth:`finish`."""

    def __init__(self, ends: Mapping[str, Sequence[Process]]) -> None:
        """``ends`` names the processes to account for, such as those of the left and the right end."""
        self._ends = {name: tuple(processes) for name, processes in ends.items()}
        self._before = self._read()
        self._machine_before = machine_cpu_seconds()
        self._began = time.monotonic()

    def finish(self) -> CpuUse:
        """Return what was used since. May be called more than once."""
        after = self._read()
        return CpuUse(
            seconds=time.monotonic() - self._began,
            ends={name: after[name] - before for name, before in self._before.items()},
            machine=machine_cpu_seconds() - self._machine_before,
        )

    def _read(self) -> dict[str, float]:
        return {name: sum(each.cpu_seconds() for each in processes) for name, processes in self._ends.items()}


def machine_cpu_seconds() -> float:
    """Return the CPU seconds this machine has spent on anything but idling since it was started."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, *_ = fields
    return (user + nice + system + irq + softirq) / _TICKS_PER_SECOND
