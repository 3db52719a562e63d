"""WireGuard in the kernel. Many kernels have it; where this one does not, the reason is given in words.

It has no process: what it costs shows only in the CPU time of the whole machine.
"""

from __future__ import annotations

import errno
import platform
import tempfile
from base64 import b64encode
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute, WireGuard
from pyroute2.netlink.exceptions import NetlinkError

from lab.errors import LabError
from lab.namespace import Namespaces
from lab.tunnels.base import TunnelEnd, TunnelOptions, set_up_interface
from lab.tunnels.wireguard import INTERFACE, Wireguard
from lab.tunnels.wireguard_keys import WireguardKeys


class WireguardKernel(Wireguard):
    """The kernel's WireGuard."""

    name = "wireguard-kernel"
    label = "Kernel WireGuard"

    def __init__(self) -> None:
        self._made: list[tuple[TunnelEnd, Callable[[], None]]] = []
        """The ends that are up, and how each was made."""

    def unavailable(self) -> str | None:
        return _refusal()

    def version(self) -> dict[str, str]:
        return {"kernel": platform.release()}

    def up_end(self, end: TunnelEnd, far: TunnelEnd, own: WireguardKeys, peer: bytes, options: TunnelOptions) -> None:
        def make() -> None:
            _configure(end, far, own.private, peer, options)
            set_up_interface(end, INTERFACE, options)

        self._made.append((end, make))
        make()

    def down(self) -> None:
        while self._made:
            _remove(self._made.pop()[0])

    def restart(self, end: TunnelEnd) -> None:
        """Make the interface of an end anew, with its keys: there is no program, but this is what one would do."""
        for owner, make in self._made:
            if owner is end:
                _remove(end)
                make()


def _remove(end: TunnelEnd) -> None:
    def remove(netlink: IPRoute) -> None:
        for index in netlink.link_lookup(ifname=INTERFACE):
            netlink.link("del", index=index)

    end.host.netlink(remove)


def _configure(end: TunnelEnd, far: TunnelEnd, private: bytes, peer: bytes, options: TunnelOptions) -> None:
    end.host.netlink(lambda netlink: netlink.link("add", ifname=INTERFACE, kind="wireguard"))

    def body() -> None:
        with WireGuard() as wireguard:
            wireguard.set(
                INTERFACE,
                private_key=b64encode(private).decode(),
                listen_port=end.listen_port,
                peer=peer_description(peer, far, options),
            )

    end.host.call(body)


def peer_description(peer: bytes, far: TunnelEnd, options: TunnelOptions) -> dict[str, Any]:
    """Return what makes an end a peer, as pyroute2 takes it."""
    description: dict[str, Any] = {
        "public_key": b64encode(peer).decode(),
        "allowed_ips": [f"{interface.ip}/{interface.ip.max_prefixlen}" for interface in far.inner],
    }
    if far.endpoints:
        description |= {"endpoint_addr": far.endpoints[0].host, "endpoint_port": far.endpoints[0].port}
    if options.keepalive_s is not None:
        description["persistent_keepalive"] = options.keepalive_s
    return description


@cache
def _refusal() -> str | None:
    """Find out by trying, in namespaces of its own."""

    def probe() -> str | None:
        try:
            with IPRoute() as netlink:
                netlink.link("add", ifname=INTERFACE, kind="wireguard")
        except NetlinkError as error:
            if error.code == errno.EOPNOTSUPP:
                return f"this kernel ({platform.release()}) has no WireGuard"
            return f"this kernel refuses a WireGuard interface: {error}"
        return None

    with tempfile.TemporaryDirectory(prefix="centipede-lab-") as directory:
        try:
            namespaces = Namespaces("probe", run_directory=Path(directory))
        except LabError as error:
            return str(error)
        try:
            return namespaces.call(probe)
        finally:
            namespaces.close()
