"""Two engines over real TUN devices in network namespaces, joined by hand-made tables: no handshakes, no node.

```
C -- A ==== R ==== B -- D      A and B have the engines; C and D are hosts behind them; R routes, or relays badly
```
A and B reach each other over two outer paths, each with IPv4 and IPv6. Between them, 10.88.0.0/24 and fd88::/64 are
the tunnel's own addresses; 10.77.1.0/24 and fd77:1::/64 lie behind A, 10.77.2.0/24 and fd77:2::/64 behind B.
"""

from __future__ import annotations

import heapq
import itertools
import random
import select
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from centipede.engine import choose
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.table import ForwardingTable, ReceiveSession, Route, Run, SendPlan, TablePath, TablePeer
from centipede.system.tun import open_tun
from centipede.system.udp import DEFAULT_BUFFER_BYTES, open_sockets
from tests.contract.harness import eventually, make_namespaces

MTU = 1420
PORT = 51820
RELAY_PORT = 7000
TUN = "cpd0"
PATHS = (0, 1)
VERSIONS = (4, 6)


def outer(end: str, path: int, version: int) -> str:
    """An address of A or B (lower case for R's on the same link) on one of the two paths."""
    number = 1 if end.isupper() else 2
    if version == 6:
        return f"2001:db8:{path}:{end.lower()}::{number}"
    net = ("198.51.100", "203.0.113")[path]
    return f"{net}.{number + (128 if end.lower() == 'b' else 0)}"


def inner(end: str, version: int) -> str:
    """The tunnel's own address of A or B, or the address of C or D behind it."""
    return {
        "A": ("10.88.0.1", "fd88::1"),
        "B": ("10.88.0.2", "fd88::2"),
        "C": ("10.77.1.2", "fd77:1::2"),
        "D": ("10.77.2.2", "fd77:2::2"),
    }[end][version == 6]


BEHIND = {"A": ("10.77.1.0/24", "fd77:1::/64"), "B": ("10.77.2.0/24", "fd77:2::/64")}
TUNNEL = ("10.88.0.0/24", "fd88::/64")
NETS = {end: (*BEHIND[end], inner(end, 4), inner(end, 6)) for end in "AB"}
"""What the peer may send from, and is sent to."""


class World:
    """The five namespaces and the links between them."""

    def __init__(self) -> None:
        self.hosts = dict(zip("ABRCD", make_namespaces(5), strict=True))
        for host in self.hosts.values():
            host.run(_prepare_host)
        for end, behind in (("A", "C"), ("B", "D")):
            for path in PATHS:
                self._link(end, f"out{path}", "R", f"{end.lower()}{path}")
                for version, prefix in ((4, 25), (6, 64)):
                    self.hosts[end].run(_add_address, f"out{path}", outer(end, path, version), prefix)
                    self.hosts["R"].run(_add_address, f"{end.lower()}{path}", outer(end.lower(), path, version), prefix)
            self._link(end, "in", behind, "eth")
            for net, version in zip(BEHIND[end], VERSIONS, strict=True):
                gateway, prefix = str(next(ip_network(net).hosts())), ip_network(net).prefixlen
                self.hosts[end].run(_add_address, "in", gateway, prefix)
                self.hosts[behind].run(_add_address, "eth", inner(behind, version), prefix)
                self.hosts[behind].run(_add_route, "default", version, gateway=gateway)
        for end, path in itertools.product("AB", PATHS):
            self._route(end, path)

    def _route(self, end: str, path: int) -> None:
        other = "B" if end == "A" else "A"
        for version, prefix in ((4, 25), (6, 64)):
            net = str(ip_network((outer(other, path, version), prefix), strict=False))
            self.hosts[end].run(_add_route, net, version, gateway=outer(end.lower(), path, version))

    @contextmanager
    def cut(self, end: str, path: int) -> Iterator[None]:
        """Take the interface of a path down for a while; its routes go too."""
        self.hosts[end].run(set_link, f"out{path}", state="down")
        try:
            yield
        finally:
            self.hosts[end].run(set_link, f"out{path}", state="up")
            self._route(end, path)

    @contextmanager
    def slow(self, end: str, path: int) -> Iterator[None]:
        """Let the interface of a path send 100 kbit/s for a while; the queue before it never ends."""
        self.hosts[end].run(_slow_down, f"out{path}")
        try:
            yield
        finally:
            self.hosts[end].run(_speed_up, f"out{path}")

    def close(self) -> None:
        for host in self.hosts.values():
            host.close()

    def _link(self, left: str, left_name: str, right: str, right_name: str) -> None:
        peer = {"ifname": right_name, "net_ns_fd": self.hosts[right].fd}
        self.hosts[left].run(_add_veth, left_name, peer)
        self.hosts[left].run(set_link, left_name, state="up")
        self.hosts[right].run(set_link, right_name, state="up")

    def socket(self, host: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
        """A socket on a host, with a deadline for everything done with it."""
        made = self.hosts[host].run(socket.socket, family, kind, protocol)
        made.settimeout(20)
        return made


def _prepare_host() -> None:
    for name, value in (
        ("ipv4/ip_forward", 1),
        ("ipv6/conf/all/forwarding", 1),
        ("ipv6/conf/default/accept_dad", 0),
        ("ipv6/conf/all/keep_addr_on_down", 1),
        ("ipv6/conf/default/router_solicitations", 0),
        ("ipv6/conf/default/mldv1_unsolicited_report_interval", 0),
    ):
        Path("/proc/sys/net", name).write_text(str(value))


_IFA_F_NODAD = 0x02
"""The address can be used at once, without duplicate address detection (linux/if_addr.h)."""
_IFA_F_TENTATIVE = 0x40
_RTN_LOCAL = 2
"""The kind of route by which packets for this host are received (linux/rtnetlink.h)."""


def _add_veth(name: str, peer: Mapping[str, Any]) -> None:
    with IPRoute() as netlink:
        netlink.link("add", ifname=name, kind="veth", peer=peer)


def set_link(name: str, **change: Any) -> None:
    """Change an interface of this namespace."""
    with IPRoute() as netlink:
        netlink.link("set", index=netlink.link_lookup(ifname=name)[0], **change)


def link_local(name: str) -> str:
    """The link-local address of an interface of this namespace; empty until it can be used."""
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname=name)[0]
        for address in netlink.get_addr(family=socket.AF_INET6, index=index):
            text = str(address.get("address"))
            if text.startswith("fe80:") and not address["flags"] & _IFA_F_TENTATIVE:
                return text
    return ""


