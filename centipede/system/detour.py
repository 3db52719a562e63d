"""Detour: routes into the tunnel that the tunnel's own datagrams do not take.

Where allowed_ips hold an address at which a peer is reached (0.0.0.0/0 holds all of them), a plain route would lead the
tunnel's datagrams into the tunnel again. As wg-quick does, such a network is therefore routed in a table of its own,
which is asked for everything that does not carry the mark of our sockets. Two rules for each network:

```
p    not from all fwmark M to N lookup main suppress_prefixlength LENGTH(N)    a longer prefix of the host's own wins
p+1  not from all fwmark M to N lookup T                                       what is left goes into the tunnel
```

For N = 0.0.0.0/0 the first of them leaves out the default route alone: the networks the host is on stay reachable.

Routes vanish with the interface, rules do not. They carry a protocol number of ours; a rule whose table is empty was
left behind by a daemon that could not clean up, for a route is in place before its rules come and until they are gone.
The table's number is made of the interface's index, so no two tunnels choose one.

Uses pyroute2, like links.py and nobody else.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Container, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, suppress
from ipaddress import IPv4Network, IPv6Network
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from centipede.errors import HostError

MARK = 0xCE9E
"""``fwmark = "auto"``."""
FIRST_TABLE = 52_000_000
"""``table = "auto"`` is this and the interface's index."""

_PROTOCOL = 67
"""FRA_PROTOCOL of our rules: no routing daemon's in the kernel's include/uapi/linux/rtnetlink.h."""
_FIRST_PRIORITY = 30000
_LAST_PRIORITY = 32000
"""Before the rule for the main table, which has 32766."""
_MAIN_TABLE = 254
_FIB_RULE_INVERT = 2

_Network = IPv4Network | IPv6Network


class Detour:
    """The networks that one interface detours."""

    def __init__(self, netlink: IPRoute, index: int, mark: int, table: int | None) -> None:
        """``index`` is the interface's, ``mark`` its sockets', ``table`` a number or None for a table of its own."""
        self._netlink = netlink
        self._index = index
        self._mark = mark
        self._table = FIRST_TABLE + index if table is None else table
        self._mtu = 0
        self._priorities: dict[_Network, int] = {}

    def configure(self, networks: Iterable[_Network]) -> None:
        """Detour these networks and no others. Raises HostError and may leave it half done."""
        # The rules of a longer prefix stand before those of a shorter one, which would send its packets elsewhere.
        wanted = sorted(networks, key=lambda network: (-network.prefixlen, network.version, network.network_address))
        if wanted == list(self._priorities):
            return
        before, self._priorities = self._priorities, {}
        try:
            for network in wanted:
                if network not in before:
                    self._route("replace", network)
            self._add_rules(wanted)
        except NetlinkError as error:
            self._priorities = before | self._priorities
            raise HostError(
                f"the rules that keep the tunnel's own datagrams out of it (fwmark {self._mark:#x}, table "
                f"{self._table}) could not be set: {_reason(error)}"
            ) from error
        self._remove(before, keep=self._priorities)

    def narrow(self, mtu: int) -> None:
        """Give the IPv4 routes this MTU, 0 for none of their own. Raises NetlinkError."""
        self._mtu = mtu
        for network in self._priorities:
            if network.version == 4:
                self._route("replace", network)

    def close(self) -> None:
        """Take everything away. Never raises."""
        before, self._priorities = self._priorities, {}
        self._remove(before, keep=())

    def _add_rules(self, networks: list[_Network]) -> None:
        free = _free_priorities(self._netlink)
        for network in networks:
            while True:
                priority = next(free)
                self._rule("add", network, priority + 1, table=self._table)
                try:
                    self._rule("add", network, priority, table=_MAIN_TABLE, suppress_prefixlen=network.prefixlen)
                except NetlinkError as error:
                    self._rule("del", network, priority + 1, table=self._table)
                    if error.code != errno.EEXIST:  # else another tunnel took the priority just now
                        raise
                else:
                    self._priorities[network] = priority
                    break

    def _remove(self, priorities: Mapping[_Network, int], keep: Container[_Network]) -> None:
        """Take rules away, and the routes of all networks but those to keep."""
        for network, priority in priorities.items():
            with _whatever_is_left():
                self._rule("del", network, priority, table=_MAIN_TABLE)
            with _whatever_is_left():
                self._rule("del", network, priority + 1, table=self._table)
            if network not in keep:
                with _whatever_is_left():
                    self._route("del", network)

    def _route(self, command: str, network: _Network) -> None:
        scope = "link" if network.version == 4 else "universe"
        metrics = {"metrics": {"mtu": self._mtu}} if self._mtu and network.version == 4 else {}
        self._netlink.route(command, dst=str(network), oif=self._index, table=self._table, scope=scope, **metrics)

    def _rule(self, command: str, network: _Network, priority: int, **more: int) -> None:
        selector: dict[str, Any] = {}
        if network.prefixlen:
            selector = {"dst": str(network.network_address), "dst_len": network.prefixlen}
        self._netlink.rule(
            command,
            family=_family(network),
            priority=priority,
            fwmark=self._mark,
            flags=_FIB_RULE_INVERT,
            FRA_PROTOCOL=_PROTOCOL,
            **selector,
            **more,
        )


def remove_stale(netlink: IPRoute) -> None:
    """Take away the rules of tunnels that are no more. Never raises: what cannot be read or removed stays."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            rules = [rule for rule in netlink.get_rules(family=family) if rule.get("protocol") == _PROTOCOL]
            ours = {rule.get("priority"): rule for rule in rules}
            for priority, rule in ours.items():
                owner = rule if rule.get("table") != _MAIN_TABLE else ours.get(priority + 1)
                if owner is None or not _has_routes(netlink, family, owner.get("table")):
                    netlink.rule(
                        "del", family=family, priority=priority, table=rule.get("table"), FRA_PROTOCOL=_PROTOCOL
                    )
        except (NetlinkError, OSError):
            continue


def _has_routes(netlink: IPRoute, family: int, table: int | None) -> bool:
    return any(True for _ in netlink.get_routes(family=family, table=table))


def _free_priorities(netlink: IPRoute) -> Iterator[int]:
    """Even numbers, ascending, of which neither they nor their odd neighbours are in use."""
    families = (socket.AF_INET, socket.AF_INET6)
    used = {rule.get("priority") for family in families for rule in netlink.get_rules(family=family)}
    for priority in range(_FIRST_PRIORITY, _LAST_PRIORITY, 2):
        if not used & {priority, priority + 1}:
            yield priority
    raise HostError(f"no two neighbouring rule priorities are free below {_LAST_PRIORITY}; see 'ip rule'")


def _whatever_is_left() -> AbstractContextManager[None]:
    """What is to be removed may be gone already, with the interface or by somebody's hand."""
    return suppress(NetlinkError, OSError)


def _family(network: _Network) -> int:
    return socket.AF_INET if network.version == 4 else socket.AF_INET6


def _reason(error: NetlinkError) -> str:
    if error.code in (errno.EPERM, errno.EACCES):
        return "permission denied; run as root or with the capability CAP_NET_ADMIN"
    if error.code in (errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
        return "this kernel has no policy routing (CONFIG_IP_MULTIPLE_TABLES)"
    return os.strerror(error.code) if error.code else str(error)
