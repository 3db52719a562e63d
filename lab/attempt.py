"""One attempt at a run: build, bring the tunnel up, measure while the timeline goes by, take everything down.

Owns the order of these and the record of what happened. Must not judge: lab/runner.py does, from the record alone.
Invariants: time zero is when the probes that are there from the beginning have begun; after ``go`` has returned or
raised nothing of the attempt stands.
"""

from __future__ import annotations

import ipaddress
import shutil
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal

import msgspec

from centipede.protocol.endpoint import Endpoint
from lab.budget import Budget
from lab.capture import capture
from lab.drop_counters import drop_counters
from lab.errors import LabError
from lab.footprint import Footprint
from lab.host import Host
from lab.link import Interface
from lab.machine import sysctls
from lab.measurement import Ground, Measurement, Running, flatten
from lab.meeting import Guest, Meeting, MeetingRecord, inner
from lab.nat_theory import Site
from lab.observer import Observer
from lab.offloads import features
from lab.pace import slowness
from lab.process import Process
from lab.results import EventRecord, InterfaceFacts, LinkFacts, ProbeRecord, ProcessRecord
from lab.scenario import INNER, MachineModel, MeetingModel, Scenario, Side
from lab.sockets import SocketAccount, SocketWatch
from lab.store import Store, endpoint
from lab.store import unavailable as store_unavailable
from lab.timeline import Event, Stage
from lab.topology import Topology
from lab.tracks import PathTrack
from lab.tunnels.base import Tunnel, TunnelEnd, TunnelOptions
from lab.tunnels.mesh import Mesh
from lab.tunnels.plain import Plain

_LATE_S = 0.5
"""An event or a probe that comes later than planned by more than this makes the attempt void."""
SIDES: tuple[Side, Side] = ("left", "right")


@dataclass(slots=True)
class Record:
    """What an attempt has found so far; whole if the attempt did not fail."""

    links: list[LinkFacts] = field(default_factory=list)
    interfaces: list[InterfaceFacts] = field(default_factory=list)
    sysctls: dict[str, str] = field(default_factory=dict)
    timeline: list[EventRecord] = field(default_factory=list)
    probes: dict[str, ProbeRecord] = field(default_factory=dict)
    processes: list[ProcessRecord] = field(default_factory=list)
    meeting: MeetingRecord | None = None
    paths: list[PathTrack] = field(default_factory=list)
    footprints: list[Footprint] = field(default_factory=list)
    sockets: list[SocketAccount] = field(default_factory=list)
    states: dict[str, Any] = field(default_factory=dict)
    discards: dict[str, dict[str, int]] = field(default_factory=dict)
    emulators: list[str] = field(default_factory=list)
    """What was wrong with emulated links."""
    void: list[str] = field(default_factory=list)
    """Why else what was found says nothing about the tunnel."""


