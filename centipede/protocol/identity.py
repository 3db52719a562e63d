"""Identity and PublicKey: who a node is, and how it knows its peers.

One Ed25519 key (RFC 8032) per identity, named by its 32 bytes. Its image on Curve25519 (RFC 7748) is derived from it
and receives the first Diffie-Hellman of a handshake, docs/protocol.md "Handshake"; nobody configures a second key.

Invariants: a PublicKey made by ``from_raw`` or ``from_text`` is a point of the curve in its one canonical encoding and
not of small order, so every X25519 with it gives a secret. An Identity never shows its seed except by ``text``.
This module knows nothing of messages, files or where randomness comes from.
"""

from __future__ import annotations

import hashlib
import hmac
from base64 import b64decode, b64encode
from dataclasses import dataclass
from functools import cached_property
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

KEY_BYTES = 32
"""Length of a seed, a public key and a preshared key."""

_P = 2**255 - 19
_D = -121665 * pow(121666, -1, _P) % _P


def parse_key(text: str) -> bytes:
    """The 32 bytes written as 44 characters of base64, as ``wg`` writes keys; surrounding white space is allowed.

    Raises ValueError, which does not repeat the text, for anything else, also for a second spelling of the same bytes.
    """
    try:
        raw = b64decode(text.strip(), validate=True)
    except ValueError:
        raise ValueError("a key is 44 characters of base64") from None
    if len(raw) != KEY_BYTES or render_key(raw) != text.strip():
        raise ValueError("a key is 32 bytes, written as 44 characters of base64")
    return raw


def render_key(raw: bytes) -> str:
    """Base64 of 32 bytes."""
    return b64encode(raw).decode("ascii")


@dataclass(frozen=True)
class PublicKey:
    """The Ed25519 public key of an identity: a value to compare, hash and print.

    The bare constructor checks nothing and is for a key that is only looked up among trusted ones; every key that comes
    from a configuration or a file goes through ``from_raw`` or ``from_text``.
    """

    raw: bytes
    """32 bytes: y, little-endian, with the sign of x in the highest bit."""

    @classmethod
    def from_raw(cls, raw: bytes) -> PublicKey:
        """Raises ValueError, saying which, unless it is the canonical encoding of a curve point of large order."""
        if len(raw) != KEY_BYTES:
            raise ValueError(f"a public key has {KEY_BYTES} bytes, not {len(raw)}")
        y = _y(raw)
        if y >= _P:
            raise ValueError("this public key is not in canonical form")
        yy = y * y % _P
        # Order 1 is y = 1; order 2, y = -1; order 4, y = 0; order 8, the points whose double has y = 0: x*x = -y*y.
        if y * (yy - 1) * (_D * yy * yy + 2 * yy - 1) % _P == 0:
            raise ValueError("this public key is of small order: it belongs to nobody")
        # -xx + yy = 1 + d*xx*yy has an x for this y iff (yy - 1) / (d*yy + 1) is a square (Euler's criterion).
        if pow((yy - 1) * (_D * yy + 1), (_P - 1) // 2, _P) != 1:
            raise ValueError("this public key is not a point of the curve")
        return cls(bytes(raw))

    @classmethod
    def from_text(cls, text: str) -> PublicKey:
        """The key written in base64. Raises ValueError as ``from_raw`` and ``parse_key`` do."""
        return cls.from_raw(parse_key(text))

    @property
    def text(self) -> str:
        """44 characters of base64."""
        return render_key(self.raw)

    @property
    def short(self) -> str:
        """The first 8 characters of ``text``: enough for a log line."""
        return self.text[:8]

    @cached_property
    def x25519(self) -> bytes:
        """The Montgomery image u = (1 + y) / (1 - y), 32 bytes little-endian (RFC 7748, section 4.1)."""
        y = _y(self.raw)
        return ((1 + y) * pow(1 - y, -1, _P) % _P).to_bytes(KEY_BYTES, "little")

    def __str__(self) -> str:
        return self.short

    def __repr__(self) -> str:
        return f"PublicKey({self.short})"


class Identity:
    """A private key and what is done with it. Its text forms are redacted and it cannot be pickled."""

    __slots__ = ("_exchange", "_seed", "_signing", "public")

    public: PublicKey

    def __init__(self, seed: bytes) -> None:
        if len(seed) != KEY_BYTES:
            raise ValueError(f"a private key has {KEY_BYTES} bytes, not {len(seed)}")
        self._seed = bytes(seed)
        self._signing = Ed25519PrivateKey.from_private_bytes(self._seed)
        # X25519 clamps, so these 32 bytes give the scalar that Ed25519 derives from the seed (RFC 8032, section 5.1.5).
        self._exchange = X25519PrivateKey.from_private_bytes(hashlib.sha512(self._seed).digest()[:32])
        self.public = PublicKey(self._signing.public_key().public_bytes_raw())

    @classmethod
    def from_seed(cls, seed: bytes) -> Identity:
        """The identity of a 32-byte Ed25519 seed. Raises ValueError for any other length."""
        return cls(seed)

    @classmethod
    def generate(cls, random: bytes) -> Identity:
        """A new identity out of 32 bytes of the system's randomness."""
        return cls(random)

    @classmethod
    def from_text(cls, text: str) -> Identity:
        """The identity of a seed in base64, as a key file holds it. Raises ValueError, which repeats nothing of it."""
        return cls(parse_key(text))

    def text(self) -> str:
        """The seed in base64: the only way in which the secret becomes text."""
        return render_key(self._seed)

    def sign(self, message: bytes) -> bytes:
        """64 bytes: the Ed25519 signature."""
        return self._signing.sign(message)

    def exchange(self, public: bytes) -> bytes:
        """X25519 of this identity's image with 32 bytes from the network. Raises ValueError if the result is zero."""
        return self._exchange.exchange(X25519PublicKey.from_public_bytes(public))

    def hedge(self, context: bytes, random: bytes) -> bytes:
        """An ephemeral X25519 private key that stays secret though ``random`` were known or repeated.

        ``context`` differs from handshake to handshake; ``random`` is 32 bytes, else ValueError.
        """
        if len(random) != KEY_BYTES:
            raise ValueError(f"a handshake takes {KEY_BYTES} random bytes, not {len(random)}")
        return hashlib.sha256(b"eph" + self._seed + context + random).digest()

    def derive(self, purpose: bytes) -> bytes:
        """32 secret bytes for a purpose, the same wherever the identity is held."""
        return hmac.digest(self._seed, purpose, "sha256")

    def __repr__(self) -> str:
        return f"Identity({self.public.short}, secret)"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an identity is a secret and is not copied or pickled")


def _y(raw: bytes) -> int:
    return int.from_bytes(raw, "little") & (2**255 - 1)
