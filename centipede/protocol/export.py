"""Export: a handover, sealed to the one-time key of an offer, so that it opens once and in one place.

```
  0  4 "CPDM"    4 1 version 01   5 1 flags: 1 join, 2 move   6 2 sessions
  8 16 import id          24 32 the exporter's one-time X25519 public key
 56  n  AEAD(k, Z, ad = bytes 0..56, P)
        k = KDF1(H("Centipede v1 export"), X25519(one-time keys) | H(offer))
        P = signature 64 over "Centipede v1 export" 00 | H(offer) | bytes 0..56 | rest, then the rest: see handover.py
```

docs/protocol.md "Handing over". The signature is that of the identity both machines serve. It is sealed like all else,
so an export that falls into other hands says who it is for, how many sessions are in it, and nothing more.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from centipede.errors import HandoverError
from centipede.protocol.handover import Handover
from centipede.protocol.identity import Identity, PublicKey
from centipede.protocol.offer import IMPORT_ID_BYTES, SIGNATURE_BYTES, Offer, verify

_MAGIC = b"CPDM"
_VERSION = 1
_JOIN, _MOVE = 1, 2
_HEAD = struct.Struct(">4sBBH16s32s")
_SIGN = b"Centipede v1 export\0"
_SALT = hashlib.sha256(b"Centipede v1 export").digest()
_ZERO_NONCE = bytes(12)
_AGAIN = "make a new offer and export to it"


@dataclass(frozen=True, slots=True)
class Export:
    """A handover, and what is to become of the machine it comes from."""

    handover: Handover
    move: bool
    """Whether it takes its leave; else both serve the peer."""

    def seal(self, offer: bytes, identity: Identity, one_time: bytes) -> bytes:
        """The bytes above. ``offer`` as it came, ``one_time`` 32 secret bytes that are used for nothing else.

        Raises HandoverError if nothing can be sealed to the offer.
        """
        to = Offer.decode(offer)
        private = X25519PrivateKey.from_private_bytes(one_time)
        head = _HEAD.pack(
            _MAGIC,
            _VERSION,
            _MOVE if self.move else _JOIN,
            len(self.handover.sessions),
            to.import_id,
            private.public_key().public_bytes_raw(),
        )
        rest = self.handover.encode()
        signature = identity.sign(_signed(offer, head, rest))
        return head + ChaCha20Poly1305(_key(private, to.one_time, offer)).encrypt(_ZERO_NONCE, signature + rest, head)

    @classmethod
    def open(cls, data: bytes, offer: bytes, one_time: bytes, exporter: PublicKey) -> Export:
        """The export in these bytes: sealed to this offer, whose secret is ``one_time``, and signed by ``exporter``.

        Raises HandoverError, and nothing else, for any other bytes.
        """
        import_id(data)
        to = Offer.decode(offer)
        _, _, flags, sessions, named, public = _HEAD.unpack_from(data)
        if named != to.import_id:
            raise HandoverError(f"this export answers another offer; {_AGAIN}")
        if flags not in (_JOIN, _MOVE):
            raise HandoverError(f"this export asks for something unknown; {_AGAIN}")
        head = data[: _HEAD.size]
        try:
            key = _key(X25519PrivateKey.from_private_bytes(one_time), public, offer)
            plaintext = ChaCha20Poly1305(key).decrypt(_ZERO_NONCE, data[_HEAD.size :], head)
        except InvalidTag:
            raise HandoverError(f"this export was damaged on its way, or is not for this machine; {_AGAIN}") from None
        signature, rest = plaintext[:SIGNATURE_BYTES], plaintext[SIGNATURE_BYTES:]
        verify(
            exporter.raw,
            signature,
            _signed(offer, head, rest),
            "this export was made by another identity; both machines need the same private key",
        )
        return cls(Handover.decode(rest, sessions=sessions, k=to.k), flags == _MOVE)


def import_id(data: bytes) -> bytes:
    """The name of the offer that an export answers. Raises HandoverError for what is no export of this version."""
    if data[:4] != _MAGIC:
        raise HandoverError("this is no export; make one with 'centipede session NAME export PEER --to OFFER'")
    if data[4:5] != bytes((_VERSION,)):
        raise HandoverError("this export is of another version; run the same version of centipede on both machines")
    if len(data) < _HEAD.size:
        raise HandoverError(f"this export is cut short; {_AGAIN}")
    return data[8 : 8 + IMPORT_ID_BYTES]


def _signed(offer: bytes, head: bytes, rest: bytes) -> bytes:
    return b"".join((_SIGN, hashlib.sha256(offer).digest(), head, rest))


def _key(private: X25519PrivateKey, public: bytes, offer: bytes) -> bytes:
    try:
        shared = private.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # a public key of small order
        raise HandoverError(f"the one-time key of this export is no key; {_AGAIN}") from None
    extracted = hmac.digest(_SALT, shared + hashlib.sha256(offer).digest(), "sha256")
    return hmac.digest(extracted, b"\1", "sha256")
