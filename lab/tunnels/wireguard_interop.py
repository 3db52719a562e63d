"""Kernel WireGuard at the left end and wireguard-go at the right: proof that both drivers set up the same tunnel.

No contender in a benchmark: what it carries says nothing of either.
"""

from __future__ import annotations

from lab.process import Process
from lab.tunnels.base import TunnelEnd, TunnelOptions
from lab.tunnels.wireguard import Wireguard
from lab.tunnels.wireguard_go import WireguardGo
from lab.tunnels.wireguard_kernel import WireguardKernel
from lab.tunnels.wireguard_keys import WireguardKeys


class WireguardInterop(Wireguard):
    """One end of each kind. The first that comes up, the left one, is the kernel's."""

    name = "wireguard-interop"
    label = "Kernel WireGuard to wireguard-go"

    def __init__(self) -> None:
        self._kernel = WireguardKernel()
        self._go = WireguardGo()
        self._kinds: list[tuple[TunnelEnd, Wireguard]] = []

    def unavailable(self) -> str | None:
        return self._kernel.unavailable() or self._go.unavailable()

    def version(self) -> dict[str, str]:
        return {**self._kernel.version(), **self._go.version()}

    def up_end(self, end: TunnelEnd, far: TunnelEnd, own: WireguardKeys, peer: bytes, options: TunnelOptions) -> None:
        kind = self._go if self._kinds else self._kernel
        self._kinds.append((end, kind))
        kind.up_end(end, far, own, peer, options)

    def down(self) -> None:
        self._kinds.clear()
        self._go.down()
        self._kernel.down()

    def restart(self, end: TunnelEnd) -> None:
        self._kind(end).restart(end)

    def processes(self, end: TunnelEnd) -> list[Process]:
        return self._go.processes(end)

    def _kind(self, end: TunnelEnd) -> Wireguard:
        return next(kind for owner, kind in self._kinds if owner is end)
