"""Control messages: the plaintext of control (class 1) session packets. docs/protocol.md "Heartbeats".

Owns the byte layouts of HEARTBEAT, ADDRESSES, OBSERVED and PARTED and nothing of their meaning. ``encode`` raises
ValueError for what does not fit its field, a fault of ours; ``decode_control`` gives a value or raises Refused for any
bytes at all. Unknown types, flags and address families are passed over and reserved bytes are not looked at, so that a
later version may use them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from centipede.protocol.drops import DropReason
from centipede.protocol.drops import Refused as Refused
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.session import LARGEST_K

HEARTBEAT_BYTES = 64
"""Plaintext of a heartbeat without padding; its datagram has 32 more."""
CHALLENGE_BYTES = 8
MOST_ADDRESSES = 16
"""Addresses in one ADDRESSES message."""
MOST_PARTED = 64
"""Paths in one PARTED message."""

_RESPONSE_VALID = 0x01
_ANSWER_NOW = 0x02
_AGGREGATING = 0x04
_DRAINING = 0x08
_BYE = 0x10
_PROBE = 0x20

_HEARTBEAT = struct.Struct(">BBBxHH8s8sQQQIIIHBx")
_ADDRESSES = struct.Struct(">BB6x")
_ADDRESS = struct.Struct(">BBH16s")
_OBSERVED = struct.Struct(">BBH4x16s")
_PARTED = struct.Struct(">BB6x")

ADDRESS_BYTES = _ADDRESS.size
"""An address in ADDRESSES."""


class ControlType(IntEnum):
    """First byte of the plaintext."""

    HEARTBEAT = 1
    ADDRESSES = 2
    OBSERVED = 3
    PARTED = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Proves an address reachable and measures its path. Clocks are the sender's and the receiver's own, in us.

    ```
     0 1 type 01    1 1 flags: 01 response valid, 02 answer now, 04 aggregating, 08 draining, 10 bye, 20 probe
     2 1 weight     3 1 zero
     4 2 next_in, 10 ms units    6 2 max_len
     8 8 challenge              16 8 response
    24 8 t1                     32 8 echo                40 8 arrival of echo
    48 4 received when echo came                         52 4 sent at t1
    56 4 KiB received           60 2 path id   62 1 k    63 1 zero
    64 . zero padding (probe only)
    ```
    """

    challenge: bytes
    """8 random bytes; who sends them back can read what is sent to this address."""
    next_in_s: float
    """When the next heartbeat may be expected; carried in steps of 10 ms, at most 655.35."""
    t1_us: int
    """The sender's clock now."""
    response: bytes | None = None
    """The last challenge the sender received on this path; None if it received none it may answer."""
    echo_us: int = 0
    """The receiver's ``t1_us`` that the sender heard last on this path; 0 for none."""
    arrival_us: int = 0
    """The sender's clock when that one arrived."""
    received: int = 0
    """Packets the sender had received on this path when that one arrived, all classes and copies, modulo 2^32."""
    sent: int = 0
    """Packets the sender had sent on this path at ``t1_us``, modulo 2^32."""
    received_kib: int = 0
    """KiB received on this path, modulo 2^32."""
    largest_bytes: int = 0
    """max_len: largest authentic UDP payload the sender received on this path."""
    path: int = 0
    """The sender's number for this path, 0..65535."""
    k: int = 0
    """log2 of the shards of the sender's run, 0..4."""
    weight: int = 255
    """How gladly the sender receives here, 0 (only if nothing else works) to 255."""
    answer_now: bool = False
    aggregating: bool = False
    draining: bool = False
    bye: bool = False
    probe: bool = False
    padding_bytes: int = 0
    """Zero bytes after the message, in a probe only: they bring the datagram to the size that is tried."""

    def encode(self) -> bytes:
        """The plaintext. Raises ValueError if a value does not fit its field."""
        if self.padding_bytes and not self.probe:
            raise ValueError("only a probe has padding")
        response = bytes(CHALLENGE_BYTES) if self.response is None else self.response
        if len(self.challenge) != CHALLENGE_BYTES or len(response) != CHALLENGE_BYTES:
            raise ValueError(f"challenge and response have {CHALLENGE_BYTES} bytes")
        if not 0 <= self.k <= LARGEST_K:
            raise ValueError(f"k is 0..{LARGEST_K}, not {self.k}")
        flags = (
            (_RESPONSE_VALID if self.response is not None else 0)
            | (_ANSWER_NOW if self.answer_now else 0)
            | (_AGGREGATING if self.aggregating else 0)
            | (_DRAINING if self.draining else 0)
            | (_BYE if self.bye else 0)
            | (_PROBE if self.probe else 0)
        )
        try:
            message = _HEARTBEAT.pack(
                ControlType.HEARTBEAT,
                flags,
                self.weight,
                encode_centiseconds(self.next_in_s),
                self.largest_bytes,
                self.challenge,
                response,
                self.t1_us,
                self.echo_us,
                self.arrival_us,
                self.received,
                self.sent,
                self.received_kib,
                self.path,
                self.k,
            )
        except struct.error as error:
            raise ValueError(f"heartbeat: {error}") from None
        return message + bytes(self.padding_bytes)


