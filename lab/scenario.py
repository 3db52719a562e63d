"""A scenario: hosts, links, a tunnel, what happens, what is measured, what is expected. One TOML file, one idea.

Owns the model of that file, its checks, the numbering of addresses and the plan of the topology. Must not know how
anything is built or run. Invariant: a Scenario that was loaded is consistent; who runs it need not check names again.

Addresses that a file does not give are counted off. The n-th network (a link between hosts, or a switch with its links,
in the order of the file) is 10.n.0.0/24 and fd00:0:0:n::/64, its members .1, .2 and so on in the order of the file.
Inside the tunnel the left end is 10.7.0.1 and fd07::1, the right end .2 and ::2; hence from the seventh network on n is
one more.
"""

from __future__ import annotations

import hashlib
import ipaddress
import tomllib
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from centipede.protocol.endpoint import Endpoint
from lab.errors import LabError
from lab.expectation import Expectation
from lab.impairment import Backend, Impairment
from lab.link import INTERFACE_NAME_MAX, Address, EndPlan, Interface, LinkPlan
from lab.measurement import AnyMeasurement, Look, Measurement, Onlook
from lab.nat import NatKind, NatPlan
from lab.timeline import AnyEvent, LinkChange, ProcessEvent
from lab.topology import HostPlan, Plan, RoutePlan
from lab.weather import Ground, WeatherModel
from lab.weather import events as weather_events

SCENARIOS = Path(__file__).resolve().parent.parent / "scenarios"
INNER: Mapping[str, tuple[Interface, Interface]] = {
    "left": (ipaddress.ip_interface("10.7.0.1/24"), ipaddress.ip_interface("fd07::1/64")),
    "right": (ipaddress.ip_interface("10.7.0.2/24"), ipaddress.ip_interface("fd07::2/64")),
}
_INNER_NUMBER = 7
"""The network that would have this number is inside the tunnel."""
Side = Literal["left", "right"]
_LOADS = (".bits_per_second", ".payload_bytes")
"""Figures that are as large as the load was."""


