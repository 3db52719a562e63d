"""The benchmark: every contender over the same two links, in turn, and what they did as one results file.

    host a ===== link1 ===== host b
           ===== link2 =====

Owns the order of a run. In every repetition each contender comes up, is measured and goes down before the next; the
order is rotated from one repetition to the next, so that a drift of the machine does not always meet the same one. A
contender that fails is reported as failed and the others go on.
"""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Literal

import msgspec

from lab import machine
from lab.comparison import BASELINE, LIMITED, Comparison, Conditions, Contender, Cost, Sample
from lab.contest import ENTRANTS, QUEUE_PACKETS, Entrant, Ground, Measurement, Profile
from lab.errors import LabError
from lab.link import End, EndPlan, LinkPlan
from lab.machine import Load
from lab.offloads import features
from lab.probes.cpu import CpuProbe
from lab.process import Process
from lab.progress import Progress
from lab.settings import LIMITED_LINK, setting
from lab.topology import HostPlan, Plan, Topology
from lab.tunnels.base import TUNNEL_MTU, TunnelEnd

LINKS = ("link1", "link2")
_COSTS = Path(__file__).resolve().parent.parent / "tests" / "c" / "run.py"
_COSTS_LIMIT_S = 120.0
_FAILURES_ENOUGH = 2
"""A contender that failed to come up this often is not tried again."""


def plan() -> Plan:
    """Return two hosts and the links between them."""
    return Plan(
        hosts=(HostPlan("a"), HostPlan("b")),
        links=tuple(
            LinkPlan(
                link,
                (
                    EndPlan("a", (ip_interface(f"198.51.100.{32 * number + 1}/27"),)),
                    EndPlan("b", (ip_interface(f"198.51.100.{32 * number + 2}/27"),)),
                ),
            )
            for number, link in enumerate(LINKS)
        ),
    )


@dataclass(slots=True)
class Bench:
    """One run, from its plan to its results."""

    profile: Profile
    entrants: Sequence[Entrant]
    repetitions: int
    progress: Progress
    inner_version: Literal[4, 6] = 4

    def run(self, arguments: Sequence[str] = ()) -> Comparison:
        """Measure everything. Raises LabError only if the two hosts themselves cannot be had."""
        began = time.monotonic()
        with Topology.build(plan()) as topology:
            result = Comparison(
                profile=self.profile.name,
                began_at=dt.datetime.now().astimezone().isoformat(timespec="seconds"),
                repetitions=self.repetitions,
                arguments=list(arguments),
                machine=machine.machine(),
                conditions=self._conditions(topology),
                contenders=[self._contender(entrant) for entrant in self.entrants],
            )
            present = [
                entrant
                for entrant, contender in zip(self.entrants, result.contenders, strict=True)
                if not contender.unavailable
            ]
            self.progress.begin(self.profile.turn_s() * len(present) * self.repetitions)
            for repetition in range(self.repetitions):
                for entrant in rotated(present, repetition):
                    contender = result.contender(entrant.key)
                    assert contender is not None
                    if len(contender.failures) < _FAILURES_ENOUGH:
                        self._turn(topology, entrant, contender, repetition, result.samples)
                    self.progress.advance(self.profile.turn_s())
            self.progress.end()
        if self.profile.costs:
            result.costs = costs(self.progress)
        result.seconds = round(time.monotonic() - began, 1)
        return result

    def _turn(
        self, topology: Topology, entrant: Entrant, contender: Contender, repetition: int, samples: list[Sample]
    ) -> None:
        """One contender's turn in one repetition."""
        left, right = self._ends(topology)
        tunnel = entrant.make()
        self.progress.say(f"{entrant.label}, run {repetition + 1} of {self.repetitions}")
        load = machine.load()
        try:
            tunnel.up(left, right, entrant.tunnel_options())
        except LabError as error:
            contender.failures.append(str(error))
            self.progress.tell(f"{entrant.label}: {error}")
            return
        try:
            ground = Ground(
                left.host, right.host, tunnel.address(right, self.inner_version), topology.run_directory.path
            )
            ends = {end.host.name: tunnel.processes(end) for end in (left, right)}
            for measurement in self.profile.measurements:
                with setting(self._link_ends(topology), measurement.setting):
                    sample = take(measurement, ground, ends, entrant.key, repetition, load)
                samples.append(sample)
                if sample.failure:
                    self.progress.tell(f"{entrant.label}, {measurement.measure}: {sample.failure}")
            contender.state = tunnel.state(left)
        finally:
            tunnel.down()

    def _contender(self, entrant: Entrant) -> Contender:
        tunnel = entrant.make()
        return Contender(
            key=entrant.key,
            label=entrant.label,
            unavailable=tunnel.unavailable() or "",
            version=tunnel.version(),
            options=dict(entrant.options),
        )

    def _ends(self, topology: Topology) -> tuple[TunnelEnd, TunnelEnd]:
        left, right = (
            TunnelEnd(
                host=topology.host(name),
                inner=(ip_interface(f"10.7.0.{number}/24"), ip_interface(f"fd07::{number}/64")),
                outer=tuple(topology.link(link).end(name).addresses[0].ip for link in LINKS),
            )
            for number, name in ((1, "a"), (2, "b"))
        )
        return left, right

    def _link_ends(self, topology: Topology) -> list[End]:
        return [end for link in LINKS for end in topology.link(link).ends]

    def _conditions(self, topology: Topology) -> Conditions:
        seen: dict[str, dict[str, bool]] = {}
        host = topology.host("a")
        for name in self.profile.settings:
            with setting(self._link_ends(topology), name):
                seen[name] = features(host, LINKS[0])
        return Conditions(
            mtu=TUNNEL_MTU,
            txqueuelen=QUEUE_PACKETS,
            link_mtu=topology.link(LINKS[0]).plan.mtu,
            links=len(LINKS),
            inner_version=self.inner_version,
            outer_version=4,
            tcp_congestion_control="cubic",
            features=seen,
            impairments={LIMITED: msgspec.to_builtins(LIMITED_LINK)} if LIMITED in self.profile.settings else {},
            sysctls=machine.sysctls(),
        )


