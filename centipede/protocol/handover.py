"""Handover: what one machine tells another so that it can serve a peer's sessions. docs/protocol.md "Handing over".

The plaintext of an EXPORT, whoever carries it and however it is sealed:

```
  0 32  local public key      32 32  the peer's
 64  8  floor                 72  8  last used timestamp
 80  1  count of addresses    81  7  zero
 88  n  count x 20 addresses, as in ADDRESSES
  …  s  sessions x 184:
         0 1 role (1: the local identity initiated it)   1 1 state (1: established)
         2 2 first shard of the run granted              4 2 first, 6 2 end of the range granted with it
         8 8 timestamp   16 8 sid_rx   24 8 sid_tx       32 4 age, 36 4 idle, in ms
        40 8 params of the local identity                48 8 params of the peer
        56 128 keys: tx data, rx data, tx control, rx control
```

No counter and no window is in it: the machine that takes over gets shards that nobody used. ``decode`` gives a value or
raises HandoverError for any bytes at all; nothing of them is repeated in the error.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import NoReturn

from centipede.errors import HandoverError
from centipede.protocol.drops import Refused
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.grant import Grant
from centipede.protocol.handshake import Params, SessionKeys
from centipede.protocol.identity import PublicKey
from centipede.protocol.session import BASE_BYTES, LAST_SHARD
from centipede.protocol.table import Run
from centipede.protocol.wire import ADDRESS_BYTES, MOST_ADDRESSES, decode_address, encode_address

SESSION_BYTES = 184
MOST_SESSIONS = 3
"""Established sessions that a peer with one machine has."""
ROLE_RESPONDER, ROLE_INITIATOR = 0, 1
_ESTABLISHED = 1

_HEAD = struct.Struct(">32s32sQQB7x")
_SESSION = struct.Struct(">BBHHHQ6sH6sHII8s8s32s32s32s32s")
_LONGEST_MS = 2**32 - 1


@dataclass(frozen=True, slots=True)
class HandedSession:
    """One session, and the shards of it that the other machine gets."""

    grant: Grant
    ours: bool
    """Whether the local identity initiated it."""
    timestamp: int
    base: bytes
    """6 bytes: what the local identity receives under."""
    peer_base: bytes
    """6 bytes: what the peer receives under."""
    peer_run: Run
    """The peer's shards, as the handshake named them."""
    age_s: float
    idle_s: float
    """Since there was traffic with the peer."""
    params: Params
    """Those the local identity told in the handshake."""
    peer_params: Params
    keys: SessionKeys = field(repr=False)

    def encode(self) -> bytes:
        """184 bytes. Raises ValueError for what does not fit."""
        try:
            return _SESSION.pack(
                ROLE_INITIATOR if self.ours else ROLE_RESPONDER,
                _ESTABLISHED,
                self.grant.run.first,
                self.grant.first,
                self.grant.end,
                self.timestamp,
                self.base,
                self.grant.run.first,
                self.peer_base,
                self.peer_run.first,
                _milliseconds(self.age_s),
                _milliseconds(self.idle_s),
                self.params.encode(),
                self.peer_params.encode(),
                self.keys.tx_data,
                self.keys.rx_data,
                self.keys.tx_control,
                self.keys.rx_control,
            )
        except struct.error:  # its text would name nothing secret, but it says nothing either
            raise ValueError("a session that cannot be handed over") from None


@dataclass(frozen=True, slots=True)
class Handover:
    """A peer's sessions, and what is known of the peer besides."""

    local: PublicKey
    """The identity that both machines serve."""
    peer: PublicKey
    floor: int
    last_used: int
    addresses: tuple[Endpoint, ...]
    """Where the peer is; at most 16."""
    sessions: tuple[HandedSession, ...]
    """Newest first, at most 3."""

    def encode(self) -> bytes:
        """The bytes above. Raises ValueError for what does not fit."""
        if len(self.addresses) > MOST_ADDRESSES or len(self.sessions) > MOST_SESSIONS:
            raise ValueError("too many addresses or sessions for a handover")
        head = _HEAD.pack(self.local.raw, self.peer.raw, self.floor, self.last_used, len(self.addresses))
        addresses = (encode_address(endpoint) for endpoint in self.addresses)
        return b"".join((head, *addresses, *(session.encode() for session in self.sessions)))

    @classmethod
    def decode(cls, plaintext: bytes, *, sessions: int, k: int) -> Handover:
        """``sessions`` is how many there shall be, ``k`` the size of the run that was asked for."""
        if len(plaintext) < _HEAD.size or sessions > MOST_SESSIONS:
            _malformed()
        local, peer, floor, last_used, count = _HEAD.unpack_from(plaintext)
        behind = _HEAD.size + count * ADDRESS_BYTES
        if count > MOST_ADDRESSES or len(plaintext) != behind + sessions * SESSION_BYTES:
            _malformed()
        found = [decode_address(plaintext, _HEAD.size + n * ADDRESS_BYTES) for n in range(count)]
        return cls(
            PublicKey(local),
            PublicKey(peer),
            floor,
            last_used,
            tuple(endpoint for endpoint in found if endpoint is not None),
            tuple(_decode_session(plaintext, behind + n * SESSION_BYTES, k) for n in range(sessions)),
        )


def _decode_session(plaintext: bytes, position: int, k: int) -> HandedSession:
    fields = _SESSION.unpack_from(plaintext, position)
    role, state, shard, first, end, timestamp, base, own, peer_base, peer_shard, age, idle, params, theirs = fields[:14]
    if role > ROLE_INITIATOR or state != _ESTABLISHED or own != shard or max(shard, peer_shard) > LAST_SHARD:
        _malformed()
    assert len(base) == len(peer_base) == BASE_BYTES
    try:
        peer_params = Params.decode(theirs)
        return HandedSession(
            grant=Grant(Run(shard, k), first, end),
            ours=role == ROLE_INITIATOR,
            timestamp=timestamp,
            base=base,
            peer_base=peer_base,
            peer_run=Run(peer_shard, peer_params.k),
            age_s=age / 1000,
            idle_s=idle / 1000,
            params=Params.decode(params),
            peer_params=peer_params,
            keys=SessionKeys(*fields[14:]),
        )
    except (ValueError, Refused):
        _malformed()


def _malformed() -> NoReturn:
    raise HandoverError("this export is malformed; export anew with the same version of centipede on both machines")


def _milliseconds(seconds: float) -> int:
    return min(max(0, round(seconds * 1000)), _LONGEST_MS)
