"""Inner packets made by hand, and the datagrams that carry them. Shares no code with the data path under test."""

from __future__ import annotations

from ipaddress import ip_address

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

TCP = 6
UDP = 17


def checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total = sum(int.from_bytes(padded[at : at + 2], "big") for at in range(0, len(padded), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def ip(source: str, destination: str, payload: bytes, *, protocol: int = 253, tos: int = 0) -> bytes:
    """An IPv4 or IPv6 packet around a payload; protocol 253 is for experiments (RFC 3692)."""
    src, dst = ip_address(source).packed, ip_address(destination).packed
    if len(src) == 16:
        head = (6 << 28 | tos << 20).to_bytes(4, "big") + len(payload).to_bytes(2, "big") + bytes([protocol, 64])
        return head + src + dst + payload
    head = bytes([0x45, tos]) + (20 + len(payload)).to_bytes(2, "big") + bytes([0, 0, 0x40, 0, 64, protocol, 0, 0])
    head += src + dst
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + payload


def udp(source: str, destination: str, payload: bytes, *, ports: tuple[int, int] = (4000, 5000)) -> bytes:
    """An IP packet with a UDP datagram and its checksum."""
    head = ports[0].to_bytes(2, "big") + ports[1].to_bytes(2, "big") + (8 + len(payload)).to_bytes(2, "big")
    pseudo = ip_address(source).packed + ip_address(destination).packed + (8 + len(payload)).to_bytes(4, "big")
    value = checksum(pseudo + bytes([0, 0, 0, UDP]) + head + bytes(2) + payload) or 0xFFFF
    return ip(source, destination, head + value.to_bytes(2, "big") + payload, protocol=UDP)


def seal(
    key: bytes,
    counter: int,
    plaintext: bytes,
    *,
    base: bytes,
    source: int = 0,
    shard: int = 0,
    control: bool = False,
) -> bytes:
    """A session packet, from docs/protocol.md "Session packets" alone."""
    head = (control << 62 | source << 48 | counter).to_bytes(8, "big") + base + shard.to_bytes(2, "big")
    sealed = ChaCha20Poly1305(key).encrypt(bytes(4) + head[:8], plaintext, head)
    return head + sealed[-16:] + sealed[:-16]


def unseal(key: bytes, datagram: bytes) -> bytes:
    """What a session packet holds. Raises cryptography.exceptions.InvalidTag."""
    sealed = datagram[32:] + datagram[16:32]
    return ChaCha20Poly1305(key).decrypt(bytes(4) + datagram[:8], sealed, datagram[:16])


def counter_of(datagram: bytes) -> int:
    return int.from_bytes(datagram[2:8], "big")


def source_shard_of(datagram: bytes) -> int:
    return int.from_bytes(datagram[:2], "big") & 0x3FFF


def shard_of(datagram: bytes) -> int:
    return int.from_bytes(datagram[14:16], "big")
