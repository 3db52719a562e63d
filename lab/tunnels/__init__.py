"""The contenders, by the names the command line knows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from lab.errors import LabError
from lab.tunnels.base import Tunnel
from lab.tunnels.centipede import Centipede
from lab.tunnels.centipede_mesh import CentipedeMesh
from lab.tunnels.mesh import Mesh
from lab.tunnels.plain import Plain
from lab.tunnels.wireguard_go import WireguardGo
from lab.tunnels.wireguard_interop import WireguardInterop
from lab.tunnels.wireguard_kernel import WireguardKernel
from lab.tunnels.wireguard_mesh import WireguardGoMesh, WireguardKernelMesh

TUNNELS: Mapping[str, Callable[[], Tunnel]] = MappingProxyType(
    {
        "plain": Plain,
        "centipede": Centipede,
        "centipede-native": lambda: Centipede("native"),
        "centipede-python": lambda: Centipede("python"),
        "wireguard-go": WireguardGo,
        "wireguard-kernel": WireguardKernel,
        "wireguard-interop": WireguardInterop,
    }
)

MESHES: Mapping[str, Callable[[], Mesh]] = MappingProxyType(
    {
        "centipede": CentipedeMesh,
        "centipede-native": lambda: CentipedeMesh("native"),
        "centipede-python": lambda: CentipedeMesh("python"),
        "wireguard-go": WireguardGoMesh,
        "wireguard-kernel": WireguardKernelMesh,
    }
)
"""Those of them that can join more than two ends."""


def make_tunnel(name: str) -> Tunnel:
    """Return a new contender. Raises LabError for a name there is not."""
    try:
        return TUNNELS[name]()
    except KeyError:
        raise LabError(f"there is no tunnel {name!r}; there are {', '.join(TUNNELS)}") from None


def make_mesh(name: str) -> Mesh:
    """Return a new contender that can join more than two ends. Raises LabError for a name there is not."""
    try:
        return MESHES[name]()
    except KeyError:
        raise LabError(f"tunnel {name!r} cannot join more than two ends; {', '.join(MESHES)} can") from None
