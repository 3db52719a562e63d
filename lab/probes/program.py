"""What the probes that are processes of their own have in common: a role and a spec in, an account out.

Must not import the rest of the lab, for the processes are to start quickly.
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Protocol, TypeVar

import msgspec


class Spec(Protocol):
    """What a process is told."""

    @property
    def result(self) -> str:
        """The file for its account; empty for standard output."""


_Spec = TypeVar("_Spec", bound=Spec)


def run(
    module: str,
    argv: Sequence[str],
    spec: type[_Spec],
    *,
    send: Callable[[_Spec, threading.Event], msgspec.Struct],
    receive: Callable[[_Spec, threading.Event], msgspec.Struct],
) -> int:
    """``send SPEC`` or ``receive SPEC`` until it is over or a signal comes; returns the exit status.

    The account is written to the file the spec names, which appears whole, or to standard output.
    """
    roles = {"send": send, "receive": receive}
    if len(argv) != 2 or argv[0] not in roles:
        print(f"usage: python -m {module} send|receive SPEC", file=sys.stderr)
        return 2
    told = msgspec.json.decode(argv[1], type=spec)
    stop = threading.Event()

    def end(_signal: int, _frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    encoded = msgspec.json.encode(roles[argv[0]](told, stop))
    if not told.result:
        print(encoded.decode())
        return 0
    partial = Path(f"{told.result}.partial")
    partial.write_bytes(encoded)
    partial.rename(told.result)
    return 0
