"""A paced TCP flow: the sender, and the receiver's account of when bytes arrived.

A mean, and iperf3's intervals, hide that nothing came for a while. The receiver here stamps every arrival, so the
longest time without one is known to the millisecond. Each end is a process of its own, ``python -m lab.probes.flow
send|receive SPEC``, where SPEC is a :class:`FlowSpec` as JSON; lab/probes/stalls.py starts them on hosts. This module
must not import the rest of the lab, for the processes are to start quickly.

The flow begins with the sender's monotonic time in nanoseconds, 8 bytes little-endian, from which both count; the rest
is zeros. What is stamped is the moment the receiving *program* gets bytes in order: a lost segment holds up those
behind it, as any program would feel. Nagle's algorithm is off, or the sender's kernel would hold bytes back.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import threading
import time
from pathlib import Path

import msgspec

from lab.probes import program

_CONGESTION_CONTROL = b"cubic"
_HEADER = struct.Struct("<Q")
_TURN_S = 0.005
_WAKE_UP_S = 0.05
_LARGEST_WRITE = 64 << 10
_LARGEST_READ = 256 << 10
_LISTEN_S = 10.0
LONGEST_DRAIN_S = 2.0


class FlowSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One flow: what both ends need to know of it."""

    host: str
    """The receiver's numeric address."""
    port: int
    rate_bps: int
    """Payload a second; what is due when nothing can be written is written afterwards. 0: as fast as it will go."""
    duration_s: float
    interval_s: float = 0.1
    """Length of one interval of the series."""
    result: str = ""
    """File that the process writes its account to."""
    ready: str = ""
    """File that the receiver creates when its socket listens."""


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """The sender's account."""

    written_bytes: int
    began_ns: int
    ended_ns: int
    """Monotonic time at which the connection stood and the sender stopped."""
    late_s: float
    """How much later than it wanted the sender once woke up."""
    error: str | None = None
    """Why the flow ended early."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """What arrived in one interval."""

    start_s: float
    bits_per_second: float


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """The receiver's account. Times are monotonic, 0 if nothing came."""

    payload_bytes: int
    first_ns: int
    last_ns: int
    longest_gap_s: float
    """Longest time between two consecutive arrivals."""
    longest_gap_from_ns: int
    """When that began."""
    series: list[Interval]


class Account:
    """What the receiver keeps."""

    def __init__(self, interval_s: float, longest_s: float) -> None:
        """``longest_s`` bounds the series; what comes later is counted in its last interval."""
        self._interval_s = interval_s
        self._bytes = [0] * (int(longest_s / interval_s) + 1)
        self._head = b""
        self._began_ns: int | None = None
        self._total = self._first_ns = self._last_ns = self._gap_ns = self._gap_from_ns = 0
        self._end = 0

    def add(self, data: memoryview, arrived_ns: int) -> None:
        """Account for bytes that have just come."""
        if self._began_ns is None:
            self._head += bytes(data[: _HEADER.size - len(self._head)])
            if len(self._head) == _HEADER.size:
                self._began_ns = _HEADER.unpack(self._head)[0]
        self._first_ns = self._first_ns or arrived_ns
        if self._last_ns and arrived_ns - self._last_ns > self._gap_ns:
            self._gap_ns, self._gap_from_ns = arrived_ns - self._last_ns, self._last_ns
        self._last_ns = arrived_ns
        self._total += len(data)
        if self._began_ns is not None:
            number = max(0, int((arrived_ns - self._began_ns) / 1e9 / self._interval_s))
            number = min(number, len(self._bytes) - 1)
            self._bytes[number] += len(data)
            self._end = max(self._end, number + 1)

    def result(self) -> Received:
        """The account so far. Its series ends with the last arrival."""
        return Received(
            payload_bytes=self._total,
            first_ns=self._first_ns,
            last_ns=self._last_ns,
            longest_gap_s=self._gap_ns / 1e9,
            longest_gap_from_ns=self._gap_from_ns,
            series=[
                Interval(
                    start_s=round(number * self._interval_s, 6),
                    bits_per_second=round(count * 8 / self._interval_s, 1),
                )
                for number, count in enumerate(self._bytes[: self._end])
            ],
        )


