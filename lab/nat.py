"""A NAT on a router of the lab: four kinds, by the behaviours that RFC 4787 names.

Owns the nftables rules and the connection tracking of one router. Must not know topologies, links or scenarios.

| kind               | mapping (RFC 4787, 4.1)    | filtering (RFC 4787, 5)    |
|--------------------|----------------------------|----------------------------|
| full cone          | endpoint-independent       | endpoint-independent       |
| address-restricted | endpoint-independent       | address-dependent          |
| port-restricted    | endpoint-independent       | address and port-dependent |
| symmetric          | address and port-dependent | address and port-dependent |

These are the behaviours for UDP over IPv4. TCP and ICMP go through as by any masquerading router; IPv6 is not touched.
Ports outside are random, none is preserved (REQ-3 leaves that open). Mappings end ``mapping_timeout_s`` after the last
packet from inside, whoever opened the flow (REQ-6); a packet that a kept flow lets in also keeps that flow, not the
mapping. There is no hairpinning. The router itself answers nothing that comes unasked from outside, not even a ping.

How it works. Connection tracking alone is a symmetric NAT with ``masquerade random``. A cone remembers in a map of its
own (``mapped``) which outside port an inside endpoint was given, and gives it again; a second map (``admitted``) says
who may come in by which port. Both are filled from the flows that go out. Rules are loaded as a whole, in one
transaction, and each load is a generation: only flows begun under it, told by their mark, fill its maps. So a rebinding
needs no pause in which traffic is stopped: flows of the generation before, until they are flushed an instant later,
can no longer put the old port back.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec
from pyroute2 import NFCTSocket

from lab.errors import LabError
from lab.host import Host

_TABLE = "nat"
_REFUSED_S = 600
"""How long it is remembered who was not let in."""
_INTERFACE_BYTES_MAX = 15


class NatKind(StrEnum):
    """What a NAT does; the table above."""

    FULL_CONE = "full_cone"
    ADDRESS_RESTRICTED = "address_restricted"
    PORT_RESTRICTED = "port_restricted"
    SYMMETRIC = "symmetric"


class NatPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A NAT. Raises ValueError for a value that means nothing."""

    kind: NatKind
    outside: str
    """The interface whose address everything behind the others shares."""
    mapping_timeout_s: int = 120
    """How long a mapping outlives the last packet from inside; RFC 4787, REQ-5, asks for two minutes or more."""

    def __post_init__(self) -> None:
        if self.mapping_timeout_s < 1:
            raise ValueError(f"mapping_timeout_s must be at least 1, not {self.mapping_timeout_s}")
        name = self.outside.encode()
        if not 0 < len(name) <= _INTERFACE_BYTES_MAX or any(byte <= 0x20 or byte in b'"/\\*' for byte in name):
            raise ValueError(f"{self.outside!r} is not the name of an interface")


class Mapping(msgspec.Struct, frozen=True):
    """What an endpoint inside looks like from outside."""

    inside: tuple[str, int]
    outside: tuple[str, int]


class Refusal(msgspec.Struct, frozen=True):
    """UDP datagrams from outside that were not let in."""

    source: tuple[str, int]
    port: int
    """Where they knocked: a port of the outside address."""


def ruleset(plan: NatPlan, generation: int) -> str:
    """Return the rules of a NAT as a text for ``nft -f``, which replaces those of any generation before."""
    outside = f'"{plan.outside}"'
    admitted = _ADMITTED.get(plan.kind)
    lines = [f"table ip {_TABLE}", f"delete table ip {_TABLE}", f"table ip {_TABLE} {{"]
    if plan.kind is not NatKind.SYMMETRIC:
        lines += _map("mapped", "ipv4_addr . inet_service", plan)
    if admitted is not None:
        lines += _map("admitted", admitted.key_type, plan)
        lines += _chain(
            "enter",
            "type nat hook prerouting priority dstnat",
            f"iifname {outside} meta l4proto udp dnat ip to {admitted.key_in} map @admitted",
        )
    lines += _chain(
        "leave",
        "type nat hook postrouting priority srcnat",
        *(
            [f"oifname {outside} meta l4proto udp snat ip to ip saddr . udp sport map @mapped"]
            if plan.kind is not NatKind.SYMMETRIC
            else []
        ),
        f"oifname {outside} masquerade fully-random",
    )
    if plan.kind is not NatKind.SYMMETRIC:
        # After the translation, when both sides of the flow are known. A flow that came from outside through
        # "admitted" has its inside endpoint in the reply; what it sends keeps the mapping alive as well.
        learn = [
            f"ct mark 0 ct mark set {generation}",
            f"ct mark != {generation} return",
            f"oifname != {outside} return",
        ]
        for direction, port, inside, address in (
            ("original", "ct reply proto-dst", "ct original ip saddr . ct original proto-src", "ct reply ip daddr"),
            ("reply", "ct original proto-dst", "ct reply ip saddr . ct reply proto-src", "ct original ip daddr"),
        ):
            flow = f"ct direction {direction} meta l4proto udp"
            learn.append(f"{flow} update @mapped {{ {inside} : {address} . {port} }}")
            if admitted is not None:
                learn.append(f"{flow} update @admitted {{ {admitted.key_out.format(port=port)} : {inside} }}")
        lines += _chain("learn", "type filter hook postrouting priority srcnat + 10", *learn)
    # Were an unexpected packet to reach the router itself, it would be tracked as a flow of the router's own, hold the
    # port, and so take it from the inside endpoint that is about to open the same flow: no hole could be punched.
    lines += [
        "  set refused {",
        "    type ipv4_addr . inet_service . inet_service",
        f"    flags dynamic,timeout; timeout {_REFUSED_S}s; size 65535",
        "  }",
    ]
    unasked = f"iifname {outside} ct state new"
    lines += _chain(
        "unasked",
        "type filter hook input priority filter",
        f"{unasked} meta l4proto udp update @refused {{ ip saddr . udp sport . udp dport }}",
        f"{unasked} drop",
    )
    lines += _chain(
        "through",
        "type filter hook forward priority filter; policy drop",
        "ct state established,related accept",
        f"iifname != {outside} accept",
        "ct status dnat accept",
    )
    return "\n".join([*lines, "}", ""])


