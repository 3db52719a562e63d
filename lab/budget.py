"""The time an attempt may take, held from outside.

Owns one timer. Must not know what is attempted. When time is up the hosts of the topologies at hand are ended, so that
whatever is waited for fails at once; whoever waited then asks ``check`` why.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from lab.errors import LabError
from lab.topology import Topology


class OverBudgetError(LabError):
    """An attempt took longer than its scenario allows."""


class Budget:
    """A context manager around what may take at most ``seconds``."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._expired = threading.Event()
        self._lock = threading.Lock()
        self._topologies: list[Topology] = []
        self._timer = threading.Timer(seconds, self.expire)
        self._timer.daemon = True

    @property
    def expired(self) -> bool:
        """Whether time is up."""
        return self._expired.is_set()

    def check(self) -> None:
        """Raise OverBudgetError if time is up."""
        if self.expired:
            raise OverBudgetError(f"it took longer than its budget of {self.seconds:g} s")

    @contextmanager
    def watching(self, topology: Topology) -> Iterator[None]:
        """Inside, ``topology`` is ended when time is up, as are others that are watched meanwhile."""
        with self._lock:
            self._topologies.append(topology)
        try:
            self.check()
            yield
        finally:
            with self._lock:
                self._topologies.remove(topology)

    def wait_until(self, due: float) -> None:
        """Wait until the monotonic clock shows ``due``. Raises OverBudgetError if time is up before."""
        self._expired.wait(max(0.0, due - time.monotonic()))
        self.check()

    def __enter__(self) -> Self:
        self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._timer.join()

    def expire(self) -> None:
        """Let time be up."""
        self._expired.set()
        with self._lock:
            for topology in self._topologies:
                topology.abort()
