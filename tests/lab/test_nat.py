"""Each NAT behaves as it is named: what others see of it and whom it lets in, by RFC 4787.

    inside1 --lan1--+
                    nat --wan1-- server --wan2-- nat2 --lan3-- inside3
    inside2 --lan2--+

The server has two addresses with two ports each, and forwards between the NATs.
"""

from __future__ import annotations

import contextlib
import itertools
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from ipaddress import ip_address, ip_interface, ip_network

import pytest
from pyroute2 import NFCTSocket

from lab.host import Host
from lab.link import EndPlan, LinkPlan
from lab.namespace import can_make
from lab.nat import Mapping, Nat, NatKind, NatPlan, Refusal
from lab.process import wait_until
from lab.topology import HostPlan, Plan, RoutePlan, Topology

pytestmark = pytest.mark.netns

CONES = (NatKind.FULL_CONE, NatKind.ADDRESS_RESTRICTED, NatKind.PORT_RESTRICTED)
PORT = 5000
"""Of every endpoint inside, so that they contend for it."""
SERVER = ("203.0.113.1", "203.0.113.2")
SERVER_PORTS = (7001, 7002)
OUTSIDE = "203.0.113.9"

Endpoint = tuple[str, int]


def _plan() -> Plan:
    def link(name: str, left: tuple[str, str], right: tuple[str, str], *more: str) -> LinkPlan:
        ends = (
            EndPlan(left[0], (ip_interface(left[1]),)),
            EndPlan(right[0], tuple(ip_interface(address) for address in (right[1], *more))),
        )
        return LinkPlan(name, ends)

    def default(host: str, via: str) -> RoutePlan:
        return RoutePlan(host, ip_network("0.0.0.0/0"), ip_address(via))

    return Plan(
        hosts=(
            *(HostPlan(name) for name in ("inside1", "inside2", "inside3")),
            *(HostPlan(name, "router") for name in ("nat", "nat2", "server")),
        ),
        links=(
            link("lan1", ("inside1", "10.0.1.2/24"), ("nat", "10.0.1.1/24")),
            link("lan2", ("inside2", "10.0.2.2/24"), ("nat", "10.0.2.1/24")),
            link("lan3", ("inside3", "10.0.3.2/24"), ("nat2", "10.0.3.1/24")),
            link("wan1", ("nat", f"{OUTSIDE}/24"), ("server", f"{SERVER[0]}/24"), f"{SERVER[1]}/24"),
            link("wan2", ("nat2", "198.51.100.9/24"), ("server", "198.51.100.1/24")),
        ),
        routes=(
            default("inside1", "10.0.1.1"),
            default("inside2", "10.0.2.1"),
            default("inside3", "10.0.3.1"),
            default("nat", SERVER[0]),
            default("nat2", "198.51.100.1"),
        ),
    )


@pytest.fixture(scope="module")
def topology() -> Iterator[Topology]:
    reason = can_make()
    if reason is not None:
        pytest.skip(f"no network namespaces here: {reason}")
    with Topology.build(_plan()) as built:
        yield built


class Endpoints:
    """Sockets on the hosts, closed with the test."""

    def __init__(self, topology: Topology, stack: contextlib.ExitStack) -> None:
        self._topology = topology
        self._stack = stack
        self.server = {
            (address, port): self.open("server", address, port) for address in SERVER for port in SERVER_PORTS
        }

    def open(self, host: str, address: str = "", port: int = PORT) -> socket.socket:
        made = self._topology.host(host).socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._stack.enter_context(made)
        made.bind((address, port))
        return made

    def seen_as(self, inside: socket.socket, to: Endpoint) -> Endpoint:
        """Send from inside to a server endpoint and return the address it comes from there."""
        inside.sendto(b"who am I", to)
        return receive(self.server[to])[1]


def receive(receiver: socket.socket) -> tuple[bytes, Endpoint]:
    receiver.settimeout(5)
    data, source = receiver.recvfrom(2048)
    return data, source


@pytest.fixture
def endpoints(topology: Topology) -> Iterator[Endpoints]:
    with contextlib.ExitStack() as stack:
        yield Endpoints(topology, stack)


@contextlib.contextmanager
def nat_on(
    topology: Topology, kind: NatKind, host: str = "nat", outside: str = "wan1", timeout_s: int = 60
) -> Iterator[Nat]:
    nat = Nat(topology.host(host), NatPlan(kind=kind, outside=outside, mapping_timeout_s=timeout_s))
    try:
        yield nat
    finally:
        nat.remove()


def admitted(endpoints: Endpoints, inside: socket.socket, friend: Endpoint, mapped: Endpoint) -> set[Endpoint]:
    """Return which endpoints of the server reach ``inside``, which has sent from ``mapped`` to ``friend`` alone."""
    for endpoint, sender in endpoints.server.items():
        if endpoint != friend:
            sender.sendto(b"unasked", mapped)
    # What the friend sends last is let in by every NAT; all that were let in before it have arrived by then.
    endpoints.server[friend].sendto(b"last", mapped)
    reached: set[Endpoint] = set()
    while True:
        data, source = receive(inside)
        if data == b"last":
            return reached
        reached.add(source)


