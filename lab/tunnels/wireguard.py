"""What every WireGuard has in common: two ends with a key pair each, each other's only peer."""

from __future__ import annotations

from abc import abstractmethod

from pyroute2.netlink.exceptions import NetlinkError

from lab.errors import LabError
from lab.tunnels import wireguard_keys
from lab.tunnels.base import Tunnel, TunnelEnd, TunnelError, TunnelOptions, wait_for_traffic
from lab.tunnels.wireguard_keys import WireguardKeys

INTERFACE = "wg0"
"""Name of the tunnel's interface at either end."""


class Wireguard(Tunnel):
    """A WireGuard of any kind. Subclasses say how an end comes up."""

    def up(self, left: TunnelEnd, right: TunnelEnd, options: TunnelOptions) -> None:
        reason = self.unavailable()
        if reason is not None:
            raise TunnelError(f"{self.label}: {reason}")
        keys = wireguard_keys.generate(), wireguard_keys.generate()
        try:
            self.up_end(left, right, keys[0], keys[1].public, options)
            self.up_end(right, left, keys[1], keys[0].public, options)
            wait_for_traffic(self, left, right, options.ready_timeout_s)
        except BaseException as error:
            logs = "".join(process.log_tail() for end in (left, right) for process in self.processes(end))
            self.down()
            if isinstance(error, (LabError, NetlinkError)):
                raise TunnelError(f"{self.label} did not come up: {error}{logs}") from error
            raise

    @abstractmethod
    def up_end(self, end: TunnelEnd, far: TunnelEnd, own: WireguardKeys, peer: bytes, options: TunnelOptions) -> None:
        """Bring one end up; ``peer`` is the far end's public key. Raises LabError or NetlinkError."""

    def interface(self, end: TunnelEnd) -> str:
        return INTERFACE