@dataclass(frozen=True, slots=True)
class Addresses:
    """Addresses at which the sender would also like to be tried.

    ``02 | count | 6 zero | count x (family 4 or 6, flags 0, port 2, address 16)``; an IPv4 address stands in the first
    4 bytes of its field. Zones of link-local addresses are not carried: they mean nothing on another machine.
    """

    endpoints: tuple[Endpoint, ...]
    """At most 16, each with a port."""

    def encode(self) -> bytes:
        """The plaintext. Raises ValueError for more than 16 addresses and for port 0."""
        if len(self.endpoints) > MOST_ADDRESSES:
            raise ValueError(f"at most {MOST_ADDRESSES} addresses go into one message, not {len(self.endpoints)}")
        entries = (encode_address(endpoint) for endpoint in self.endpoints)
        return _ADDRESSES.pack(ControlType.ADDRESSES, len(self.endpoints)) + b"".join(entries)


@dataclass(frozen=True, slots=True)
class Observed:
    """The address at which the sender sees the receiver: ``03 | family 4 or 6 | port 2 | 4 zero | address 16``."""

    endpoint: Endpoint

    def encode(self) -> bytes:
        """The plaintext. Raises ValueError for port 0."""
        e = self.endpoint
        return _OBSERVED.pack(ControlType.OBSERVED, e.version, _port(e), e.packed)


@dataclass(frozen=True, slots=True)
class Parted:
    """Paths of the sender that are no more: ``04 | count | 6 zero | count x path id 2``."""

    paths: tuple[int, ...]
    """The sender's numbers, as in its heartbeats; at most 64."""

    def encode(self) -> bytes:
        """The plaintext. Raises ValueError for more than 64 paths and for a number that does not fit."""
        if len(self.paths) > MOST_PARTED:
            raise ValueError(f"at most {MOST_PARTED} paths go into one message, not {len(self.paths)}")
        if not all(0 <= path <= 0xFFFF for path in self.paths):
            raise ValueError("a path's number is 0..65535")
        return _PARTED.pack(ControlType.PARTED, len(self.paths)) + struct.pack(f">{len(self.paths)}H", *self.paths)


@dataclass(frozen=True, slots=True)
class UnknownControl:
    """An authentic message of a type this version does not know; it is counted and passed over."""

    type: int


Control: TypeAlias = Heartbeat | Addresses | Observed | Parted | UnknownControl


def decode_control(plaintext: bytes) -> Control:
    """The message in an opened control packet. Raises Refused(CONTROL_MALFORMED), and nothing else for any bytes.

    Bytes after the message are passed over.
    """
    try:
        kind = plaintext[0]
        if kind == ControlType.HEARTBEAT:
            return _decode_heartbeat(plaintext)
        if kind == ControlType.ADDRESSES:
            return _decode_addresses(plaintext)
        if kind == ControlType.OBSERVED:
            return _decode_observed(plaintext)
        if kind == ControlType.PARTED:
            return _decode_parted(plaintext)
    except (IndexError, struct.error):
        raise Refused(DropReason.CONTROL_MALFORMED) from None
    return UnknownControl(kind)