def keep_for(seconds: float, keep: Callable[[], None]) -> None:
    """Do something every 100 ms for as long, from now."""
    end = time.monotonic() + seconds

    def ended() -> bool:
        keep()
        return time.monotonic() > end

    wait_until(ended, timeout_s=seconds + 10, what="the end of keeping a mapping", interval_s=0.1)


def live_flows(host: Host) -> int:
    def count() -> int:
        with NFCTSocket() as conntrack:
            return sum(1 for _ in conntrack.dump())

    return host.call(count)


@pytest.mark.parametrize("kind", NatKind)
def test_mapping(topology: Topology, endpoints: Endpoints, kind: NatKind) -> None:
    with nat_on(topology, kind):
        first, second = endpoints.open("inside1"), endpoints.open("inside2")
        seen_first = [endpoints.seen_as(first, to) for to in endpoints.server]
        seen_second = [endpoints.seen_as(second, to) for to in endpoints.server]
        assert {address for address, _ in seen_first + seen_second} == {OUTSIDE}
        assert not set(seen_first) & set(seen_second)
        if kind is NatKind.SYMMETRIC:
            # More than one per address and more than one per port; by chance two of four may have met.
            assert len(set(seen_first)) >= 3
            assert len(set(seen_second)) >= 3
        else:
            assert len(set(seen_first)) == 1
            assert len(set(seen_second)) == 1
        # A flow keeps its mapping.
        assert [endpoints.seen_as(first, to) for to in endpoints.server] == seen_first


@pytest.mark.parametrize("kind", NatKind)
def test_filtering(topology: Topology, endpoints: Endpoints, kind: NatKind) -> None:
    friend = (SERVER[0], SERVER_PORTS[0])
    lets_in = {
        NatKind.FULL_CONE: set(endpoints.server) - {friend},
        NatKind.ADDRESS_RESTRICTED: {(SERVER[0], SERVER_PORTS[1])},
        NatKind.PORT_RESTRICTED: set(),
        NatKind.SYMMETRIC: set(),
    }
    with nat_on(topology, kind) as nat:
        inside = endpoints.open("inside1")
        mapped = endpoints.seen_as(inside, friend)
        assert nat.refusals() == set()
        assert admitted(endpoints, inside, friend, mapped) == lets_in[kind]
        strangers = set(endpoints.server) - {friend} - lets_in[kind]
        assert nat.refusals() == {Refusal(source=stranger, port=mapped[1]) for stranger in strangers}


@pytest.mark.parametrize("kind", CONES)
def test_two_inside_are_not_mistaken_for_each_other(topology: Topology, endpoints: Endpoints, kind: NatKind) -> None:
    friend = (SERVER[0], SERVER_PORTS[0])
    with nat_on(topology, kind) as nat:
        first, second = endpoints.open("inside1"), endpoints.open("inside2")
        mapped = {inside: endpoints.seen_as(inside, friend) for inside in (first, second)}
        for inside, outside in mapped.items():
            endpoints.server[friend].sendto(repr(outside).encode(), outside)
            assert receive(inside) == (repr(outside).encode(), friend)
        assert sorted(nat.mappings(), key=repr) == [
            Mapping(inside=("10.0.1.2", PORT), outside=mapped[first]),
            Mapping(inside=("10.0.2.2", PORT), outside=mapped[second]),
        ]


def punch(endpoints: Endpoints, left: socket.socket, right: socket.socket) -> bool:
    """Let both sides learn the other's mapping from the server and send at once; return whether both hear."""
    rendezvous, later = (SERVER[0], SERVER_PORTS[0]), (SERVER[0], SERVER_PORTS[1])
    target = {left: endpoints.seen_as(right, rendezvous), right: endpoints.seen_as(left, rendezvous)}
    heard: set[socket.socket] = set()
    for _ in range(3):
        for side in (left, right):
            side.sendto(b"hole", target[side])
        # The server's answer comes last: by then whatever the NATs let in has come.
        for side in (left, right):
            endpoints.server[later].sendto(b"round", endpoints.seen_as(side, later))
            while True:
                data, source = receive(side)
                if data == b"round":
                    break
                heard.add(side)
                target[side] = source
    return heard == {left, right}


@pytest.mark.parametrize(("kind", "other"), list(itertools.combinations_with_replacement(NatKind, 2)))
def test_punching_holes(topology: Topology, endpoints: Endpoints, kind: NatKind, other: NatKind) -> None:
    hopeless = {NatKind.SYMMETRIC, NatKind.PORT_RESTRICTED}
    possible = NatKind.SYMMETRIC not in (kind, other) or not {kind, other} <= hopeless
    with nat_on(topology, kind), nat_on(topology, other, "nat2", "wan2"):
        assert punch(endpoints, endpoints.open("inside1"), endpoints.open("inside3")) is possible


