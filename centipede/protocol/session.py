"""Session packets: the 32-byte header, sealing and opening. docs/protocol.md "Session packets".

```
 0  8  seq: bit 63 = 0 | bit 62 class (0 data, 1 control) | bits 61..48 source shard | bits 47..0 counter
 8  8  sid: 6 bytes session base, chosen by the receiver | 2 bytes destination shard
16 16  Poly1305 tag
32  n  ciphertext
```

Nonce = 4 zero bytes | seq, additional data = bytes 0..16, so every byte of the header that is not the tag is
authenticated. A (key, seq) is sealed once only; the copies of a packet are the same bytes. Who counts, and which
counters are still new, is not known here: see window.py and the engines.
"""

from __future__ import annotations

import struct
from typing import NamedTuple, TypeAlias

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

HEADER_BYTES = 32
TAG_BYTES = 16
BASE_BYTES = 6
LAST_SHARD = 0x3FFE
"""Shards are 0..16382; 0x3fff stays unused."""
LARGEST_K = 4
"""A run has at most 2^4 shards."""
ANY_SHARD = 0xFFFF
"""Destination "any member", legal in control packets only."""
COUNTER_REKEY = 2**43
"""A sender asks for a new session when its counter comes this far."""
COUNTER_LIMIT = 2**44
"""No packet ever has this counter or a greater one."""

BytesLike: TypeAlias = bytes | bytearray | memoryview

_HEAD = struct.Struct(">Q6sH")
_CONTROL = 1 << 62
_COUNTER_MASK = (1 << 48) - 1
_NONCE_PREFIX = bytes(4)


class Header(NamedTuple):
    """The clear part of a session packet. Nothing of it is trustworthy before the packet opened."""

    control: bool
    """The class: data (False) or session control (True). The two have different keys, counters and windows."""
    source: int
    """Shard of the sender, 0..16383."""
    counter: int
    """0..2^48 - 1; the sender's promise is less than COUNTER_LIMIT."""
    base: bytes
    """6 bytes that name the session to its receiver."""
    shard: int
    """Destination shard, or ANY_SHARD."""


def is_handshake(datagram: BytesLike) -> bool:
    """Whether the first bit says handshake. An empty datagram is none."""
    return len(datagram) > 0 and datagram[0] >= 0x80


def parse_header(datagram: BytesLike) -> Header | None:
    """The header of a session packet, or None for a handshake message and for fewer than 32 bytes."""
    if len(datagram) < HEADER_BYTES or datagram[0] >= 0x80:
        return None
    seq, base, shard = _HEAD.unpack_from(datagram)
    return Header(seq >= _CONTROL, seq >> 48 & 0x3FFF, seq & _COUNTER_MASK, base, shard)


class Sealer:
    """Seals packets under one key: one direction and one class of one session. Any thread may use it."""

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)

    def seal(
        self, counter: int, *, source: int, base: bytes, shard: int, plaintext: BytesLike, control: bool = False
    ) -> bytes:
        """The datagram. The caller never passes the same (source, counter) twice.

        Raises ValueError if the counter or the source shard is out of range: a fault of the caller that would repeat
        a nonce.
        """
        if not (0 <= counter < COUNTER_LIMIT and 0 <= source <= LAST_SHARD):
            raise ValueError(f"no such packet number: counter {counter}, source shard {source}")
        seq = (_CONTROL if control else 0) | source << 48 | counter
        head = _HEAD.pack(seq, base, shard)
        sealed = self._aead.encrypt(_NONCE_PREFIX + head[:8], plaintext, head)
        return b"".join((head, sealed[-TAG_BYTES:], sealed[:-TAG_BYTES]))

    def __repr__(self) -> str:
        return "Sealer(secret)"


class Opener:
    """Opens packets under one key: one direction and one class of one session. Any thread may use it."""

    __slots__ = ("_aead",)

    def __init__(self, key: bytes) -> None:
        self._aead = ChaCha20Poly1305(key)

    def open(self, datagram: BytesLike) -> bytes | None:
        """The plaintext, or None if the datagram is not authentic under this key."""
        if len(datagram) < HEADER_BYTES:
            return None
        head = bytes(datagram[:16])
        try:
            return self._aead.decrypt(
                _NONCE_PREFIX + head[:8], b"".join((datagram[HEADER_BYTES:], datagram[16:HEADER_BYTES])), head
            )
        except InvalidTag:
            return None

    def __repr__(self) -> str:
        return "Opener(secret)"