class Attempt:
    """One attempt at one scenario through one tunnel."""

    def __init__(self, scenario: Scenario, tunnel: Tunnel, directory: Path, *, pcap: bool = False) -> None:
        """``directory`` takes logs, output of programs and captures; it must exist."""
        self.record = Record()
        self._scenario = scenario
        self._tunnel = tunnel
        self._directory = directory
        self._pcap = pcap
        self._ends: dict[str, TunnelEnd] = {}
        """By side; machines of an end that has several, by the names of their hosts as well."""
        self._stores: Mapping[str, Store] = {}
        """By host."""
        self._zero = time.monotonic()
        self._seen: dict[str, Any] = {}
        """What the tunnel said of itself so far, by the names of the probes that asked."""

    @property
    def options(self) -> TunnelOptions:
        """What is asked of the tunnel."""
        return tunnel_options(self._scenario)

    def go(self, budget: Budget) -> None:
        """Do it all. Raises LabError if the tunnel or the lab failed, OverBudgetError if time ran out."""
        try:
            with Topology.build(self._scenario.plan()) as topology, budget.watching(topology):
                try:
                    with self._captures(topology):
                        if self._scenario.meeting is not None:
                            self._meet(self._scenario.meeting, topology, budget)
                        else:
                            self._with_topology(topology, budget)
                finally:
                    self._keep_logs(topology)
        except LabError:
            budget.check()  # what failed did so because its host was taken away
            raise

    @contextmanager
    def _captures(self, topology: Topology) -> Iterator[None]:
        """Capture every link, if that is asked for."""
        with ExitStack() as stack:
            for link in topology.links.values() if self._pcap else ():
                stack.enter_context(capture(link.ends[0].host, link.name, self._directory / f"{link.name}.pcap"))
            yield

    def _with_topology(self, topology: Topology, budget: Budget) -> None:
        with ExitStack() as stack:
            self._stores = stack.enter_context(stores(self._scenario, topology))
            self._ends = {side: tunnel_end(self._scenario, side, topology, self._tunnel) for side in SIDES}
            for end in [self._ends[side] for side in SIDES]:
                if end.members:
                    self._ends |= {each.host.name: each for each in (end, *end.members)}
            stack.callback(self._tunnel.down)
            self._tunnel.up(self._ends["left"], self._ends["right"], self.options)
            self._note_conditions(topology)
            self._measure(topology, budget)
            for name in self._ends:
                self.record.states[name] = self._state(name)

    def _meet(self, meeting: MeetingModel, topology: Topology, budget: Budget) -> None:
        assert isinstance(self._tunnel, Mesh)
        self._note_links(topology)
        try:
            third = self._mesh_end(topology, meeting.third, inner("third"))
            left, right = (
                [self._guest(topology, host, inner(side, number)) for number, host in enumerate(hosts)]
                for side, hosts in (("left", meeting.left), ("right", meeting.right))
            )
            self.record.meeting = Meeting(self._tunnel, topology, third, left, right, self.options).hold(budget.check)
        finally:
            self._tunnel.down()

    def _guest(self, topology: Topology, host: str, inner: tuple[Interface, ...]) -> Guest:
        nat = self._scenario.nat_before(host)
        site = Site.NONE if nat is None else Site(nat.kind.value)
        return Guest(site, self._mesh_end(topology, host, inner), None if nat is None else nat.router)

    def _mesh_end(self, topology: Topology, host: str, inner: tuple[Interface, ...]) -> TunnelEnd:
        found = self._scenario.addresses[self._scenario.link_of(host).name, host]
        outer = tuple(address.ip for address in found if address.version == self._scenario.tunnel.ip_version)
        found_at = None if self._scenario.nat_before(host) is None else ()
        return TunnelEnd(host=topology.host(host), inner=inner, outer=outer, found_at=found_at)

    def _measure(self, topology: Topology, budget: Budget) -> None:
        before = {process: process.cpu_seconds() for process, _ in self._programs(topology)}
        for link in topology.links.values():
            link.stats(restart=True)
        stage = Stage(
            topology,
            self._processes,
            self._restart,
            lambda source, target: self._tunnel.move(self._ends[source], self._ends[target]),
            lambda seconds: budget.wait_until(time.monotonic() + seconds),
            lambda name, ahead_s: self._tunnel.set_clock(self._ends[name], ahead_s),
        )
        later: list[tuple[float, Measurement | Event]] = [
            (probe.at, probe) for probe in self._scenario.probe if probe.at
        ]
        later += [(event.at, event) for event in self._scenario.timeline]
        running: dict[str, Running] = {}
        observer = Observer(self._tunnel, {side: self._ends[side] for side in SIDES})
        sockets = {side: watch for side in SIDES if (watch := self._socket_watch(side)) is not None}
        try:
            self._begin_first(topology, running)
            zero = self._zero = time.monotonic()
            for at, item in sorted(later, key=itemgetter(0)):
                budget.wait_until(zero + at)
                if isinstance(item, Measurement):
                    self._begin(item, topology, running, time.monotonic() - zero)
                else:
                    self._carry_out(item, stage, zero)
            for probe in self._scenario.probe:
                if probe.name in running:
                    self._finish(probe, running.pop(probe.name))
                budget.check()
        finally:
            for left_over in running.values():
                left_over.stop()
            observer.stop()
            self.record.paths = [self._on_link(track) for track in observer.tracks(self._zero)]
            self.record.footprints = observer.footprints(self._zero)
            for side, watch in sockets.items():
                watch.stop()
                self.record.sockets.append(watch.account(side, self._zero))
        for process, host in self._programs(topology):
            spent_s = process.cpu_seconds() - before.get(process, 0.0)
            self.record.processes.append(ProcessRecord(name=process.name, host=host, cpu_s=round(spent_s, 6)))
        self._note_emulators(topology)
        self.record.discards = {name: drop_counters(host) for name, host in topology.hosts.items()}

    def _processes(self, name: str) -> list[Process]:
        store = self._stores.get(name)
        return self._tunnel.processes(self._ends[name]) if store is None else store.processes

    def _restart(self, name: str) -> None:
        store = self._stores.get(name)
        if store is None:
            self._tunnel.restart(self._ends[name])
        else:
            store.start()

    def _socket_watch(self, side: Side) -> SocketWatch | None:
        """Watch the sockets of an end that follows its interfaces, in a tunnel that has one for each address."""
        model = self._scenario.end(side)
        if model.listen != "interfaces" or self._tunnel.paths(self._ends[side]) is None:
            return None
        return SocketWatch(self._ends[side].host, model.links, model.port)

    def _begin_first(self, topology: Topology, running: dict[str, Running]) -> None:
        """Begin what is there from the beginning, at once, for programs take a while to start on a busy machine."""
        first = [probe for probe in self._scenario.probe if not probe.at]
        with ThreadPoolExecutor(max_workers=max(1, len(first))) as threads:
            for begun in [threads.submit(self._begin, probe, topology, running, 0.0) for probe in first]:
                begun.result()

    def _begin(self, probe: Measurement, topology: Topology, running: dict[str, Running], began_s: float) -> None:
        receiver: Side = "right" if probe.sender == "left" else "left"
        error = None
        try:
            ground = Ground(
                self._site(probe.sender, topology),
                self._site(receiver, topology),
                self._target(receiver, probe.version),
                self._directory,
                number=self._scenario.probe.index(probe),
                hosts=topology.hosts,
                state=lambda name: self._tunnel.state(self._ends[name]),
                seen=self._seen,
            )
            running[probe.name] = probe.begin(ground)
        except LabError as failure:
            error = str(failure)
        settings = msgspec.to_builtins(probe)
        self.record.probes[probe.name] = ProbeRecord(
            kind=settings["kind"], sender=probe.sender, began_s=round(began_s, 6), settings=settings, error=error
        )
        self._check_lateness(f"probe {probe.name}", probe.at, began_s)

    def _site(self, side: Side, topology: Topology) -> Host:
        """Return the host at which probes begin and end: that behind the tunnel end, if there is one."""
        behind = self._scenario.end(side).behind
        return self._ends[side].host if behind is None else topology.host(behind)

    def _target(self, side: Side, version: Literal[4, 6]) -> str:
        """Return the address of that host."""
        behind = self._scenario.end(side).behind
        if behind is None:
            return self._tunnel.address(self._ends[side], version)
        for address in self._scenario.addresses[self._scenario.link_of(behind).name, behind]:
            if address.version == version:
                return str(address.ip)
        raise LabError(f"{behind} has no IPv{version} address")

    def _finish(self, probe: Measurement, running: Running) -> None:
        record = self.record.probes[probe.name]
        try:
            result = running.finish()
        except LabError as failure:
            record = msgspec.structs.replace(record, error=str(failure))
        else:
            values = flatten(result)
            began_ns = values.get("began_ns")
            traffic_began_s = round(began_ns / 1e9 - self._zero, 6) if began_ns else None
            record = msgspec.structs.replace(record, result=values, traffic_began_s=traffic_began_s)
            reason = probe.void(result)
            if reason is not None:
                self.record.void.append(reason)
        self.record.probes[probe.name] = record

    def _on_link(self, track: PathTrack) -> PathTrack:
        """Return a track with the link that has its local address, or had it before it was changed."""
        host = self._scenario.end(_side(track.end)).host
        local = ipaddress.ip_address(Endpoint.parse(track.local).host)
        link = next(
            (
                link
                for (link, owner), addresses in self._scenario.addresses.items()
                if owner == host and any(local in address.network for address in addresses)
            ),
            None,
        )
        return msgspec.structs.replace(track, link=link)

    def _carry_out(self, event: Event, stage: Stage, zero: float) -> None:
        began_s = time.monotonic() - zero
        event.apply(stage)
        ended_s = time.monotonic() - zero
        self.record.timeline.append(
            EventRecord(title=event.title, planned_s=event.at, began_s=round(began_s, 6), ended_s=round(ended_s, 6))
        )
        self._check_lateness(event.title, event.at, began_s)

    def _check_lateness(self, what: str, planned_s: float, began_s: float) -> None:
        if began_s - planned_s > _LATE_S * slowness():
            self.record.void.append(f"{what} came {began_s - planned_s:.1f} s late")

    def _programs(self, topology: Topology) -> list[tuple[Process, str]]:
        machines = [each for side in SIDES for each in self._ends[side].machines]
        found = [(process, end.host.name) for end in machines for process in self._tunnel.processes(end)]
        found += [(process, name) for name, store in self._stores.items() for process in store.processes]
        emulators = ((link.emulator, f"link {link.name}") for link in topology.links.values())
        return found + [(process, where) for process, where in emulators if process is not None]

    def _note_conditions(self, topology: Topology) -> None:
        self.record.sysctls = self._ends["left"].host.call(sysctls)
        for side in SIDES:
            interface = self._tunnel.interface(self._ends[side])
            if interface is not None:
                self.record.interfaces.append(interface_facts(self._ends[side].host, interface))
        self._note_links(topology)

    def _note_links(self, topology: Topology) -> None:
        self.record.links = [
            LinkFacts(
                name=link.name,
                backend=link.backend.value,
                ends=[interface_facts(end.host, end.name) for end in link.ends],
            )
            for link in topology.links.values()
        ]

    def _note_emulators(self, topology: Topology) -> None:
        for number, link in enumerate(topology.links.values()):
            stats = link.stats()
            if stats is None:
                continue
            self.record.links[number] = msgspec.structs.replace(
                self.record.links[number], emulator=msgspec.to_builtins(stats)
            )
            fault = stats.fault(lateness_limit_s=self._scenario.lateness_ms / 1e3)
            if fault is not None:
                self.record.emulators.append(f"link {link.name}: {fault}")

    def _state(self, name: str) -> Any:
        try:
            return self._tunnel.state(self._ends[name])
        except LabError as error:
            return {"error": str(error)}

    def _keep_logs(self, topology: Topology) -> None:
        for host in topology.hosts.values():
            for log in host.directory.glob("*.log"):
                (self._directory / "logs").mkdir(exist_ok=True)
                shutil.copyfile(log, self._directory / "logs" / f"{host.name}-{log.name}")


