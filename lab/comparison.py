"""A comparison: what a benchmark run measured, as one self-describing file, and the arithmetic on it.

Owns the format of ``results.json`` and every figure derived from it. Must not know how anything was measured or drawn.
Charts, tables and reports are made from a :class:`Comparison` alone.

Invariants: a sample stands for one measurement of one contender in one repetition, failed ones included, with the
reason in words; figures that compare two contenders are formed inside one repetition and only then summarised, so that
what the machine did meanwhile falls on both.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import msgspec

from lab.errors import LabError
from lab.machine import Load, Machine
from lab.probes.cpu import CpuUse

SCHEMA_VERSION = 1
FILE = "results.json"
"""Name of the file in the directory of a run."""
BASELINE = "plain"
"""The contender without a VPN, from which added latency is counted."""
RIVAL = "wireguard-go"
"""The contender that the others are put in relation to."""
USUAL = "usual"
"""The links as the kernel makes them."""
NO_TRAINS = "no-trains"
"""The links cut UDP trains into datagrams and gather received ones again, as most network cards do."""
LIMITED = "limited"
"""The links are narrow, long and lossy, so that what a tunnel does counts and not what its processor can."""
GUEST: Final = "guest"
"""The size of a run in a guest, and the directory of its results in that of the run it belongs to."""


class Measure(NamedTuple):
    """Something that is measured, or derived from what was."""

    key: str
    label: str
    unit: str
    better: Literal["more", "less"]
    scale: float
    """What a sample's value is divided by to be in ``unit``."""


MEASURES: Mapping[str, Measure] = {
    measure.key: measure
    for measure in (
        Measure("tcp-1", "TCP, 1 stream", "Gbit/s", "more", 1e9),
        Measure("tcp-4", "TCP, 4 streams", "Gbit/s", "more", 1e9),
        Measure("udp", "UDP, 1372 bytes, as fast as sent", "Gbit/s", "more", 1e9),
        Measure("udp-64", "UDP, 64 bytes, most with < 0.1 % lost", "thousand/s", "more", 1e3),
        Measure("ping-idle", "Round trip, idle", "µs", "less", 1.0),
        Measure("ping-busy", "Round trip, back to back", "µs", "less", 1.0),
        Measure("added-idle", "Added latency, idle", "µs", "less", 1.0),
        Measure("added-busy", "Added latency, back to back", "µs", "less", 1.0),
        Measure("cpu", "CPU of the VPN, both ends, per GB", "s/GB", "less", 1.0),
        Measure("machine-cpu", "CPU of the whole machine per GB", "s/GB", "less", 1.0),
    )
}
"""Everything a comparison can tell, in the order of tables."""

ADDED = {"added-idle": "ping-idle", "added-busy": "ping-busy"}
"""Measures of added latency and the round trips they are derived from."""
_CPU_SOURCE = "tcp-1"


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One measurement."""

    repetition: int
    contender: str
    setting: str
    measure: str
    value: float | None
    """In the measure's base unit (bits/s, datagrams/s, microseconds); None if it failed."""
    at_least: bool = False
    """Whether the value is a lower bound: the probe could not ask for more."""
    failure: str = ""
    """Why it failed, in words."""
    load: Load
    """Of the machine before the contender came up."""
    cpu: CpuUse | None = None
    payload_bytes: int = 0
    """Payload carried while ``cpu`` was used."""
    detail: msgspec.Raw = msgspec.Raw(b"null")
    """The probe's whole result."""


class Contender(msgspec.Struct, kw_only=True):
    """Somebody who took part, or would have."""

    key: str
    label: str
    unavailable: str = ""
    """Why it could not take part on this machine, in words."""
    failures: list[str] = []
    """Why it did not come up, once for every time."""
    version: dict[str, str] = {}
    options: dict[str, Any] = {}
    state: Any = None
    """What it said of itself when it was up in the last repetition."""


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one step of the C engine costs without the kernel."""

    name: str
    ns: float
    """Thread CPU time for one packet, the best of some rounds."""
    bytes: int
    """Size of the packet, 0 where it does not matter."""


class Conditions(msgspec.Struct, frozen=True, kw_only=True):
    """What was the same for all contenders."""

    mtu: int
    txqueuelen: int
    link_mtu: int
    links: int
    inner_version: int
    outer_version: int
    tcp_congestion_control: str
    features: dict[str, dict[str, bool]]
    """Offloads of the links, by setting."""
    impairments: dict[str, dict[str, float]] = {}
    """What happened to frames on each link in each direction, by setting; nothing where there is none."""
    sysctls: dict[str, str]


class Comparison(msgspec.Struct, kw_only=True):
    """One benchmark run."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["benchmark"] = "benchmark"
    profile: str
    began_at: str
    """Local time with offset, ISO 8601."""
    seconds: float = 0.0
    repetitions: int
    arguments: list[str] = []
    machine: Machine
    conditions: Conditions
    contenders: list[Contender]
    """In the order of charts and tables."""
    samples: list[Sample] = []
    costs: list[Cost] = []
    """Steps of the C engine on their own, where they were measured."""

    def contender(self, key: str) -> Contender | None:
        """Return who took part under this key."""
        return next((each for each in self.contenders if each.key == key), None)


class Summary(NamedTuple):
    """Some figures as their median and their range."""

    median: float
    low: float
    high: float
    number: int
    """How many figures."""


def load(path: Path) -> Comparison:
    """Read a results file, or that of a directory. Raises LabError for one that is not there or not ours."""
    file = path / FILE if path.is_dir() else path
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Comparison)
    except OSError as error:
        raise LabError(f"{file}: {error.strerror}") from None
    except msgspec.DecodeError as error:
        raise LabError(f"{file}: not the result of a benchmark: {error}") from None
    if found.schema_version != SCHEMA_VERSION:
        raise LabError(f"{file}: schema version {found.schema_version}, but this program reads {SCHEMA_VERSION}")
    return found


