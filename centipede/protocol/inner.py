"""Inner packets: what the data path must know of an IPv4 or IPv6 packet. docs/protocol.md "Data".

Owns the look at a packet from the TUN device, and the receiver's checks and finishing touch on an opened one: lengths,
and the transport checksum that the sender may have left half done (checksum-partial: the first bit of the plaintext is
set and the TCP or UDP checksum field holds only the folded pseudo-header sum). Whether an address is allowed is the
engine's question. These functions run once per packet and never raise, whatever the bytes.
"""

from __future__ import annotations

from typing import Literal, NamedTuple
from zlib import crc32

from centipede.protocol.drops import DropReason
from centipede.protocol.session import BytesLike

_PARTIAL = 0x80
_TCP = 6
_UDP = 17
_IPV6_HEADER = 40
_CONTROL_FLAGS = 0x07  # FIN, SYN, RST
_SYN = 0x02
_UNCUT_FLAGS = 0x26  # SYN, RST, URG
_LAST_FLAGS, _FIRST_FLAGS = 0x09, 0x80  # FIN and PSH; CWR
_OPTIONS_END, _OPTION_NONE, _OPTION_MSS = 0, 1, 2

URGENT_BYTES = 256
"""A packet of at most this length is urgent: acknowledgements, keystrokes, voice, name look-ups."""
URGENT_DSCP = 40
"""So is one of this class (CS5, RFC 2474) or above: signalling, voice, network control."""


class Inner(NamedTuple):
    """Addresses and length of a whole IPv4 or IPv6 packet."""

    source: bytes
    """4 or 16 bytes, network order."""
    destination: bytes
    """4 or 16 bytes, network order."""
    length: int
    """By the packet's own header; bytes after it are not part of the packet."""


def read_inner(packet: BytesLike) -> Inner | None:
    """The addresses and length of a packet, or None unless it is IPv4 or IPv6 and as long as its header says."""
    size = len(packet)
    if size < 20:
        return None
    version = packet[0] >> 4
    if version == 4:
        length = packet[2] << 8 | packet[3]
        if not 20 <= (packet[0] & 15) * 4 <= length <= size:
            return None
        return Inner(bytes(packet[12:16]), bytes(packet[16:20]), length)
    if version == 6 and size >= _IPV6_HEADER:
        length = _IPV6_HEADER + (packet[4] << 8 | packet[5])
        if length > size:
            return None
        return Inner(bytes(packet[8:24]), bytes(packet[24:40]), length)
    return None


def is_urgent(packet: BytesLike) -> bool:
    """Whether a packet is worth a copy: short, of a class for real time, or TCP that begins or ends a connection.

    For packets that :func:`read_inner` took.
    """
    if packet[0] >> 4 == 4:
        length, dscp, protocol = packet[2] << 8 | packet[3], packet[1] >> 2, packet[9]
        start = (packet[0] & 15) * 4
        later = packet[6] & 0x1F or packet[7]  # a later fragment has no TCP header
    else:
        length = _IPV6_HEADER + (packet[4] << 8 | packet[5])
        dscp, protocol = (packet[0] & 15) << 2 | packet[1] >> 6, packet[6]
        start, later = _IPV6_HEADER, 0
    if length <= URGENT_BYTES or dscp >= URGENT_DSCP:
        return True
    return protocol == _TCP and not later and bool(packet[start + 13] & _CONTROL_FLAGS)


def clamp_mss(packet: bytes, largest_bytes: int) -> bytes:
    """The packet, unless it is a SYN that asks for segments which make packets of more than so many bytes.

    Then its MSS option (RFC 9293 section 3.7.1) asks for as many bytes as fit, and the checksum follows (RFC 1624). For
    packets that :func:`read_inner` took, with a complete checksum.
    """
    if packet[0] >> 4 == 4:
        start, protocol, headers = (packet[0] & 15) * 4, packet[9], 40
        fragment = packet[6] & 0x3F or packet[7]
    else:
        start, protocol, headers = _IPV6_HEADER, packet[6], 60
        fragment = 0
    if protocol != _TCP or fragment or len(packet) < start + 20 or not packet[start + 13] & _SYN:
        return packet
    at, end = start + 20, start + (packet[start + 12] >> 4) * 4
    while at + 4 <= min(end, len(packet)) and packet[at] != _OPTIONS_END:
        if packet[at] == _OPTION_NONE:
            at += 1
        elif packet[at] == _OPTION_MSS and packet[at + 1] == 4:
            return _with_mss(packet, start, at + 2, largest_bytes - headers)
        elif packet[at + 1] < 2:
            break
        else:
            at += packet[at + 1]
    return packet


def _with_mss(packet: bytes, start: int, at: int, most: int) -> bytes:
    before = packet[at] << 8 | packet[at + 1]
    if before <= most:
        return packet
    changed = bytearray(packet)
    changed[at : at + 2] = most.to_bytes(2, "big")
    field = start + 16
    # What stands at an odd place is summed with its bytes the other way round.
    order: Literal["big", "little"] = "little" if (at - start) % 2 else "big"
    old, new = (int.from_bytes(each[at : at + 2], order) for each in (packet, changed))
    total = (int.from_bytes(packet[field : field + 2], "big") ^ 0xFFFF) + (old ^ 0xFFFF) + new
    total = (total & 0xFFFF) + (total >> 16)
    total = (total & 0xFFFF) + (total >> 16)
    changed[field : field + 2] = (total ^ 0xFFFF).to_bytes(2, "big")
    return bytes(changed)


