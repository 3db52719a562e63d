"""The small texts of a configuration: addresses, networks, host names, ports, interface names.

Each ``parse_*`` takes what somebody wrote and returns a value, or raises ValueError with the middle of a sentence:
what is wrong with the text and an example of a right one. Where the text stood is added by config.py. Nothing here asks
the host whether a name, an address or an interface exists.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from typing import TypeAlias

from centipede.protocol.endpoint import Endpoint

Network: TypeAlias = IPv4Network | IPv6Network
InterfaceAddress: TypeAlias = IPv4Interface | IPv6Interface

DEFAULT_PORT = 51820
"""UDP port where none is written."""

_LINK_NAME = re.compile(r"[a-zA-Z0-9_=+.-]{1,15}")
_PEER_NAME = re.compile(r"[a-zA-Z0-9_=+.@-]{1,63}")
_HOST_NAME = re.compile(
    r"(?=.{1,253}\Z)[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?(\.[a-zA-Z0-9_]([a-zA-Z0-9_-]*[a-zA-Z0-9_])?)*\.?"
)
_TARGETS = "write it like vpn.example.net:51820, 198.51.100.7:51820 or [2001:db8::1]:51820"
_RESERVED_NAMES = frozenset({".", "..", "all"})


@dataclass(frozen=True, slots=True)
class Target:
    """Where a peer can be reached, as written: a numeric address, or a host name that is still to be looked up."""

    host: str
    port: int
    endpoint: Endpoint | None
    """None for a host name."""

    def __str__(self) -> str:
        return str(self.endpoint) if self.endpoint else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Listen:
    """Where to listen: one address; the addresses of one interface; or (neither given) those of all interfaces."""

    port: int
    """0 for any free one."""
    endpoint: Endpoint | None = None
    link: str | None = None

    def __str__(self) -> str:
        return str(self.endpoint) if self.endpoint else f"{self.link or 'auto'}:{self.port}"


ANYWHERE = Listen(port=0)
"""Every address of the host, on a free port: for one who only initiates."""


def parse_name(text: str) -> str:
    """The name of a tunnel, which is also its interface's name."""
    if not _LINK_NAME.fullmatch(text) or text in _RESERVED_NAMES:
        raise ValueError(
            f"{text!r} cannot name an interface; a name has 1 to 15 of the characters a-z A-Z 0-9 _ = + . - "
            "(and is not 'all'), such as site-a"
        )
    return text


def parse_peer_name(text: str) -> str:
    """The name of a peer in ``show`` and in commands."""
    if not _PEER_NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} cannot name a peer; a name has 1 to 63 of the characters a-z A-Z 0-9 _ = + . @ -, such as laptop"
        )
    return text


def parse_network(text: str) -> Network:
    """A network; a bare address means that address alone. Bits beyond the prefix are a mistake, not rounded away."""
    try:
        return ip_network(text)
    except ValueError:
        pass
    try:
        loose = ip_interface(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an IP network; write it like 10.7.0.2/32 or fd07::/64") from None
    raise ValueError(
        f"{text!r} has bits set beyond its prefix; write {loose.network} or {loose.ip}/{loose.max_prefixlen}"
    )


def parse_interface_address(text: str) -> InterfaceAddress:
    """An address with its prefix for the tunnel's interface."""
    try:
        address = ip_interface(text)
    except ValueError:
        raise ValueError(f"{text!r} is not an address with a prefix; write it like 10.7.0.1/24 or fd07::1/64") from None
    if address.is_multicast or address.is_unspecified or address.is_loopback:
        raise ValueError(f"{text!r} cannot be an interface's address; write it like 10.7.0.1/24 or fd07::1/64")
    return address


def parse_target(text: str, advice: str = _TARGETS) -> Target:
    """``ADDRESS:PORT``, ``[IPV6]:PORT`` or ``HOST:PORT``; the port may be left out. ``advice`` ends an error."""
    host, port = _split(text, advice)
    if port == 0:
        raise ValueError(f"{text!r} has port 0, which nobody can listen on; {advice}")
    address = _address(host)
    if address is None:
        if not _HOST_NAME.fullmatch(host) or _looks_numeric(host):
            raise ValueError(f"{text!r} is neither an address nor a host name; {advice}")
        return Target(host, port, None)
    if address.is_unspecified or address.is_multicast or address == IPv4Address("255.255.255.255"):
        raise ValueError(f"{text!r} is not the address of one host; {advice}")
    return Target(host, port, Endpoint.of(host, port))


def parse_listen(text: str) -> Listen:
    """``ADDRESS:PORT``, ``[IPV6]:PORT``, ``INTERFACE:PORT`` or ``auto:PORT``; the port may be left out."""
    advice = "write it like 192.0.2.10:51820, [2001:db8::1]:51820, wwan0:51820 or auto"
    host, port = _split(text, advice)
    if host == "auto":
        return Listen(port)
    address = _address(host)
    if address is None:
        if not _LINK_NAME.fullmatch(host) or _looks_numeric(host):
            raise ValueError(f"{text!r} is neither an address nor an interface; {advice}")
        return Listen(port, link=host)
    if address.is_unspecified:
        raise ValueError(
            f"{text!r} is no single address, and paths are told apart by theirs; write auto:{port} instead"
        )
    if address.is_multicast:
        raise ValueError(f"{text!r} is a multicast address; {advice}")
    return Listen(port, endpoint=Endpoint.of(host, port))


def _split(text: str, advice: str) -> tuple[str, int]:
    """Host and port, without the brackets of an IPv6 address."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or not isinstance(_address(host), IPv6Address) or (rest and not rest.startswith(":")):
            raise ValueError(f"{text!r} is not an IPv6 address in brackets; {advice}")
        port = rest.removeprefix(":") if rest else str(DEFAULT_PORT)
    elif text.count(":") > 1:
        raise ValueError(f"{text!r}: an IPv6 address is written in brackets; {advice}")
    else:
        host, colon, port = text.partition(":")
        port = port if colon else str(DEFAULT_PORT)
    if not port.isascii() or not port.isdecimal() or int(port) > 0xFFFF:
        raise ValueError(f"{text!r}: {port!r} is not a port (0 to 65535); {advice}")
    return host, int(port)


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def _looks_numeric(host: str) -> bool:
    """10.0.0.300 is a mistyped address, not the name of anything."""
    return all(character in "0123456789." for character in host)
