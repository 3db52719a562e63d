"""Endpoint: one UDP address, local or remote, of either IP version.

Endpoints are compared and hashed all the time, so their text is canonical: equal addresses are equal endpoints.
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple


class Endpoint(NamedTuple):
    """A UDP address. ``host`` is canonical text (RFC 5952 for IPv6, zone kept as ``%eth0``), ``port`` 0..65535.

    Build it with :meth:`of` or :meth:`parse`, which canonicalise; the bare constructor trusts its caller.
    An IPv4-mapped IPv6 address becomes the IPv4 address it stands for.
    """

    host: str
    port: int

    @classmethod
    def of(cls, host: str, port: int) -> Endpoint:
        """The endpoint of a numeric host and a port. Raises ValueError for a name or a port out of range."""
        if not 0 <= port <= 0xFFFF:
            raise ValueError(f"port {port} is not in 0..65535")
        address: IPv4Address | IPv6Address = ip_address(host)
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return cls(str(address), port)

    @classmethod
    def parse(cls, text: str) -> Endpoint:
        """The endpoint written as ``192.0.2.1:51820`` or ``[2001:db8::1]:51820``. Raises ValueError otherwise."""
        host, separator, port = text.rpartition(":")
        if not separator or not port.isdecimal():
            raise ValueError(f"{text!r} is not ADDRESS:PORT")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif ":" in host:
            raise ValueError(f"{text!r}: an IPv6 address with a port is written in brackets, [ADDRESS]:PORT")
        return cls.of(host, int(port))

    @property
    def version(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.host else 4

    @property
    def packed(self) -> bytes:
        """The address alone: 4 or 16 bytes, network order, without zone and port."""
        return ip_address(self.host).packed

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if self.version == 6 else f"{self.host}:{self.port}"
