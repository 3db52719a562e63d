"""Record: what a member puts into a store, sealed so that the store learns nothing and can change nothing.

```
 0  4 "CPDR"   4 1 version 01   5 3 zero   8 8 counter
16 16 the writer's life
32  n AEAD(key, 00000000 | counter, bytes 0..32 | name, body)
      key = HMAC(HMAC(seed, "Centipede v1 cluster"), "record" | the writer's life)

members/NUMBER     0 20 address of the member's channel, as in ADDRESSES
sessions/PEER/LIFE 0 8 wall clock of the writer, ns since 1970   8 1 count of sessions   9 7 zero
                   16 n a handover, see protocol/handover.py; the runs in it grant nothing
grants/SESSION/NUMBER, born: random bytes, not sealed
```

docs/protocol.md "A store". Names hold nothing but numbers, lives and keyed hashes. Each life seals under a key of its
own and counts its records, so no nonce is used twice. ``open_record`` gives a value or None for any bytes at all.
"""

from __future__ import annotations

import hmac
import struct
from typing import NamedTuple

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

_HEAD = struct.Struct(">4sB3xQ16s")
_MAGIC = b"CPDR"
_VERSION = 1
_TAG_BYTES = 16


class Record(NamedTuple):
    """A record, opened."""

    life: bytes
    """The writer's."""
    body: bytes


class Sealer:
    """Seals the records of one life. A life has one."""

    def __init__(self, secret: bytes, life: bytes) -> None:
        """``secret`` is the cluster's key."""
        self._life = life
        self._cipher = _cipher(secret, life)
        self._counter = 0

    def seal(self, name: str, body: bytes) -> bytes:
        """The bytes above, good under this name only."""
        head = _HEAD.pack(_MAGIC, _VERSION, self._counter, self._life)
        sealed = self._cipher.encrypt(_nonce(self._counter), body, head + name.encode())
        self._counter += 1
        return head + sealed


def open_record(secret: bytes, name: str, data: bytes) -> Record | None:
    """What a holder of the secret sealed under this name; None for anything else."""
    if len(data) < _HEAD.size:
        return None
    magic, version, counter, life = _HEAD.unpack_from(data)
    if magic != _MAGIC or version != _VERSION:
        return None
    head = data[: _HEAD.size]
    try:
        body = _cipher(secret, life).decrypt(_nonce(counter), data[_HEAD.size :], head + name.encode())
    except InvalidTag:
        return None
    return Record(life, body)


def blind(secret: bytes, what: str, value: bytes) -> str:
    """A name for a value, the same on all members, from which nobody else learns the value."""
    return hmac.digest(secret, what.encode() + b" " + value, "sha256")[:_TAG_BYTES].hex()


def _cipher(secret: bytes, life: bytes) -> ChaCha20Poly1305:
    return ChaCha20Poly1305(hmac.digest(secret, b"record" + life, "sha256"))


def _nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "big")
