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
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from pathlib import Path
from typing import Literal

import click
import msgspec
from rich.console import Console

from lab import comparison, machine, setup
from lab.chart import draw
from lab.comparison import BASELINE, NO_TRAINS, USUAL, Comparison, Conditions, Contender, Cost, Sample
from lab.contest import ENTRANTS, PROFILES, QUEUE_PACKETS, Entrant, Ground, Measurement, Profile
from lab.errors import LabError
from lab.link import EndPlan, LinkPlan
from lab.machine import Load
from lab.namespace import ensure_privileged
from lab.offloads import features, set_features
from lab.probes.cpu import CpuProbe
from lab.process import Process
from lab.progress import Progress, render_seconds
from lab.report import render_report, render_table
from lab.results import dump, new_directory
from lab.topology import HostPlan, Plan, Topology
from lab.tunnels.base import TUNNEL_MTU, TunnelEnd

LINKS = ("link1", "link2")
_CARD = {"tx-udp-segmentation": False, "rx-gro": True}
"""Features that differ in the setting ``no-trains``: those of a common network card, as compared with veth."""
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
                with self._setting(topology, measurement.setting):
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

    def _conditions(self, topology: Topology) -> Conditions:
        seen: dict[str, dict[str, bool]] = {}
        host = topology.host("a")
        for setting in (USUAL, NO_TRAINS):
            with self._setting(topology, setting):
                seen[setting] = features(host, LINKS[0])
        return Conditions(
            mtu=TUNNEL_MTU,
            txqueuelen=QUEUE_PACKETS,
            link_mtu=topology.link(LINKS[0]).plan.mtu,
            links=len(LINKS),
            inner_version=self.inner_version,
            outer_version=4,
            tcp_congestion_control="cubic",
            features=seen,
            sysctls=machine.sysctls(),
        )

    @contextmanager
    def _setting(self, topology: Topology, setting: str) -> Iterator[None]:
        """The links as a setting wants them, and back again."""
        if setting == USUAL:
            yield
            return
        ends = [end for link in LINKS for end in topology.link(link).ends]
        known = features(ends[0].host, ends[0].name)
        before = {name: known[name] for name in _CARD}
        for end in ends:
            set_features(end.host, end.name, _CARD)
        try:
            yield
        finally:
            for end in ends:
                set_features(end.host, end.name, before)


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


@click.command("bench")
@click.option("--quick", "size", flag_value="quick", help="Under a minute: fewer figures.")
@click.option("--full", "size", flag_value="full", help="Every contender and seven repetitions; says first how long.")
@click.option("--repeat", type=click.IntRange(1, 100), metavar="N", help="Repetitions, in place of the size's own.")
@click.option(
    "--tunnel", "tunnels", multiple=True, metavar="KEY", help="Only these contenders, and no VPN. Repeatable."
)
@click.option("--inner", type=click.Choice(["4", "6"]), default="4", show_default=True, help="IP version inside.")
@click.option("--output", type=click.Path(path_type=Path), metavar="DIR", help="Directory for the results.")
def bench(size: str | None, repeat: int | None, tunnels: tuple[str, ...], inner: str, output: Path | None) -> None:
    """Compare Centipede with wireguard-go, the kernel's WireGuard and no VPN, and draw the chart."""
    ensure_privileged()
    console = Console()
    profile = PROFILES[size or "usual"]
    entrants = chosen(profile, tunnels)
    repetitions = repeat or profile.repetitions
    fetched = setup.fetch_wireguard_go()
    if fetched is not None and fetched.note:
        console.print(f"wireguard-go {fetched.version}: {fetched.note}", markup=False, highlight=False)
    estimate = render_seconds(profile.turn_s() * len(entrants) * repetitions)
    console.print(f"{len(entrants)} contenders, repetitions: {repetitions}, at most about {estimate}", highlight=False)
    progress = Progress(console)
    run = Bench(profile, entrants, repetitions, progress, 6 if inner == "6" else 4)
    try:
        result = run.run(sys.argv[1:])
    finally:
        progress.end()
    directory = output or new_directory(
        Path("results"), dt.datetime.fromisoformat(result.began_at), result.machine.host
    )
    directory.mkdir(parents=True, exist_ok=True)
    dump(result, directory / comparison.FILE)
    draw(result, directory)
    (directory / "report.html").write_text(render_report(result, (directory / "benchmark.svg").read_text()))
    console.print(render_table(result))
    for name in (comparison.FILE, "benchmark.png", "report.html"):
        console.print(str(directory / name), highlight=False, soft_wrap=True)
    if failures := failed(result):
        others = f", and {len(failures) - 1} failures more" if len(failures) > 1 else ""
        raise LabError(f"{failures[0]}{others}")
