"""Two ends behind NAT that are told where the other is, as docs/nat.md says, with what a third peer sees.

    a --- nat-a --- c --- nat-b --- b

What which pair of NATs lets through is the scenario nat-matrix; here it is what people type and read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from centipede.engine import native_unavailable
from centipede.protocol.identity import Identity
from lab.link import EndPlan, LinkPlan
from lab.nat import NatKind, NatPlan
from lab.topology import HostPlan, Plan, RoutePlan, Topology
from tests.e2e.world import NAME, Site, eventually

pytestmark = pytest.mark.netns

OUTSIDE = {"a": "203.0.113.9", "b": "203.0.114.9"}


def _plan(kind: NatKind) -> Plan:
    def link(name: str, near: str, far: str, network: str, last: int) -> LinkPlan:
        ends = EndPlan(near, (ip_interface(f"{network}.{last}/24"),)), EndPlan(far, (ip_interface(f"{network}.1/24"),))
        return LinkPlan(name, ends)

    return Plan(
        hosts=(HostPlan("a"), HostPlan("b"), *(HostPlan(name, "router") for name in ("c", "nat-a", "nat-b"))),
        links=(
            link("l0", "a", "nat-a", "10.0.1", 5),
            link("l1", "b", "nat-b", "10.0.2", 5),
            link("wan-a", "nat-a", "c", "203.0.113", 9),
            link("wan-b", "nat-b", "c", "203.0.114", 9),
        ),
        routes=tuple(
            RoutePlan(host, ip_network("0.0.0.0/0"), ip_address(via))
            for host, via in (("a", "10.0.1.1"), ("b", "10.0.2.1"), ("nat-a", "203.0.113.1"), ("nat-b", "203.0.114.1"))
        ),
        nats=tuple((f"nat-{name}", NatPlan(kind=kind, outside=f"wan-{name}")) for name in OUTSIDE),
    )


class Sites:
    """The three, with their daemons up."""

    def __init__(self, topology: Topology, engine: str) -> None:
        self.topology = topology
        self.a, self.b, self.c = (
            Site(topology.host(name), number, Identity.from_seed(bytes([number]) * 32))
            for number, name in enumerate("abc", start=1)
        )
        for site, other, listen in ((self.a, self.b, "l0"), (self.b, self.a, "l1"), (self.c, self.a, "auto")):
            third = self.b if site is self.c else self.c
            tail = f'[[peer]]\nname = "{third.host.name}"\npublic_key = "{third.identity.public.text}"\n'
            tail += f'preshared_key_file = "both.psk"\nallowed_ips = ["10.7.0.{third.number}"]\n'
            if third is self.c:
                tail += f'endpoints = ["203.0.11{2 + site.number}.1:51820"]\nkeepalive = true\n'
            site.configure(
                other,
                engine=f'"{engine}"',
                endpoints="[]",
                listen=f'["{listen}:51820"]',
                peer="keepalive = true",
                tail=tail,
            )
            site.up()
        for site in (self.a, self.b):
            eventually(lambda site=site: site.ping("-c", "1", to="10.7.0.3").received == 1, "the third peer's answer")  # type: ignore[misc]

    def seen(self, site: Site) -> str:
        """Where the third peer sees an end, as a person reads it."""
        pattern = rf"seen as: 10\.0\.\d\.5:51820: ({OUTSIDE[site.host.name]}:\d+) \(by c\)"
        found: list[str] = []

        def told() -> bool:
            found[:] = re.findall(pattern, site.cli("show", NAME).stdout)
            return bool(found)

        eventually(told, "the third peer telling where it sees the end")
        return found[0]

    def point(self, site: Site, other: Site, endpoint: str) -> str:
        return site.cli("peer", NAME, "set", other.host.name, "--endpoint", endpoint).stdout


@pytest.fixture(name="sites", params=["python", "native"])
def make_sites(request: pytest.FixtureRequest) -> Iterator[Sites]:
    if request.param == "native" and (reason := native_unavailable()) is not None:
        pytest.skip(f"the native engine cannot be used: {reason}")
    with Topology.build(_plan(NatKind.PORT_RESTRICTED)) as topology:
        yield Sites(topology, request.param)


def test_two_ends_behind_nat_that_are_told_where_the_other_is(sites: Sites) -> None:
    a, b = sites.a, sites.b
    assert "handshake: there is no address pair to send an Initiate on" in a.cli("show", NAME).stdout
    assert not a.reaches()
    seen_a, seen_b = sites.seen(a), sites.seen(b)
    assert sites.point(a, b, seen_b) == f"peer b changed\ntrying peer b at {seen_b}\n"
    assert sites.point(b, a, seen_a) == f"peer a changed\ntrying peer a at {seen_a}\n"
    eventually(a.reaches, "a packet through both NATs")
    eventually(b.reaches, "and one the other way")
    # Once more, for the other end may have been told too late: nothing changes, and it is tried at once.
    assert sites.point(a, b, seen_b) == f"trying peer b at {seen_b}\n"
    # Both NATs forget all: the ends cannot find each other by themselves, but the third peer sees them elsewhere.
    for nat in sites.topology.nats.values():
        nat.rebind()
    eventually(lambda: sites.seen(a) != seen_a, "the third peer seeing a elsewhere")
    eventually(lambda: sites.seen(b) != seen_b, "the third peer seeing b elsewhere")
    sites.point(a, b, sites.seen(b))
    sites.point(b, a, sites.seen(a))
    eventually(a.reaches, "a packet through the new mappings")


def test_what_cannot_be_an_endpoint_is_refused_in_words(sites: Sites) -> None:
    def refused(*options: str) -> str:
        done = sites.a.cli("peer", NAME, "set", *options, check=False)
        assert (done.returncode, done.stdout) == (1, "")
        return done.stderr

    before = sites.a.show()["peers"][0]["endpoints"]
    assert refused("b", "--endpoint", "10.7.0.2:51820") == (
        "centipede: endpoint 10.7.0.2:51820 of peer b lies inside the tunnel (10.7.0.0/24); "
        "give an address by which it is reached without the tunnel\n"
    )
    assert refused("b", "--endpoint", "203.0.114.9:7", "--allow-remote", "198.51.100.0/24") == (
        "centipede: endpoint 203.0.114.9:7 of peer b is not in its allow_remote (198.51.100.0/24); "
        "widen that with --allow-remote or give another address\n"
    )
    assert "203.0.114.9:0" in refused("b", "--endpoint", "203.0.114.9:0")
    assert "there is no peer 'd'" in refused("d", "--endpoint", "203.0.114.9:7")
    assert sites.a.show()["peers"][0]["endpoints"] == before
