"""The handshake: Initiate and Acknowledge as pure functions and values. docs/protocol.md "Handshake".

```
INITIATE, 208 bytes                                    ACKNOWLEDGE, 168 bytes
  0   8  81 01 00*6                                      0   8  82 01 00*6
  8  32  e_I, ephemeral X25519                           8   8  sid_I, clear
 40 136  c1 = AEAD(k1, ad = h1, body1 | sig_I)          16  32  e_R
         body1: identity 32 | timestamp 8 |             48 104  c2 = AEAD(k2, ad = h3, body2 | sig_R)
                sid_I 8 | params_I 8                             body2: timestamp 8 | sid_R 8 | params_R 8
176  16  mac1 under pk_R over 0..176                   152  16  mac1 under pk_I over 0..152
192  16  mac2 under a cookie over 0..192, or zero
```

The initiator holds an :class:`Attempt` until an Acknowledge finishes it; the responder opens an :class:`Initiate`,
decides with what it knows of the peer, verifies, acknowledges. Floors, pending entries, retries and rate limits are the
node's. Everything a stranger can send ends in :class:`Refused` with the drop reason; ValueError is misuse by ourselves.

mac2 is the affair of cookie.py: a responder looks at it under load only, so it is the one field of an Initiate that may
be changed on the way unnoticed, and nothing hangs on it but the answer to the question whether the source is real.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from centipede.protocol.drops import DropReason
from centipede.protocol.drops import Refused as Refused
from centipede.protocol.identity import KEY_BYTES, Identity, PublicKey
from centipede.protocol.session import BASE_BYTES, LARGEST_K, LAST_SHARD
from centipede.protocol.wire import decode_centiseconds, encode_centiseconds

INITIATE_BYTES = 208
ACKNOWLEDGE_BYTES = 168
MAC_BYTES = 16
NO_PSK = bytes(KEY_BYTES)
"""The preshared key of a peer that has none."""

_INITIATE = bytes((0x81, 0x01, 0, 0, 0, 0, 0, 0))
_ACKNOWLEDGE = bytes((0x82, 0x01, 0, 0, 0, 0, 0, 0))
_INITIATE_MAC1 = 176
_ACKNOWLEDGE_MAC1 = 152
_NO_MAC2 = bytes(MAC_BYTES)
_ZERO_NONCE = bytes(12)
_SIGNATURE_BYTES = 64
_SIGN_INITIATE = b"Centipede v1 initiate\0"
_SIGN_ACKNOWLEDGE = b"Centipede v1 acknowledge\0"
_KEYS = b"Centipede v1 keys\0"
_BODY1 = struct.Struct(">32s8s8s8s")
_BODY2 = struct.Struct(">8s8s8s")
_SID = struct.Struct(">6sH")
_PARAMS = struct.Struct(">HHHBx")


def _hash(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


_PROTO = _hash(b"Centipede v1 X25519 Ed25519 ChaCha20Poly1305 SHA256")
"""First chaining key, and first half of the first transcript hash."""


@dataclass(frozen=True, slots=True)
class Params:
    """What one side of a session tells the other about itself.

    8 bytes: u16 gap | u16 largest inner | u16 features | u8 k | u8 zero.
    """

    gap_s: float
    """Longest pause between heartbeats it tolerates; carried in steps of 10 ms, at most 655.35."""
    largest_inner: int
    """Largest inner packet it accepts, in bytes."""
    features: int = 0
    """None are defined; unknown bits are passed over."""
    k: int = 0
    """log2 of the shards of its run, 0..4."""

    def encode(self) -> bytes:
        """8 bytes. Raises ValueError if a value does not fit its field."""
        if not 0 <= self.k <= LARGEST_K:
            raise ValueError(f"k is 0..{LARGEST_K}, not {self.k}")
        try:
            return _PARAMS.pack(encode_centiseconds(self.gap_s), self.largest_inner, self.features, self.k)
        except struct.error as error:
            raise ValueError(f"params: {error}") from None

    @classmethod
    def decode(cls, raw: bytes) -> Params:
        """Raises Refused for a k that is none; ``raw`` has 8 bytes."""
        gap, largest_inner, features, k = _PARAMS.unpack(raw)
        if k > LARGEST_K:
            raise Refused(DropReason.HANDSHAKE_MALFORMED)
        return cls(decode_centiseconds(gap), largest_inner, features, k)


@dataclass(frozen=True, slots=True)
class SessionKeys:
    """The four 32-byte keys of a session, as one end uses them. Never printed."""

    tx_data: bytes = field(repr=False)
    rx_data: bytes = field(repr=False)
    tx_control: bytes = field(repr=False)
    rx_control: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Finished:
    """What the initiator has when a valid Acknowledge arrived: the keys, and how the responder is addressed."""

    keys: SessionKeys
    base: bytes
    """6 bytes: the session base the responder receives under."""
    shard: int
    """Shard of the responder's machine."""
    params: Params
    """The responder's."""


