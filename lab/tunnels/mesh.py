"""A mesh: more than two ends of one contender, of which some are each other's peers.

Owns the interface only. What it must not know: who tells whom what, and why (lab/meeting.py).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

from centipede.protocol.endpoint import Endpoint
from lab.tunnels.base import Tunnel, TunnelEnd, TunnelOptions


class Mesh(Tunnel):
    """A contender that joins many ends. ``down`` ends them all, as it does for two."""

    @abstractmethod
    def up_mesh(self, pairs: Sequence[tuple[TunnelEnd, TunnelEnd]], options: TunnelOptions) -> None:
        """Bring up every end that is in a pair; return when they run. Waits for no traffic.

        The ends of a pair are each other's peers and know of each other what :attr:`TunnelEnd.endpoints` says. Raises
        TunnelError, leaving nothing behind.
        """

    @abstractmethod
    def seen(self, end: TunnelEnd, by: TunnelEnd) -> Endpoint | None:
        """Return the outer address at which ``by`` sees ``end``, None while it is not known."""

    @abstractmethod
    def point(self, end: TunnelEnd, far: TunnelEnd, at: Endpoint) -> None:
        """Tell a running end where to find its peer ``far``. Raises TunnelError."""

    def said(self, end: TunnelEnd, far: TunnelEnd) -> str:
        """Return what an end says, in words, of its attempts to reach a peer; empty if it says nothing."""
        return ""


def ends_of(pairs: Sequence[tuple[TunnelEnd, TunnelEnd]]) -> dict[str, tuple[TunnelEnd, list[TunnelEnd]]]:
    """Return every end with its peers, by host name."""
    found: dict[str, tuple[TunnelEnd, list[TunnelEnd]]] = {}
    for pair in pairs:
        for end, far in (pair, pair[::-1]):
            found.setdefault(end.host.name, (end, []))[1].append(far)
    return found
