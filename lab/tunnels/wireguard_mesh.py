"""Meshes of WireGuard, of wireguard-go and of the kernel's.

WireGuard tells no peer where it is seen. Its user can read that at the other end, if he has access to it (``wg show``),
and carry it to where it is needed (``wg set``): what is done here.
"""

from __future__ import annotations

from abc import abstractmethod
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

from pyroute2 import WireGuard
from pyroute2.netlink.exceptions import NetlinkError

from centipede.protocol.endpoint import Endpoint
from lab.errors import LabError
from lab.tunnels import wireguard_keys
from lab.tunnels.base import TunnelEnd, TunnelError, TunnelOptions, set_up_interface
from lab.tunnels.mesh import Mesh, ends_of
from lab.tunnels.wireguard import INTERFACE, Wireguard
from lab.tunnels.wireguard_go import WireguardGo, dialogue, peer_lines, socket_path
from lab.tunnels.wireguard_kernel import WireguardKernel, peer_description
from lab.tunnels.wireguard_keys import WireguardKeys


class WireguardMesh(Wireguard, Mesh):
    """What both have in common."""

    def up_mesh(self, pairs: Sequence[tuple[TunnelEnd, TunnelEnd]], options: TunnelOptions) -> None:
        ends = ends_of(pairs)
        self._keys = {name: wireguard_keys.generate() for name in ends}
        try:
            for name, (end, peers) in ends.items():
                self._up_among(end, self._keys[name], peers, options)
        except BaseException as error:
            self.down()
            if isinstance(error, (LabError, NetlinkError)):
                raise TunnelError(f"{self.label} did not come up: {error}") from error
            raise

    _keys: dict[str, WireguardKeys]

    def _public(self, end: TunnelEnd) -> bytes:
        return self._keys[end.host.name].public

    @abstractmethod
    def _up_among(self, end: TunnelEnd, own: WireguardKeys, peers: list[TunnelEnd], options: TunnelOptions) -> None:
        """Bring one end up with all its peers."""


class WireguardGoMesh(WireguardGo, WireguardMesh):
    """Many ends of wireguard-go."""

    def seen(self, end: TunnelEnd, by: TunnelEnd) -> Endpoint | None:
        ours = False
        for key, value in dialogue(socket_path(by), ["get=1"]):
            if key == "public_key":
                ours = value == self._public(end).hex()
            elif ours and key == "endpoint":
                return Endpoint.parse(value)
        return None

    def point(self, end: TunnelEnd, far: TunnelEnd, at: Endpoint) -> None:
        peer = f"public_key={self._public(far).hex()}"
        dialogue(socket_path(end), ["set=1", peer, "update_only=true", f"endpoint={at}"])

    def _up_among(self, end: TunnelEnd, own: WireguardKeys, peers: list[TunnelEnd], options: TunnelOptions) -> None:
        self._options = options
        lines = ["set=1", f"private_key={own.private.hex()}", f"listen_port={end.listen_port}", "replace_peers=true"]
        lines += [line for far in peers for line in peer_lines(self._public(far), far, options)]
        self._configurations[end.host.name] = lines
        self._start(end)
        self._configure(end)


class WireguardKernelMesh(WireguardKernel, WireguardMesh):
    """Many ends of the kernel's WireGuard."""

    def seen(self, end: TunnelEnd, by: TunnelEnd) -> Endpoint | None:
        wanted = b64encode(self._public(end))

        def read() -> Endpoint | None:
            with WireGuard() as wireguard:
                for message in wireguard.info(INTERFACE):
                    for peer in message.get_attr("WGDEVICE_A_PEERS") or ():
                        if peer.get_attr("WGPEER_A_PUBLIC_KEY") == wanted:
                            found = peer.get_attr("WGPEER_A_ENDPOINT")
                            return Endpoint.of(found["addr"], found["port"]) if found else None
            return None

        return by.host.call(read)

    def point(self, end: TunnelEnd, far: TunnelEnd, at: Endpoint) -> None:
        key = b64encode(self._public(far)).decode()
        _set(end, {"public_key": key, "endpoint_addr": at.host, "endpoint_port": at.port})

    def _up_among(self, end: TunnelEnd, own: WireguardKeys, peers: list[TunnelEnd], options: TunnelOptions) -> None:
        def make() -> None:
            end.host.netlink(lambda netlink: netlink.link("add", ifname=INTERFACE, kind="wireguard"))
            _set(end, None, private_key=b64encode(own.private).decode(), listen_port=end.listen_port)
            for far in peers:
                _set(end, peer_description(self._public(far), far, options))
            set_up_interface(end, INTERFACE, options)

        self._made.append((end, make))
        make()


def _set(end: TunnelEnd, peer: dict[str, Any] | None, **interface: Any) -> None:
    def body() -> None:
        with WireGuard() as wireguard:
            wireguard.set(INTERFACE, peer=peer, **interface)

    end.host.call(body)
