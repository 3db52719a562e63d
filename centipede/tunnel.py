"""The tunnel's own interface: its MTU, addresses and routes, following what the configuration and the paths ask for.

A route into the tunnel that holds the outer address of a peer becomes a detour, see :class:`LinkPlan`: the tunnel's
own datagrams must not be routed into the tunnel. So the plan depends on the forwarding table too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from ipaddress import ip_address

from centipede.config import AUTO_MTU, Config, covering
from centipede.errors import HostError
from centipede.protocol.table import ForwardingTable
from centipede.system.detour import MARK
from centipede.system.links import LinkPlan, Links, drops_detoured

log = logging.getLogger(__name__)

_REMEMBERED = 4096
"""Addresses found to be outside of allowed_ips that are not looked up again."""


class Tunnel:
    """Keeps the interface as it shall be. What the host refuses while running is given to ``warn``, and not retried."""

    def __init__(self, links: Links, config: Config, warn: Callable[[str], None]) -> None:
        """Configure the interface, which exists. Raises HostError."""
        self._links = links
        self._config = config
        self._warn = warn
        self._paths_mtu = AUTO_MTU
        """What all paths carry."""
        self._hosts: frozenset[str] = frozenset()
        """Outer addresses of the peers."""
        self._outside: set[str] = set()
        """Those that were found not to be in allowed_ips."""
        self._plan = self._plan_for(config)
        links.configure(config.name, self._plan)

    @property
    def mtu(self) -> int:
        """The interface's MTU."""
        return self._plan.mtu

    @property
    def payload_bytes(self) -> int:
        """The largest packet a path is to carry: as configured, or what all carry now."""
        return self._config.mtu or self._paths_mtu

    @property
    def exists(self) -> bool:
        """False when somebody has removed the interface."""
        return self._links.exists(self._config.name)

    def fit(self, mtu: int) -> None:
        """Let the interface carry what all paths carry."""
        self._paths_mtu = mtu
        if self._follow("packets too large for a path may be lost"):
            log.info("mtu %d", mtu)

    def detour(self, table: ForwardingTable) -> None:
        """See to it, before anything is sent there, that no datagram to a peer takes a route into the tunnel."""
        self._hosts = frozenset(path.remote.host for peer in table.peers for path in peer.paths)
        if self._follow("datagrams to a peer may go round in circles"):
            self.check_reverse_paths()

    def change(self, config: Config) -> Callable[[], None]:
        """Go over to another configuration, and return what takes that back. Raises HostError with all as before."""
        before, old = self._plan, self._config
        self._outside.clear()
        plan = self._plan_for(config)

        def undo() -> None:
            self._plan, self._config = before, old
            self._outside.clear()
            self._links.configure(old.name, before, plan)

        try:
            self._links.configure(config.name, plan, before)
        except BaseException:
            undo()
            raise
        self._plan, self._config = plan, config
        return undo

    def check_reverse_paths(self) -> None:
        """Warn of interfaces that will drop what the peers send."""
        if not any(network.version == 4 for network in self._plan.detours):
            return
        for link in sorted({address.link for address in self._links.addresses()} - {self._config.name}):
            if drops_detoured(link):
                self._warn(
                    f"interface {link} has a strict rp_filter and will drop what peers send while their addresses are "
                    f"in allowed_ips; run 'sysctl net.ipv4.conf.all.rp_filter=2 net.ipv4.conf.{link}.rp_filter=2'"
                )

    def _follow(self, consequence: str) -> bool:
        """Make the interface as it shall be now. True if that changed it."""
        plan = self._plan_for(self._config)
        if plan == self._plan:
            return False
        try:
            self._links.configure(self._config.name, plan, self._plan)
        except HostError as error:
            self._warn(f"{error}; {consequence}")
            return False
        self._plan = plan
        return True

    def _plan_for(self, config: Config) -> LinkPlan:
        allowed_ips = config.allowed_ips if config.routed else ()
        if len(self._outside) > _REMEMBERED:
            self._outside.clear()
        inside = {host for host in self._hosts - self._outside if covering(host, allowed_ips)}
        self._outside |= self._hosts - inside
        return LinkPlan.of(
            config.mtu or self._paths_mtu,
            config.addresses,
            allowed_ips,
            [ip_address(host) for host in inside],
            mark=config.mark or MARK,
            table=config.table,
        )
