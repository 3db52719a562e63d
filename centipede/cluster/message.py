"""Message: what members of a cluster tell each other, sealed under a key that only the identity's holders know.

```
  0  4 "CPDC"   4 1 version 01   5 1 type   6 2 member   8 2 of   10 6 zero
 16 16 the sender's life         32 16 the receiver's life, zeros while unknown     48 8 counter
 56  n  AEAD(key, 00000000 | counter, bytes 0..56, body)
        key = HMAC(HMAC(seed, "Centipede v1 cluster"), the sender's life)

HELLO 1   0 1 k of the sender's run   1 1 count of addresses   2 2 generation   4 n count x 20: where peers may find it
STATE 2   0 1 count of sessions   1 7 zero   8 8 revision   16 count x 8: counter of the receiver's that was last heard
          when it was granted each   then a handover, protocol/handover.py
ACK   3   0 8 revision   8 32 the peer
DATA  4   0 n data that came to the wrong member, as it came
```

docs/protocol.md "A cluster". A life is 16 random bytes, drawn when the daemon starts. Each life seals under a key of
its own and counts its messages, so no nonce is used twice. ``open`` gives a value or None for any bytes at all.
"""

from __future__ import annotations

import hmac
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

HELLO, STATE, ACK, DATA = 1, 2, 3, 4
LIFE_BYTES = 16
NO_LIFE = bytes(LIFE_BYTES)

_HEAD = struct.Struct(">4sBBHH6x16s16sQ")
_MAGIC = b"CPDC"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Message:
    """One datagram of the channel, opened."""

    kind: int
    member: int
    """Number of the sender, from 1."""
    of: int
    """How many members the sender believes there are."""
    life: bytes
    """The sender's."""
    to: bytes
    """The receiver's, or zeros."""
    counter: int
    """Ascends within a life."""
    body: bytes

    def seal(self, secret: bytes) -> bytes:
        """The bytes above; ``secret`` is the cluster's key."""
        head = _HEAD.pack(_MAGIC, _VERSION, self.kind, self.member, self.of, self.life, self.to, self.counter)
        return head + _cipher(secret, self.life).encrypt(_nonce(self.counter), self.body, head)

    @classmethod
    def open(cls, secret: bytes, data: bytes) -> Message | None:
        """What holders of the secret sealed; None for anything else."""
        if len(data) < _HEAD.size:
            return None
        magic, version, kind, member, of, life, to, counter = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != _VERSION:
            return None
        try:
            body = _cipher(secret, life).decrypt(_nonce(counter), data[_HEAD.size :], data[: _HEAD.size])
        except InvalidTag:
            return None
        return cls(kind, member, of, life, to, counter, body)


def _cipher(secret: bytes, life: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(hmac.digest(secret, life, "sha256"))


def _nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "big")