def send(spec: FlowSpec, stop: threading.Event) -> Sent:
    """Connect and send until the time is up, ``stop`` is set or the connection breaks."""
    family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, _CONGESTION_CONTROL)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        began_ns = time.monotonic_ns()
        try:
            sock.settimeout(spec.duration_s)
            sock.connect((spec.host, spec.port))
        except OSError as error:
            return Sent(written_bytes=0, began_ns=began_ns, ended_ns=time.monotonic_ns(), late_s=0.0, error=str(error))
        sock.setblocking(False)
        return _write(spec, sock, stop)


def _write(spec: FlowSpec, sock: socket.socket, stop: threading.Event) -> Sent:
    began_ns = time.monotonic_ns()
    end_ns = began_ns + int(spec.duration_s * 1e9)
    poll = select.poll()
    poll.register(sock, select.POLLOUT)
    zeros = memoryview(bytes(_LARGEST_WRITE))
    head = memoryview(_HEADER.pack(began_ns))
    written, due, late_s, error = 0, 0, 0.0, None
    while (now_ns := time.monotonic_ns()) < end_ns and not stop.is_set():
        if due <= written:
            # Whole turns: what becomes due while writing waits, or it would leave in segments of a few bytes.
            stop.wait(_TURN_S)
            woken_ns = time.monotonic_ns()
            late_s = max(late_s, (woken_ns - now_ns) / 1e9 - _TURN_S)
            due = (woken_ns - began_ns) * spec.rate_bps // 8 // 10**9 + _HEADER.size if spec.rate_bps else 1 << 62
            continue
        chunk = head[written:] if written < _HEADER.size else zeros[: min(due - written, _LARGEST_WRITE)]
        try:
            written += sock.send(chunk)
        except BlockingIOError:
            poll.poll(min(_WAKE_UP_S, max(0.0, (end_ns - now_ns) / 1e9)) * 1e3)
        except OSError as broken:
            error = str(broken)
            break
    return Sent(
        written_bytes=written, began_ns=began_ns, ended_ns=time.monotonic_ns(), late_s=round(late_s, 6), error=error
    )


def receive(spec: FlowSpec, stop: threading.Event) -> Received:
    """Take one connection and its bytes until it ends, or is told to ``stop`` and nothing came for a while."""
    account = Account(spec.interval_s, spec.duration_s + LONGEST_DRAIN_S)
    family = socket.AF_INET6 if ":" in spec.host else socket.AF_INET
    with socket.create_server((spec.host, spec.port), family=family) as listener:
        if spec.ready:
            Path(spec.ready).touch()
        listener.settimeout(_WAKE_UP_S)
        deadline = time.monotonic() + spec.duration_s + _LISTEN_S
        while not stop.is_set() and time.monotonic() < deadline:
            try:
                sock, _ = listener.accept()
            except TimeoutError:
                continue
            with sock:
                _read(sock, account, stop)
            break
    return account.result()


def _read(sock: socket.socket, account: Account, stop: threading.Event) -> None:
    buffer = memoryview(bytearray(_LARGEST_READ))
    sock.settimeout(_WAKE_UP_S)
    stopped: float | None = None
    while True:
        try:
            count = sock.recv_into(buffer)
        except TimeoutError:
            count = -1
        except OSError:
            return
        now_ns = time.monotonic_ns()
        if count == 0:
            return
        if count > 0:
            account.add(buffer[:count], now_ns)
        if stop.is_set():
            stopped = stopped or now_ns / 1e9
            if count < 0 or now_ns / 1e9 - stopped > LONGEST_DRAIN_S:
                return


def main(argv: list[str]) -> int:
    """``send SPEC`` or ``receive SPEC``; the account goes to the file the spec names, or to standard output."""
    return program.run("lab.probes.flow", argv, FlowSpec, send=send, receive=receive)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
