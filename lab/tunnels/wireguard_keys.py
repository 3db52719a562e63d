"""Key pairs of WireGuard: X25519 (RFC 7748), as ``wg genkey`` and ``wg pubkey`` make them."""

from __future__ import annotations

from typing import NamedTuple

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey


class WireguardKeys(NamedTuple):
    """A private and a public key, 32 bytes each."""

    private: bytes
    public: bytes


def generate() -> WireguardKeys:
    """Make a new pair from the system's randomness."""
    key = X25519PrivateKey.generate()
    return WireguardKeys(key.private_bytes_raw(), key.public_key().public_bytes_raw())