def tunnel_end(scenario: Scenario, side: Side, topology: Topology, tunnel: Tunnel) -> TunnelEnd:
    """Return a tunnel end of a scenario on the topology that was built for it."""
    end = scenario.end(side)
    networks = {
        address.network: None
        for (link, host), addresses in scenario.addresses.items()
        if host == end.behind and link == scenario.link_of(host).name
        for address in addresses
    }

    def machine(model: MachineModel, members: tuple[TunnelEnd, ...] = ()) -> TunnelEnd:
        return TunnelEnd(
            host=topology.host(model.host),
            inner=INNER[side],
            # Without a VPN inside is outside, and inside there are both IP versions.
            outer=scenario.outer(model, either=isinstance(tunnel, Plain)),
            listen_port=model.port,
            listen=tuple(f"{link}:{model.port}" for link in model.links) if model.listen == "interfaces" else (),
            found_at=model.found_at,
            networks=tuple(networks),
            members=members,
            channel=scenario.channel(model),
            weight=model.weight,
            store=None if end.store is None else endpoint(scenario.stores[end.store]),
            started=model.started,
        )

    return machine(end, tuple(machine(member) for member in end.members))


@contextmanager
def stores(scenario: Scenario, topology: Topology) -> Iterator[Mapping[str, Store]]:
    """The stores of a scenario, by host, each of which answers; they end with the context. Raises LabError."""
    found = {name: Store(topology.host(name), address) for name, address in scenario.stores.items()}
    with ExitStack() as stack:
        for store in found.values():
            stack.callback(store.stop)
            store.start()
        yield found


