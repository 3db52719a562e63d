"""A link of the lab: a cable between two hosts, what it does to frames, and the state of its two ends.

Owns both interfaces of a link: their settings, their addresses now, whether they are up. Must not know topologies or
scenarios. A rate is the rate of whole frames, Ethernet header included.
"""

from __future__ import annotations

import contextlib
import errno
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from lab.emulated_link import EmulatedEnd, EmulatedLink
from lab.emulator import LinkStats, Way
from lab.errors import LabError
from lab.host import Host
from lab.impairment import Backend, Change, Impairment, can_become, choose_backend, netem_arguments, tbf_arguments
from lab.offloads import set_features, switch_off
from lab.process import Process, wait_until

Interface = ipaddress.IPv4Interface | ipaddress.IPv6Interface
Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

INTERFACE_NAME_MAX = 15
_NO_DAD = 0x02  # IFA_F_NODAD: an IPv6 address is usable at once
_UNTOUCHED = Impairment()
_CARRIER_TIMEOUT_S = 5.0
_FORWARDING = 3  # BR_STATE_FORWARDING


@dataclass(frozen=True, slots=True)
class EndPlan:
    """One end of a link: its host and its addresses there."""

    host: str
    addresses: tuple[Interface, ...] = ()
    sends: Impairment = _UNTOUCHED
    """What happens to frames this end sends."""


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """A cable. ``name`` is also the name of the interface at either end."""

    name: str
    ends: tuple[EndPlan, EndPlan]
    mtu: int = 1500
    txqueuelen: int = 1000
    offloads: bool = True
    """Whether frames larger than the MTU may cross whole, as they may between namespaces but on no cable."""
    features: Mapping[str, bool] = field(default_factory=dict)
    """Further features of both ends, by the kernel's names."""
    changing: bool = False
    """Whether what the link does to frames will change while it is in use."""
    backend: Backend | None = None
    """What carries it; None for the cheapest that can."""
    seed: int = 0
    """Where the chances of an emulated link begin."""


