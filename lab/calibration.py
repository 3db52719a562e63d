"""The calibration of links: what each back end really does to frames, beside what it was asked to do.

The lab's own emulator is measured on this machine, netem in a guest where this machine's kernel lacks it. Both are sent
the same streams by the same probe. Owns the cases and the form of the results file. Must not judge: the tests hold both
back ends to bounds (tests/lab/test_emulator_calibration.py), here the figures are told.

One-way delays are taken in user space, and programs wake up late, above all where they are emulated; so a case is put
beside the same stream over a bare link of the same machine.

``python -m lab.calibration BACKEND FILE`` measures one back end and writes its results.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_interface
from pathlib import Path

import msgspec

from lab.impairment import Backend, Impairment
from lab.link import EndPlan, LinkPlan
from lab.machine import Machine, machine
from lab.probes.datagrams import DatagramProbe
from lab.probes.stream import StreamSpec
from lab.process import wait_until
from lab.results import dump
from lab.topology import HostPlan, Plan, Topology
from lab.tunnels.base import answers

SCHEMA_VERSION = 1
FILE = "calibration.json"
BARE = "bare link"
CASES: Mapping[str, Impairment] = {
    BARE: Impairment(),
    "delay 20 ms": Impairment(delay_ms=20),
    "delay 20 ms, jitter 10 ms": Impairment(delay_ms=20, jitter_ms=10),
    "loss 5 %": Impairment(loss=0.05),
    "loss 10 % in bursts of 8": Impairment(loss=0.1, burst_frames=8),
    "duplicate 5 %": Impairment(duplicate=0.05),
    "delay 20 ms, reorder 10 %": Impairment(delay_ms=20, reorder=0.1),
    "rate 1 Mbit/s": Impairment(rate_bps=1_000_000),
}
"""What is asked of a link in the direction that is measured."""
RATE = 500
"""Datagrams a second: as many as an emulated guest carries with ease."""
SIZE = 500
"""Bytes of UDP payload: at this rate twice what the narrow link carries."""
COUNT = 5000
_HEADERS_BYTES = 14 + 20 + 8
_PORT = 7001
_ANSWER_S = 20.0


class CaseResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the datagrams of one case."""

    case: str
    backend: str
    sent: int
    received: int
    lost: int
    duplicated: int
    reordered: int
    longest_lost_run: int
    delay_us: dict[str, float]
    """One-way delay by percentile, less the median over the bare link."""
    received_bps: float
    """Bits of frames, Ethernet header included, that arrived in each second of sending."""
    fault: str = ""
    """Why the emulator's timing does not count, in words."""


class BackendResults(msgspec.Struct, frozen=True, kw_only=True):
    """One back end on one machine."""

    machine: Machine
    cases: list[CaseResult]


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """A results file."""

    schema_version: int = SCHEMA_VERSION
    asked: dict[str, Impairment]
    emulator: BackendResults
    netem: BackendResults


def measure(backend: Backend, tell: Callable[[str], None], count: int = COUNT) -> BackendResults:
    """Measure all cases over one back end, here. Raises LabError if this machine does not have it."""
    cases: list[CaseResult] = []
    bare_us = 0.0
    for name, impairment in CASES.items():
        tell(f"{backend.value}: {name}")
        found = _case(name, impairment, Backend.VETH if name == BARE else backend, count)
        if name == BARE:
            bare_us = found.delay_us["median"]
        delays = {key: round(value - bare_us, 1) for key, value in found.delay_us.items()}
        cases.append(msgspec.structs.replace(found, delay_us=delays))
    return BackendResults(machine=machine(), cases=cases)


def _case(name: str, impairment: Impairment, backend: Backend, count: int) -> CaseResult:
    ends = (
        EndPlan("a", (ip_interface("10.1.0.1/24"),), impairment),
        EndPlan("b", (ip_interface("10.1.0.2/24"),)),
    )
    link = LinkPlan("cable", ends, offloads=False, backend=backend, seed=1)
    with Topology.build(Plan(hosts=(HostPlan("a"), HostPlan("b")), links=(link,))) as topology:
        laid = topology.link("cable")
        spec = StreamSpec(host="10.1.0.2", port=_PORT, rate=RATE, count=count, size=SIZE)
        probe = DatagramProbe(topology.host("a"), topology.host("b"), spec, topology.run_directory.path)
        # A neighbour that is asked for in vain, since that frame was lost, is asked for again a second later.
        wait_until(lambda: answers(topology.host("a"), "10.1.0.2"), timeout_s=_ANSWER_S, what=f"an answer over {name}")
        laid.stats(restart=True)
        result = probe.run()
        stats = laid.stats()
    return CaseResult(
        case=name,
        backend=backend.value,
        sent=result.sent,
        received=result.received,
        lost=result.lost,
        duplicated=result.duplicated,
        reordered=result.reordered,
        longest_lost_run=result.longest_lost_run,
        delay_us=result.delay_us,
        received_bps=round((result.received + result.duplicated) * (SIZE + _HEADERS_BYTES) * 8 / result.seconds),
        fault=(stats.fault() or "") if stats is not None else "",
    )


def main(argv: Sequence[str]) -> int:
    """Measure one back end and write what was found into a file."""
    backend, file = Backend(argv[0]), Path(argv[1])
    dump(measure(backend, lambda line: print(line, flush=True)), file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
