"""The cipher of everything that Python seals, with the trace."""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from tests.trace import entry


class Cipher:
    """Stands in for ``ChaCha20Poly1305``."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._cipher = ChaCha20Poly1305(key)

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        sealed = self._cipher.encrypt(nonce, data, associated_data)
        entry.append(self._key, nonce, associated_data or b"", sealed[-16:])
        return sealed

    def decrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        return self._cipher.decrypt(nonce, data, associated_data)
