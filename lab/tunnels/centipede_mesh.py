"""A mesh of Centipede daemons: one for each end, with a peer for each of the others it knows."""

from __future__ import annotations

import secrets
from collections.abc import Sequence

import msgspec

from centipede.control.client import ControlClient
from centipede.control.messages import PeerSet
from centipede.errors import ControlError
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import Identity
from centipede.show import Interface, Peer
from lab.tunnels.base import TunnelEnd, TunnelError, TunnelOptions
from lab.tunnels.centipede import (
    INTERFACE,
    Centipede,
    interface_table,
    peer_table,
    render_tables,
    runtime_directory,
    write_configuration,
)
from lab.tunnels.mesh import Mesh, ends_of


class CentipedeMesh(Centipede, Mesh):
    """A Centipede tunnel with many ends."""

    def up_mesh(self, pairs: Sequence[tuple[TunnelEnd, TunnelEnd]], options: TunnelOptions) -> None:
        self._options = options
        ends = ends_of(pairs)
        identities = {name: Identity.generate(secrets.token_bytes(32)) for name in ends}
        try:
            for name, (end, peers) in ends.items():
                tables = [("[interface]", interface_table(identities[name], end, self.engine, options))]
                tables += [("[[peer]]", peer_table(identities[far.host.name], far, options)) for far in peers]
                write_configuration(end, render_tables([*tables, ("[timing]", dict(options.timing))]))
            self._start(*(end for end, _ in ends.values()))
        except BaseException as error:
            self._give_up(error)
            raise

    def seen(self, end: TunnelEnd, by: TunnelEnd) -> Endpoint | None:
        """As the end itself shows it, for its peer has told it (OBSERVED)."""
        peer = self._peer(end, by)
        observed = (path.observed for path in peer.paths if path.observed and path.state == "usable") if peer else ()
        return next((Endpoint.parse(text) for text in observed), None)

    def point(self, end: TunnelEnd, far: TunnelEnd, at: Endpoint) -> None:
        """What ``centipede peer NAME set PEER --endpoint ADDR`` does."""
        try:
            with ControlClient(runtime_directory(end), INTERFACE) as client:
                client.request(PeerSet(peer=far.host.name, table={"endpoints": [str(at)]}))
        except ControlError as error:
            raise TunnelError(f"{end.host.name} was not told where {far.host.name} is: {error}") from error

    def said(self, end: TunnelEnd, far: TunnelEnd) -> str:
        peer = self._peer(end, far)
        return peer.handshake.step if peer is not None and peer.handshake is not None else ""

    def _peer(self, end: TunnelEnd, far: TunnelEnd) -> Peer | None:
        state = self.state(end)
        if state is None:
            return None
        peers = msgspec.convert(state, Interface).peers
        return next((peer for peer in peers if peer.name == far.host.name), None)