def load_guest(path: Path) -> Comparison | None:
    """Read the results of the guest that belong to a run's, named as for ``load``; None if there are none."""
    directory = (path if path.is_dir() else path.parent) / GUEST
    return load(directory) if (directory / FILE).exists() else None


def measure_of(comparison: Comparison, key: str) -> Measure:
    """Return a measure in the unit that suits a comparison: a guest's throughput is a small part of a Gbit/s."""
    measure = MEASURES[key]
    if comparison.profile == GUEST and measure.unit == "Gbit/s":
        return measure._replace(unit="Mbit/s", scale=measure.scale / 1e3)
    return measure


def values(comparison: Comparison, contender: str, measure: str, setting: str = USUAL) -> dict[int, float]:
    """Return a contender's figures by repetition, in base units; without those that failed."""
    if measure in ADDED:
        own = values(comparison, contender, ADDED[measure], setting)
        bare = values(comparison, BASELINE, ADDED[measure], setting)
        return {repetition: value - bare[repetition] for repetition, value in own.items() if repetition in bare}
    if measure in ("cpu", "machine-cpu"):
        return {
            sample.repetition: per_gigabyte
            for sample in _samples(comparison, contender, _CPU_SOURCE, setting)
            if (per_gigabyte := _cpu_per_gigabyte(sample, measure)) is not None
        }
    return {
        sample.repetition: sample.value
        for sample in _samples(comparison, contender, measure, setting)
        if sample.value is not None
    }


def ratios(
    comparison: Comparison, contender: str, measure: str, setting: str = USUAL, *, rival: str = RIVAL
) -> dict[int, float]:
    """Return a contender's figures divided by the rival's of the same repetition."""
    own = values(comparison, contender, measure, setting)
    others = values(comparison, rival, measure, setting)
    return {
        repetition: value / others[repetition] for repetition, value in own.items() if others.get(repetition, 0.0) > 0.0
    }


def summarise(figures: Mapping[int, float] | Iterable[float]) -> Summary | None:
    """Return median and range, None for no figures."""
    listed = list(figures.values()) if isinstance(figures, Mapping) else list(figures)
    if not listed:
        return None
    return Summary(statistics.median(listed), min(listed), max(listed), len(listed))


def summary(comparison: Comparison, contender: str, measure: str, setting: str = USUAL) -> Summary | None:
    """Return a contender's figure in the measure's unit, None if it has none."""
    found = summarise(values(comparison, contender, measure, setting))
    if found is None:
        return None
    scale = measure_of(comparison, measure).scale
    return Summary(found.median / scale, found.low / scale, found.high / scale, found.number)


def at_least(comparison: Comparison, contender: str, measure: str, setting: str = USUAL) -> bool:
    """Whether a contender's median is a lower bound: one of the values up to it is, and may truly lie above it."""
    found = [each for each in _samples(comparison, contender, measure, setting) if each.value is not None]
    ordered = sorted(found, key=lambda each: each.value or 0.0)
    return any(each.at_least for each in ordered[: len(ordered) // 2 + 1])


def absence(comparison: Comparison, contender: str, measure: str, setting: str = USUAL) -> str:
    """Return in words why a contender has no figure."""
    found = comparison.contender(contender)
    if found is None:
        return "did not take part"
    if found.unavailable:
        return found.unavailable
    wanted = ADDED.get(measure, _CPU_SOURCE if measure in ("cpu", "machine-cpu") else measure)
    for sample in _samples(comparison, contender, wanted, setting):
        if sample.failure:
            return f"failed: {sample.failure}"
    if measure == "cpu" and values(comparison, contender, _CPU_SOURCE, setting):
        return "no processes of its own"
    if found.failures:
        return f"failed: {found.failures[-1]}"
    return "not measured"


def limits(comparison: Comparison) -> str:
    """Return what happens to frames on narrow links, in words; empty if there are none."""
    found = comparison.conditions.impairments.get(LIMITED)
    if found is None:
        return ""
    return (
        f"narrow links: {found['rate_bps'] / 1e6:g} Mbit/s, {found['delay_ms']:g} ms and "
        f"{found['loss'] * 100:g} % loss each way"
    )


def measured(comparison: Comparison) -> list[tuple[str, str]]:
    """Return the (measure, setting) pairs for which anybody has a figure, in the order of tables."""
    settings = list(dict.fromkeys(sample.setting for sample in comparison.samples))
    return [
        (measure, setting)
        for setting in settings
        for measure in MEASURES
        if any(values(comparison, each.key, measure, setting) for each in comparison.contenders)
    ]


def render(value: float) -> str:
    """Return a figure with three digits that count."""
    magnitude = abs(value)
    if magnitude >= 99.95:
        return f"{value:,.0f}"
    if magnitude >= 9.995:
        return f"{value:.1f}"
    return f"{value:.2f}" if magnitude >= 0.0995 or not magnitude else f"{value:.3f}"


def _samples(comparison: Comparison, contender: str, measure: str, setting: str) -> Iterable[Sample]:
    return (
        sample
        for sample in comparison.samples
        if (sample.contender, sample.measure, sample.setting) == (contender, measure, setting)
    )


def _cpu_per_gigabyte(sample: Sample, measure: str) -> float | None:
    if sample.cpu is None or sample.payload_bytes == 0:
        return None
    if measure == "cpu" and not any(sample.cpu.ends.values()):
        return None  # a contender without processes: its work is only in the machine's figure
    seconds = sample.cpu.processes if measure == "cpu" else sample.cpu.machine
    return seconds / (sample.payload_bytes / 1e9)