class _Model(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class HostModel(_Model, frozen=True):
    """``[[host]]``: a host, a router (which forwards) or a switch."""

    name: str
    kind: Literal["host", "router", "switch"] = "host"


class LinkModel(_Model, frozen=True):
    """``[[link]]``: a cable between two hosts; the interface at either end has its name."""

    name: str
    ends: tuple[str, str]
    mtu: int = 1500
    txqueuelen: int = 1000
    offloads: bool = True
    addresses: Mapping[str, tuple[str, ...]] = {}
    """Addresses with prefix lengths, by host; those counted off where a host is not named."""
    both: Impairment = Impairment()
    """What happens to frames in both directions."""
    sends: Mapping[str, Impairment] = {}
    """What happens to the frames one host sends, in place of ``both``."""


class RouteModel(_Model, frozen=True):
    """``[[route]]``: a host reaches a network through a neighbour."""

    host: str
    via: str
    """The neighbour's name."""
    to: str = "default"
    """A network, the name of a link for its networks, or ``default``."""
    link: str | None = None
    """The link to that neighbour; needed only where there are several."""
    metric: int = 0
    """Of two routes to one place that with the least counts, as long as its link is up."""


class NatModel(_Model, frozen=True):
    """``[[nat]]``: a router translates addresses."""

    router: str
    kind: NatKind
    outside: str
    """The link whose address everything behind the router's other links shares."""
    mapping_timeout_s: int = 120


class MachineModel(_Model, frozen=True):
    """One machine of a tunnel end."""

    host: str
    links: tuple[str, ...]
    """The links it sends from, the first being the one WireGuard is told of."""
    port: int = 51820
    listen: Literal["addresses", "interfaces"] = "addresses"
    """Whether Centipede is given the addresses of its links or their names, so that it follows what changes there."""
    found: bool | tuple[str, ...] = True
    """Whether the other end is told where to find this one, or where exactly (``address:port``), as behind a NAT."""
    channel: str | None = None
    """The link over which it talks with the other members, all of which then are a cluster; None without."""
    weight: int = 255
    """The part of their flows that peers are asked for, in a cluster."""
    started: bool = True
    """Whether it is started with the tunnel; otherwise a ``process-restart`` does it. The first of an end always is."""

    @property
    def found_at(self) -> tuple[Endpoint, ...] | None:
        """Where the other end is told to find this one; None for where it sends from."""
        if isinstance(self.found, bool):
            return None if self.found else ()
        return tuple(Endpoint.parse(text) for text in self.found)


class EndModel(MachineModel, frozen=True):
    """``[tunnel.left]`` and ``[tunnel.right]``: a machine, which may be the first of several."""

    members: tuple[MachineModel, ...] = ()
    """Further machines that serve the same identity, with the same addresses inside. The other end knows the first."""
    behind: str | None = None
    """A host that is reached through this end, whichever machine serves it: there the probes begin and end."""
    store: str | None = None
    """The host of an etcd in which the machines of a cluster find each other; None: each is told of all others."""

    @property
    def machines(self) -> tuple[MachineModel, ...]:
        """All machines of this end."""
        return (self, *self.members)


class TunnelModel(_Model, frozen=True):
    """``[tunnel]``: both ends, and what is asked of whatever joins them."""

    left: EndModel
    right: EndModel
    mtu: int = 1420
    follow_mtu: bool = False
    """Whether Centipede's interface follows what its paths carry."""
    txqueuelen: int = 5000
    ip_version: Literal[4, 6] = 4
    """IP version outside."""
    scheduler: Literal["adaptive", "redundant", "fastest", "aggregate"] = "redundant"
    copies: int | Literal["all"] = 2
    heartbeat_s: float | None = None
    keepalive_s: int | None = None
    timing: Mapping[str, float] = {}
    """Centipede's ``[timing]``."""


class MeetingModel(_Model, frozen=True):
    """``[meeting]``: instead of two ends that are joined, many that know each other by key alone (lab/meeting.py).

    Each host has one link; it is behind a NAT if that leads to one.
    """

    third: str
    """A host that all can reach, which sees where they are."""
    left: tuple[str, ...]
    right: tuple[str, ...]


class RowModel(_Model, frozen=True):
    """``[[pairing.row]]``: links of one kind."""

    name: str
    links: Mapping[str, Impairment] = {}
    """What happens to frames in both directions, by link; of those that are not named, what the file says."""


class PairingModel(_Model, frozen=True):
    """``[pairing]``: the tunnel beside the same over each of its links alone, row by row (lab/pairing.py)."""

    row: tuple[RowModel, ...]
    figure: str
    """What of the probes' is compared, such as ``transfer.bits_per_second``."""
    pairs: int = 5
    """How often each row is measured; the median of the ratios counts."""
    at_once: int = 1
    """Rows that are measured side by side."""
    scheduler: Literal["adaptive", "redundant", "fastest", "aggregate"] = "fastest"
    """That of a tunnel with one link."""


class Scenario(_Model, frozen=True, dict=True):
    """A whole file. ``name`` is its stem."""

    title: str
    description: str
    budget_s: float
    """How long an attempt may take, building and taking down included; one that takes longer has failed."""
    host: tuple[HostModel, ...]
    link: tuple[LinkModel, ...]
    tunnel: TunnelModel
    probe: tuple[AnyMeasurement, ...]
    timeline: tuple[AnyEvent, ...] = ()
    """Once the file was read, what the weather brings included."""
    weather: WeatherModel | None = None
    expect: tuple[Expectation, ...] = ()
    route: tuple[RouteModel, ...] = ()
    nat: tuple[NatModel, ...] = ()
    meeting: MeetingModel | None = None
    pairing: PairingModel | None = None
    tunnels: tuple[str, ...] = ("centipede", "plain", "wireguard-go", "wireguard-kernel")
    """Whom it is run against in a full run; the first is the one it is for."""
    seed: int = 1
    """Where the chances of emulated links begin."""
    lateness_ms: float = 20.0
    """How late an emulated link may once be before the run says nothing and is repeated."""
    long: bool = False
    """Whether it is left to full runs."""
    repetitions: Annotated[int, msgspec.Meta(ge=1)] = 3
    """How often a full run repeats it through the first of its tunnels; the others come once."""
    serial: bool = False
    """Whether it measures speed, so that nothing may run beside it."""

    # Filled in by load; not part of the file.
    name: str = ""
    digest: str = ""

    @cached_property
    def addresses(self) -> Mapping[tuple[str, str], tuple[Interface, ...]]:
        """The addresses of every (link, host)."""
        return dict(self._addresses())

    def slowed(self, times: float) -> Scenario:
        """Return the scenario for a machine that is so many times slower: less load, more time, the same events.

        What is expected of loads shrinks with them.
        """
        if times == 1:
            return self
        return msgspec.structs.replace(
            self,
            budget_s=self.budget_s * times,
            lateness_ms=self.lateness_ms * times,
            probe=tuple(probe.slowed(times) for probe in self.probe),
            expect=tuple(_slowed(each, times) for each in self.expect),
        )

    def plan(self, *, force: Backend | None = None) -> Plan:
        """Return the plan of the topology. ``force`` has every link carried by one back end."""
        changes = [event for event in self.timeline if isinstance(event, LinkChange)]
        changing = {event.link for event in changes}
        # netem cannot do that: a link that is to become narrow is the emulator's from the beginning.
        narrowing = {event.link for event in changes if event.change.mtu_bytes}
        return Plan(
            hosts=tuple(HostPlan(host.name, host.kind) for host in self.host),
            links=tuple(
                LinkPlan(
                    link.name,
                    (self._end_plan(link, 0), self._end_plan(link, 1)),
                    mtu=link.mtu,
                    txqueuelen=link.txqueuelen,
                    offloads=link.offloads,
                    changing=link.name in changing,
                    backend=force or (Backend.EMULATOR if link.name in narrowing else None),
                    seed=self.seed + number,
                )
                for number, link in enumerate(self.link)
            ),
            routes=tuple(plan for route in self.route for plan in self._route_plans(route)),
            nats=tuple(
                (nat.router, NatPlan(kind=nat.kind, outside=nat.outside, mapping_timeout_s=nat.mapping_timeout_s))
                for nat in self.nat
            ),
        )

    def outer(self, machine: MachineModel, *, either: bool = False) -> tuple[Address, ...]:
        """Return the addresses a machine sends from, in the order of its links; ``either``: of both IP versions."""
        return tuple(
            interface.ip
            for link in machine.links
            for interface in self.addresses[link, machine.host]
            if either or interface.version == self.tunnel.ip_version
        )

    def channel(self, machine: MachineModel) -> Address | None:
        """Return the address at which a machine talks with the other members, None without a cluster."""
        found = self.addresses.get((machine.channel or "", machine.host), ())
        return next((each.ip for each in found if each.version == 4), None)

    @property
    def rows(self) -> tuple[str, ...]:
        """The names of a pairing's rows."""
        return () if self.pairing is None else tuple(row.name for row in self.pairing.row)

    def repeated(self, times: int) -> Scenario:
        """Return the scenario with so many repetitions, or, if it is a pairing, pairs."""
        if self.pairing is None:
            return msgspec.structs.replace(self, repetitions=times)
        return msgspec.structs.replace(self, repetitions=1, pairing=msgspec.structs.replace(self.pairing, pairs=times))

    @property
    def members(self) -> tuple[str, ...]:
        """The hosts of ends that are served by several machines."""
        return tuple(each.host for end in (self.tunnel.left, self.tunnel.right) if end.members for each in end.machines)

    @property
    def stores(self) -> Mapping[str, Address]:
        """The hosts of stores, and where each is to be reached: its first IPv4 address."""
        found = {}
        for end in (self.tunnel.left, self.tunnel.right):
            for (_, host), interfaces in self.addresses.items():
                if host == end.store and host not in found and (v4 := [a.ip for a in interfaces if a.version == 4]):
                    found[host] = v4[0]
        return found

    def end(self, side: Side) -> EndModel:
        """Return a tunnel end."""
        return self.tunnel.left if side == "left" else self.tunnel.right

    def link_of(self, host: str) -> LinkModel:
        """Return the first link of a host."""
        return next(link for link in self.link if host in link.ends)

    def nat_before(self, host: str) -> NatModel | None:
        """Return the NAT that the first link of a host leads to, None if it leads to none."""
        ends = self.link_of(host).ends
        return next((nat for nat in self.nat if nat.router in ends), None)

    def _end_plan(self, link: LinkModel, number: int) -> EndPlan:
        host = link.ends[number]
        return EndPlan(host, self.addresses[link.name, host], link.sends.get(host, link.both))

    def _addresses(self) -> Iterator[tuple[tuple[str, str], tuple[Interface, ...]]]:
        switches = {host.name for host in self.host if host.kind == "switch"}
        networks: dict[str, int] = {}
        members: dict[str, int] = {}
        for link in self.link:
            segment = next((f"switch {end}" for end in link.ends if end in switches), f"link {link.name}")
            first_free = len(networks) + 1
            number = networks.setdefault(segment, first_free + (first_free >= _INNER_NUMBER))
            for host in link.ends:
                if host in link.addresses:
                    yield (link.name, host), tuple(ipaddress.ip_interface(text) for text in link.addresses[host])
                elif host in switches:
                    yield (link.name, host), ()
                else:
                    member = members[segment] = members.get(segment, 0) + 1
                    texts = (f"10.{number}.0.{member}/24", f"fd00:0:0:{number:x}::{member:x}/64")
                    yield (link.name, host), tuple(ipaddress.ip_interface(text) for text in texts)

    def _route_plans(self, route: RouteModel) -> Iterator[RoutePlan]:
        near = [
            address
            for (link, host), found in self.addresses.items()
            if host == route.host and route.link in (None, link)
            for address in found
        ]
        far = [a for (_, host), found in self.addresses.items() if host == route.via for a in found]
        for version, everything in ((4, "0.0.0.0/0"), (6, "::/0")):
            via = next((b.ip for b in far for a in near if b.version == version and b.ip in a.network), None)
            if via is None:
                continue
            if route.to == "default":
                destinations = [ipaddress.ip_network(everything)]
            elif any(link.name == route.to for link in self.link):
                found = {
                    a.network: None for (link, _), each in self.addresses.items() if link == route.to for a in each
                }
                destinations = [network for network in found if network.version == version]
            else:
                destinations = [n for n in (ipaddress.ip_network(route.to),) if n.version == version]
            yield from (RoutePlan(route.host, destination, via, route.metric) for destination in destinations)

    def problems(self) -> Iterator[str]:
        """Yield what is inconsistent: names that are not there, times that cannot be, expectations of nothing."""
        hosts = [host.name for host in self.host]
        links = {link.name: link for link in self.link}
        for kind, names in (("host", hosts), ("link", [each.name for each in self.link])):
            yield from (f"{kind} {name!r} is there twice" for name in sorted({n for n in names if names.count(n) > 1}))
        for name in (*hosts, *links):
            if not name.isascii() or not name.replace("-", "").isalnum() or len(name) > INTERFACE_NAME_MAX:
                yield f"name {name!r}: at most {INTERFACE_NAME_MAX} letters, digits and hyphens"
        for link in self.link:
            for host in {*link.ends, *link.addresses, *link.sends}:
                if host not in hosts:
                    yield f"link {link.name}: there is no host {host!r}"
                elif host not in link.ends:
                    yield f"link {link.name} does not end at {host}"
            if link.ends[0] == link.ends[1]:
                yield f"link {link.name} joins {link.ends[0]} to itself"
        unusable = [problem for link in self.link for problem in self._address_problems(link)]
        if unusable:
            yield from unusable
            return  # what follows looks at addresses
        yield from self._tunnel_problems(hosts, links)
        yield from self._event_problems(hosts, links)
        if self.meeting is not None:
            for name in (self.meeting.third, *self.meeting.left, *self.meeting.right):
                if not any(name in link.ends for link in self.link):
                    yield f"meeting: there is no host {name!r} with a link"
        for route in self.route:
            yield from (f"route: there is no host {name!r}" for name in (route.host, route.via) if name not in hosts)
            if route.link is not None and route.link not in links:
                yield f"route: there is no link {route.link!r}"
        for nat in self.nat:
            if nat.outside not in links or nat.router not in links[nat.outside].ends:
                yield f"nat: link {nat.outside!r} is not there or does not end at {nat.router!r}"
        if self.budget_s <= 0:
            yield "budget_s must be greater than 0"
        measurements = {probe.name: probe for probe in self.probe}
        for probe in self.probe:
            if isinstance(probe, Onlook):
                for name in probe.links:
                    if name not in links or probe.host not in links[name].ends:
                        yield f"probe {probe.name}: link {name!r} is not there or does not end at {probe.host!r}"
            elif isinstance(probe, Look) and probe.end not in ("left", "right", *self.members):
                yield f"probe {probe.name}: there is no end and no member {probe.end!r}"
            elif isinstance(probe, Look) and probe.since is not None:
                before = measurements.get(probe.since)
                if not isinstance(before, Look) or before.end != probe.end or before.at >= probe.at:
                    yield f"probe {probe.name}: there is no earlier look at {probe.end} named {probe.since!r}"
        if len(measurements) < len(self.probe):
            yield "two probes have one name"
        yield from (
            problem
            for expectation in self.expect
            for problem in expectation.problems(
                measurements, self.members, meeting=self.meeting is not None, rows=self.rows
            )
        )
        if self.pairing is not None:
            yield from self._pairing_problems(self.pairing, links, measurements)

    def _pairing_problems(
        self, pairing: PairingModel, links: Mapping[str, LinkModel], measurements: Mapping[str, Measurement]
    ) -> Iterator[str]:
        if not self.rows or len(set(self.rows)) < len(self.rows):
            yield "pairing: there are no rows, or two have one name"
        if min(pairing.pairs, pairing.at_once) < 1:
            yield "pairing: pairs and at_once must be at least 1"
        if self.tunnel.left.links != self.tunnel.right.links:
            yield "pairing: both ends of the tunnel must have the same links"
        if pairing.figure.partition(".")[0] not in measurements:
            yield f"pairing: there is no probe for {pairing.figure!r}"
        for row in pairing.row:
            if not row.name.replace("-", "").isalnum():
                yield f"pairing: row {row.name!r}: letters, digits and hyphens"
            yield from (
                f"pairing: row {row.name}: there is no link {name!r}" for name in row.links if name not in links
            )

    def _tunnel_problems(self, hosts: list[str], links: Mapping[str, LinkModel]) -> Iterator[str]:
        for side in ("left", "right"):
            end = self.end("left" if side == "left" else "right")
            for machine in end.machines:
                yield from self._machine_problems(f"tunnel.{side}", machine, hosts, links)
            if any(machine.channel for machine in end.machines) and not all(map(self.channel, end.machines)):
                yield f"tunnel.{side}: each machine of a cluster names a link of its own with IPv4 as channel"
            if end.store is not None and end.store not in self.stores:
                yield f"tunnel.{side}.store: there is no host {end.store!r} with an IPv4 address"
            if end.store is not None and end.channel is None:
                yield f"tunnel.{side}.store is for a cluster; give each of its machines a channel"
            if not end.started:
                yield f"tunnel.{side}: the first machine of an end is always started"
            if end.behind is not None and not any(end.behind in link.ends for link in self.link):
                yield f"tunnel.{side}.behind: there is no host {end.behind!r} with a link"

    @staticmethod
    def _machine_problems(
        where: str, machine: MachineModel, hosts: list[str], links: Mapping[str, LinkModel]
    ) -> Iterator[str]:
        if machine.host not in hosts:
            yield f"{where}: there is no host {machine.host!r}"
        if not machine.links:
            yield f"{where}: no links"
        for name in machine.links:
            if name not in links or machine.host not in links[name].ends:
                yield f"{where}: link {name!r} is not there or does not end at {machine.host!r}"
        for text in machine.found if isinstance(machine.found, tuple) else ():
            try:
                Endpoint.parse(text)
            except ValueError as error:
                yield f"{where}.found: {error}"

    def _event_problems(self, hosts: list[str], links: Mapping[str, LinkModel]) -> Iterator[str]:
        for event in self.timeline:
            where = f"timeline at {event.at:g} ({msgspec.to_builtins(event)['do']})"
            if event.at < 0:
                yield f"{where}: before the beginning"
            link: str = getattr(event, "link", "")
            if link and link not in links:
                yield f"{where}: there is no link {link!r}"
            for name in ("end", "source", "target"):
                end = getattr(event, name, None)
                stores = self.stores if isinstance(event, ProcessEvent) else ()
                if end is not None and end not in ("left", "right", *self.members, *stores):
                    yield f"{where}: there is no end and no member {end!r}"
            for name in ("host", "towards", "sender", "router", "via"):
                host = getattr(event, name, None)
                if host is not None and host not in hosts:
                    yield f"{where}: there is no host {host!r}"
                elif host is not None and link in links and host not in links[link].ends:
                    yield f"{where}: link {link} does not end at {host}"
            if (router := getattr(event, "router", None)) and router not in {nat.router for nat in self.nat}:
                yield f"{where}: {router} is no NAT"

    def _address_problems(self, link: LinkModel) -> Iterator[str]:
        for text in (text for texts in link.addresses.values() for text in texts):
            try:
                network = ipaddress.ip_interface(text).network
            except ValueError as error:
                yield f"link {link.name}: {error}"
                continue
            for inner in INNER["left"] if self.meeting is None else ():
                if network.version == inner.version and network.overlaps(inner.network):
                    where = f"{inner.network}, which is inside the tunnel"
                    yield f"link {link.name}: {text} overlaps {where}; give it another"


def _slowed(expectation: Expectation, times: float) -> Expectation:
    if not expectation.figure.endswith(_LOADS):
        return expectation
    given = {name: getattr(expectation, name) for name in ("equals", "at_least", "at_most")}
    return msgspec.structs.replace(
        expectation, **{name: bound / times for name, bound in given.items() if bound is not None}
    )


def _weather(scenario: Scenario, weather: WeatherModel) -> list[AnyEvent]:
    links = {link.name: link for link in scenario.link if weather.host in link.ends and link.name in weather.links}
    if len(links) < 2 or len(links) < len(weather.links):
        raise LabError(f"scenario {scenario.name}: weather: {weather.host!r} must have all its links, two at least")
    return weather_events(
        weather,
        {name: Ground(scenario.addresses[name, weather.host], link.both) for name, link in links.items()},
    )


def parse(text: str, *, name: str) -> Scenario:
    """Return the scenario that a file of this text would be. Raises LabError naming it, the key and the trouble."""
    try:
        raw: Any = tomllib.loads(text)
        scenario = msgspec.convert(raw, Scenario)
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise LabError(f"scenario {name}: {error}") from None
    for key in ("name", "digest"):
        if key in raw:
            raise LabError(f"scenario {name}: Object contains unknown field `{key}`")
    scenario = msgspec.structs.replace(scenario, name=name, digest=hashlib.sha256(text.encode()).hexdigest())
    timeline = [each for event in scenario.timeline for each in event.each()]
    if scenario.weather is not None:
        timeline += _weather(scenario, scenario.weather)
    expect = tuple(each for expectation in scenario.expect for each in expectation.each(scenario.rows))
    scenario = msgspec.structs.replace(scenario, timeline=tuple(timeline), expect=expect)
    problems = list(scenario.problems())
    if problems:
        raise LabError(f"scenario {name}: {'; '.join(problems)}")
    return scenario


def load(path: Path) -> Scenario:
    """Read a scenario file. Raises LabError if it cannot be used."""
    try:
        return parse(path.read_text(), name=path.stem)
    except OSError as error:
        raise LabError(f"cannot read {path}: {error.strerror}") from None


def find(text: str) -> Path:
    """Return the file meant by a path or by the name of a scenario of the project. Raises LabError if there is none."""
    for path in (Path(text), SCENARIOS / f"{text}.toml"):
        if path.is_file():
            return path
    raise LabError(f"there is no scenario {text!r}; `python -m lab list` names them")


def every() -> list[Path]:
    """Return the files of the project's scenarios."""
    return sorted(SCENARIOS.glob("*.toml"))
