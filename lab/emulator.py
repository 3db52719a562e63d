"""The link emulator: a process that is a cable between two network namespaces.

Owns the process's inside: the two TAP interfaces, the loop that carries frames between them, its statistics, and the
messages by which it is steered. Must not know hosts, addresses or scenarios, nor import anything slow to start;
lab/emulated_link.py is the other side of its control socket.

    interface of host A = TAP a  --- read ---> FrameQueue ab ---> heap of (due, frame) --- write ---> TAP b
                                 <--- write --- ...           <--- FrameQueue ba <--- read ---

The TAPs are opened without offload flags, so every frame is what a cable would carry: at most the MTU and an Ethernet
header, checksummed. The interfaces go with the process, and the process with its parent. Invariant: every frame that
came in is counted as delivered, as dropped for one named cause, or as under way.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import gc
import heapq
import os
import select
import signal
import socket
import struct
import sys
import time
from enum import StrEnum
from typing import NoReturn

import msgspec

from lab.frame_queue import Drop, FrameQueue
from lab.impairment import Impairment

READS_PER_WAKE = 32
"""Frames taken from one side before the other gets its turn."""
FRAMES_UNDER_WAY_MAX = 100_000
"""How many frames, both ways together, the emulator holds; with full frames 150 MB. One more is an overflow."""
LATE_S = 0.001
"""A frame that comes out later than this after its time is counted as late."""
LATENESS_LIMIT_S = 0.005
"""A measurement over a link that was ever later than this does not count."""
MESSAGE_BYTES_MAX = 65536
_REAL_TIME_PRIORITY = 10
_INTERFACE_BYTES_MAX = 15

_TUNSETIFF = 0x400454CA
_TUNSETCARRIER = 0x400454E2
_IFF_TAP = 0x0002
_IFF_NO_PI = 0x1000
_SIOCSIFMTU = 0x8922
_SIOCSIFHWADDR = 0x8924
_ARPHRD_ETHER = 1
_CLONE_NEWNET = 0x40000000
_PR_SET_TIMERSLACK = 29

_libc = ctypes.CDLL(None, use_errno=True)


class Way(StrEnum):
    """A direction of a link."""

    AB = "ab"
    BA = "ba"


class TapEnd(msgspec.Struct, frozen=True, kw_only=True):
    """One end, as the emulator shall make it."""

    netns_fd: int
    """An open network namespace, inherited."""
    ifname: str
    mac: str
    """Colons between the bytes; empty: the kernel's choice."""


