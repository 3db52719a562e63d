"""No VPN at all: the bare network, with the MTU that the tunnels have. The measure of what the machine can do.

Packets go between the first outer addresses. Other addresses of the same interface keep working.
"""

from __future__ import annotations

from typing import Literal

from pyroute2 import IPRoute

from lab.errors import LabError
from lab.tunnels.base import Tunnel, TunnelEnd, TunnelOptions, wait_for_traffic


class Plain(Tunnel):
    """The network itself, as a contender."""

    name = "plain"
    label = "No VPN"

    def __init__(self) -> None:
        self._mtus: list[tuple[TunnelEnd, int, int]] = []

    def unavailable(self) -> str | None:
        return None

    def version(self) -> dict[str, str]:
        return {}

    def up(self, left: TunnelEnd, right: TunnelEnd, options: TunnelOptions) -> None:
        try:
            for end in (left, right):
                self._limit(end, options.mtu)
            wait_for_traffic(self, left, right, options.ready_timeout_s)
        except BaseException:
            self.down()
            raise

    def down(self) -> None:
        while self._mtus:
            end, index, mtu = self._mtus.pop()

            def body(netlink: IPRoute, index: int = index, mtu: int = mtu) -> None:
                netlink.link("set", index=index, mtu=mtu)

            end.host.netlink(body)

    def versions(self, end: TunnelEnd) -> tuple[Literal[4, 6], ...]:
        return tuple(dict.fromkeys(address.version for address in end.outer))

    def address(self, end: TunnelEnd, version: Literal[4, 6] = 4) -> str:
        for address in end.outer:
            if address.version == version:
                return str(address)
        raise LabError(f"{end.host.name} has no IPv{version} address outside the tunnel")

    def _limit(self, end: TunnelEnd, mtu: int) -> None:
        """Lower the MTU of the interface that has the first outer address."""

        def body(netlink: IPRoute) -> tuple[int, int]:
            for address in netlink.get_addr(address=str(end.outer[0])):
                index = int(address["index"])
                before = int(netlink.get_links(index)[0].get("mtu"))
                netlink.link("set", index=index, mtu=min(mtu, before))
                return index, before
            raise LabError(f"no interface of {end.host.name} has the address {end.outer[0]}")

        index, before = end.host.netlink(body)
        self._mtus.append((end, index, before))