def delete_link(name: str) -> None:
    """Delete an interface of this namespace."""
    with IPRoute() as netlink:
        netlink.link("del", index=netlink.link_lookup(ifname=name)[0])


def _add_address(name: str, address: str, prefix: int) -> None:
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname=name)[0]
        netlink.addr("add", index=index, address=address, prefixlen=prefix, flags=_IFA_F_NODAD if ":" in address else 0)


def _is_local(address: str) -> bool:
    with IPRoute() as netlink:
        (route,) = netlink.route("get", dst=address, family=socket.AF_INET6)
    return bool(route["type"] == _RTN_LOCAL)


def _add_route(net: str, version: int, *, gateway: str | None = None, device: str | None = None) -> None:
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    with IPRoute() as netlink:
        way = {"gateway": gateway} if gateway else {"oif": netlink.link_lookup(ifname=device)[0]}
        netlink.route("add", dst=net, family=family, **way)


_ROOT_QDISC = 0x10000


def _slow_down(name: str) -> None:
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname=name)[0]
        netlink.tc("add", "tbf", index, _ROOT_QDISC, rate="100kbit", burst=4096, latency="100s")


def _speed_up(name: str) -> None:
    with IPRoute() as netlink:
        netlink.tc("del", index=netlink.link_lookup(ifname=name)[0], root=True)


def set_offloads(name: str, value: str) -> None:
    """Switch segmentation and receive offloads of an interface of this namespace on or off."""
    features = ("tso", "gso", "gro", "tx-udp-segmentation")
    argv = ["ethtool", "-K", name, *itertools.chain.from_iterable((feature, value) for feature in features)]
    subprocess.run(argv, check=True, capture_output=True)


@dataclass(frozen=True)
class Bad:
    """How a relay treats datagrams: probabilities, and the longest time by which one is held back."""

    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    hold_s: float = 0.004


class Relay:
    """Passes datagrams between A and B over one path, badly: a thread of its own on host R."""

    def __init__(self, world: World, path: int, version: int, bad: Bad, seed: int) -> None:
        self._bad = bad
        self._random = random.Random(seed)
        self._held: list[tuple[float, int, bytes, socket.socket]] = []
        self.taken = 0
        """Datagrams that came from A."""
        self.passed = 0
        """Datagrams that went to B."""
        self._stop = threading.Event()
        family = socket.AF_INET6 if version == 6 else socket.AF_INET
        self._a, self._b = (world.hosts["R"].run(socket.socket, family, socket.SOCK_DGRAM) for _ in "AB")
        for sock, end in ((self._a, "A"), (self._b, "B")):
            sock.bind((outer(end.lower(), path, version), RELAY_PORT))
            sock.connect((outer(end, path, version), PORT + path))
            sock.setblocking(False)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        self._a.close()
        self._b.close()

    @property
    def idle(self) -> bool:
        return not self._held

    def _run(self) -> None:
        serial = itertools.count()
        while not self._stop.is_set():
            readable, _, _ = select.select([self._a, self._b], [], [], 0.002 if self._held else 0.05)
            now = time.monotonic()
            for sock in readable:
                out = self._b if sock is self._a else self._a
                for datagram in _waiting(sock):
                    for _ in range(self._copies()):
                        held_s = self._random.random() * self._bad.hold_s
                        due = now + (held_s if self._random.random() < self._bad.reorder else 0.0)
                        heapq.heappush(self._held, (due, next(serial), datagram, out))
                    self.taken += out is self._b
            while self._held and self._held[0][0] <= now:
                _, _, datagram, out = self._held[0]
                out.send(datagram)
                self.passed += out is self._b
                heapq.heappop(self._held)

    def _copies(self) -> int:
        if self._random.random() < self._bad.loss:
            return 0
        return 2 if self._random.random() < self._bad.duplicate else 1