def test_an_unasked_packet_before_ours_does_not_spoil_the_hole(topology: Topology, endpoints: Endpoints) -> None:
    friend, stranger = (SERVER[0], SERVER_PORTS[0]), (SERVER[1], SERVER_PORTS[0])
    with nat_on(topology, NatKind.PORT_RESTRICTED):
        inside = endpoints.open("inside1")
        mapped = endpoints.seen_as(inside, friend)
        assert admitted(endpoints, inside, friend, mapped) == set()
        assert endpoints.seen_as(inside, stranger) == mapped
        endpoints.server[stranger].sendto(b"now asked", mapped)
        assert receive(inside) == (b"now asked", stranger)


@pytest.mark.parametrize("kind", NatKind)
def test_an_idle_mapping_ends(topology: Topology, endpoints: Endpoints, kind: NatKind) -> None:
    to = (SERVER[0], SERVER_PORTS[0])
    with nat_on(topology, kind, timeout_s=1) as nat:
        inside = endpoints.open("inside1")
        mapped = endpoints.seen_as(inside, to)
        wait_until(
            lambda: not nat.mappings() and not live_flows(nat.router), timeout_s=10, what="the end of the mapping"
        )
        assert endpoints.seen_as(inside, to) != mapped
        endpoints.server[to].sendto(b"to the old one", mapped)
        endpoints.server[to].sendto(b"to the new one", endpoints.seen_as(inside, to))
        assert receive(inside)[0] == b"to the new one"


@pytest.mark.parametrize("kind", NatKind)
def test_packets_from_inside_keep_a_mapping(topology: Topology, endpoints: Endpoints, kind: NatKind) -> None:
    to = (SERVER[0], SERVER_PORTS[0])
    with nat_on(topology, kind, timeout_s=1):
        inside = endpoints.open("inside1")
        mapped = endpoints.seen_as(inside, to)
        seen: set[Endpoint] = set()

        def keep() -> None:
            seen.add(endpoints.seen_as(inside, to))

        keep_for(2.5, keep)
        assert seen == {mapped}


def test_answers_to_a_flow_from_outside_keep_a_mapping(topology: Topology, endpoints: Endpoints) -> None:
    friend, stranger = (SERVER[0], SERVER_PORTS[0]), (SERVER[1], SERVER_PORTS[0])
    with nat_on(topology, NatKind.FULL_CONE, timeout_s=1) as nat:
        inside = endpoints.open("inside1")
        mapped = endpoints.seen_as(inside, friend)

        def keep() -> None:
            endpoints.server[stranger].sendto(b"question", mapped)
            assert receive(inside) == (b"question", stranger)
            assert endpoints.seen_as(inside, stranger) == mapped

        keep_for(2.5, keep)
        assert nat.mappings() == [Mapping(inside=("10.0.1.2", PORT), outside=mapped)]
        assert endpoints.seen_as(inside, friend) == mapped


@pytest.mark.parametrize("kind", NatKind)
def test_rebinding(topology: Topology, endpoints: Endpoints, kind: NatKind) -> None:
    friend = (SERVER[0], SERVER_PORTS[0])
    with nat_on(topology, kind) as nat:
        inside = endpoints.open("inside1")
        before = endpoints.seen_as(inside, friend)
        nat.rebind()
        endpoints.server[friend].sendto(b"to the old one", before)
        after = endpoints.seen_as(inside, friend)
        assert after != before
        endpoints.server[friend].sendto(b"to the new one", after)
        assert receive(inside)[0] == b"to the new one"


@pytest.mark.parametrize("kind", NatKind)
def test_rebinding_under_traffic_is_one_clean_change(topology: Topology, endpoints: Endpoints, kind: NatKind) -> None:
    to = (SERVER[0], SERVER_PORTS[0])
    server = endpoints.server[to]
    with nat_on(topology, kind) as nat:
        inside = endpoints.open("inside1")
        ended = threading.Event()
        seen: list[Endpoint] = []

        def talk() -> None:
            inside.connect(to)
            while not ended.is_set():
                inside.send(b"again")
                if select.select([server], [], [], 0.001)[0]:
                    seen.append(server.recvfrom(2048)[1])

        talker = threading.Thread(target=talk)
        talker.start()

        def hear_some() -> None:
            enough = len(seen) + 20
            wait_until(lambda: len(seen) > enough, timeout_s=10, what="traffic")

        try:
            for _ in range(5):
                hear_some()
                nat.rebind()
            hear_some()
        finally:
            ended.set()
            talker.join()
    changes = [mapped for mapped, _ in itertools.groupby(seen)]
    assert len(changes) == len(set(changes))  # none comes back
    if kind is not NatKind.SYMMETRIC:
        assert len(changes) == 6