def unavailable(scenario: Scenario, tunnel: Tunnel) -> str | None:
    """Return why a scenario cannot run through a tunnel on this machine, in words, or None if it can."""
    reason = tunnel.unavailable()
    if reason is None and scenario.stores and (lack := store_unavailable()) is not None:
        return f"this machine can run no store: {lack}"
    return reason


def tunnel_options(scenario: Scenario) -> TunnelOptions:
    """Return what a scenario asks of any tunnel."""
    tunnel = scenario.tunnel
    return TunnelOptions(
        mtu=tunnel.mtu,
        follow_mtu=tunnel.follow_mtu,
        txqueuelen=tunnel.txqueuelen,
        keepalive_s=tunnel.keepalive_s,
        scheduler=tunnel.scheduler,
        copies=tunnel.copies,
        heartbeat_s=tunnel.heartbeat_s,
        timing=tunnel.timing,
    )


def interface_facts(host: Host, interface: str) -> InterfaceFacts:
    """Return how an interface is set up now."""
    found = host.netlink(lambda netlink: netlink.get_links(ifname=interface)[0])
    return InterfaceFacts(
        host=host.name,
        interface=interface,
        mtu=int(found.get("mtu")),
        txqueuelen=int(found.get("txqlen")),
        features=features(host, interface),
    )


def _side(text: str) -> Side:
    return "left" if text == "left" else "right"