@dataclass(frozen=True, slots=True, eq=False)
class Attempt:
    """An Initiate that is out, and the secrets with which its Acknowledge is opened. Drop it to forget them."""

    message: bytes
    """208 bytes; every retry of the attempt sends the same."""
    remote: PublicKey
    timestamp: int
    """Nanoseconds since 1970: names the handshake together with the initiator's identity."""
    sid: bytes
    """8 bytes: base | shard; comes back in the Acknowledge, see :func:`acknowledge_sid`."""
    _identity: Identity = field(repr=False)
    _ephemeral: X25519PrivateKey = field(repr=False)
    _chaining: bytes = field(repr=False)
    _transcript: bytes = field(repr=False)
    _psk: bytes = field(repr=False)

    @classmethod
    def begin(
        cls,
        identity: Identity,
        remote: PublicKey,
        psk: bytes,
        *,
        timestamp: int,
        base: bytes,
        shard: int,
        params: Params,
        random: bytes,
    ) -> Attempt:
        """Write an Initiate to ``remote``.

        ``psk`` is 32 bytes (NO_PSK for none), ``timestamp`` u64, ``base`` the 6 random bytes that this machine will
        receive under, ``shard`` its own, ``random`` 32 bytes. Raises ValueError if one of them cannot be.
        """
        ephemeral = identity.hedge(_encode_timestamp(timestamp), random)
        return cls.from_ephemeral(
            identity, remote, psk, timestamp=timestamp, base=base, shard=shard, params=params, ephemeral=ephemeral
        )

    @classmethod
    def from_ephemeral(
        cls,
        identity: Identity,
        remote: PublicKey,
        psk: bytes,
        *,
        timestamp: int,
        base: bytes,
        shard: int,
        params: Params,
        ephemeral: bytes,
    ) -> Attempt:
        """As ``begin``, with the ephemeral private key itself: 32 secret bytes that are used for this attempt only."""
        if remote == identity.public:
            raise ValueError("a node is not its own peer")
        _check_psk(psk)
        private = X25519PrivateKey.from_private_bytes(ephemeral)
        sid = _encode_sid(base, shard)
        start = _INITIATE + private.public_key().public_bytes_raw()
        h1 = _hash(_hash(_PROTO, remote.raw), start)
        chaining, key = _kdf(_PROTO, private.exchange(X25519PublicKey.from_public_bytes(remote.x25519)), 2)
        body = _BODY1.pack(identity.public.raw, _encode_timestamp(timestamp), sid, params.encode())
        signature = identity.sign(_SIGN_INITIATE + h1 + body)
        sealed = ChaCha20Poly1305(key).encrypt(_ZERO_NONCE, body + signature, h1)
        covered = start + sealed
        return cls(
            message=covered + _mac1(remote, covered) + _NO_MAC2,
            remote=remote,
            timestamp=timestamp,
            sid=sid,
            _identity=identity,
            _ephemeral=private,
            _chaining=chaining,
            _transcript=_hash(h1, sealed),
            _psk=psk,
        )

    @property
    def base(self) -> bytes:
        """6 bytes: the session base this machine will receive under."""
        return self.sid[:BASE_BYTES]

    def finish(self, datagram: bytes) -> Finished:
        """Open the Acknowledge of this attempt. Raises Refused; the attempt stays as it was and may be tried again."""
        check_mac1(self._identity.public, datagram)
        if acknowledge_sid(datagram) != self.sid:
            raise Refused(DropReason.UNKNOWN_ATTEMPT)
        start, ephemeral, sealed = datagram[:48], datagram[16:48], datagram[48:_ACKNOWLEDGE_MAC1]
        h3 = _hash(self._transcript, start)
        try:
            shared = self._ephemeral.exchange(X25519PublicKey.from_public_bytes(ephemeral))
            chaining, key = _kdf(self._chaining, shared + self._psk, 2)
            opened = ChaCha20Poly1305(key).decrypt(_ZERO_NONCE, sealed, h3)
        except (ValueError, InvalidTag):  # ValueError: the Diffie-Hellman result is zero
            raise Refused(DropReason.ACKNOWLEDGE_UNDECRYPTABLE) from None
        body, signature = opened[:-_SIGNATURE_BYTES], opened[-_SIGNATURE_BYTES:]
        timestamp, sid, params = _BODY2.unpack(body)
        if timestamp != _encode_timestamp(self.timestamp):
            raise Refused(DropReason.ACKNOWLEDGE_UNDECRYPTABLE)
        _verify(self.remote, signature, _SIGN_ACKNOWLEDGE + h3 + self._identity.public.raw + body)
        base, shard = _decode_sid(sid)
        tx_data, rx_data, tx_control, rx_control = _kdf(chaining, _KEYS + _hash(h3, sealed), 4)
        return Finished(SessionKeys(tx_data, rx_data, tx_control, rx_control), base, shard, Params.decode(params))


