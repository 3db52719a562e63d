"""Choice of the engine. The engines themselves are python.py and native.py; what both promise is in contract.py."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from centipede.engine.contract import Engine
from centipede.errors import HostError


class TunQueues(Protocol):
    """What an engine must know of a TUN device."""

    @property
    def fds(self) -> tuple[int, ...]:
        """One non-blocking descriptor per worker."""

    @property
    def vnet_hdr(self) -> bool: ...

    @property
    def offloads(self) -> frozenset[str]: ...


@dataclass(frozen=True, slots=True)
class EngineKind:
    """An engine that can be created on this machine."""

    name: Literal["python", "native"]
    needs_vnet_hdr: bool
    """Whether the TUN device is to be opened with virtio headers."""
    default_workers: int
    """What ``workers = "auto"`` means."""
    create: Callable[[TunQueues], Engine]
    """Build an engine with one worker per queue; it owns the descriptors from then on. Not started."""
    reason: str
    """Why this engine, for ``show`` and one log line."""


def choose(name: Literal["auto", "python", "native"], busy_poll_s: float | None = None) -> EngineKind:
    """The engine of this name; ``auto`` takes the native one where it can be used.

    ``busy_poll_s`` is how long a worker of the native one looks again before it sleeps; None for its own idea of that.

    Raises HostError if the native one is asked for by name and cannot be used.
    """
    if name == "python":
        return _python_kind("configured")
    unusable = native_unavailable()
    if unusable is None:
        return _native_kind("configured" if name == "native" else "it is available", busy_poll_s)
    if name == "native":
        raise HostError(
            f'the native engine cannot be used ({unusable}): install what is missing or set engine = "auto"'
        )
    return _python_kind(f"the native engine cannot be used: {unusable}")


def native_unavailable() -> str | None:
    """Why the native engine cannot be used on this machine, in words, or None."""
    from centipede.engine import native

    return native.available()


def _python_kind(reason: str) -> EngineKind:
    from centipede.engine.python import PythonEngine

    # With a GIL, threads take turns, and a second worker only adds the turning.
    gil_enabled: Callable[[], bool] = getattr(sys, "_is_gil_enabled", lambda: True)
    workers = 1 if gil_enabled() else _cores()
    return EngineKind("python", False, workers, lambda tun: PythonEngine(tun.fds), reason)


def _native_kind(reason: str, busy_poll_s: float | None) -> EngineKind:
    from centipede.engine.native import SPIN_S, NativeEngine

    spin_s = SPIN_S if busy_poll_s is None else busy_poll_s

    def create(tun: TunQueues) -> Engine:
        return NativeEngine(tun.fds, vnet_hdr=tun.vnet_hdr, offloads=tun.offloads, spin_s=spin_s)

    return EngineKind("native", True, _cores(), create, reason)


def _cores() -> int:
    """The cores this process may use, at most 16: a run has no more shards."""
    return min(16, len(os.sched_getaffinity(0)))
