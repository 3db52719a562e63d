"""Offer: the wish of one machine to take over sessions of an identity that it serves as well.

```
  0  4 "CPDO"    4 1 version 01   5 1 k of its run   6 1 count of addresses   7 1 zero
  8 16 import id          24 32 one-time X25519 public key          56 32 importer's identity
 88  n  count x 20: addresses at which a peer may find the importer, as in ADDRESSES
  …  64 Ed25519 signature of the identity over "Centipede v1 offer" 00 | all before
```

Without addresses 152 bytes. docs/protocol.md "Handing over". An offer is no secret: it is only of use to a machine
that holds the same identity, and what is sealed to it opens nowhere but where its one-time key is. As text it is base64
under a header line, see armour.py.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from centipede.errors import HandoverError
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import Identity, PublicKey
from centipede.protocol.session import LARGEST_K
from centipede.protocol.wire import ADDRESS_BYTES, MOST_ADDRESSES, decode_address, encode_address

IMPORT_ID_BYTES = 16
SIGNATURE_BYTES = 64
_MAGIC = b"CPDO"
_VERSION = 1
_HEAD = struct.Struct(">4sBBBx16s32s32s")
_SIGN = b"Centipede v1 offer\0"
_AGAIN = "make another with 'centipede session NAME offer'"


@dataclass(frozen=True, slots=True)
class Offer:
    """What an offer says."""

    k: int
    """log2 of the shards the importer wants."""
    import_id: bytes
    """16 random bytes: its name."""
    one_time: bytes
    """32 bytes: the X25519 public key that the export is sealed to."""
    importer: PublicKey
    addresses: tuple[Endpoint, ...] = ()
    """Where a peer may find the importer; at most 16, each with a port."""

    def encode(self, identity: Identity) -> bytes:
        """The bytes above, signed by ``identity``, which is the importer's. Raises ValueError for what does not fit."""
        if len(self.addresses) > MOST_ADDRESSES:
            raise ValueError("too many addresses for an offer")
        head = _HEAD.pack(
            _MAGIC, _VERSION, self.k, len(self.addresses), self.import_id, self.one_time, self.importer.raw
        )
        signed = b"".join((head, *(encode_address(endpoint) for endpoint in self.addresses)))
        return signed + identity.sign(_SIGN + signed)

    @classmethod
    def decode(cls, data: bytes) -> Offer:
        """The offer in these bytes, its signature verified. Raises HandoverError, and nothing else, for any other."""
        if data[:4] != _MAGIC:
            raise HandoverError(f"this is no offer; {_AGAIN}")
        if data[4:5] != bytes((_VERSION,)):
            raise HandoverError("this offer is of another version; run the same version of centipede on both machines")
        if len(data) < _HEAD.size + SIGNATURE_BYTES:
            raise HandoverError(f"this offer is cut short; {_AGAIN}")
        _, _, k, count, import_id, one_time, importer = _HEAD.unpack_from(data)
        signed, signature = data[:-SIGNATURE_BYTES], data[-SIGNATURE_BYTES:]
        if k > LARGEST_K or count > MOST_ADDRESSES or len(signed) != _HEAD.size + count * ADDRESS_BYTES:
            raise HandoverError(f"this offer is malformed; {_AGAIN}")
        verify(importer, signature, _SIGN + signed, f"this offer was changed on its way; {_AGAIN}")
        if not _is_key(one_time):  # said now, for what is sealed to it gives shards away
            raise HandoverError(f"the one-time key of this offer is no key; {_AGAIN}")
        found = (decode_address(data, _HEAD.size + n * ADDRESS_BYTES) for n in range(count))
        addresses = tuple(endpoint for endpoint in found if endpoint is not None)
        return cls(k, import_id, one_time, PublicKey(importer), addresses)


def _is_key(public: bytes) -> bool:
    """Whether anything can be agreed on with an X25519 public key: not with one of small order (RFC 7748, 6.1)."""
    try:
        X25519PrivateKey.from_private_bytes(bytes(32)).exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True


def verify(public: bytes, signature: bytes, message: bytes, otherwise: str) -> None:
    """Raises HandoverError with the sentence ``otherwise`` unless the key signed the message."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        raise HandoverError(otherwise) from None
