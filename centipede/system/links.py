"""Links: the host's network interfaces, read and configured over netlink.

With detour.py beside it, it owns every use of pyroute2 in Centipede. It knows interfaces, addresses and routes, and
nothing of peers or sockets. What the kernel refuses becomes a :class:`HostError` sentence.

A notification only says *that* something changed; what is true now is always read whole. Lost or reordered
notifications (the kernel drops them when the socket's buffer is full) therefore do no harm.

Thread rule: one thread uses one :class:`Links`.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Flag, auto
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address
from types import TracebackType
from typing import Any, Self

from pyroute2 import IPRoute, NetlinkError

from centipede.errors import HostError
from centipede.protocol.path_mtu import LEAST_INTERFACE_MTU
from centipede.system.detour import MARK, Detour, remove_stale

TX_QUEUE_LENGTH = 5000
"""Packets the TUN device holds for us. The kernel's 500 are gone within one scheduler tick at 120,000 packets/s, and on
a busy machine a daemon may wait for the processor for many ticks.
"""
GSO_MAX_BYTES = 61440
"""Largest superpacket the TUN device hands over: with 32 bytes more per segment it still fits one UDP send."""

_RTMGRP_LINK = 0x1
_RTMGRP_IPV4_IFADDR = 0x10
_RTMGRP_IPV4_ROUTE = 0x40
_RTMGRP_IPV6_IFADDR = 0x100
_RTMGRP_IPV6_ROUTE = 0x400
_NLMSG = struct.Struct("=IHHII")
"""struct nlmsghdr: 4 length | 2 type | 2 flags | 4 sequence | 4 port."""
_RTM_NEWROUTE = 24
_RTM_DELROUTE = 25

_IFF_UP = 0x1
_IFF_LOOPBACK = 0x8
_IFF_RUNNING = 0x40
"""It has a carrier, and whatever it stands on has."""
_IFLA_TUN_TYPE_TUN = 1
_IFA_F_NODAD = 0x02
_IFA_F_DADFAILED = 0x08
_IFA_F_DEPRECATED = 0x20
_IFA_F_TENTATIVE = 0x40
_SCOPE_GLOBAL = 0
_ADDR_GEN_MODE_NONE = 1
_STRICT = 1
_RTPROT_KERNEL = 2
_INTERFACE_STATES = "/proc/sys/net/ipv6/conf"


@dataclass(frozen=True, slots=True, order=True)
class LinkAddress:
    """A global address, neither tentative nor old, of an interface that is up and has a carrier."""

    link: str
    index: int
    """The interface's number: one that went and came back has another."""
    address: IPv4Address | IPv6Address
    loopback: bool = False
    """It belongs to a loopback interface."""
    tunnel: bool = False
    """Its interface is a TUN device, as ours are, or WireGuard's: what leaves there leaves by another interface."""


@dataclass(frozen=True, slots=True)
class LinkPlan:
    """How the tunnel's interface shall be: compared with another plan, it says what to change."""

    mtu: int
    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    routes: tuple[IPv4Network | IPv6Network, ...]
    ipv4_mtu: int = 0
    """What IPv4 packets are kept to by their routes, where that is less than the interface's MTU; 0 if it is not."""
    detours: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks that are routed into the tunnel for everything but the tunnel's own datagrams, see detour.py."""
    mark: int = MARK
    """What tells these apart."""
    table: int | None = None
    """Where the detours stand; None for a table of the interface's own."""

    @classmethod
    def of(
        cls,
        mtu: int,
        addresses: Iterable[IPv4Interface | IPv6Interface],
        allowed_ips: Iterable[IPv4Network | IPv6Network],
        remotes: Collection[IPv4Address | IPv6Address] = (),
        *,
        mark: int = MARK,
        table: int | None = None,
    ) -> LinkPlan:
        """The plan for these addresses, with a route for every allowed network that no address prefix covers.

        An ``mtu`` below 1280 would take IPv6 off the interface, so it is given to the IPv4 routes instead.
        A network that holds one of ``remotes``, the outer addresses of peers, and a default route become detours.
        """
        addresses = tuple(addresses)
        wanted = {network for network in allowed_ips if not any(_covers(own.network, network) for own in addresses)}
        detours = {
            network for network in wanted if not network.prefixlen or any(remote in network for remote in remotes)
        }
        return cls(
            max(mtu, LEAST_INTERFACE_MTU),
            addresses,
            _sorted(wanted - detours),
            mtu if mtu < LEAST_INTERFACE_MTU else 0,
            _sorted(detours),
            mark,
            table,
        )


