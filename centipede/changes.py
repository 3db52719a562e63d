"""Changes: what differs between a running configuration and a new one, so that only that is touched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from centipede.config import Config, PeerConfig, covering
from centipede.errors import ControlError
from centipede.fields import Network
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import PublicKey


@dataclass(frozen=True, slots=True)
class Changes:
    """Peers to add, remove and change, and everything that changes in words."""

    added: tuple[PeerConfig, ...]
    removed: tuple[PeerConfig, ...]
    changed: tuple[PeerConfig, ...]
    """As they shall be; their sessions and paths stay."""
    words: tuple[str, ...]
    """Such as ``peer laptop added``, for the user."""


def compare(before: Config, after: Config) -> Changes:
    """The way from one configuration to another. Raises ControlError for what only a restart can change."""
    fixed = {
        "private_key": before.identity.public != after.identity.public,
        "engine": before.engine != after.engine,
        "workers": before.workers != after.workers,
        "busy_poll": before.busy_poll_s != after.busy_poll_s,
        "fwmark": before.mark != after.mark,
        "table": (before.table, before.routed) != (after.table, after.routed),
        "[cluster]": before.cluster != after.cluster,
        "[timing]": before.timing != after.timing,
    }
    if changed_keys := [key for key, differs in fixed.items() if differs]:
        raise ControlError(
            f"{after.file}: {' and '.join(changed_keys)} cannot change while {before.name} is running; "
            f"run 'centipede down {before.name}' and 'centipede up {after.file}'"
        )
    old, new = _by_key(before.peers), _by_key(after.peers)
    added = tuple(peer for key, peer in new.items() if key not in old)
    removed = tuple(peer for key, peer in old.items() if key not in new)
    changed = tuple(
        peer
        for key, peer in new.items()
        if key in old and (peer.spec, peer.endpoints) != (old[key].spec, old[key].endpoints)
    )
    words = [f"{key} changed" for key in ("addresses", "listen", "mtu") if getattr(before, key) != getattr(after, key)]
    for what, peers in (("added", added), ("removed", removed), ("changed", changed)):
        words += [f"peer {peer.spec.name} {what}" for peer in peers]
    return Changes(added, removed, changed, tuple(words))


def check_endpoints(peer: PeerConfig, tunnelled: Sequence[Network]) -> None:
    """Refuse addresses at which the peer can never be. Raises ControlError.

    ``tunnelled`` are the tunnel's own networks. Names are looked at when they are resolved.
    """
    for endpoint in (target.endpoint for target in peer.endpoints if target.endpoint):
        if (inside := covering(endpoint.host, tunnelled)) is not None:
            raise ControlError(
                f"endpoint {endpoint} of peer {peer.spec.name} lies inside the tunnel ({inside}); "
                "give an address by which it is reached without the tunnel"
            )
        if not peer.spec.allows(endpoint):
            allowed = ", ".join(map(str, peer.spec.allow_remote))
            raise ControlError(
                f"endpoint {endpoint} of peer {peer.spec.name} is not in its allow_remote ({allowed}); "
                "widen that with --allow-remote or give another address"
            )


def tried(peer: PeerConfig, locals_: Sequence[Endpoint]) -> list[str]:
    """Return, for people, where the peer is tried from now on, given the own addresses."""
    versions = {local.version for local in locals_}
    words = []
    for target in peer.endpoints:
        version = target.endpoint.version if target.endpoint else None
        rest = "" if version is None or version in versions else f", once there is a local IPv{version} address"
        words.append(f"trying peer {peer.spec.name} at {target}{rest}")
    return words


def find_peer(peers: Sequence[PeerConfig], wanted: str) -> PeerConfig:
    """The peer of this name or public key. Raises ControlError."""
    for peer in peers:
        if wanted in (peer.spec.name, peer.spec.public_key.text):
            return peer
    known = ", ".join(peer.spec.name for peer in peers) or "none"
    raise ControlError(f"there is no peer {wanted!r}; there are: {known}")


def _by_key(peers: Sequence[PeerConfig]) -> dict[PublicKey, PeerConfig]:
    return {peer.spec.public_key: peer for peer in peers}