def encode_address(endpoint: Endpoint) -> bytes:
    """20 bytes: family 1 | flags 1 | port 2 | address 16. Raises ValueError for port 0."""
    return _ADDRESS.pack(endpoint.version, 0, _port(endpoint), endpoint.packed)


def decode_address(raw: bytes, position: int) -> Endpoint | None:
    """The address in the 20 bytes from ``position`` on; None for an unknown family or port 0."""
    family, _, port, address = _ADDRESS.unpack_from(raw, position)
    return _endpoint(family, port, address)


def encode_centiseconds(seconds: float) -> int:
    """A time as the wire carries it, in 10 ms units. Whether it fits is for the caller's struct to say."""
    return round(seconds * 100)


def decode_centiseconds(units: int) -> float:
    """Seconds."""
    return units / 100


def _decode_heartbeat(plaintext: bytes) -> Heartbeat:
    (
        _,
        flags,
        weight,
        next_in,
        largest,
        challenge,
        response,
        t1,
        echo,
        arrival,
        received,
        sent,
        received_kib,
        path,
        k,
    ) = _HEARTBEAT.unpack_from(plaintext)
    if k > LARGEST_K:
        raise Refused(DropReason.CONTROL_MALFORMED)
    probe = bool(flags & _PROBE)
    return Heartbeat(
        challenge=challenge,
        next_in_s=decode_centiseconds(next_in),
        t1_us=t1,
        response=response if flags & _RESPONSE_VALID else None,
        echo_us=echo,
        arrival_us=arrival,
        received=received,
        sent=sent,
        received_kib=received_kib,
        largest_bytes=largest,
        path=path,
        k=k,
        weight=weight,
        answer_now=bool(flags & _ANSWER_NOW),
        aggregating=bool(flags & _AGGREGATING),
        draining=bool(flags & _DRAINING),
        bye=bool(flags & _BYE),
        probe=probe,
        padding_bytes=len(plaintext) - HEARTBEAT_BYTES if probe else 0,
    )


def _decode_addresses(plaintext: bytes) -> Addresses:
    _, count = _ADDRESSES.unpack_from(plaintext)
    if count > MOST_ADDRESSES:
        raise Refused(DropReason.CONTROL_MALFORMED)
    endpoints = []
    for position in range(_ADDRESSES.size, _ADDRESSES.size + count * ADDRESS_BYTES, ADDRESS_BYTES):
        endpoint = decode_address(plaintext, position)
        if endpoint is not None:
            endpoints.append(endpoint)
    return Addresses(tuple(endpoints))


def _decode_observed(plaintext: bytes) -> Observed:
    _, family, port, address = _OBSERVED.unpack_from(plaintext)
    endpoint = _endpoint(family, port, address)
    if endpoint is None:
        raise Refused(DropReason.CONTROL_MALFORMED)
    return Observed(endpoint)


def _decode_parted(plaintext: bytes) -> Parted:
    _, count = _PARTED.unpack_from(plaintext)
    if count > MOST_PARTED:
        raise Refused(DropReason.CONTROL_MALFORMED)
    return Parted(struct.unpack_from(f">{count}H", plaintext, _PARTED.size))


def _endpoint(family: int, port: int, address: bytes) -> Endpoint | None:
    """None for what is no address to send to: an unknown family or port 0."""
    if port == 0:
        return None
    if family == 4:
        return Endpoint.of(str(IPv4Address(address[:4])), port)
    if family == 6:
        return Endpoint.of(str(IPv6Address(address)), port)
    return None


def _port(endpoint: Endpoint) -> int:
    if endpoint.port == 0:
        raise ValueError("port 0 is no address to send to")
    return endpoint.port
