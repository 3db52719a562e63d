"""Cookies: what a responder under load asks for before it spends anything on a source. docs/protocol.md "Cookies".

```
COOKIE, 72 bytes
  0   8  83 01 00*6
  8  16  mac1 of the Initiate it answers
 24  16  n, random
 40  32  AEAD(HMAC(H("Centipede v1 cookie" | pk_R), n | mac1), zero nonce, ad = bytes 0..40, cookie)
```

A cookie is a MAC of the source address under a secret of the responder's, which changes every two minutes: whoever can
send it back, as mac2 of an Initiate, receives at that address. The responder keeps nothing per source. Who may read a
Cookie: whoever knows the responder's public key and saw the Initiate; it proves an address, not an identity.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Callable

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from centipede.protocol.drops import DropReason, Refused
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handshake import INITIATE_BYTES, MAC_BYTES
from centipede.protocol.identity import PublicKey

COOKIE_BYTES = 16
MESSAGE_BYTES = 72
LIFE_S = 120.0
"""An initiator uses a cookie this long; a responder makes a new secret as often, and knows the one before."""

_HEADER = bytes((0x83, 0x01, 0, 0, 0, 0, 0, 0))
_MAC1 = slice(176, 192)
_MAC2_AT = 192
_SEALED_AT = 40
_ZERO_NONCE = bytes(12)
_SECRET_BYTES = 32


class CookieJar:
    """The secrets of a responder."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self._random = random
        self._secrets: list[bytes] = []
        """The current one first."""
        self._renewed = float("-inf")

    def bake(self, remote: Endpoint, now: float) -> bytes:
        """The cookie of a source address: 16 bytes."""
        self._renew(now)
        return make_cookie(self._secrets[0], remote)

    def accepts(self, initiate: bytes, remote: Endpoint, now: float) -> bool:
        """Whether the mac2 of an Initiate shows that its sender receives at ``remote``."""
        self._renew(now)
        return any(
            hmac.compare_digest(initiate[_MAC2_AT:], _mac2(initiate, make_cookie(secret, remote)))
            for secret in self._secrets
        )

    def _renew(self, now: float) -> None:
        age_s = now - self._renewed
        if age_s >= LIFE_S:
            kept = self._secrets[:1] if age_s < 2 * LIFE_S else []
            self._secrets = [self._random(_SECRET_BYTES), *kept]
            self._renewed = now


def make_cookie(secret: bytes, remote: Endpoint) -> bytes:
    """The cookie of an address: HMAC(secret, address 16 | port 2)[0:16], IPv4 in the first 4 bytes of the address."""
    return _hmac(secret, remote.packed.ljust(16, b"\0") + remote.port.to_bytes(2, "big"))[:COOKIE_BYTES]


def seal_cookie(responder: PublicKey, initiate: bytes, cookie: bytes, random: bytes) -> bytes:
    """The Cookie that answers an Initiate to ``responder``; ``random`` is 16 bytes."""
    if len(random) != MAC_BYTES or len(cookie) != COOKIE_BYTES:
        raise ValueError(f"a cookie has {COOKIE_BYTES} bytes, and so has what it is sealed with")
    start = _HEADER + initiate[_MAC1] + random
    return start + _cipher(responder, start).encrypt(_ZERO_NONCE, cookie, start)


def open_cookie(responder: PublicKey, datagram: bytes) -> bytes:
    """The cookie in a Cookie of ``responder``. Raises Refused(COOKIE_UNDECRYPTABLE)."""
    start, sealed = datagram[:_SEALED_AT], datagram[_SEALED_AT:]
    try:
        return _cipher(responder, start).decrypt(_ZERO_NONCE, sealed, start)
    except InvalidTag:
        raise Refused(DropReason.COOKIE_UNDECRYPTABLE) from None


def answered_mac1(datagram: bytes) -> bytes | None:
    """The mac1 of the Initiate that a Cookie answers; None if it is not a Cookie."""
    if len(datagram) == MESSAGE_BYTES and datagram[:8] == _HEADER:
        return datagram[8:24]
    return None


def mac1_of(initiate: bytes) -> bytes:
    """What a Cookie names the Initiate by."""
    return initiate[_MAC1]


def with_mac2(initiate: bytes, cookie: bytes) -> bytes:
    """The Initiate as its sender writes it once it has a cookie."""
    if len(initiate) != INITIATE_BYTES:
        raise ValueError(f"an Initiate has {INITIATE_BYTES} bytes")
    return initiate[:_MAC2_AT] + _mac2(initiate, cookie)


def _mac2(initiate: bytes, cookie: bytes) -> bytes:
    return _hmac(cookie, initiate[:_MAC2_AT])[:MAC_BYTES]


def _cipher(responder: PublicKey, start: bytes) -> ChaCha20Poly1305:
    """``start`` is the message up to what is sealed. Each n gives a key of its own, so the nonce may be constant."""
    key = hashlib.sha256(b"Centipede v1 cookie" + responder.raw).digest()
    return ChaCha20Poly1305(_hmac(key, start[24:40] + start[8:24]))


def _hmac(key: bytes, message: bytes) -> bytes:
    return hmac.digest(key, message, "sha256")