def _waiting(sock: socket.socket) -> Iterator[bytes]:
    for _ in range(64):
        try:
            yield sock.recv(65535)
        except BlockingIOError:
            return


class Side:
    """One end of a tunnel: an engine, its TUN device and its local addresses."""

    def __init__(self, world: World, end: str, engine: str, workers: int, version: int, send_buffer_bytes: int) -> None:
        self.host = world.hosts[end]
        self.locals = [Endpoint(outer(end, path, version), PORT + path) for path in PATHS]
        kind = choose(engine)  # type: ignore[arg-type]  # one of its literals
        tun = self.host.run(open_tun, TUN, workers, vnet_hdr=kind.needs_vnet_hdr)
        self.engine = kind.create(tun)
        self.host.run(set_link, TUN, mtu=MTU, state="up", txqlen=5000)
        for net, address_version in zip(TUNNEL, VERSIONS, strict=True):
            self.host.run(_add_address, TUN, inner(end, address_version), ip_network(net).prefixlen)
        # Even without detection of duplicates, the kernel starts to receive for an IPv6 address a moment later.
        eventually(lambda: self.host.run(_is_local, inner(end, 6)), "the IPv6 address")
        other = "B" if end == "A" else "A"
        for net, net_version in zip(BEHIND[other], VERSIONS, strict=True):
            self.host.run(_add_route, net, net_version, device=TUN)
        for local in self.locals:
            fds = self.host.run(open_sockets, local, workers, send_buffer_bytes=send_buffer_bytes)
            self.engine.add_local(local, fds)
        self.engine.start()

    def drops(self) -> Mapping[DropReason, int]:
        """What the engine dropped, but for the multicast that the kernel sends over any interface of its own accord."""
        drops = self.engine.counters().drops
        return {reason: count for reason, count in drops.items() if reason is not DropReason.NO_ROUTE}


class Tunnel:
    """Two engines that know each other by tables made by hand."""

    def __init__(
        self,
        world: World,
        engines: tuple[str, str],
        *,
        version: int = 4,
        copies: int = 1,
        workers: tuple[int, int] = (1, 1),
        bad: Bad | None = None,
        seed: int = 1,
        send_buffer_bytes: int = DEFAULT_BUFFER_BYTES,
    ) -> None:
        self._stack = ExitStack()
        self._relays: list[Relay] = []
        self._copies = copies
        try:
            self.a = self._side(world, "A", engines[0], workers[0], version, send_buffer_bytes)
            self.b = self._side(world, "B", engines[1], workers[1], version, send_buffer_bytes)
            if bad:
                for path in PATHS:
                    self._relays.append(Relay(world, path, version, bad, seed + path))
                    self._stack.callback(self._relays[-1].close)
        except BaseException:
            self.close()
            raise
        runs = {end: Run(0, (count - 1).bit_length()) for end, count in zip("AB", workers, strict=True)}
        for side, end, other in ((self.a, "A", "B"), (self.b, "B", "A")):
            targets = [
                Endpoint(outer(end.lower(), path, version), RELAY_PORT)
                if bad
                else Endpoint(outer(other, path, version), PORT + path)
                for path in PATHS
            ]
            paths = tuple(TablePath(n, side.locals[n], target) for n, target in enumerate(targets))
            plan = SendPlan(1, f"rx at{other}".encode(), other.encode() * 32, runs[other], paths, copies)
            session = ReceiveSession(1, 1, f"rx at{end}".encode(), end.encode() * 32, False, (runs[other],), runs[end])
            routes = tuple(Route(ip_network(net), 1) for net in NETS[other])
            side.engine.apply(ForwardingTable(1, runs[end], routes, (TablePeer(1, (plan,), paths),), (session,)))

    def _side(self, *options: Any) -> Side:
        side = Side(*options)
        self._stack.callback(side.engine.close)
        return side

    def close(self) -> None:
        self._stack.close()

    def wait_for_arrival(self, sent: int) -> int:
        """Wait until every copy of A's packets has met its fate on the bad paths; how many packets got to B."""

        def settled() -> bool:
            tx_packets = sum(path.tx_packets for path in self.a.engine.counters().paths.values())
            rx_packets = sum(path.rx_packets for path in self.b.engine.counters().paths.values())
            passed = sum(relay.passed for relay in self._relays)
            taken = sum(relay.taken for relay in self._relays)
            idle = all(relay.idle for relay in self._relays)
            return tx_packets == taken == sent * self._copies and idle and rx_packets == passed

        eventually(settled, "the fate of all copies")
        return sum(path.rx_packets - path.rx_copies for path in self.b.engine.counters().paths.values())


@contextmanager
def tunnel(world: World, engines: tuple[str, str], **options: Any) -> Iterator[Tunnel]:
    """A tunnel that is closed again."""
    built = Tunnel(world, engines, **options)
    try:
        yield built
    finally:
        built.close()
