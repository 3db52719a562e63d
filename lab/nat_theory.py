"""Who gets through to whom across NATs: what theory says of a pair, and what the evidence of a failure says.

Owns both judgements, as pure functions; lab/meeting.py measures. docs/nat.md has the table, which a test
compares with :func:`theory`.

Two ends that know each other's key alone are told, by a third peer that is public, the addresses at which that one sees
them; each then sends to where it was told the other is. A NAT that maps independently of the endpoint (RFC 4787, 4.1)
shows the same address to the third peer and to the other end; a symmetric one shows the other end another port. So

- whoever has no NAT, or a full cone, is reached at the address that was told, by anybody;
- an address-restricted NAT lets in what comes from the address its inside has sent to, whatever the port;
- a port-restricted one only what comes from the very port it was told, hence nothing from behind a symmetric NAT;
- a symmetric NAT lets nobody in at the port that was told: it is open for the third peer alone.

One of the two directions is enough: the answer goes back the same way.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum

from centipede.protocol.endpoint import Endpoint
from lab.nat import NatKind, Refusal


class Site(StrEnum):
    """What an end is behind."""

    NONE = "none"
    FULL_CONE = NatKind.FULL_CONE.value
    ADDRESS_RESTRICTED = NatKind.ADDRESS_RESTRICTED.value
    PORT_RESTRICTED = NatKind.PORT_RESTRICTED.value
    SYMMETRIC = NatKind.SYMMETRIC.value


class Cause(StrEnum):
    """Why a pair does not connect."""

    UNFOUND = "unfound"
    """Neither end knows an address of the other, and neither sends anything."""
    OTHER_PORT = "other port"
    """A symmetric NAT sends to the other end from another port than the one that was told, and the other end's NAT lets
    in only that one; at the port that was told, the symmetric NAT lets in only the third peer."""
    UNKNOWN = "unknown"
    """The evidence shows neither."""


def theory(left: Site, right: Site, *, told: bool) -> Cause | None:
    """Return why a pair cannot connect, None if it must. ``told``: whether each end was told where the other is seen.

    Without, only ends that have no NAT are found.
    """
    pair = ((left, right), (right, left))
    if not any(told or called is Site.NONE for _, called in pair):
        return Cause.UNFOUND
    return None if any(_lets_in(called, caller) for caller, called in pair) else Cause.OTHER_PORT


def _lets_in(called: Site, caller: Site) -> bool:
    """Whether the caller gets in at the address that was told, once the called end has sent to the caller's."""
    if called is Site.PORT_RESTRICTED:
        return caller is not Site.SYMMETRIC
    return called is not Site.SYMMETRIC


@dataclass(frozen=True, slots=True)
class Evidence:
    """What is known of an end after the fact."""

    seen: Endpoint
    """Where the third peer sees it, which is what the other end is told."""
    refused: Collection[Refusal]
    """Whom its NAT did not let in."""

    def knocks(self, other: Evidence) -> list[Refusal]:
        """What its NAT refused of the other end."""
        return [refusal for refusal in self.refused if refusal.source[0] == other.seen.host]


def cause(left: Evidence, right: Evidence, *, told: bool) -> Cause:
    """Return why a pair that does not connect does not, as far as the NATs tell."""
    knocks = (left.knocks(right), right.knocks(left))
    if not told:
        return Cause.UNKNOWN if any(knocks) else Cause.UNFOUND
    at_told_port = all(
        any(knock.port == end.seen.port for knock in found) for end, found in zip((left, right), knocks, strict=True)
    )
    from_other_port = any(
        knock.source[1] != other.seen.port
        for other, found in zip((right, left), knocks, strict=True)
        for knock in found
    )
    return Cause.OTHER_PORT if at_told_port and from_other_port else Cause.UNKNOWN
