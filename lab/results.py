"""Results of scenario runs: one self-describing JSON file for each run, and nothing is drawn from anything else.

Owns the format (results/schema.json is made from it) and its reading and writing. Must not know how a run goes.
Invariant: a file that exists is whole.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import os
import secrets
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec

from lab.errors import LabError
from lab.expectation import Judgement, Outcome
from lab.footprint import Footprint
from lab.machine import Load, Machine
from lab.meeting import MeetingRecord
from lab.ratios import RowRecord
from lab.sockets import SocketAccount
from lab.tracks import PathTrack

SCHEMA_VERSION = 1
FILE = "result.json"


class Verdict(Enum):
    """What a run came to."""

    PASSED = "passed"
    FAILED = "failed"
    MEASURED = "measured"
    """No expectation of the scenario is this tunnel's; what it did is told."""
    VOID = "void"
    """Every attempt was void: the machine was not up to it, and nothing is known of the tunnel."""
    UNAVAILABLE = "unavailable"
    """The tunnel, or the scenario, cannot run on this machine."""


class TunnelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What carried the traffic."""

    name: str
    label: str
    versions: dict[str, str] = {}
    options: dict[str, Any] = {}


class InterfaceFacts(msgspec.Struct, frozen=True, kw_only=True):
    """One end of a link, or a tunnel's interface, as it was set up."""

    host: str
    interface: str
    mtu: int
    txqueuelen: int
    features: dict[str, bool]
    """Offloads and checksums, by the kernel's names."""


class LinkFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A link as it was laid."""

    name: str
    backend: str
    ends: list[InterfaceFacts]
    emulator: dict[str, Any] | None = None
    """What the emulator did in all, where one carried the link."""


class EventRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An event of the timeline, as it happened."""

    title: str
    planned_s: float
    began_s: float
    """Seconds after traffic could begin, as all times of the run."""
    ended_s: float


class ProbeRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A probe and what it gave."""

    kind: str
    sender: str
    began_s: float
    traffic_began_s: float | None = None
    """When its first packet left, as closely as that is known: what the times of its series count from."""
    settings: dict[str, Any]
    result: dict[str, Any] | None = None
    """Fields of the probe's result, raw output of its program included."""
    error: str | None = None

    @property
    def failure(self) -> str | None:
        """Why there is no result, or why it ended before its time, as that of a connection that was reset does."""
        found: str | None = self.error or (self.result or {}).get("error")
        return found


class ProcessRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A program that carried traffic, or a link."""

    name: str
    host: str
    cpu_s: float
    """CPU seconds while traffic could flow."""


class RunResult(msgspec.Struct, frozen=True, kw_only=True):
    """One run of one scenario through one tunnel."""

    schema: int = SCHEMA_VERSION
    scenario: str
    scenario_sha256: str
    title: str
    tunnel: TunnelFacts
    repetition: int
    seed: int
    """Of the emulated links. What the kernel and the programs do has no seed: runs repeat statistically."""
    began_at: str
    """UTC, ISO 8601."""
    seconds: float
    """From the first step of building to the last of taking down."""
    machine: Machine
    load: Load | None = None
    links: list[LinkFacts] = []
    interfaces: list[InterfaceFacts] = []
    """The tunnel's own."""
    sysctls: dict[str, str] = {}
    timeline: list[EventRecord] = []
    probes: dict[str, ProbeRecord] = {}
    meeting: MeetingRecord | None = None
    """What became of the pairs, if it was a meeting."""
    pairing: dict[str, RowRecord] = {}
    """What became of each row, if it was a pairing."""
    paths: list[PathTrack] = []
    """What became of the tunnel's paths, where it tells."""
    footprints: list[Footprint] = []
    """What memory and descriptors the tunnel's programs held at each end."""
    sockets: list[SocketAccount] = []
    """How soon the sockets of ends that follow their interfaces did so."""
    processes: list[ProcessRecord] = []
    states: dict[str, Any] = {}
    """What the tunnel said of itself at each end when all was over."""
    discards: dict[str, dict[str, int]] = {}
    """What the kernel of each host discarded in all, by counter; only those that are not 0."""
    judgements: list[Judgement] = []
    verdict: Verdict
    reason: str | None = None
    void: list[str] = []
    """Why earlier attempts at this run said nothing and were repeated."""
    endured: list[str] = []
    """What was wrong with the machine in this attempt, which met all expectations in spite of it."""

    @property
    def missed(self) -> list[Judgement]:
        """Expectations that were not met."""
        return [judgement for judgement in self.judgements if judgement.outcome is Outcome.MISSED]


def new_directory(base: Path, began: dt.datetime, host: str) -> Path:
    """Make a directory for the results of one command: ``<date>-<host>``, with a number behind it if there is one."""
    stem = f"{began:%Y-%m-%d}-{host}"
    for number in itertools.count(1):
        path = base / (stem if number == 1 else f"{stem}-{number}")
        with contextlib.suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError("unreachable")


def dump(result: msgspec.Struct, path: Path) -> None:
    """Write a result; readers see the old file or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(3)}")
    partial.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    partial.rename(path)


def load(path: Path) -> RunResult:
    """Read a result. Raises LabError if it is none, or one of another version."""
    try:
        text = path.read_bytes()
        version = msgspec.json.decode(text, type=_Version).schema
        if version != SCHEMA_VERSION:
            raise LabError(f"{path} has version {version} of the format; this is version {SCHEMA_VERSION}")
        return msgspec.json.decode(text, type=RunResult)
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise LabError(f"{path} is no result of a run: {error}") from None


def schema() -> Mapping[str, Any]:
    """Return the JSON Schema of a result file."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **msgspec.json.schema(RunResult)}


class _Version(msgspec.Struct):
    schema: int


if __name__ == "__main__":  # python -m lab.results > results/schema.json
    print(msgspec.json.format(msgspec.json.encode(schema()), indent=1).decode())
