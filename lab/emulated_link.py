"""A link carried by the emulator, as the lab holds it: start it, change it, ask it, stop it.

Owns the emulator's process and the control socket to it. Must not know hosts, addresses or scenarios. Invariant: the
interfaces exist from the return of ``start`` until ``stop``; they are made down and without addresses.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import msgspec

from lab.emulator import (
    MESSAGE_BYTES_MAX,
    Begin,
    Finish,
    Impair,
    LinkStats,
    ReadStats,
    Reply,
    Request,
    SetCarrier,
    TapEnd,
    Way,
)
from lab.errors import LabError
from lab.impairment import Change, Impairment
from lab.pace import slowness
from lab.process import Process

_START_S = 10.0
_REPLY_S = 5.0
_replies = msgspec.json.Decoder(Reply)


@dataclass(frozen=True, slots=True)
class EmulatedEnd:
    """Where one end of the link is to appear."""

    netns_fd: int
    """An open network namespace; it stays the caller's."""
    ifname: str
    mac: str = ""
    """As ``02:00:00:00:00:01``; empty: the kernel's choice."""


class EmulatedLink:
    """One emulated link. Its methods may be called from any thread."""

    def __init__(self, name: str, process: Process, control: socket.socket, ways: dict[Way, Impairment]) -> None:
        self.name = name
        self.process = process
        """The emulator, for its CPU time; it must not be ended but by ``stop``."""
        self._control = control
        self._ways = ways
        self._lock = threading.Lock()
        self._last: LinkStats | None = None

    @classmethod
    def start(
        cls,
        a: EmulatedEnd,
        b: EmulatedEnd,
        *,
        ab: Impairment,
        ba: Impairment,
        seed: int,
        mtu: int = 1500,
        name: str = "",
    ) -> Self:
        """Start the emulator and return when both interfaces exist. Raises LabError, and leaves nothing, if it fails.

        ``ab`` is what happens to frames from ``a`` to ``b``. With equal ``seed`` the n-th frame of a direction meets
        the same chance. ``name`` is for messages.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        argv = [sys.executable, "-m", "lab.emulator", str(theirs.fileno())]
        with theirs:
            popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(), a.netns_fd, b.netns_fd),
                cwd=Path(__file__).resolve().parent.parent,
                start_new_session=True,
            )
        name = name or f"{a.ifname}-{b.ifname}"
        process = Process(popen, host=f"link {name}", argv=argv, log=None)
        link = cls(name, process, ours, {Way.AB: ab, Way.BA: ba})
        ends = (TapEnd(netns_fd=end.netns_fd, ifname=end.ifname, mac=end.mac) for end in (a, b))
        try:
            link._ask(Begin(a=next(ends), b=next(ends), ab=ab, ba=ba, seed=seed, mtu=mtu), deadline_s=_START_S)
        except BaseException:
            link.stop()
            raise
        return link

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def impairment(self, way: Way) -> Impairment:
        """Return what happens to frames of one direction now."""
        return self._ways[way]

    def change(self, way: Way, change: Change) -> Impairment:
        """Change one direction, and return what is in force when this returns. What ``change`` does not name stays.

        Raises ValueError if the result would mean nothing, LabError if the emulator is gone.
        """
        with self._lock:
            impairment = self._ways[way].merge(change)
            self._ask_locked(Impair(way=way, impairment=impairment), _REPLY_S)
            self._ways[way] = impairment
            return impairment

    def set_carrier(self, up: bool) -> None:
        """Pull the cable, or plug it in. Both ends see it at once, and frames under way are gone."""
        self._ask(SetCarrier(up=up))

    def stats(self, *, restart: bool = False) -> LinkStats:
        """Return what the emulator has done so far, or, after ``stop``, in all.

        ``restart`` begins the measurement of lateness and time spent anew, so that a measurement is not blamed for what
        happened while it was set up.
        """
        if self._last is not None:
            return self._last
        stats = self._ask(ReadStats(restart=restart)).stats
        assert stats is not None
        return stats

    def stop(self) -> LinkStats | None:
        """End the emulator, with it the interfaces, and return the last statistics it gave. Twice is harmless.

        None means that it never began or ended without a word.
        """
        with self._lock:
            if self._control.fileno() >= 0:
                with contextlib.suppress(LabError):
                    self._ask_locked(Finish(), _REPLY_S)
                self._control.close()
                self.process.stop()
            return self._last

    def _ask(self, request: Request, deadline_s: float = _REPLY_S) -> Reply:
        with self._lock:
            return self._ask_locked(request, deadline_s)

    def _ask_locked(self, request: Request, deadline_s: float) -> Reply:
        gone = LabError(f"the emulator of link {self.name} is gone")
        deadline_s *= slowness()
        try:
            self._control.settimeout(deadline_s)
            with contextlib.suppress(BrokenPipeError, ConnectionError):
                # If it has ended, its last word is still there to be read.
                self._control.send(msgspec.json.encode(request))
            message = self._control.recv(MESSAGE_BYTES_MAX)
        except TimeoutError:
            raise LabError(f"the emulator of link {self.name} did not answer within {deadline_s:g} s") from None
        except OSError:
            raise gone from None
        if not message:
            raise gone
        reply = _replies.decode(message)
        if reply.error:
            self._last = reply.stats
            raise LabError(f"link {self.name}: {reply.error}")
        if isinstance(request, Finish):
            self._last = reply.stats
        return reply