def costs(progress: Progress, program: Path = _COSTS) -> list[Cost]:
    """Return what the C engine's steps cost on their own; nothing, told in a line, where that cannot be measured."""
    try:
        done = subprocess.run(
            [sys.executable, program, "bench"], capture_output=True, text=True, timeout=_COSTS_LIMIT_S, check=True
        )
        return [msgspec.json.decode(line, type=Cost) for line in done.stdout.splitlines()]
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip().splitlines() or [f"it ended with {error.returncode}"])[-1]
    except (OSError, subprocess.TimeoutExpired, msgspec.DecodeError) as error:
        reason = str(error)
    progress.tell(f"the C engine's steps were not measured on their own: {reason}")
    return []


def rotated(entrants: Sequence[Entrant], repetition: int) -> list[Entrant]:
    """Return the order of a repetition: each begins one further on, so that nobody always follows the same one."""
    begin = repetition % len(entrants) if entrants else 0
    return [*entrants[begin:], *entrants[:begin]]


def take(
    measurement: Measurement,
    ground: Ground,
    ends: Mapping[str, Sequence[Process]],
    contender: str,
    repetition: int,
    load: Load,
) -> Sample:
    """Take a measurement, accounting for CPU time, and return it as a sample, failed or not."""
    cpu = CpuProbe(ends)
    try:
        outcome = measurement.take(ground)
        failure = ""
    except LabError as error:
        outcome = None
        failure = str(error)
    return Sample(
        repetition=repetition,
        contender=contender,
        setting=measurement.setting,
        measure=measurement.measure,
        value=outcome.value if outcome else None,
        at_least=outcome is not None and outcome.at_least,
        failure=failure,
        load=load,
        cpu=cpu.finish(),
        payload_bytes=outcome.payload_bytes if outcome else 0,
        detail=msgspec.Raw(msgspec.json.encode(outcome.detail if outcome else None)),
    )


def chosen(profile: Profile, wanted: Sequence[str]) -> list[Entrant]:
    """Return who takes part: the profile's, or of all those whose keys are wanted; the baseline always does.

    Raises LabError for a key there is not.
    """
    for key in wanted:
        if key not in ENTRANTS:
            raise LabError(f"there is no contender {key!r}; there are {', '.join(ENTRANTS)}")
    keys = {BASELINE, *wanted} if wanted else set(profile.entrants)
    return [entrant for key, entrant in ENTRANTS.items() if key in keys]


def failed(result: Comparison) -> list[str]:
    """Return what of Centipede itself failed, in words.

    What this machine cannot do is no failure, unless that leaves nothing of Centipede.
    """
    own = [each for each in result.contenders if each.key.startswith("centipede")]
    if own and all(each.unavailable for each in own):
        return [f"{own[0].label} cannot run here: {own[0].unavailable}"]
    ups = [f"{each.label}: {failure}" for each in own for failure in each.failures]
    keys = {each.key: each.label for each in own}
    samples = [
        f"{keys[sample.contender]}, {sample.measure}: {sample.failure}"
        for sample in result.samples
        if sample.failure and sample.contender in keys
    ]
    return ups + samples
