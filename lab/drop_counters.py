"""What the kernel of a host has discarded: by its sockets, its IP and its interfaces.

Reads only. When datagrams are missing, these tell whether the tunnel, the kernel or the link lost them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from pyroute2 import IPRoute

from lab.host import Host

_PROTOCOLS = {
    "Ip": ("InDiscards", "OutDiscards", "OutNoRoutes"),
    "Udp": ("InErrors", "RcvbufErrors", "SndbufErrors", "InCsumErrors", "MemErrors"),
    "TcpExt": ("TCPBacklogDrop", "ListenDrops"),
}
_PROTOCOLS_6 = (
    "Ip6InDiscards",
    "Ip6OutDiscards",
    "Ip6OutNoRoutes",
    "Udp6InErrors",
    "Udp6RcvbufErrors",
    "Udp6SndbufErrors",
)
_INTERFACES = ("rx_dropped", "tx_dropped", "rx_errors", "tx_errors")


def drop_counters(host: Host) -> dict[str, int]:
    """Return every counter of discards that is not zero, such as ``Udp.RcvbufErrors`` and ``one.tx_dropped``."""
    # Seen from outside, through a process that lives in the host's network.
    found = dict(_protocols(Path(f"/proc/{host.anchor_pid}/net")))
    found.update(host.netlink(lambda netlink: list(_interfaces(netlink))))
    return {name: count for name, count in found.items() if count}


def _protocols(net: Path) -> Iterator[tuple[str, int]]:
    for file in ("snmp", "netstat"):
        lines = (net / file).read_text().splitlines()
        for names, values in zip(lines[::2], lines[1::2], strict=True):
            protocol, _, rest = names.partition(":")
            counts = dict(zip(rest.split(), values.split()[1:], strict=True))
            for name in _PROTOCOLS.get(protocol, ()):
                yield f"{protocol}.{name}", int(counts.get(name, 0))
    for line in (net / "snmp6").read_text().splitlines():
        name, count = line.split()
        if name in _PROTOCOLS_6:
            yield name, int(count)


def _interfaces(netlink: IPRoute) -> Iterator[tuple[str, int]]:
    for link in netlink.get_links():
        counts = link.get("stats64") or {}
        for name in _INTERFACES:
            yield f"{link.get('ifname')}.{name}", int(counts.get(name, 0))
