"""iperf3 transfers between two hosts: TCP with any number of streams, UDP at a rate or as fast as it will go.

The figure is what arrived: bytes and seconds of the server's intervals, warm-up left out. iperf3's own sums are not
used, for they differ between versions and directions (3.12's server reports 0 bytes for UDP). ``-C cubic`` is forced
for TCP, since another default (bbr) hides the differences between contenders. Raw output of both ends is kept.
"""

from __future__ import annotations

import math
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from lab.errors import LabError
from lab.host import Host
from lab.process import Process

_CONGESTION_CONTROL = "cubic"
_TCP_LISTEN = "0A"


class TransferSpec(msgspec.Struct, frozen=True, kw_only=True):
    """One transfer."""

    host: str
    """The server's numeric address."""
    port: int = 5201
    streams: int = 1
    duration_s: int = 2
    """Whole seconds: all that iperf3 knows."""
    warm_up_s: float = 0.5
    """Left out of the figure; a multiple of ``interval_s``."""
    interval_s: float = 0.25
    udp_bytes: int | None = None
    """Payload of a UDP datagram; None for TCP."""
    rate_bps: int = 0
    """Rate to send at, over all streams; 0 for as fast as it will go."""


class Interval(msgspec.Struct, frozen=True, kw_only=True):
    """What arrived in one interval."""

    start_s: float
    bits_per_second: float


class Transfer(msgspec.Struct, frozen=True, kw_only=True):
    """A transfer that has ended."""

    bits_per_second: float
    """Payload that arrived, without the warm-up."""
    payload_bytes: int
    """All payload that arrived, warm-up included: the base of CPU seconds per GB."""
    seconds: float
    retransmits: int | None
    """TCP segments sent again, all streams; None for UDP."""
    datagrams: int | None
    """UDP datagrams sent; None for TCP."""
    lost: int | None
    """UDP datagrams that did not arrive; None for TCP."""
    began_ns: int
    """Monotonic time at which the client was started. ``series`` counts from when it reached the server, which is later
    by what a program takes to start and by some round trips."""
    series: list[Interval]
    client: str
    server: str
    """What the two ends wrote: JSON, without its white space."""


class _Sum(msgspec.Struct):
    start: float
    end: float
    seconds: float
    bytes: int
    packets: int | None = None
    retransmits: int | None = None


class _Interval(msgspec.Struct):
    sum: _Sum


class _End(msgspec.Struct):
    sum: _Sum | None = None
    sum_sent: _Sum | None = None


class _Report(msgspec.Struct):
    intervals: list[_Interval] = []
    end: _End = msgspec.field(default_factory=_End)
    error: str | None = None


_reports = msgspec.json.Decoder(_Report)


class TransferProbe:
    """A transfer from one host to another, over whatever lies between them."""

    def __init__(self, sender: Host, receiver: Host, spec: TransferSpec, directory: Path) -> None:
        """``directory`` takes the programs' output; it must exist."""
        self._spec = spec
        self._sender, self._receiver = sender, receiver
        self._outputs = {role: directory / f"iperf3-{role}-{spec.port}.json" for role in ("client", "server")}
        # warnings go to standard error, apart from the JSON
        self._log = directory / "iperf3.log"
        self._began_ns = 0
        self._client: Process | None = None
        self._server: Process | None = None

    def start(self) -> None:
        """Start both ends; the server listens before the client begins."""
        spec = self._spec
        for output in self._outputs.values():
            output.unlink(missing_ok=True)
        server = ["iperf3", "--server", "--one-off", "--json", "--interval", f"{spec.interval_s:g}"]
        server += ["--port", str(spec.port), "--logfile", str(self._outputs["server"])]
        self._server = self._receiver.start(server, log=self._log)
        pid = self._server.pid
        self._server.wait_ready(lambda: listens(pid, spec.port), timeout_s=5.0)
        client = [*client_command(spec), "--logfile", str(self._outputs["client"])]
        self._began_ns = time.monotonic_ns()
        self._client = self._sender.start(client, log=self._log)

    def finish(self) -> Transfer:
        """Wait for the end and return what arrived. Raises LabError if iperf3 failed, saying what it said."""
        assert self._client is not None
        assert self._server is not None
        try:
            self._client.wait(self._spec.duration_s * 2 + 15.0)
            self._server.wait(5.0)
        finally:
            self.stop()
        outputs = {role: path.read_bytes() if path.exists() else b"" for role, path in self._outputs.items()}
        return read_transfer(self._spec, outputs["client"], outputs["server"], began_ns=self._began_ns)

    def run(self) -> Transfer:
        """The whole transfer."""
        try:
            self.start()
            return self.finish()
        finally:
            self.stop()

    def stop(self) -> None:
        """End both ends. Harmless when they have ended."""
        for process in (self._client, self._server):
            if process is not None:
                process.stop()