class End:
    """One end of a laid link: the interface ``name`` of ``host``."""

    def __init__(self, host: Host, plan: EndPlan, link: LinkPlan) -> None:
        self.host = host
        self.plan = plan
        self.name = link.name
        self.addresses: list[Interface] = []
        """The addresses the end shall have now, whether or not it is up."""
        self.up = False
        self.dark = False
        """Whether everything that arrives here is dropped unseen."""
        self.carrier = True
        """Whether the other end is up, as far as it is for the link to say: the kernel's own need not be told."""
        self.dropped_down = 0
        """Frames the kernel dropped because the interface was going down, was down, had no carrier or was coming up."""
        self._link = link
        self._routes: list[tuple[Network, Address, int]] = []

    def __repr__(self) -> str:
        return f"<End {self.name} of {self.host.name}>"

    def configure(self, backend: Backend) -> None:
        """Give a fresh interface its settings and addresses and set it up."""
        link = self._link
        # A rate limiter takes a frame of 64 kB as one.
        if not link.offloads or backend is not Backend.VETH:
            switch_off(self.host, self.name)
        if link.features:
            set_features(self.host, self.name, link.features)

        def settings(netlink: IPRoute) -> None:
            index = self._index(netlink)
            netlink.link("set", index=index, mtu=link.mtu, txqlen=link.txqueuelen)
            for bridge in netlink.link_lookup(kind="bridge"):
                netlink.link("set", index=index, master=bridge)

        self.host.netlink(settings)
        self._ask_often()
        self.shape(backend, self.plan.sends)
        self.set_up(True)
        for address in self.plan.addresses:
            self.add_address(address)

    def _ask_often(self) -> None:
        """Have the kernel ask for a neighbour's address every 100 ms in place of every second, for as long as ever.

        Both ends of a cable come up at once, and for an instant the far one swallows what it is to send. A switch
        does not; to the tunnel the answer that is missing then would be a second more of outage.
        """
        changes = [
            f"ntable change name {table} dev {self.name} retrans 100 ucast_probes 30 mcast_probes 30"
            for table in ("arp_cache", "ndisc_cache")
        ]
        self.host.run(["ip", "-batch", "-"], input="\n".join(changes) + "\n")

    def shape(self, backend: Backend, impairment: Impairment) -> None:
        """Let the kernel do to the frames this end sends what the back end leaves to it."""
        if backend is Backend.NETEM:
            discipline = ["netem", *netem_arguments(impairment)]
        elif backend is Backend.TBF and impairment.rate_bps:
            discipline = ["tbf", *tbf_arguments(impairment)]
        else:
            return
        self.host.run(["tc", "qdisc", "replace", "dev", self.name, "root", *discipline])

    @property
    def operational(self) -> bool:
        """Whether the interface would carry frames now; one in a bridge waits for its turn to forward."""

        def read(netlink: IPRoute) -> bool:
            link = netlink.get_links(self._index(netlink))[0]
            port = (link.get("linkinfo") or {}).get("slave_data") if link.get("master") else None
            # A TAP interface may be up and not know it.
            return link.get("operstate") in {"UP", "UNKNOWN"} and (port is None or port.get("state") == _FORWARDING)

        return self.host.netlink(read)

    def note_carrier(self, carrier: bool) -> None:
        """Take note that there is a carrier again, or that there is about to be none."""

        def count(netlink: IPRoute) -> int:
            return _dropped(netlink, self._index(netlink))

        if self.up and carrier != self.carrier:
            dropped = self.host.netlink(count)
            self.dropped_down += dropped if carrier else -dropped
        self.carrier = carrier

    def set_up(self, up: bool) -> None:
        """Set the interface up, with its addresses and routes, or down. Of a laid link: `Link.set_up`."""

        def change(netlink: IPRoute) -> None:
            index = self._index(netlink)
            if self.up and self.carrier and not up:
                self.dropped_down -= _dropped(netlink, index)
            netlink.link("set", index=index, state="up" if up else "down")
            if up and self.carrier and not self.up:
                self.dropped_down += _dropped(netlink, index)

        self.host.netlink(change)
        self.up = up
        if up:
            # The kernel forgets an interface's IPv6 addresses and all routes through it when it goes down.
            for address in self.addresses:
                self._address("replace", address)
            for route in self._routes:
                self._route("replace", *route)

    def add_address(self, address: Interface) -> None:
        """Add an address. An IPv6 one can be used at once."""
        self._address("replace", address)
        self.addresses.append(address)
        for route in self._routes:  # which went with the last address of the network their neighbour is in
            if self.up and route[1] in address.network:
                self._route("replace", *route)

    def remove_address(self, address: Interface) -> None:
        """Remove an address. Raises LabError if the end does not have it."""
        if address not in self.addresses:
            raise LabError(f"{self.name} of {self.host.name} has no address {address}")
        self.addresses.remove(address)
        self._address("del", address)

    def add_route(self, destination: Network, via: Address, metric: int = 0) -> None:
        """Add a route through a neighbour at the other end. Of two to one place that with the least metric counts."""
        self._route("replace", destination, via, metric)
        self._routes.append((destination, via, metric))

    def replace_route(self, destination: Network, via: Address) -> None:
        """Let a network be reached through another neighbour, without a moment in between."""
        self._route("replace", destination, via, 0)
        self._routes = [route for route in self._routes if (route[0], route[2]) != (destination, 0)]
        self._routes.append((destination, via, 0))

    def remove_route(self, destination: Network, via: Address, metric: int = 0) -> None:
        """Remove a route. Nothing happens if it is not one of this end's."""
        if (destination, via, metric) not in self._routes:
            return
        self._routes.remove((destination, via, metric))
        if self.up:
            self._route("del", destination, via, metric)

    def set_dark(self, dark: bool) -> None:
        """Drop whatever arrives, or no longer. Neither end is told, as when a distant piece of the way fails."""
        table = f"netdev dark_{self.name.replace('-', '_')}"
        lines = [f"table {table}", f"delete table {table}"]
        if dark:
            hook = f'type filter hook ingress device "{self.name}" priority -500; policy drop;'
            lines += [f"table {table} {{", "chain arrivals {", hook, "}", "}"]
        self.host.run(["nft", "-f", "-"], input="\n".join(lines) + "\n")
        self.dark = dark

    def _index(self, netlink: IPRoute) -> int:
        found: list[int] = netlink.link_lookup(ifname=self.name)
        if not found:
            raise LabError(f"{self.host.name} has no interface {self.name}")
        return found[0]

    def _address(self, verb: str, address: Interface) -> None:
        def change(netlink: IPRoute) -> None:
            options = {"flags": _NO_DAD} if verb != "del" and address.version == 6 else {}
            netlink.addr(
                verb,
                index=self._index(netlink),
                address=str(address.ip),
                prefixlen=address.network.prefixlen,
                **options,
            )

        try:
            self.host.netlink(change)
        except NetlinkError as error:
            # An IPv6 address went by itself when the interface went down.
            if verb == "del" and error.code == errno.EADDRNOTAVAIL:
                return
            raise LabError(f"cannot {verb} {address} on {self.name} of {self.host.name}: {error}") from None

    def _route(self, verb: str, destination: Network, via: Address, metric: int) -> None:
        options = {"priority": metric} if metric else {}
        try:
            self.host.netlink(lambda netlink: netlink.route(verb, dst=str(destination), gateway=str(via), **options))
        except NetlinkError as error:
            if verb == "del" and error.code == errno.ESRCH:
                return
            raise LabError(f"cannot {verb} route {destination} via {via} on {self.host.name}: {error}") from None