def cut_tcp(packet: bytes, largest_bytes: int) -> list[bytes]:
    """The packet, or if it is TCP over IPv6 and of more than so many bytes, shorter ones that carry the same.

    It is cut as segmentation offload does. Left as it is: what has extension headers or urgent data, begins or breaks
    off a connection, or has a wrong checksum, which would become right. For packets that :func:`read_inner` took.
    """
    length = _IPV6_HEADER + (packet[4] << 8 | packet[5])
    if packet[0] >> 4 != 6 or packet[6] != _TCP or length <= largest_bytes:
        return [packet]
    segment = packet[_IPV6_HEADER:length]
    if len(segment) < 20 or segment[13] & _UNCUT_FLAGS or not 20 <= segment[12] >> 4 << 2 <= len(segment):
        return [packet]
    if _tcp6_checksum(packet, segment):
        return [packet]
    header, payload = segment[: segment[12] >> 4 << 2], segment[segment[12] >> 4 << 2 :]
    most = largest_bytes - _IPV6_HEADER - len(header)
    sequence = int.from_bytes(header[4:8], "big")
    cut = []
    for at in range(0, len(payload), most):
        piece = payload[at : at + most]
        made = bytearray(header + piece)
        made[4:8] = ((sequence + at) % 2**32).to_bytes(4, "big")
        if at + most < len(payload):
            made[13] &= ~_LAST_FLAGS
        if at > 0:
            made[13] &= ~_FIRST_FLAGS
        made[16:18] = bytes(2)
        made[16:18] = _tcp6_checksum(packet, made).to_bytes(2, "big")
        cut.append(packet[:4] + len(made).to_bytes(2, "big") + packet[6:_IPV6_HEADER] + bytes(made))
    return cut


def _tcp6_checksum(packet: bytes, segment: BytesLike) -> int:
    """Of a TCP segment between the addresses of an IPv6 packet; 0 if the segment holds it already."""
    pseudo = packet[8:_IPV6_HEADER] + len(segment).to_bytes(4, "big") + _TCP.to_bytes(4, "big")
    return _ones_complement_sum(pseudo + bytes(segment)) ^ 0xFFFF


def flow_hash(packet: BytesLike) -> int:
    """A number that the packets of one flow share, by inner addresses, protocol and, if there are any, ports.

    All fragments of a packet have the same. For packets that :func:`read_inner` took.
    """
    if packet[0] >> 4 == 4:
        start, protocol = (packet[0] & 15) * 4, packet[9]
        addresses = bytes(packet[12:20])
        fragment = packet[6] & 0x3F or packet[7]
    else:
        start, protocol = _IPV6_HEADER, packet[6]
        addresses = bytes(packet[8:40])
        fragment = 0
    ports = bytes(packet[start : start + 4]) if protocol in (_TCP, _UDP) and not fragment else b""
    return crc32(addresses + bytes((protocol,)) + ports)


def finish_inner(plaintext: bytes) -> bytes | DropReason:
    """The packet to hand to the TUN device: cut to its own length, its transport checksum completed.

    Empty in, empty out: a keepalive. OPENED_MALFORMED if it is no whole IPv4 or IPv6 packet, BAD_PARTIAL if the
    checksum was left to us in a packet where nobody could complete it.
    """
    if not plaintext:
        return plaintext
    if plaintext[0] & _PARTIAL:
        return _complete(plaintext)
    inner = read_inner(plaintext)
    if inner is None:
        return DropReason.OPENED_MALFORMED
    return plaintext if inner.length == len(plaintext) else plaintext[: inner.length]


def _complete(plaintext: bytes) -> bytes | DropReason:
    packet = bytearray(plaintext)
    packet[0] &= ~_PARTIAL
    inner = read_inner(packet)
    if inner is None:
        return DropReason.OPENED_MALFORMED
    del packet[inner.length :]
    if packet[0] >> 4 == 4:
        start = (packet[0] & 15) * 4
        protocol = packet[9]
        fragmented = packet[6] & 0x3F or packet[7]  # more fragments follow, or an offset; "don't fragment" may be set
    else:
        start = _IPV6_HEADER
        protocol = packet[6]
        fragmented = 0  # a fragment header would stand in the protocol's place
    length = inner.length - start
    if fragmented:
        return DropReason.BAD_PARTIAL
    if protocol == _TCP:
        if length < 20 or not 20 <= (packet[start + 12] >> 4) * 4 <= length:
            return DropReason.BAD_PARTIAL
        field = start + 16
    elif protocol == _UDP:
        if length < 8 or packet[start + 4] << 8 | packet[start + 5] != length:
            return DropReason.BAD_PARTIAL
        field = start + 6
    else:
        return DropReason.BAD_PARTIAL
    # The field already holds the pseudo-header's share. No TCP or UDP header is all zero, so a zero sum is 0xffff here.
    checksum = _ones_complement_sum(packet[start:]) ^ 0xFFFF
    if checksum == 0 and protocol == _UDP:
        checksum = 0xFFFF  # RFC 768: zero would say that there is no checksum
    packet[field : field + 2] = checksum.to_bytes(2, "big")
    return bytes(packet)


def _ones_complement_sum(payload: BytesLike) -> int:
    """The folded sum of 16-bit words (RFC 1071) of bytes that are not all zero; 1..0xffff.

    2^16 is 1 modulo 0xffff, so the sum is the whole payload read as one number, modulo 0xffff: two steps in C.
    """
    number = int.from_bytes(payload, "big") << 8 * (len(payload) & 1)
    return number % 0xFFFF or 0xFFFF
