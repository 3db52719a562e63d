"""PeerSpec and PeerRecord: what is configured about a peer, and what is remembered of it over a restart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TypeAlias

from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handshake import NO_PSK
from centipede.protocol.identity import PublicKey

Network: TypeAlias = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class PeerSpec:
    """A peer as its owner wants it. Checked by the configuration, not here."""

    public_key: PublicKey
    name: str
    preshared_key: bytes = field(default=NO_PSK, repr=False)
    """32 bytes, zeros for none."""
    allowed_ips: tuple[Network, ...] = ()
    """Inner addresses that belong to the peer."""
    scheduler: str = "redundant"
    """A name in :data:`centipede.protocol.schedulers.SCHEDULERS`."""
    copies: int | None = 2
    """For ``redundant``: how many paths carry each packet; None for every usable one."""
    heartbeat_s: float = 0.2
    """Between heartbeats on paths that carry data."""
    allow_remote: tuple[Network, ...] = ()
    """Outer addresses the peer may have; empty for any."""
    keepalive: bool = False
    """Whether the session is kept although there is no traffic."""
    metered: tuple[str, ...] = ()
    """Local links to spare, by the name of their interface or by address."""

    @property
    def label(self) -> str:
        """What log lines call the peer."""
        return f"{self.name} ({self.public_key.short})"

    def allows(self, remote: Endpoint) -> bool:
        """Whether the peer may have this outer address."""
        return not self.allow_remote or covers(self.allow_remote, remote)


def covers(networks: Iterable[Network], endpoint: Endpoint) -> bool:
    """Whether one of the networks holds this address."""
    address = ip_address(endpoint.host)
    return any(address in network for network in networks)


@dataclass(frozen=True, slots=True)
class PeerRecord:
    """What outlives the process. Without it nothing breaks; with it a restart is quicker and T2 and T3 hold."""

    public_key: PublicKey
    last_used: int = 0
    """Greatest timestamp of an own Initiate to this peer."""
    floor: int = 0
    """Greatest timestamp of a confirmed Initiate of this peer."""
    addresses: tuple[Endpoint, ...] = ()
    """Remote addresses last known to be valid."""
    moved: bool = False
    """Whether another machine took the peer over."""