def client_command(spec: TransferSpec) -> list[str]:
    """Return the words that start the client."""
    words = ["iperf3", "--client", spec.host, "--port", str(spec.port), "--json"]
    words += ["--time", str(spec.duration_s), "--interval", f"{spec.interval_s:g}", "--parallel", str(spec.streams)]
    if spec.udp_bytes is None:
        words += ["--congestion", _CONGESTION_CONTROL]
        words += ["--bitrate", str(spec.rate_bps // spec.streams)] if spec.rate_bps else []
    else:
        words += ["--udp", "--length", str(spec.udp_bytes), "--bitrate", str(spec.rate_bps // spec.streams)]
    return words


def read_transfer(spec: TransferSpec, client_output: bytes, server_output: bytes, *, began_ns: int = 0) -> Transfer:
    """Return what two outputs of ``iperf3 --json`` say. Raises LabError for output that says nothing usable."""
    client, server = _decode("client", client_output), _decode("server", server_output)
    arrived = [interval.sum for interval in server.intervals]
    counted = [each for each in arrived if each.start >= spec.warm_up_s - spec.interval_s / 2]
    seconds = sum(each.seconds for each in counted)
    # the last interval is the rest after the last full one, often a few microseconds long
    if seconds < spec.interval_s / 2:
        raise LabError(f"iperf3 stopped after {sum(each.seconds for each in arrived):.1f} s of {spec.duration_s} s")
    bits_per_second = sum(each.bytes for each in counted) * 8 / seconds
    if not math.isfinite(bits_per_second):
        raise LabError("iperf3 reported a rate that is not a number")
    sent = client.end.sum_sent or client.end.sum
    datagrams = sent.packets if sent is not None and spec.udp_bytes is not None else None
    payload_bytes = sum(each.bytes for each in arrived)
    return Transfer(
        bits_per_second=bits_per_second,
        payload_bytes=payload_bytes,
        seconds=sum(each.seconds for each in arrived),
        retransmits=sent.retransmits if sent is not None and spec.udp_bytes is None else None,
        datagrams=datagrams,
        lost=max(0, datagrams - payload_bytes // spec.udp_bytes) if datagrams is not None and spec.udp_bytes else None,
        began_ns=began_ns,
        series=[
            Interval(start_s=each.start, bits_per_second=each.bytes * 8 / each.seconds)
            for each in arrived
            if each.seconds > spec.interval_s / 2
        ],
        client=msgspec.json.format(client_output, indent=-1).decode(),
        server=msgspec.json.format(server_output, indent=-1).decode(),
    )


def version() -> str | None:
    """Return the version of the iperf3 installed, None without one."""
    try:
        done = subprocess.run(["iperf3", "--version"], capture_output=True, text=True, check=False, timeout=10.0)
    except OSError:
        return None
    found = re.match(r"iperf (\S+)", done.stdout)
    return found[1] if found else None


def listens(pid: int, port: int) -> bool:
    """Whether a TCP socket listens on ``port`` in the network namespace of process ``pid``."""
    for family in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]
        except OSError:
            continue
        for line in lines:
            _, local, _, state, *_ = line.split()
            if state == _TCP_LISTEN and int(local.rpartition(":")[2], 16) == port:
                return True
    return False


def _decode(role: str, output: bytes) -> _Report:
    try:
        report = _reports.decode(output)
    except msgspec.DecodeError as error:
        raise LabError(f"the output of the iperf3 {role} cannot be used: {error}: {_excerpt(output)}") from None
    if report.error is not None:
        raise LabError(f"the iperf3 {role} failed: {report.error}")
    return report


def _excerpt(output: bytes) -> str:
    lines: Sequence[str] = output.decode(errors="replace").strip().splitlines()
    return lines[-1][-200:] if lines else "it is empty"
