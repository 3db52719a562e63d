"""A paced stream of numbered, time-stamped datagrams: the sender, and the receiver's account of what became of each.

The sender offers datagrams at a fixed rate and catches up after every delay; the receiver works out from the numbers
alone what was lost, doubled, reordered and how long nothing came. Each is a process of its own,
``python -m lab.probes.stream send|receive SPEC``, where SPEC is a :class:`StreamSpec` as JSON; lab/probes/datagrams.py
starts them on hosts. This module must not import the rest of the lab, for the processes are to start quickly.

A datagram begins with three little-endian 64-bit words: the stream's identifier, the datagram's number from 0, and the
sender's monotonic time in nanoseconds. The rest is zeros. Both ends read the same monotonic clock, so one-way delays
are differences of that clock, taken in user space at either end.

Invariants: memory is bounded by the planned number of datagrams, one byte each; a datagram of another stream is
counted as foreign and changes nothing else; the stream's series is over the planned sending time, number / rate.
"""

from __future__ import annotations

import errno
import select
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from lab.probes import program
from lab.probes.batch import Batch

HEADER = np.dtype([("stream", "<u8"), ("number", "<u8"), ("sent_ns", "<u8")])
"""How a datagram begins."""
LARGEST_STREAM = 200_000_000
"""Datagrams a stream may plan; the receiver keeps one byte for each."""

_SEND_BATCH = 64
_RECEIVE_CHUNK = 16384
_SOCKET_BUFFER_BYTES = 8 << 20
_WAKE_UP_S = 0.05
LONGEST_DRAIN_S = 5.0
OUTAGE_DATAGRAMS = 10
"""So many in a row that did not come are no accident."""
_FLOW_PORT = 20480
_MOST_FLOWS = 4096
_LATE_S = 1.0
_BUCKETS_PER_DOUBLING = 32
_BUCKETS = 40 * _BUCKETS_PER_DOUBLING


class StreamSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One stream: what both ends need to know of it."""

    host: str
    """The receiver's numeric address."""
    port: int
    rate: int
    """Datagrams a second; 0 sends as fast as the sender can."""
    count: int
    """Datagrams planned."""
    size: int = 200
    """Bytes of UDP payload, at least a header."""
    flows: int = 1
    """Number n goes from a port of its own for each n modulo ``flows``, the same in every run; 1: from any port."""
    stream: int = 0
    interval_s: float = 0.1
    """Length of one interval of the series. Without a rate the whole stream is one interval."""
    longest_s: float | None = None
    """Without a rate: send for this long at most."""
    nap_s: float = 0.0
    """The receiver looks only this often, which spares the sender waking it for every datagram; times are as coarse."""
    quiet_s: float = 0.3
    """The receiver, once told to stop, goes on until nothing has come for this long."""
    result: str = ""
    """File that the process writes its account to."""
    ready: str = ""
    """File that the receiver creates when its socket is bound."""

    def __post_init__(self) -> None:
        if not 0 < self.count <= LARGEST_STREAM:
            raise ValueError(f"count {self.count} is not in 1..{LARGEST_STREAM}")
        if self.size < HEADER.itemsize:
            raise ValueError(f"size {self.size} is less than the header's {HEADER.itemsize} bytes")
        if not 0 < self.flows <= _MOST_FLOWS:
            raise ValueError(f"flows {self.flows} is not in 1..{_MOST_FLOWS}")
        if self.rate < 0:
            raise ValueError(f"rate {self.rate} is negative")

    @property
    def intervals(self) -> int:
        """Number of intervals of the series."""
        if self.rate == 0:
            return 1
        return max(1, -(-self.count // max(1, round(self.rate * self.interval_s))))


class Sent(msgspec.Struct, frozen=True, kw_only=True):
    """The sender's account."""

    offered: int
    """Datagrams handed to the kernel, whether it took them or not: numbers 0 to offered - 1."""
    refused: int
    """Those among them that the kernel did not take."""
    errors: dict[str, int]
    """Errors met, by name."""
    began_ns: int
    ended_ns: int
    """Monotonic time of the first and after the last datagram."""


class FlowArrivals(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one flow."""

    received: int
    """Numbers, each once."""
    first_ns: int
    last_ns: int
    """Monotonic time of the first and last arrival; 0 if nothing came."""
    longest_gap_s: float


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the datagrams planned for one interval of the series."""

    start_s: float
    planned: int
    received: int
    duplicated: int
    delay_max_us: float


class Received(msgspec.Struct, frozen=True, kw_only=True):
    """The receiver's account. ``received`` counts numbers, each once; copies of them are ``duplicated``."""

    received: int
    duplicated: int
    reordered: int
    """Datagrams that came after one of their flow with a higher number."""
    foreign: int
    longest_lost_run: int
    """Most consecutive numbers up to the highest one received that never came."""
    median_outage: float
    """Median length of those runs of them that are ``OUTAGE_DATAGRAMS`` or longer; 0 without any."""
    highest: int
    """Highest number received, -1 if none."""
    first_ns: int
    last_ns: int
    """Monotonic time of the first and last arrival."""
    longest_gap_s: float
    """Longest time between two consecutive arrivals."""
    delay_us: dict[str, float]
    """One-way delay: min, p1, p10, median, p90, p99, p999, max."""
    series: list[Interval]
    flows: list[FlowArrivals]


class _FlowAccount:
    """What the receiver keeps of one flow."""

    __slots__ = ("first_ns", "highest", "last_ns", "longest_gap_ns", "received")

    def __init__(self) -> None:
        self.highest = -1
        self.received = self.first_ns = self.last_ns = self.longest_gap_ns = 0

    def arrive(self, arrived: NDArray[np.int64]) -> None:
        """Take the times of arrivals, copies included."""
        before = np.concatenate(([self.last_ns or arrived[0]], arrived[:-1]))
        self.longest_gap_ns = max(self.longest_gap_ns, int((arrived - before).max()))
        self.first_ns = self.first_ns or int(arrived[0])
        self.last_ns = int(arrived[-1])

    def count(self, numbers: NDArray[np.int64]) -> int:
        """Take numbers that are new, and return how many came after a higher one."""
        highest = np.maximum.accumulate(np.concatenate(([self.highest], numbers)))
        self.received += len(numbers)
        self.highest = int(highest[-1])
        return int((numbers < highest[:-1]).sum())

    def result(self) -> FlowArrivals:
        """The account so far."""
        return FlowArrivals(
            received=self.received,
            first_ns=self.first_ns,
            last_ns=self.last_ns,
            longest_gap_s=self.longest_gap_ns / 1e9,
        )


class Account:
    """What the receiver keeps: which numbers came, and the running figures. Fed with chunks of headers."""

    def __init__(self, spec: StreamSpec) -> None:
        self._spec = spec
        self._seen: NDArray[np.uint8] = np.zeros(spec.count, dtype=np.uint8)
        self._histogram: NDArray[np.int64] = np.zeros(_BUCKETS, dtype=np.int64)
        self._received = np.zeros(spec.intervals, dtype=np.int64)
        self._duplicated = np.zeros(spec.intervals, dtype=np.int64)
        self._delay_max_ns = np.zeros(spec.intervals, dtype=np.int64)
        self._delay_min_ns = np.iinfo(np.int64).max
        self._reordered = self._foreign = 0
        self._all = _FlowAccount()
        self._flows = [_FlowAccount() for _ in range(spec.flows)]

    def add(self, headers: NDArray[np.void], arrived_ns: NDArray[np.int64]) -> None:
        """Account for datagrams in the order of their arrival."""
        ours = (headers["stream"] == self._spec.stream) & (headers["number"] < self._spec.count)
        self._foreign += len(headers) - int(ours.sum())
        numbers = headers["number"][ours].astype(np.int64)
        if not len(numbers):
            return
        arrived = arrived_ns[ours]
        self._all.arrive(arrived)
        flows = numbers % self._spec.flows
        for flow in np.unique(flows):
            self._flows[flow].arrive(arrived[flows == flow])
        bins = numbers * self._spec.intervals // self._spec.count
        new = np.zeros(len(numbers), dtype=bool)
        new[np.unique(numbers, return_index=True)[1]] = True
        new &= self._seen[numbers] == 0
        np.add.at(self._duplicated, bins[~new], 1)
        numbers, bins = numbers[new], bins[new]
        if not len(numbers):
            return
        self._seen[numbers] = 1
        np.add.at(self._received, bins, 1)
        self._all.count(numbers)
        flows = numbers % self._spec.flows
        self._reordered += sum(self._flows[flow].count(numbers[flows == flow]) for flow in np.unique(flows))
        delays = np.maximum(arrived[new] - headers["sent_ns"][ours][new].astype(np.int64), 1)
        np.maximum.at(self._delay_max_ns, bins, delays)
        self._delay_min_ns = min(self._delay_min_ns, int(delays.min()))
        buckets = (np.log2(delays) * _BUCKETS_PER_DOUBLING).astype(np.int64)
        self._histogram += np.bincount(np.minimum(buckets, _BUCKETS - 1), minlength=_BUCKETS)

    def result(self) -> Received:
        """The account so far."""
        spec = self._spec
        edges = [-(-i * spec.count // spec.intervals) for i in range(spec.intervals + 1)]
        runs = _zero_runs(self._seen[: self._all.highest + 1])
        outages = runs[runs >= OUTAGE_DATAGRAMS]
        return Received(
            received=int(self._received.sum()),
            duplicated=int(self._duplicated.sum()),
            reordered=self._reordered,
            foreign=self._foreign,
            longest_lost_run=int(runs.max(initial=0)),
            median_outage=float(np.median(outages)) if len(outages) else 0.0,
            highest=self._all.highest,
            first_ns=self._all.first_ns,
            last_ns=self._all.last_ns,
            longest_gap_s=self._all.longest_gap_ns / 1e9,
            delay_us=self._delays_us(),
            series=[
                Interval(
                    start_s=edges[i] / spec.rate if spec.rate else 0.0,
                    planned=edges[i + 1] - edges[i],
                    received=int(self._received[i]),
                    duplicated=int(self._duplicated[i]),
                    delay_max_us=float(self._delay_max_ns[i]) / 1e3,
                )
                for i in range(spec.intervals)
            ],
            flows=[flow.result() for flow in self._flows],
        )

    def _delays_us(self) -> dict[str, float]:
        total = int(self._histogram.sum())
        if total == 0:
            return {}
        cumulated = np.cumsum(self._histogram)
        shares = {"p1": 0.01, "p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
        buckets = {name: int(np.searchsorted(cumulated, share * total)) for name, share in shares.items()}
        middles = {name: 2 ** ((bucket + 0.5) / _BUCKETS_PER_DOUBLING) for name, bucket in buckets.items()}
        figures = {"min": float(self._delay_min_ns), **middles, "max": float(self._delay_max_ns.max())}
        return {name: round(value / 1e3, 3) for name, value in figures.items()}


def _zero_runs(seen: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Lengths of the runs of zeros before each one and after the last."""
    return np.diff(np.concatenate(([-1], np.flatnonzero(seen), [len(seen)]))) - 1


def send(spec: StreamSpec, stop: threading.Event) -> Sent:
    """Send the stream. Returns when all is offered, ``stop`` is set, or time is up (with a rate, one second late)."""
    batch = Batch(_SEND_BATCH, spec.size)
    headers = batch.buffer[:, : HEADER.itemsize].view(HEADER)[:, 0]
    headers["stream"] = spec.stream
    offered = refused = 0
    errors: Counter[str] = Counter()
    with ExitStack() as stack:
        socks = [stack.enter_context(_socket(spec)) for _ in range(spec.flows)]
        for number, sock in enumerate(socks):
            if spec.flows > 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # another stream's differ at the far end
                sock.bind(("", _FLOW_PORT + number))
            sock.connect((spec.host, spec.port))
        # The datagrams of one system call have one socket.
        at_once = _SEND_BATCH if spec.flows == 1 else 1
        began = time.monotonic_ns()
        longest_s = spec.count / spec.rate + _LATE_S if spec.rate else spec.longest_s
        deadline = None if longest_s is None else began + int(longest_s * 1e9)
        while offered < spec.count and not stop.is_set():
            now = time.monotonic_ns()
            if deadline is not None and now > deadline:
                break
            due = min(spec.count, (now - began) * spec.rate // 10**9 + 1) if spec.rate else spec.count
            if due <= offered:
                stop.wait((began + offered * 10**9 // spec.rate - now) / 1e9)
                continue
            count = min(due - offered, at_once)
            headers["number"][:count] = np.arange(offered, offered + count)
            headers["sent_ns"][:count] = now
            sock = socks[offered % spec.flows]
            left = 0
            while left < count:
                try:
                    left += batch.send(sock, left, count - left)
                except OSError as error:
                    errors[errno.errorcode.get(error.errno or 0, str(error.errno))] += 1
                    if error.errno != errno.ECONNREFUSED:  # that one tells of an earlier datagram; this one may leave
                        refused += 1
                        left += 1
            offered += count
        ended = time.monotonic_ns()
    return Sent(offered=offered, refused=refused, errors=dict(errors), began_ns=began, ended_ns=ended)


def receive(spec: StreamSpec, stop: threading.Event) -> Received:
    """Receive the stream until ``stop`` is set and nothing has come for ``quiet_s`` (or for 5 s at most)."""
    account = Account(spec)
    chunk = Batch(_RECEIVE_CHUNK, HEADER.itemsize)
    headers = chunk.buffer.view(HEADER)[:, 0]
    arrived = np.zeros(_RECEIVE_CHUNK, dtype=np.int64)
    waiting = 0
    stopped: float | None = None
    with _socket(spec) as sock:
        sock.bind((spec.host, spec.port))
        if spec.ready:
            Path(spec.ready).touch()
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        last = time.monotonic()
        while True:
            poll.poll(_WAKE_UP_S * 1e3)
            if spec.nap_s:
                select.select([], [], [], spec.nap_s)
            count = chunk.receive(sock, waiting)
            now_ns = time.monotonic_ns()
            now = now_ns / 1e9
            arrived[waiting : waiting + count] = now_ns
            waiting += count
            if count:
                last = now
            if stop.is_set() and stopped is None:
                stopped = now
            ended = stopped is not None and (now - max(last, stopped) > spec.quiet_s or now - stopped > LONGEST_DRAIN_S)
            if waiting == _RECEIVE_CHUNK or ended:
                account.add(headers[:waiting], arrived[:waiting])
                waiting = 0
            if ended:
                return account.result()


def _socket(spec: StreamSpec) -> socket.socket:
    sock = socket.socket(socket.AF_INET6 if ":" in spec.host else socket.AF_INET, socket.SOCK_DGRAM)
    for forced, asked in ((32, socket.SO_SNDBUF), (33, socket.SO_RCVBUF)):  # SO_SNDBUFFORCE, SO_RCVBUFFORCE
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, _SOCKET_BUFFER_BYTES)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, asked, _SOCKET_BUFFER_BYTES)
    return sock


def main(argv: list[str]) -> int:
    """``send SPEC`` or ``receive SPEC``; the account goes to the file the spec names, or to standard output."""
    return program.run("lab.probes.stream", argv, StreamSpec, send=send, receive=receive)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
