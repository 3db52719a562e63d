"""Signals as readable events: the control thread learns of SIGTERM, SIGINT and SIGHUP from a descriptor.

Nothing happens inside a signal handler but one byte into a socket, so a signal cannot interrupt a half-done step.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterable
from types import FrameType, TracebackType
from typing import Any, Self


class Signals:
    """Catches the given signals from ``__enter__`` to ``__exit__``. Main thread only, as Python demands."""

    def __init__(self, numbers: Iterable[signal.Signals]) -> None:
        self._numbers = tuple(numbers)
        self._before: dict[signal.Signals, Any] = {}
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._wakeup_before = -1

    def __enter__(self) -> Self:
        self._wakeup_before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        for number in self._numbers:
            self._before[number] = signal.signal(number, _ignore)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup_before)
        self._read.close()
        self._write.close()

    def fileno(self) -> int:
        return self._read.fileno()

    def take(self) -> frozenset[signal.Signals]:
        """The signals that came since the last call. Never blocks."""
        taken = b""
        try:
            while chunk := self._read.recv(4096):
                taken += chunk
        except BlockingIOError:
            pass
        return frozenset(number for number in self._numbers if number in taken)


def _ignore(number: int, frame: FrameType | None) -> None:
    """Being a handler at all is what makes Python write to the wake-up descriptor."""