class Link:
    """A laid link."""

    def __init__(self, plan: LinkPlan, hosts: tuple[Host, Host]) -> None:
        """Lay the cable between two hosts and return when it carries frames. Leaves nothing behind on failure."""
        self.plan = plan
        self.ends = (End(hosts[0], plan.ends[0], plan), End(hosts[1], plan.ends[1], plan))
        self._impairments = {end.host: end.plan.sends for end in self.ends}
        self.backend = plan.backend or choose_backend(
            self._impairments.values(), changing=plan.changing, netem=has_netem(hosts[0])
        )
        self._emulated: EmulatedLink | None = None
        self._gone_before = 0
        try:
            self._connect(hosts)
            for end in self.ends:
                end.configure(self.backend)
            self._wait_operational()
        except BaseException:
            self.remove()
            raise

    @property
    def name(self) -> str:
        """The link's name, and that of its interfaces."""
        return self.plan.name

    def end(self, host: str) -> End:
        """Return the end at ``host``. Raises LabError if the link does not end there."""
        for end in self.ends:
            if end.host.name == host:
                return end
        raise LabError(f"link {self.name} does not end at {host}")

    def impairment(self, end: End) -> Impairment:
        """Return what happens now to the frames ``end`` sends."""
        return self._impairments[end.host]

    def set_up(self, end: End, up: bool) -> None:
        """Set an end up, with its addresses and routes, or down. Whenever one is down the other has no carrier."""
        if self._emulated is None:
            end.set_up(up)  # the kernel sees to the carrier of its own links
            return
        whole = up and all(each.up for each in self.ends if each is not end)
        if not whole:
            for each in self.ends:
                each.note_carrier(False)
        self._emulated.set_carrier(whole)
        end.set_up(up)
        if whole:
            self._wait_operational()  # until the kernel has seen the carrier it drops what is sent
            for each in self.ends:
                each.note_carrier(True)

    def change(self, end: End, change: Change) -> None:
        """Change what happens to the frames ``end`` sends. Raises LabError if the back end cannot do it."""
        merged = self._impairments[end.host].merge(change)
        if self._emulated is not None:
            self._emulated.change(Way.AB if end is self.ends[0] else Way.BA, change)
        elif can_become(self.backend, merged):
            end.shape(self.backend, merged)
        else:
            raise LabError(f"link {self.name} was laid without the means to change so: lay it as changing")
        self._impairments[end.host] = merged

    def stats(self, *, restart: bool = False) -> LinkStats | None:
        """Return what the emulator of the link has done, None if there is no emulator."""
        if self._emulated is None:
            return None
        stats = self._emulated.stats(restart=restart)
        if not all(end.up for end in self.ends):
            return msgspec.structs.replace(stats, unread_frames=0)  # until both are up again nobody can tell them apart
        gone = sum(end.dropped_down for end in self.ends)
        if restart:
            self._gone_before = gone
        return msgspec.structs.replace(stats, unread_frames=max(0, stats.unread_frames - gone + self._gone_before))

    @property
    def emulator(self) -> Process | None:
        """The process that carries the link, if one does."""
        return None if self._emulated is None else self._emulated.process

    def remove(self) -> None:
        """Remove both interfaces. Nothing happens if they are gone."""
        if self._emulated is not None:
            self._emulated.stop()
            return

        def delete(netlink: IPRoute) -> None:
            for index in netlink.link_lookup(ifname=self.name):
                netlink.link("del", index=index)

        with contextlib.suppress(NetlinkError):
            self.ends[0].host.netlink(delete)

    def _wait_operational(self) -> None:
        wait_until(
            lambda: all(end.operational for end in self.ends),
            timeout_s=_CARRIER_TIMEOUT_S,
            what=f"carrier on {self.name}",
        )

    def _connect(self, hosts: tuple[Host, Host]) -> None:
        left, right = self.ends
        if self.backend is Backend.EMULATOR:
            self._emulated = EmulatedLink.start(
                EmulatedEnd(left.host.netns_fd, self.name),
                EmulatedEnd(right.host.netns_fd, self.name),
                ab=left.plan.sends,
                ba=right.plan.sends,
                seed=self.plan.seed,
                mtu=self.plan.mtu,
                name=self.name,
            )
            return
        far = {"ifname": self.name, "net_ns_fd": right.host.netns_fd}
        try:
            left.host.netlink(lambda netlink: netlink.link("add", ifname=self.name, kind="veth", peer=far))
        except NetlinkError as error:
            raise LabError(f"cannot lay link {self.name}: {error}") from None


def _dropped(netlink: IPRoute, index: int) -> int:
    return int(netlink.get_links(index)[0].get("stats64")["tx_dropped"])


def has_netem(host: Host) -> bool:
    """Whether the kernel has netem. Finds out by trying, on the loopback interface of ``host``."""
    tried = host.run(["tc", "qdisc", "add", "dev", "lo", "root", "netem", "delay", "1ms"], check=False)
    if tried.returncode == 0:
        host.run(["tc", "qdisc", "del", "dev", "lo", "root"])
    return tried.returncode == 0
