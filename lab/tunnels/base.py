"""What every contender is to the lab: something that carries packets between two hosts.

A tunnel joins two :class:`TunnelEnd` values and is ready when its ``up`` returns. This module owns the interface and
what all contenders share: how their interface is set up, and how the lab finds out that traffic flows. It must not know
scenarios or results. Invariant: every contender gets the same MTU and queue length, from one :class:`TunnelOptions`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any, ClassVar, Literal

import msgspec
from pyroute2 import IPRoute

from centipede.protocol.endpoint import Endpoint
from lab.errors import LabError
from lab.host import Host
from lab.process import Process, wait_until
from lab.tracks import PathReport

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface

TUNNEL_MTU = 1420
"""What WireGuard takes for a link of 1500 bytes, with either IP version outside."""
_TUN = "/dev/net/tun"
_NO_DAD = 0x02  # IFA_F_NODAD: an IPv6 address is usable at once
_PING_TIMEOUT_S = "0.3"


class TunnelError(LabError):
    """A tunnel did not come up or fell. The text says which and what its programs last wrote."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TunnelEnd:
    """One end of a tunnel."""

    host: Host
    inner: tuple[Interface, ...]
    """Addresses of the tunnel's interface, at most one of each IP version."""
    outer: tuple[Address, ...]
    """Addresses it sends from, one for each link, the first being the one WireGuard is told of."""
    listen_port: int = 51820
    listen: tuple[str, ...] = ()
    """Centipede's ``listen`` at this end, in place of that of the options."""
    found_at: tuple[Endpoint, ...] | None = None
    """Where the other end finds this one; None for its outer addresses, empty for an end that must call first."""
    networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks that are reached through it."""
    members: tuple[TunnelEnd, ...] = ()
    """Further machines that serve the same identity; only Centipede can have them."""
    channel: Address | None = None
    """Where it talks with the other members; None for machines that are not told of each other."""
    weight: int = 255
    """The part of their flows that peers are asked for, in a cluster."""
    store: str | None = None
    """URL of the etcd in which it finds the other members; None if it is told of them."""
    started: bool = True
    """Whether it is started with the tunnel."""

    @property
    def machines(self) -> tuple[TunnelEnd, ...]:
        """All machines of this end."""
        return (self, *self.members)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Where the other end finds this one."""
        if self.found_at is not None:
            return self.found_at
        return tuple(Endpoint.of(str(address), self.listen_port) for address in self.outer)


class TunnelOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What may be asked of any tunnel. A contender that cannot do a thing ignores it, and is measured as it is."""

    mtu: int = TUNNEL_MTU
    follow_mtu: bool = False
    """Centipede's ``mtu = "auto"``: the interface follows what the paths carry."""
    txqueuelen: int = 5000
    """Packets that may wait in the interface of a contender."""
    keepalive_s: int | None = None
    """Seconds between keepalives towards the other end; None sends none that the tunnel does not send by itself."""
    scheduler: Literal["adaptive", "redundant", "fastest", "aggregate"] = "fastest"
    copies: int | Literal["all"] = 2
    heartbeat_s: float | None = None
    workers: int | None = None
    timing: Mapping[str, float] = {}
    """Centipede's ``[timing]``."""
    listen: tuple[str, ...] = ()
    """Centipede's ``listen`` in place of the outer addresses."""
    ready_timeout_s: float = 10.0