class _Admitted(msgspec.Struct, frozen=True):
    """How the map of those who may come in is keyed: its type, a packet from outside, a packet from inside."""

    key_type: str
    key_in: str
    key_out: str


_ADMITTED = {
    NatKind.FULL_CONE: _Admitted("inet_service", "udp dport", "{port}"),
    NatKind.ADDRESS_RESTRICTED: _Admitted("inet_service . ipv4_addr", "udp dport . ip saddr", "{port} . ip daddr"),
}


def _map(name: str, key_type: str, plan: NatPlan) -> list[str]:
    return [
        f"  map {name} {{",
        f"    type {key_type} : ipv4_addr . inet_service",
        f"    flags dynamic,timeout; timeout {plan.mapping_timeout_s}s; size 65535",
        "  }",
    ]


def _chain(name: str, hook: str, *rules: str) -> list[str]:
    return [f"  chain {name} {{", f"    {hook};", *(f"    {rule}" for rule in rules), "  }"]


class Nat:
    """A NAT at work on a router."""

    def __init__(self, router: Host, plan: NatPlan) -> None:
        """Make ``router`` a NAT. Raises LabError if its kernel lacks something."""
        self.router = router
        self.plan = plan
        self._generation = 0
        router.sysctl("net.ipv4.ip_forward", 1)
        self._load()
        # These are of the router's namespace alone. "stream" is what a flow becomes after two seconds both ways.
        for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
            router.sysctl(f"net.netfilter.{name}", plan.mapping_timeout_s)

    def __repr__(self) -> str:
        return f"<Nat {self.plan.kind} on {self.router.name}>"

    def rebind(self) -> None:
        """Forget every mapping and flow at once, as a NAT does that restarts, or whose outside address has changed.

        What is sent next gets a new port outside; whoever relied on the old one is no longer let in.
        """
        self._load()
        self.router.call(_flush_flows)

    def mappings(self) -> list[Mapping]:
        """Return the mappings that a cone remembers now. A symmetric NAT has none beyond its flows."""
        if self.plan.kind is NatKind.SYMMETRIC:
            return []
        return [
            Mapping(inside=tuple(_concat(inside)), outside=tuple(_concat(outside)))
            for inside, outside in self._elements("map", "mapped")
        ]

    def refusals(self) -> set[Refusal]:
        """Return who was not let in lately, and where they knocked."""
        found = (_concat(element) for element in self._elements("set", "refused"))
        return {Refusal(source=(address, source), port=port) for address, source, port in found}

    def remove(self) -> None:
        """Take the rules and all flows away. Twice is harmless."""
        self.router.run(["nft", "-f", "-"], input=f"table ip {_TABLE}\ndelete table ip {_TABLE}\n")
        self.router.call(_flush_flows)

    def _elements(self, kind: str, name: str) -> list[Any]:
        listed = self.router.run(["nft", "-j", "list", kind, "ip", _TABLE, name]).stdout
        items = msgspec.json.decode(listed)["nftables"]
        return [element for item in items for element in item.get(kind, {}).get("elem", ())]

    def _load(self) -> None:
        self._generation += 1
        try:
            self.router.run(["nft", "-f", "-"], input=ruleset(self.plan, self._generation))
        except LabError as error:
            raise LabError(f"no {self.plan.kind} NAT on {self.router.name}: {error}") from None


def _concat(element: Any) -> list[Any]:
    """The fields of an element of a set or map, as nft's JSON has it."""
    value = element["elem"]["val"] if "elem" in element else element
    return list(value["concat"])


def _flush_flows() -> None:
    with NFCTSocket() as conntrack:
        conntrack.flush()
