"""Hosts and the links between them, built from a plan, step by step, each step with its inverse.

Owns the order of building and taking down. Must not know scenarios, tunnels or probes. Invariants: nothing has a name
outside the run's own namespaces; ``close`` takes back every step that was taken, in reverse order, whatever happened in
between.

    host a --- link --- switch s --- link --- router r --- link --- host b

A switch is a host with a bridge over its ends, a router a host that forwards. An end's interface has the link's name.
"""

from __future__ import annotations

import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lab.errors import HostGoneError, LabError
from lab.host import Host
from lab.link import Address, End, Link, LinkPlan, Network
from lab.nat import Nat, NatPlan
from lab.registry import RunDirectory

_BRIDGE = "bridge"
# What a distribution sets by default must not decide a measurement. Asymmetric paths are allowed; an address that goes
# does not take later ones along; IPv6 addresses, also the link-local ones of neighbour discovery, are usable at once.
_SYSCTLS = {
    "net.ipv4.conf.all.promote_secondaries": 1,
    "net.ipv4.conf.default.promote_secondaries": 1,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.default.dad_transmits": 0,
    "net.ipv6.conf.default.disable_ipv6": 0,
}


@dataclass(frozen=True, slots=True)
class HostPlan:
    """A host, a router (a host that forwards) or a switch."""

    name: str
    kind: Literal["host", "router", "switch"] = "host"


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """A route of one host through a neighbour on one of its links."""

    host: str
    destination: Network
    via: Address
    metric: int = 0
    """Of two routes to one place that with the least counts, as long as its link is up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a topology shall be."""

    hosts: tuple[HostPlan, ...]
    links: tuple[LinkPlan, ...] = ()
    routes: tuple[RoutePlan, ...] = ()
    nats: tuple[tuple[str, NatPlan], ...] = ()
    """Routers that translate addresses, by name."""

    def steps(self) -> Iterator[Step]:
        """Yield the steps that build the plan, in order."""
        yield from (AddHost(host) for host in self.hosts)
        yield from (AddLink(link) for link in self.links)
        yield from (AddRoute(route) for route in self.routes)
        yield from (AddNat(router, nat) for router, nat in self.nats)


class Topology:
    """What stands of a plan. Use ``with Topology.build(plan) as topology:``, or call ``close``."""

    def __init__(self) -> None:
        self.run_directory = RunDirectory()
        self.hosts: dict[str, Host] = {}
        self.links: dict[str, Link] = {}
        self.nats: dict[str, Nat] = {}
        self._taken: list[Step] = []

    @classmethod
    def build(cls, plan: Plan) -> Self:
        """Build ``plan``. On failure everything built so far is taken down again."""
        topology = cls()
        try:
            for step in plan.steps():
                topology.take(step)
        except BaseException:
            topology.close()
            raise
        return topology

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def take(self, step: Step) -> None:
        """Take one more step, to be undone before all earlier ones."""
        step.do(self)
        self._taken.append(step)

    def host(self, name: str) -> Host:
        """Return a host by name. Raises LabError if there is none."""
        if name not in self.hosts:
            raise LabError(f"there is no host {name}; there are {', '.join(self.hosts) or 'none'}")
        return self.hosts[name]

    def link(self, name: str) -> Link:
        """Return a link by name. Raises LabError if there is none."""
        if name not in self.links:
            raise LabError(f"there is no link {name}; there are {', '.join(self.links) or 'none'}")
        return self.links[name]

    def nat(self, router: str) -> Nat:
        """Return the NAT on a router. Raises LabError if there is none."""
        if router not in self.nats:
            raise LabError(f"{router} is no NAT; there are {', '.join(self.nats) or 'none'}")
        return self.nats[router]

    def abort(self) -> None:
        """End every program and every host at once; may be called by another thread. ``close`` is still due."""
        for host in list(self.hosts.values()):
            host.abort()

    def end_towards(self, host: str, neighbour: Address) -> End:
        """Return the end of ``host`` on whose network ``neighbour`` lies. Raises LabError if there is none."""
        for link in self.links.values():
            for end in link.ends:
                if end.host.name == host and any(neighbour in address.network for address in end.addresses):
                    return end
        raise LabError(f"no link of {host} leads to {neighbour}")

    def reroute(self, host: str, destination: Network, neighbour: str) -> None:
        """Let a host reach a network through another neighbour on the same link. Raises LabError if there is none."""
        addresses = [
            a.ip
            for link in self.links.values()
            for end in link.ends
            if end.host.name == neighbour
            for a in end.addresses
            if destination != ipaddress.ip_network(a.ip)  # one that moves to the neighbour is no way to itself
        ]
        for link in self.links.values():
            for end in link.ends:
                networks = [a.network for a in end.addresses if end.host.name == host]
                for via in addresses:
                    if via.version == destination.version and any(via in network for network in networks):
                        end.replace_route(destination, via)
                        return
        raise LabError(f"{neighbour} is no neighbour of {host} for {destination}")

    def close(self) -> None:
        """Take everything down, in reverse order; raise what failed after all was tried. Twice is harmless."""
        failures: list[Exception] = []
        while self._taken:
            try:
                self._taken.pop().undo(self)
            except HostGoneError:
                continue  # and with it whatever was to be taken back on it
            except Exception as error:  # noqa: BLE001 - the remaining inverses must run; it is raised below
                failures.append(error)
        self.run_directory.close()
        if failures:
            raise ExceptionGroup("taking the topology down", failures)


