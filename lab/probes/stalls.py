"""The stall probe: a paced TCP flow between two hosts, from both ends.

Starts the two processes of lab/probes/flow.py and puts their accounts together. A *stall* is a time in which nothing
arrived at the receiving program: between two arrivals, before the first, or after the last until the sender stopped.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import msgspec

from lab.errors import LabError
from lab.host import Host
from lab.probes.flow import LONGEST_DRAIN_S, FlowSpec, Interval, Received, Sent
from lab.process import Process

_sent = msgspec.json.Decoder(Sent)
_received = msgspec.json.Decoder(Received)


class FlowResult(msgspec.Struct, frozen=True, kw_only=True):
    """A flow from both ends."""

    bits_per_second: float
    """Payload that arrived, over the time the sender took."""
    payload_bytes: int
    written_bytes: int
    seconds: float
    longest_stall_s: float
    """Longest time in which nothing arrived at the receiving program."""
    longest_stall_at_s: float
    """When that began."""
    sender_late_s: float
    """How much later than it wanted the sender once woke up: a stall of its own making."""
    error: str | None
    """Why the flow ended before its time."""
    began_ns: int
    """Monotonic time at which the connection stood, from which all times here count."""
    series: list[Interval]
    """Of the whole intervals before the sender stopped."""


def combine(spec: FlowSpec, sent: Sent, received: Received) -> FlowResult:
    """The two accounts as one."""
    stalls = [(received.longest_gap_s, received.longest_gap_from_ns)]
    if received.payload_bytes == 0:
        stalls = [((sent.ended_ns - sent.began_ns) / 1e9, sent.began_ns)]
    else:
        stalls += [
            ((received.first_ns - sent.began_ns) / 1e9, sent.began_ns),
            ((sent.ended_ns - received.last_ns) / 1e9, received.last_ns),
        ]
    longest_s, from_ns = max(stalls)
    seconds = (sent.ended_ns - sent.began_ns) / 1e9
    whole = math.floor(seconds / spec.interval_s + 1e-6)
    silent = range(len(received.series), whole)
    return FlowResult(
        bits_per_second=received.payload_bytes * 8 / seconds if seconds > 0 else 0.0,
        payload_bytes=received.payload_bytes,
        written_bytes=sent.written_bytes,
        seconds=seconds,
        longest_stall_s=round(longest_s, 6),
        longest_stall_at_s=round((from_ns - sent.began_ns) / 1e9, 6),
        sender_late_s=sent.late_s,
        error=sent.error,
        began_ns=sent.began_ns,
        series=[
            *received.series[:whole],
            *(Interval(start_s=round(number * spec.interval_s, 6), bits_per_second=0.0) for number in silent),
        ],
    )


class FlowProbe:
    """A flow from one host to another, over whatever lies between them."""

    def __init__(self, sender: Host, receiver: Host, spec: FlowSpec, directory: Path) -> None:
        """``directory`` takes the processes' logs and accounts; it must exist."""
        prefix = directory / f"flow-{spec.port}"
        self._sent_file, self._received_file = Path(f"{prefix}-sent.json"), Path(f"{prefix}-received.json")
        self._ready_file = Path(f"{prefix}-ready")
        self._spec = spec
        self._sender, self._receiver = sender, receiver
        self._directory = directory
        self._sending: Process | None = None
        self._receiving: Process | None = None

    def start(self) -> None:
        """Start both ends; the receiver listens before the sender begins."""
        for file in (self._sent_file, self._received_file, self._ready_file):
            file.unlink(missing_ok=True)
        spec = msgspec.structs.replace(self._spec, result=str(self._received_file), ready=str(self._ready_file))
        self._receiving = self._start(self._receiver, "receive", spec, ready=self._ready_file)
        spec = msgspec.structs.replace(self._spec, result=str(self._sent_file))
        self._sending = self._start(self._sender, "send", spec, ready=None)

    def finish(self) -> FlowResult:
        """Wait until the flow has ended, and return what became of it. Raises LabError if it never began."""
        assert self._sending is not None
        try:
            self._sending.wait(self._spec.duration_s + 30.0)
        finally:
            self.stop()
        sent = _sent.decode(self._sent_file.read_bytes())
        received = _received.decode(self._received_file.read_bytes())
        if sent.error is not None and not sent.written_bytes:
            raise LabError(f"the flow did not begin: {sent.error}")
        return combine(self._spec, sent, received)

    def stop(self) -> None:
        """End both processes, the sender first. Harmless when they have ended."""
        for process in (self._sending, self._receiving):
            if process is not None:
                process.stop(LONGEST_DRAIN_S + 5.0)

    def _start(self, host: Host, verb: str, spec: FlowSpec, *, ready: Path | None) -> Process:
        argv = [sys.executable, "-m", "lab.probes.flow", verb, msgspec.json.encode(spec).decode()]
        log = self._directory / f"flow-{verb}.log"
        return host.start(argv, ready=ready.exists if ready else None, log=log)