def _sorted(networks: Iterable[IPv4Network | IPv6Network]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(sorted(networks, key=lambda network: (network.version, network)))


def _covers(outer: IPv4Network | IPv6Network, inner: IPv4Network | IPv6Network) -> bool:
    if isinstance(outer, IPv4Network):
        return isinstance(inner, IPv4Network) and inner.subnet_of(outer)
    return isinstance(inner, IPv6Network) and inner.subnet_of(outer)


class Links:
    """The interfaces of this network namespace."""

    def __init__(self) -> None:
        self._netlink = IPRoute()
        self._detour: Detour | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Take the detours away and give the netlink socket back."""
        if self._detour is not None:
            self._detour.close()
        self._netlink.close()

    def addresses(self) -> tuple[LinkAddress, ...]:
        """Every usable global address of every interface that is up and has a carrier, in the kernel's order.

        Raises HostError when the kernel does not answer.
        """
        try:
            links = {link["index"]: link for link in self._netlink.get_links()}
            found: list[LinkAddress] = []
            for entry in self._netlink.get_addr():
                link = links.get(entry["index"])
                state = entry.get("flags") or 0
                unusable = state & (_IFA_F_DADFAILED | _IFA_F_DEPRECATED | _IFA_F_TENTATIVE)
                if link is None or not _runs(link) or entry["scope"] != _SCOPE_GLOBAL or unusable:
                    continue
                # On a point-to-point link "address" is the other end and "local" is ours; IPv6 mostly has no "local".
                address = ip_address(entry.get("local") or entry.get("address"))
                if not address.is_link_local:
                    loopback = bool(link["flags"] & _IFF_LOOPBACK)
                    found.append(LinkAddress(link.get("ifname"), entry["index"], address, loopback, _is_tunnel(link)))
        except (NetlinkError, OSError) as error:
            raise HostError(f"the kernel did not list the addresses of this host: {error}") from error
        return tuple(dict.fromkeys(found))

    def exists(self, name: str) -> bool:
        """Whether there is an interface of this name."""
        return bool(self._netlink.link_lookup(ifname=name))

    def configure(self, name: str, plan: LinkPlan, previous: LinkPlan | None = None) -> None:
        """Make interface ``name`` as ``plan`` says, and bring it up when there was no ``previous`` plan.

        Only the differences to ``previous`` are carried out; what is new comes before what is old goes. Raises
        HostError and may leave the interface half done: the caller gives it up, or configures it back.
        """
        index = self._index(name)
        if self._detour is None:
            self._detour = Detour(self._netlink, index, plan.mark, plan.table)
        if previous is None:
            remove_stale(self._netlink)
            self._prepare(name, index, plan.mtu)
            previous = LinkPlan(plan.mtu, (), ())
        if plan.mtu != previous.mtu:
            self._set_mtu(name, index, plan.mtu)
        for address in plan.addresses:
            if address not in previous.addresses:
                self._add_address(name, index, address)
        for address in previous.addresses:
            if address not in plan.addresses:
                self._remove("addr", index=index, address=str(address.ip), prefixlen=address.network.prefixlen)
        self._detour.configure({*plan.detours, *previous.detours})
        for network in plan.routes:
            if network not in previous.routes:
                self._add_route(name, index, network)
        for network in previous.routes:
            if network not in plan.routes:
                self._remove("route", dst=str(network), oif=index, scope=_scope(network))
        self._detour.configure(plan.detours)
        if plan.ipv4_mtu or previous.ipv4_mtu:
            self._narrow(name, index, plan)

    def _narrow(self, name: str, index: int, plan: LinkPlan) -> None:
        """Let the IPv4 routes into the interface say what fits; the kernel's own to its networks are among them."""
        assert self._detour is not None
        networks = {address.network: str(address.ip) for address in plan.addresses if address.network.prefixlen < 32}
        own = {network: {"proto": _RTPROT_KERNEL, "prefsrc": ip} for network, ip in networks.items()}
        metrics = {"metrics": {"mtu": plan.ipv4_mtu}} if plan.ipv4_mtu else {}
        try:
            for network in (*own, *plan.routes):
                if network.version == 4:
                    more = own.get(network, {})
                    self._netlink.route("replace", dst=str(network), oif=index, scope="link", **more, **metrics)
            self._detour.narrow(plan.ipv4_mtu)
        except NetlinkError as error:
            raise HostError(f"the routes through {name} do not take mtu {plan.ipv4_mtu}: {_reason(error)}") from error

    def _index(self, name: str) -> int:
        found = self._netlink.link_lookup(ifname=name)
        if not found:
            raise HostError(f"interface {name} does not exist: it was removed while it was being set up")
        return int(found[0])

    def _prepare(self, name: str, index: int, mtu: int) -> None:
        # Without this a TUN device gives itself a link-local address and soon asks for routers through the tunnel.
        spec = {"attrs": [("AF_INET6", {"attrs": [("IFLA_INET6_ADDR_GEN_MODE", _ADDR_GEN_MODE_NONE)]})]}
        for option in ({"IFLA_AF_SPEC": spec}, {"gso_max_size": GSO_MAX_BYTES}):
            with contextlib.suppress(NetlinkError):  # a kernel without IPv6, or older than the option
                self._netlink.link("set", index=index, **option)
        try:
            self._netlink.link("set", index=index, mtu=mtu, txqlen=TX_QUEUE_LENGTH, state="up")
        except NetlinkError as error:
            raise HostError(f"interface {name} could not be brought up with mtu {mtu}: {_reason(error)}") from error

    def _set_mtu(self, name: str, index: int, mtu: int) -> None:
        try:
            self._netlink.link("set", index=index, mtu=mtu)
        except NetlinkError as error:
            raise HostError(f"interface {name} does not take mtu {mtu}: {_reason(error)}") from error

    def _add_address(self, name: str, index: int, address: IPv4Interface | IPv6Interface) -> None:
        options: dict[str, int] = {"IFA_FLAGS": _IFA_F_NODAD} if address.version == 6 else {}
        try:
            self._netlink.addr(
                "add", index=index, address=str(address.ip), prefixlen=address.network.prefixlen, **options
            )
        except NetlinkError as error:
            if error.code == errno.EEXIST:
                return
            if address.version == 6 and _ipv6_disabled(name):
                raise HostError(
                    f"address {address} could not be given to {name}: IPv6 is switched off on this host; "
                    f"run 'sysctl net.ipv6.conf.all.disable_ipv6=0', or leave IPv6 addresses out"
                ) from error
            raise HostError(f"address {address} could not be given to interface {name}: {_reason(error)}") from error

    def _add_route(self, name: str, index: int, network: IPv4Network | IPv6Network) -> None:
        try:
            self._netlink.route(
                "add", dst=str(network), oif=index, scope="link" if network.version == 4 else "universe"
            )
        except NetlinkError as error:
            if error.code == errno.EEXIST:
                if any(route.get("oif") == index for route in self._netlink.get_routes(dst=str(network))):
                    return
                raise HostError(
                    f"the route to {network} (allowed_ips) exists already through another interface; "
                    f"remove it ('ip route del {network}') or take the network out of allowed_ips"
                ) from error
            raise HostError(f"the route to {network} through {name} could not be set: {_reason(error)}") from error

    def _remove(self, what: str, **query: object) -> None:
        try:
            getattr(self._netlink, what)("del", **query)
        except NetlinkError as error:
            # Gone already, with the interface or by somebody's hand: then it is as it should be.
            if error.code not in (errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENODEV):
                raise HostError(f"the {what} {query} could not be removed: {_reason(error)}") from error


def _runs(link: Any) -> bool:
    return bool(link["flags"] & _IFF_UP and link["flags"] & _IFF_RUNNING)


def _is_tunnel(link: Any) -> bool:
    info = link.get("linkinfo")
    kind = info.get("kind") if info else None
    if kind == "tun":  # TAP devices, which are of this kind too, may well lead somewhere
        data = info.get("data")
        return data is None or data.get("type", _IFLA_TUN_TYPE_TUN) == _IFLA_TUN_TYPE_TUN
    return bool(kind == "wireguard")


def _scope(network: IPv4Network | IPv6Network) -> str:
    """A route without a gateway is of scope link; IPv6 has no scopes. It must be the same to remove as to add."""
    return "link" if network.version == 4 else "universe"


def drops_detoured(name: str) -> bool:
    """Whether interface ``name`` drops IPv4 datagrams of which it would send the answer into a detour.

    A strict rp_filter asks the routing table where an answer would go, and does not know that ours carries a mark.
    """
    strictest = 0
    for scope in ("all", name):
        try:
            with open(f"/proc/sys/net/ipv4/conf/{scope}/rp_filter", encoding="ascii") as file:  # noqa: PTH123 - procfs, no path logic
                strictest = max(strictest, int(file.read()))
        except OSError:
            continue
    return strictest == _STRICT


def _ipv6_disabled(name: str) -> bool:
    try:
        with open(f"{_INTERFACE_STATES}/{name}/disable_ipv6", encoding="ascii") as file:  # noqa: PTH123 - procfs, no path logic
            return file.read().strip() == "1"
    except OSError:
        return True


def _reason(error: NetlinkError) -> str:
    if error.code in (errno.EPERM, errno.EACCES):
        return "permission denied; run as root or with the capability CAP_NET_ADMIN"
    return os.strerror(error.code) if error.code else str(error)


class Change(Flag):
    """What a notification was about."""

    NONE = 0
    ADDRESSES = auto()
    """Addresses or interfaces."""
    ROUTES = auto()


class LinkWatch:
    """A selectable descriptor that becomes readable when an interface, address or route of this namespace changes."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        routes = _RTMGRP_IPV4_ROUTE | _RTMGRP_IPV6_ROUTE
        self._socket.bind((0, _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR | routes))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def drain(self) -> Change:
        """Take all waiting notifications; returns what they were about. Never blocks, never raises."""
        change = Change.NONE
        while True:
            try:
                change |= _change(self._socket.recv(65536))
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    return change
                change = Change.ADDRESSES | Change.ROUTES  # an overflow: some were lost

    def close(self) -> None:
        """Stop watching."""
        self._socket.close()


def _change(notification: bytes) -> Change:
    """What one read from the kernel is about: messages of nlmsghdr and body, each at a multiple of 4."""
    change, at = Change.NONE, 0
    while at + _NLMSG.size <= len(notification):
        length, kind, *_ = _NLMSG.unpack_from(notification, at)
        change |= Change.ROUTES if kind in (_RTM_NEWROUTE, _RTM_DELROUTE) else Change.ADDRESSES
        at += max(_NLMSG.size, length + 3 & ~3)
    return change
