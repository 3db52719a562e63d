"""Authority: somebody who vouches for others by certificate, for tests of stores that speak TLS."""

from __future__ import annotations

import datetime as dt
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)


class Authority:
    """Somebody who vouches for others by certificate."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        ca = x509.BasicConstraints(ca=True, path_length=None)
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(self._sign(self._name, self._key, (ca, True)).public_bytes(Encoding.PEM))

    def vouch(self, name: str, *addresses: str, passphrase: bytes | None = None) -> tuple[Path, Path]:
        """Files with a certificate, for these addresses if any, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(each)) for each in addresses])
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        cert_file, key_file = (self._directory / f"{name}.{suffix}" for suffix in ("pem", "key"))
        extensions = ((names, False),) if addresses else ()
        cert_file.write_bytes(self._sign(subject, key, *extensions).public_bytes(Encoding.PEM))
        encryption: KeySerializationEncryption = NoEncryption()
        if passphrase is not None:
            encryption = BestAvailableEncryption(passphrase)
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
        key_file.touch(0o600)
        key_file.write_bytes(pem)
        return cert_file, key_file

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, *extensions: tuple[x509.ExtensionType, bool]
    ) -> x509.Certificate:
        now = dt.datetime.now(dt.UTC)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(now - dt.timedelta(days=1)).not_valid_after(now + dt.timedelta(days=1))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, SHA256())