class Tunnel(ABC):
    """A contender. One object serves one pair of hosts at a time: ``up``, then ``down``."""

    name: ClassVar[str]
    """As on the command line."""
    label: str
    """As in a chart."""

    @abstractmethod
    def unavailable(self) -> str | None:
        """Return why this contender cannot run on this machine, in words, or None if it can."""

    @abstractmethod
    def version(self) -> dict[str, str]:
        """Return which programs these are: names and versions, hashes where there are any."""

    @abstractmethod
    def up(self, left: TunnelEnd, right: TunnelEnd, options: TunnelOptions) -> None:
        """Bring the tunnel up; return when traffic flows. Raises TunnelError, leaving nothing behind."""

    @abstractmethod
    def down(self) -> None:
        """End it and put the hosts back as they were. Twice is harmless."""

    def restart(self, end: TunnelEnd) -> None:
        """Start the programs of an end again, with the state they kept. Does not wait for traffic.

        Raises TunnelError for a contender that has none.
        """
        raise TunnelError(f"{self.label} has no program to be started again")

    def move(self, source: TunnelEnd, target: TunnelEnd) -> None:
        """Move the live session with the other end from one member to another.

        Raises TunnelError for a contender that cannot.
        """
        raise TunnelError(f"{self.label} cannot move a session")

    def set_clock(self, end: TunnelEnd, ahead_s: float) -> None:
        """Set the wall clock of an end's programs so far ahead of the true time, or behind it if that is negative.

        Raises TunnelError for a contender that has no clock but the machine's.
        """
        raise TunnelError(f"{self.label} has no clock of its own")

    def processes(self, end: TunnelEnd) -> list[Process]:
        """Return the processes that carry the traffic of an end, for the account of CPU time."""
        return []

    def interface(self, end: TunnelEnd) -> str | None:
        """Return the name of the tunnel's interface at an end, None if it has none of its own."""
        return None

    def versions(self, end: TunnelEnd) -> tuple[Literal[4, 6], ...]:
        """Return the IP versions in which :meth:`address` has an answer."""
        return tuple(interface.version for interface in end.inner)

    def address(self, end: TunnelEnd, version: Literal[4, 6] = 4) -> str:
        """Return the address by which the other end reaches this one through the tunnel."""
        for interface in end.inner:
            if interface.version == version:
                return str(interface.ip)
        raise LabError(f"{end.host.name} has no IPv{version} address inside the tunnel")

    def state(self, end: TunnelEnd) -> Any:
        """Return what the contender says of itself at an end, as plain JSON values; None if it says nothing."""
        return None

    def paths(self, end: TunnelEnd) -> list[PathReport] | None:
        """Return how the paths of an end are; None for a contender that does not tell, or not now.

        Called again and again from a thread of its own while the tunnel is in use; takes a second at most.
        """
        return None


def tun_refusal() -> str | None:
    """Return why this user cannot make TUN interfaces here, in words, or None. Finds out by trying."""
    try:
        os.close(os.open(_TUN, os.O_RDWR))
    except FileNotFoundError:
        return f"this machine has no {_TUN}"
    except PermissionError:
        return f"this user may not open {_TUN}"
    except OSError as error:
        return f"{_TUN} cannot be opened: {error.strerror}"
    return None


def set_up_interface(end: TunnelEnd, name: str, options: TunnelOptions) -> None:
    """Give an interface the inner addresses, MTU and queue length, and bring it up."""

    def body(netlink: IPRoute) -> None:
        index = netlink.link_lookup(ifname=name)[0]
        netlink.link("set", index=index, mtu=options.mtu, txqlen=options.txqueuelen)
        for interface in end.inner:
            flags = {"flags": _NO_DAD} if interface.version == 6 else {}
            netlink.addr("add", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen, **flags)
        netlink.link("set", index=index, state="up")

    end.host.netlink(body)


def set_queue_length(end: TunnelEnd, name: str, packets: int) -> None:
    """Set the queue length of an interface that its own program has set up."""

    def body(netlink: IPRoute) -> None:
        found = netlink.link_lookup(ifname=name)
        if not found:
            raise LabError(f"{end.host.name} has no interface {name}")
        netlink.link("set", index=found[0], txqlen=packets)

    end.host.netlink(body)


def wait_for_traffic(tunnel: Tunnel, left: TunnelEnd, right: TunnelEnd, timeout_s: float) -> None:
    """Return when each end answers the other's ping, the left end calling first. Raises NotReadyError.

    An end that cannot be found is called by nobody before it has called itself. What a machine of a cluster calls may
    answer by another one of the same address, so none does.
    """
    caller, called = (right, left) if not right.endpoints and left.endpoints else (left, right)
    for near, far in ((caller, called), (called, caller)):
        if near.channel is not None:
            continue
        for version in tunnel.versions(far):
            target = tunnel.address(far, version)
            wait_until(
                lambda near=near, target=target: answers(near.host, target),  # type: ignore[misc]
                timeout_s=timeout_s,
                what=f"an answer from {far.host.name} ({target}) to {near.host.name} through {tunnel.label}",
            )


def answers(host: Host, target: str) -> bool:
    """Whether ``target`` answers one ping from ``host``."""
    argv = ["ping", "-n", "-q", "-c", "1", "-W", _PING_TIMEOUT_S, target]
    return host.run(argv, check=False).returncode == 0