@dataclass(frozen=True, slots=True, eq=False)
class Initiate:
    """An opened Initiate. Its claims are not proven until :meth:`verify` returned."""

    remote: PublicKey
    """Who the initiator says it is. Not checked to be a sound key: look it up among the configured peers first."""
    timestamp: int
    base: bytes
    """6 bytes: the session base the initiator receives under."""
    shard: int
    """Shard of the initiator's machine."""
    params: Params
    """The initiator's."""
    digest: bytes
    """What :func:`initiate_digest` gives for the datagram."""
    _ephemeral: bytes = field(repr=False)
    _chaining: bytes = field(repr=False)
    _transcript: bytes = field(repr=False)
    _signed: bytes = field(repr=False)
    _signature: bytes = field(repr=False)

    def verify(self) -> None:
        """Check the initiator's signature. Raises Refused(BAD_SIGNATURE)."""
        _verify(self.remote, self._signature, self._signed)

    def acknowledge(
        self, identity: Identity, psk: bytes, *, base: bytes, shard: int, params: Params, random: bytes
    ) -> tuple[bytes, SessionKeys]:
        """Answer it: the 168-byte Acknowledge, and the keys of the session, which is pending until a packet comes.

        Call :meth:`verify` before. The arguments are as for :meth:`Attempt.begin`; ValueError if one cannot be.
        """
        ephemeral = identity.hedge(self.digest, random)
        return self.acknowledge_with(identity, psk, base=base, shard=shard, params=params, ephemeral=ephemeral)

    def acknowledge_with(
        self, identity: Identity, psk: bytes, *, base: bytes, shard: int, params: Params, ephemeral: bytes
    ) -> tuple[bytes, SessionKeys]:
        """As ``acknowledge``, with the ephemeral private key itself: 32 secret bytes used for this answer only."""
        _check_psk(psk)
        private = X25519PrivateKey.from_private_bytes(ephemeral)
        start = _ACKNOWLEDGE + _encode_sid(self.base, self.shard) + private.public_key().public_bytes_raw()
        h3 = _hash(self._transcript, start)
        shared = private.exchange(X25519PublicKey.from_public_bytes(self._ephemeral))
        chaining, key = _kdf(self._chaining, shared + psk, 2)
        body = _BODY2.pack(_encode_timestamp(self.timestamp), _encode_sid(base, shard), params.encode())
        signature = identity.sign(_SIGN_ACKNOWLEDGE + h3 + self.remote.raw + body)
        sealed = ChaCha20Poly1305(key).encrypt(_ZERO_NONCE, body + signature, h3)
        covered = start + sealed
        rx_data, tx_data, rx_control, tx_control = _kdf(chaining, _KEYS + _hash(h3, sealed), 4)
        return covered + _mac1(self.remote, covered), SessionKeys(tx_data, rx_data, tx_control, rx_control)


