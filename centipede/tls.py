"""TLS: how a member tells the store from others, and what the store knows it by."""

from __future__ import annotations

import ssl
from pathlib import Path

from centipede.errors import HostError


def tls_context(ca_file: Path | None, cert_file: Path | None, key_file: Path | None) -> ssl.SSLContext | None:
    """For endpoints that begin with https. Raises HostError, naming what is wrong with which file."""
    if ca_file is None:
        return None
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
    except OSError as error:  # an SSLError is one
        raise HostError(
            f"{ca_file} cannot be used as ca_file ({_words(error)}); name a PEM file with the certificate of who "
            "vouches for the store"
        ) from None
    if cert_file is not None:
        try:
            # OpenSSL would ask for a key's passphrase at the terminal. An empty one is never right.
            context.load_cert_chain(cert_file, key_file, password=lambda: "")
        except OSError as error:
            raise HostError(
                f"cert_file {cert_file} and key_file {key_file} cannot be used together ({_words(error)}); name the "
                "certificate of this member and its own key, as PEM files, the key without a passphrase"
            ) from None
    return context


def _words(error: OSError) -> str:
    reason = getattr(error, "reason", None) or error.strerror or str(error)  # OpenSSL's reason, like BAD_DECRYPT
    return str(reason).lower().replace("_", " ")