class Step(ABC):
    """Something done to a topology that can be undone."""

    @abstractmethod
    def do(self, topology: Topology) -> None:
        """Take the step; on failure leave nothing of it behind."""

    @abstractmethod
    def undo(self, topology: Topology) -> None:
        """Take it back. What has vanished meanwhile is no error."""


@dataclass(frozen=True, slots=True)
class AddHost(Step):
    """Start a host; undone by ending it and all that runs on it."""

    plan: HostPlan

    def __str__(self) -> str:
        return f"start {self.plan.kind} {self.plan.name}"

    def do(self, topology: Topology) -> None:
        name = self.plan.name
        host = Host(name, topology.run_directory.host_directory(name))
        try:
            topology.run_directory.record_anchor(name, host.anchor_pid)
            for parameter, value in _SYSCTLS.items():
                host.sysctl(parameter, value)
            if self.plan.kind == "router":
                host.sysctl("net.ipv4.ip_forward", 1)
                host.sysctl("net.ipv6.conf.all.forwarding", 1)
            if self.plan.kind == "switch":
                host.netlink(_add_bridge)
        except BaseException:
            host.close()
            raise
        topology.hosts[name] = host

    def undo(self, topology: Topology) -> None:
        topology.hosts.pop(self.plan.name).close()


@dataclass(frozen=True, slots=True)
class AddLink(Step):
    """Lay a cable between two hosts; undone by removing it."""

    plan: LinkPlan

    def __str__(self) -> str:
        left, right = self.plan.ends
        return f"link {left.host} and {right.host} by {self.plan.name}"

    def do(self, topology: Topology) -> None:
        left, right = (topology.host(end.host) for end in self.plan.ends)
        link = Link(self.plan, (left, right))
        topology.links[self.plan.name] = link

    def undo(self, topology: Topology) -> None:
        topology.links.pop(self.plan.name).remove()


@dataclass(frozen=True, slots=True)
class AddRoute(Step):
    """Give a host a route; undone by deleting it."""

    plan: RoutePlan

    def __str__(self) -> str:
        return f"route {self.plan.destination} via {self.plan.via} on {self.plan.host}"

    def do(self, topology: Topology) -> None:
        end = topology.end_towards(self.plan.host, self.plan.via)
        end.add_route(self.plan.destination, self.plan.via, self.plan.metric)

    def undo(self, topology: Topology) -> None:
        for link in topology.links.values():
            for end in link.ends:
                if end.host.name == self.plan.host:
                    end.remove_route(self.plan.destination, self.plan.via, self.plan.metric)


@dataclass(frozen=True, slots=True)
class AddNat(Step):
    """Let a router translate addresses; undone by removing its rules."""

    router: str
    plan: NatPlan

    def __str__(self) -> str:
        return f"translate on {self.router}, {self.plan.kind} behind {self.plan.outside}"

    def do(self, topology: Topology) -> None:
        topology.nats[self.router] = Nat(topology.host(self.router), self.plan)

    def undo(self, topology: Topology) -> None:
        topology.nats.pop(self.router).remove()


def _add_bridge(netlink: IPRoute) -> None:
    try:
        netlink.link("add", ifname=_BRIDGE, kind="bridge", br_forward_delay=0)
        netlink.link("set", index=netlink.link_lookup(ifname=_BRIDGE)[0], state="up")
    except NetlinkError as error:
        raise LabError(f"cannot make a bridge: {error}") from None