class Begin(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """The first request: make the link."""

    a: TapEnd
    b: TapEnd
    ab: Impairment
    ba: Impairment
    seed: int
    mtu: int


class Impair(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Treat frames that go ``way`` like this from now on."""

    way: Way
    impairment: Impairment


class SetCarrier(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Plug the cable in, or pull it: both ends see it, and what is under way is gone."""

    up: bool


class ReadStats(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Report. ``restart`` begins the measurement of lateness and of time spent anew afterwards."""

    restart: bool = False


class Finish(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Report for the last time and end."""


Request = Begin | Impair | SetCarrier | ReadStats | Finish


class WayStats(msgspec.Struct, kw_only=True):
    """What became of the frames of one direction. ``in_frames + duplicated`` is the sum of all that follows them."""

    in_frames: int = 0
    in_bytes: int = 0
    duplicated: int = 0
    out_frames: int = 0
    out_bytes: int = 0
    under_way: int = 0
    blackholed: int = 0
    oversize: int = 0
    lost: int = 0
    overflow: int = 0
    """Found the queue full."""
    cut: int = 0
    """Under way when the cable was pulled."""
    refused: int = 0
    """Not taken by the receiving interface, which was down."""
    reordered: int = 0
    """Of those delivered: how many came out after a frame that had gone in later."""
    unread: int = 0
    """Never came in: the kernel dropped them before the emulator, since it did not read fast enough."""


class LinkStats(msgspec.Struct, kw_only=True):
    """What the emulator has done, and how well it has done it since the measurement of that was last begun anew."""

    ab: WayStats
    ba: WayStats
    late_max_s: float
    """The longest that a frame was held after its time, or may have waited to be read while the emulator was busy."""
    late_frames: int
    """How many came out more than ``LATE_S`` after their time."""
    unread_frames: int
    """How many never came in, both ways."""
    busy_s: float
    """Time spent other than waiting, of ``elapsed_s``."""
    elapsed_s: float
    ceiling_pps: float
    """Frames in per second of time spent: what this process could carry of this traffic, at most. 0: no traffic yet."""
    real_time: bool
    """Whether the process runs ahead of all ordinary ones (SCHED_FIFO)."""

    def fault(self, *, lateness_limit_s: float = LATENESS_LIMIT_S) -> str | None:
        """Return, in words, why a measurement over this link does not count, or None."""
        if self.unread_frames:
            return f"the emulator could not keep up: {self.unread_frames} frames were not read in time"
        if self.late_max_s > lateness_limit_s:
            return f"the emulator was late by {self.late_max_s * 1000:.1f} ms (limit {lateness_limit_s * 1000:g} ms)"
        return None


class Reply(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The answer to each request, in order. ``error`` is a sentence; with one the emulator ends."""

    error: str = ""
    stats: LinkStats | None = None


class Tap:
    """A TAP interface in another namespace, and what the kernel counts for it there.

    The kernel keeps up to ``txqueuelen`` frames (1000 unless the interface is told otherwise) for the emulator to read.
    """

    def __init__(self, end: TapEnd, mtu: int) -> None:
        """Enter the namespace and make the interface there, down. Raises OSError, saying so in a sentence."""
        self.ifname = end.ifname
        try:
            self._make(end, mtu)
        except OSError as error:
            raise OSError(error.errno, f"cannot make interface {end.ifname}: {error.strerror}") from None

    def _make(self, end: TapEnd, mtu: int) -> None:
        if _libc.setns(end.netns_fd, _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "its network namespace cannot be entered")
        name = end.ifname.encode()
        if len(name) > _INTERFACE_BYTES_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))
        self.fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        fcntl.ioctl(self.fd, _TUNSETIFF, struct.pack("16sH22x", name, _IFF_TAP | _IFF_NO_PI))
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFMTU, struct.pack("16si20x", name, mtu))
            if end.mac:
                address = bytes.fromhex(end.mac.replace(":", ""))
                fcntl.ioctl(control, _SIOCSIFHWADDR, struct.pack("16sH6s16x", name, _ARPHRD_ETHER, address))
        # An open file of /proc/self/net stays with the namespace it was opened in.
        self._counters = os.open("/proc/self/net/dev", os.O_RDONLY)

    def set_carrier(self, up: bool) -> None:
        """Let the interface see a cable, or none."""
        fcntl.ioctl(self.fd, _TUNSETCARRIER, struct.pack("i", up))

    def dropped_frames(self) -> int:
        """Return how many frames the kernel dropped since they were not read in time."""
        for line in os.pread(self._counters, MESSAGE_BYTES_MAX, 0).decode().splitlines():
            name, colon, figures = line.partition(":")
            if colon and name.strip() == self.ifname:
                return int(figures.split()[11])
        return 0


class _Course:
    """One direction at work."""

    __slots__ = ("admit", "drops", "highest", "queue", "reader", "stats", "writer")

    def __init__(self, queue: FrameQueue, reader: Tap, writer: Tap) -> None:
        self.queue = queue
        self.admit = queue.admit
        self.reader = reader
        self.writer = writer.fd
        self.stats = WayStats()
        self.drops = dict.fromkeys(Drop, 0)
        self.highest = -1
        """The youngest frame delivered so far, by its number."""

    def snapshot(self) -> WayStats:
        return msgspec.structs.replace(
            self.stats,
            blackholed=self.drops[Drop.BLACKHOLE],
            oversize=self.drops[Drop.OVERSIZE],
            lost=self.drops[Drop.LOST],
            overflow=self.stats.overflow + self.drops[Drop.OVERFLOW],
            unread=self.reader.dropped_frames(),
        )


class Emulator:
    """The link at work. Everything happens in ``serve``, in one thread."""

    def __init__(self, begin: Begin, control: socket.socket) -> None:
        """Make both interfaces. Raises OSError if one cannot be made."""
        self._control = control
        self._taps = (Tap(begin.a, begin.mtu), Tap(begin.b, begin.mtu))
        for fd in {begin.a.netns_fd, begin.b.netns_fd}:
            os.close(fd)
        a, b = self._taps
        self._courses = {
            Way.AB: _Course(FrameQueue(begin.ab, seed=f"{begin.seed}/ab"), a, b),
            Way.BA: _Course(FrameQueue(begin.ba, seed=f"{begin.seed}/ba"), b, a),
        }
        self._by_fd = {course.reader.fd: course for course in self._courses.values()}
        self._read_bytes = max(2048, begin.mtu + 64)
        self._heap: list[tuple[float, int, _Course, bytes]] = []
        self._number = 0
        self._ended = False
        self._real_time = _run_ahead()
        self._restart()

    def _restart(self) -> None:
        self._late_max_s = 0.0
        self._late_frames = 0
        self._busy_s = 0.0
        self._since = time.monotonic()
        self._frames_before = sum(course.stats.in_frames for course in self._courses.values())
        self._unread_before = sum(tap.dropped_frames() for tap in self._taps)

    def serve(self) -> None:
        """Carry frames until told to end or until the parent is gone. Raises OSError if an interface vanishes."""
        heap = self._heap
        parent = os.pidfd_open(os.getppid())
        descriptors = [*self._by_fd, self._control.fileno(), parent]
        monotonic = time.monotonic
        begin = monotonic()
        while not self._ended:
            if heap:
                self._deliver_due(begin)
            before = monotonic()
            wait_s = max(0.0, heap[0][0] - before) if heap else None
            turn_s = before - begin
            self._busy_s += turn_s
            self._late_max_s = max(self._late_max_s, turn_s)
            # select, not epoll: its timeout is in microseconds, and there are four descriptors.
            ready, _, _ = select.select(descriptors, [], [], wait_s)
            begin = monotonic()
            for fd in ready:
                if fd in self._by_fd:
                    self._receive(self._by_fd[fd])
                elif fd == parent:
                    return
                else:
                    self._answer()

    def _receive(self, course: _Course) -> None:
        fd, size = course.reader.fd, self._read_bytes
        read, monotonic, push = os.read, time.monotonic, heapq.heappush
        heap, stats, admit = self._heap, course.stats, course.admit
        for _ in range(READS_PER_WAKE):
            try:
                frame = read(fd, size)
            except BlockingIOError:
                return
            except OSError as error:
                raise OSError(error.errno, f"interface {course.reader.ifname} is gone") from None
            now = monotonic()
            stats.in_frames += 1
            stats.in_bytes += len(frame)
            fate = admit(now, len(frame))
            if isinstance(fate, Drop):
                course.drops[fate] += 1
                continue
            if len(heap) >= FRAMES_UNDER_WAY_MAX:
                stats.overflow += 1
                continue
            stats.duplicated += len(fate) - 1
            for due in fate:
                self._number += 1
                if due <= now and not (heap and heap[0][0] <= due):
                    self._write(course, self._number, frame)
                else:
                    stats.under_way += 1
                    push(heap, (due, self._number, course, frame))

    def _deliver_due(self, now: float) -> None:
        heap, pop = self._heap, heapq.heappop
        while heap and heap[0][0] <= now:
            due, number, course, frame = pop(heap)
            course.stats.under_way -= 1
            late_s = time.monotonic() - due
            self._write(course, number, frame)
            if late_s > LATE_S:
                self._late_frames += 1
            if late_s > self._late_max_s:
                self._late_max_s = late_s

    def _write(self, course: _Course, number: int, frame: bytes) -> None:
        stats = course.stats
        try:
            os.write(course.writer, frame)
        except OSError:
            stats.refused += 1
            return
        stats.out_frames += 1
        stats.out_bytes += len(frame)
        if number > course.highest:
            course.highest = number
        else:
            stats.reordered += 1

    def _answer(self) -> None:
        message = self._control.recv(MESSAGE_BYTES_MAX)
        if not message:  # the parent closed its end: nobody will ask for anything any more
            self._ended = True
            return
        request = msgspec.json.decode(message, type=Request)
        reply = Reply()
        match request:
            case Impair():
                self._courses[request.way].queue.change(request.impairment)
            case SetCarrier():
                self._set_carrier(request.up)
            case ReadStats():
                reply = Reply(stats=self.stats())
                if request.restart:
                    self._restart()
            case Finish():
                reply = Reply(stats=self.stats())
                self._ended = True
            case Begin():
                raise ValueError("the link has begun already")
        self._control.send(msgspec.json.encode(reply))

    def _set_carrier(self, up: bool) -> None:
        for tap in self._taps:
            tap.set_carrier(up)
        if not up:
            for course in self._courses.values():
                course.stats.cut += course.stats.under_way
                course.stats.under_way = 0
            self._heap.clear()

    def stats(self) -> LinkStats:
        """Return what has been done so far."""
        in_frames = sum(course.stats.in_frames for course in self._courses.values()) - self._frames_before
        return LinkStats(
            ab=self._courses[Way.AB].snapshot(),
            ba=self._courses[Way.BA].snapshot(),
            late_max_s=self._late_max_s,
            late_frames=self._late_frames,
            unread_frames=sum(tap.dropped_frames() for tap in self._taps) - self._unread_before,
            busy_s=self._busy_s,
            elapsed_s=time.monotonic() - self._since,
            ceiling_pps=in_frames / self._busy_s if self._busy_s else 0.0,
            real_time=self._real_time,
        )


def _run_ahead() -> bool:
    """Get woken as soon as possible. Returns whether the host allowed a real-time class."""
    # Timers of an ordinary process may be late by 50 us so that wake-ups coincide: we want ours in time.
    _libc.prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    # Frames make no reference cycles, and a collection in between is a delay.
    gc.disable()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(_REAL_TIME_PRIORITY))
    except PermissionError:
        return False
    return True


def _terminate(_number: int, _frame: object) -> NoReturn:
    raise SystemExit(0)


def main() -> None:
    """Be a link: the one argument is the descriptor of the control socket, on which the first message is ``Begin``."""
    signal.signal(signal.SIGTERM, _terminate)
    control = socket.socket(fileno=int(sys.argv[1]))
    message = control.recv(MESSAGE_BYTES_MAX)
    if not message:
        return
    emulator = None
    try:
        emulator = Emulator(msgspec.json.decode(message, type=Begin), control)
        control.send(msgspec.json.encode(Reply()))
        emulator.serve()
    except OSError as error:
        _try_send(control, Reply(error=error.strerror or str(error), stats=emulator.stats() if emulator else None))
        raise SystemExit(1) from None
    except SystemExit:
        _try_send(control, Reply(stats=emulator.stats() if emulator else None))
        raise


def _try_send(control: socket.socket, reply: Reply) -> None:
    try:
        control.send(msgspec.json.encode(reply))
    except OSError:
        return  # the parent has gone: there is nobody to tell


if __name__ == "__main__":
    main()
