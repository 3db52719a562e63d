"""The datagram probe: a numbered stream between two hosts, from both ends.

Starts the two processes of lab/probes/stream.py and puts their accounts together. Every datagram that was offered is
in the result exactly once: received or lost; copies of received ones are counted apart.
"""

from __future__ import annotations

import secrets
import sys
from pathlib import Path

import msgspec

from lab.host import Host
from lab.probes.stream import LONGEST_DRAIN_S, FlowArrivals, Interval, Received, Sent, StreamSpec
from lab.process import Process

_sent = msgspec.json.Decoder(Sent)
_received = msgspec.json.Decoder(Received)


class StreamResult(msgspec.Struct, frozen=True, kw_only=True):
    """A stream from both ends."""

    planned: int
    sent: int
    refused: int
    received: int
    lost: int
    duplicated: int
    reordered: int
    foreign: int
    longest_lost_run: int
    longest_gap_s: float
    """Longest time without an arrival between the first datagram sent and the last, the ends included."""
    seconds: float
    """How long the sender took."""
    errors: dict[str, int]
    delay_us: dict[str, float]
    began_ns: int
    """Monotonic time of the first datagram, from which ``series`` counts."""
    interval_s: float
    series: list[Interval]
    # None in results that are older than the figures, and of a stream without a rate.
    median_outage_s: float | None = None
    """Of the times for which ``OUTAGE_DATAGRAMS`` or more in a row were lost, by the rate at which they were sent."""
    longest_outage_s: float | None = None
    """``longest_lost_run`` likewise. A stop of the machine, after which everything arrives, is a gap and no outage."""
    flows_with_loss: int | None = None
    """Flows of which something was lost."""
    longest_flow_gap_s: float | None = None
    """``longest_gap_s`` of the flow that has the longest."""

    @property
    def complete(self) -> bool:
        """Whether everything planned was sent; a stream that was not says nothing about the tunnel."""
        return self.sent == self.planned


def combine(spec: StreamSpec, sent: Sent, received: Received) -> StreamResult:
    """The two accounts as one."""
    longest_lost_run = max(received.longest_lost_run, sent.offered - 1 - received.highest)
    return StreamResult(
        planned=spec.count,
        sent=sent.offered,
        refused=sent.refused,
        received=received.received,
        lost=sent.offered - received.received,
        duplicated=received.duplicated,
        reordered=received.reordered,
        foreign=received.foreign,
        longest_lost_run=longest_lost_run,
        longest_gap_s=_gap_s(sent, received),
        median_outage_s=received.median_outage / spec.rate if spec.rate else None,
        longest_outage_s=longest_lost_run / spec.rate if spec.rate else None,
        flows_with_loss=sum(
            flow.received < len(range(number, sent.offered, spec.flows)) for number, flow in enumerate(received.flows)
        ),
        longest_flow_gap_s=max(_gap_s(sent, flow) for flow in received.flows),
        seconds=(sent.ended_ns - sent.began_ns) / 1e9,
        errors=sent.errors,
        delay_us=received.delay_us,
        began_ns=sent.began_ns,
        interval_s=spec.interval_s,
        series=received.series,
    )


def _gap_s(sent: Sent, received: Received | FlowArrivals) -> float:
    if received.received == 0:
        return (sent.ended_ns - sent.began_ns) / 1e9
    ends = ((received.first_ns - sent.began_ns) / 1e9, (sent.ended_ns - received.last_ns) / 1e9)
    return max(received.longest_gap_s, *ends)


class DatagramProbe:
    """A stream from one host to another, over whatever lies between them."""

    def __init__(self, sender: Host, receiver: Host, spec: StreamSpec, directory: Path) -> None:
        """``directory`` takes the processes' logs and accounts; it must exist."""
        stream = spec.stream or secrets.randbits(63)
        prefix = directory / f"datagrams-{stream:016x}"
        self._sent_file, self._received_file = Path(f"{prefix}-sent.json"), Path(f"{prefix}-received.json")
        self._ready_file = Path(f"{prefix}-ready")
        self._send_spec = msgspec.structs.replace(spec, stream=stream, result=str(self._sent_file))
        self._receive_spec = msgspec.structs.replace(
            spec, stream=stream, result=str(self._received_file), ready=str(self._ready_file)
        )
        self._sender, self._receiver = sender, receiver
        self._directory = directory
        self._sending: Process | None = None
        self._receiving: Process | None = None

    def start(self) -> None:
        """Start both ends; the receiver listens before the sender begins."""
        self._receiving = self._start(self._receiver, "receive", self._receive_spec, ready=self._ready_file)
        self._sending = self._start(self._sender, "send", self._send_spec, ready=None)

    def finish(self) -> StreamResult:
        """Wait until the stream has ended, and return what became of it."""
        assert self._sending is not None
        assert self._receiving is not None
        spec = self._send_spec
        try:
            self._sending.wait(spec.count / (spec.rate or 10_000) + 30.0)
        finally:
            self.stop()
        sent = _sent.decode(self._sent_file.read_bytes())
        received = _received.decode(self._received_file.read_bytes())
        return combine(spec, sent, received)

    def run(self) -> StreamResult:
        """The whole stream."""
        try:
            self.start()
            return self.finish()
        finally:
            self.stop()

    def stop(self) -> None:
        """End both processes, the sender first. Harmless when they have ended."""
        for process in (self._sending, self._receiving):
            if process is not None:
                process.stop(LONGEST_DRAIN_S + 5.0)

    def _start(self, host: Host, verb: str, spec: StreamSpec, *, ready: Path | None) -> Process:
        argv = [sys.executable, "-m", "lab.probes.stream", verb, msgspec.json.encode(spec).decode()]
        log = self._directory / f"datagrams-{verb}.log"
        return host.start(argv, ready=ready.exists if ready else None, log=log)