def open_initiate(identity: Identity, datagram: bytes) -> Initiate:
    """Open an Initiate to ``identity``: length, mac1, Diffie-Hellman, AEAD, and the form of what was inside.

    Raises Refused. The caller then looks up ``remote`` and compares the timestamp with the floor before it spends a
    signature check.
    """
    check_mac1(identity.public, datagram)
    if datagram[0] != _INITIATE[0]:
        raise Refused(DropReason.HANDSHAKE_MALFORMED)
    start, ephemeral, sealed = datagram[:40], datagram[8:40], datagram[40:_INITIATE_MAC1]
    h1 = _hash(_hash(_PROTO, identity.public.raw), start)
    try:
        chaining, key = _kdf(_PROTO, identity.exchange(ephemeral), 2)
        opened = ChaCha20Poly1305(key).decrypt(_ZERO_NONCE, sealed, h1)
    except (ValueError, InvalidTag):  # ValueError: the Diffie-Hellman result is zero
        raise Refused(DropReason.INITIATE_UNDECRYPTABLE) from None
    body, signature = opened[:-_SIGNATURE_BYTES], opened[-_SIGNATURE_BYTES:]
    remote, timestamp, sid, params = _BODY1.unpack(body)
    if remote == identity.public.raw:
        raise Refused(DropReason.UNKNOWN_IDENTITY)
    base, shard = _decode_sid(sid)
    return Initiate(
        remote=PublicKey(remote),
        timestamp=int.from_bytes(timestamp, "big"),
        base=base,
        shard=shard,
        params=Params.decode(params),
        digest=initiate_digest(datagram),
        _ephemeral=ephemeral,
        _chaining=chaining,
        _transcript=_hash(h1, sealed),
        _signed=_SIGN_INITIATE + h1 + body,
        _signature=signature,
    )


def initiate_digest(datagram: bytes) -> bytes:
    """SHA-256 of bytes 0..176 of an Initiate: the same for each of its copies."""
    return _hash(datagram[:_INITIATE_MAC1])


def check_mac1(public: PublicKey, datagram: bytes) -> None:
    """The cheap first look at an Initiate or Acknowledge sent to ``public``.

    Raises Refused: HANDSHAKE_MALFORMED for a wrong length, type, version or reserved byte, BAD_MAC1 for what was not
    written by somebody who knows the public key.
    """
    header = datagram[:8]
    if header == _INITIATE and len(datagram) == INITIATE_BYTES:
        end = _INITIATE_MAC1
    elif header == _ACKNOWLEDGE and len(datagram) == ACKNOWLEDGE_BYTES:
        end = _ACKNOWLEDGE_MAC1
    else:
        raise Refused(DropReason.HANDSHAKE_MALFORMED)
    if not hmac.compare_digest(_mac1(public, datagram[:end]), datagram[end : end + MAC_BYTES]):
        raise Refused(DropReason.BAD_MAC1)


def acknowledge_sid(datagram: bytes) -> bytes | None:
    """The 8-byte sid of the attempt that an Acknowledge answers, unproven; None if it is not an Acknowledge."""
    if len(datagram) == ACKNOWLEDGE_BYTES and datagram[:8] == _ACKNOWLEDGE:
        return datagram[8:16]
    return None


def mac1_key(public: PublicKey) -> bytes:
    """32 bytes: the key of mac1 in messages to ``public``. As public as the key itself."""
    return _hash(b"Centipede v1 mac1", public.raw)


def _mac1(public: PublicKey, covered: bytes) -> bytes:
    return hmac.digest(mac1_key(public), covered, "sha256")[:MAC_BYTES]


def _kdf(chaining: bytes, material: bytes, count: int) -> list[bytes]:
    """HKDF with SHA-256 (RFC 5869) and empty info: ``count`` keys of 32 bytes."""
    extracted = hmac.digest(chaining, material, "sha256")
    keys = [hmac.digest(extracted, b"\1", "sha256")]
    for number in range(2, count + 1):
        keys.append(hmac.digest(extracted, keys[-1] + bytes((number,)), "sha256"))
    return keys


def _verify(public: PublicKey, signature: bytes, message: bytes) -> None:
    try:
        Ed25519PublicKey.from_public_bytes(public.raw).verify(signature, message)
    except InvalidSignature:
        raise Refused(DropReason.BAD_SIGNATURE) from None


def _check_psk(psk: bytes) -> None:
    if len(psk) != KEY_BYTES:
        raise ValueError(f"a preshared key has {KEY_BYTES} bytes, not {len(psk)}")


def _encode_timestamp(timestamp: int) -> bytes:
    if not 0 <= timestamp < 2**64:
        raise ValueError(f"timestamp {timestamp} does not fit 64 bits")
    return timestamp.to_bytes(8, "big")


def _encode_sid(base: bytes, shard: int) -> bytes:
    if len(base) != BASE_BYTES or not 0 <= shard <= LAST_SHARD:
        raise ValueError(f"no such session id: base of {len(base)} bytes, shard {shard}")
    return _SID.pack(base, shard)


def _decode_sid(raw: bytes) -> tuple[bytes, int]:
    base, shard = _SID.unpack(raw)
    if shard > LAST_SHARD:
        raise Refused(DropReason.HANDSHAKE_MALFORMED)
    return base, shard
