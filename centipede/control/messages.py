"""What the command line and the daemon say to each other: JSON, one message a line, over a unix stream socket.

A request names its command; a response holds either a result or one sentence of error. Both carry the version of this
little protocol. A client may send many requests and gets one response for each, in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import msgspec

VERSION = 1
REQUEST_BYTES = 64 * 1024
"""A longer request line is refused."""
RESPONSE_BYTES = 64 * 1024 * 1024
"""A longer response is not read."""

_ADDRESS_BYTES = 107
"""What fits sockaddr_un with its closing zero."""


class _Request(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="command"):
    version: int = VERSION


class Show(_Request, frozen=True, tag="show"):
    """Answered by the interface's status, see show.py."""


class Stop(_Request, frozen=True, tag="stop"):
    """Answered at once; the connection is closed when everything is down."""


class Sync(_Request, frozen=True, kw_only=True, tag="sync"):
    """Make the running interface as the configuration file says. Answered by the list of what was changed."""

    file: str | None = None
    """Absolute path; None for the file the daemon was started with."""


class PeerAdd(_Request, frozen=True, kw_only=True, tag="peer-add"):
    """Add a peer."""

    table: dict[str, Any]
    """As [[peer]] in the configuration, key files as absolute paths."""


class PeerRemove(_Request, frozen=True, kw_only=True, tag="peer-remove"):
    """Remove a peer."""

    peer: str
    """Name or public key."""


class PeerSet(_Request, frozen=True, kw_only=True, tag="peer-set"):
    """Change a peer."""

    peer: str
    table: dict[str, Any]
    """The keys that change, as in [[peer]], key files as absolute paths."""
    reset_floor: bool = False
    """Accept Initiates of any timestamp again: for a peer that lost both its state and its clock."""


class SessionOffer(_Request, frozen=True, tag="session-offer"):
    """Offer to take over sessions from another machine. Answered by Offered."""


class SessionExport(_Request, frozen=True, kw_only=True, tag="session-export"):
    """Hand the sessions with a peer to the machine that made an offer. Answered by Exported."""

    peer: str
    """Name or public key."""
    offer: str
    """As that machine printed it."""
    join: bool = False
    """Whether this machine serves the peer as well from then on, and does not leave it."""


class SessionImport(_Request, frozen=True, kw_only=True, tag="session-import"):
    """Serve the sessions in an export from now on. Answered by Imported."""

    export: str
    """As the other machine printed it."""


class MemberDrain(_Request, frozen=True, kw_only=True, tag="member-drain"):
    """Ask all peers to send to other machines of this identity, or not any more. Answered by what was done."""

    draining: bool


Request: TypeAlias = (
    Show | Stop | Sync | PeerAdd | PeerRemove | PeerSet | SessionOffer | SessionExport | SessionImport | MemberDrain
)


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to SessionOffer."""

    offer: str
    """Text for the other machine; no secret."""
    seconds: float
    """How long it is good."""


class Exported(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to SessionExport."""

    export: str
    """Text for the machine that made the offer, sealed to it."""


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to SessionImport."""

    peer: str
    """Name of the peer that is served from now on."""


class Response(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of ``result`` and ``error``."""

    version: int
    result: msgspec.Raw = msgspec.Raw(b"null")
    error: str | None = None


@contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """What to bind or connect to for ``path``: itself, or, where that is too long for a socket address, a detour."""
    if len(os.fsencode(path)) <= _ADDRESS_BYTES:
        yield str(path)
        return
    fd = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{fd}/{path.name}"
    finally:
        os.close(fd)
