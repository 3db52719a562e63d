"""Vectors of opened inner packets, some with the checksum left to the receiver: inner.json."""

from typing import Any, NamedTuple

from tests.vectors.primitives import Case, fill, u

TCP, UDP = 6, 17


def summed(data: bytes) -> int:
    """One's complement sum of 16-bit words, RFC 1071, with the carry brought round at every step."""
    total = 0
    for i in range(0, len(data), 2):
        total += int.from_bytes(data[i : i + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


class Addressed(NamedTuple):
    """An IP header around a payload, by version; ``options`` are IPv4's."""

    version: int
    options: bytes = b""
    fragment: int = 0x4000

    def wrap(self, protocol: int, payload: bytes) -> bytes:
        source, destination = self.addresses()
        if self.version == 6:
            return (
                b"\x60"
                + fill("flow", 3)
                + u(len(payload), 2)
                + u(protocol, 1)
                + b"\x40"
                + source
                + destination
                + payload
            )
        size = 20 + len(self.options)
        head = u(0x40 | size // 4, 1) + b"\2" + u(size + len(payload), 2) + fill("id", 2) + u(self.fragment, 2)
        head += b"\x40" + u(protocol, 1)
        total = summed(head + bytes(2) + source + destination + self.options) ^ 0xFFFF
        return head + u(total, 2) + source + destination + self.options + payload

    def addresses(self) -> tuple[bytes, bytes]:
        if self.version == 4:
            return bytes([10, 7, 0, 1]), bytes([10, 7, 0, 2])
        return b"\xfd\7" + bytes(13) + b"\1", b"\xfd\7" + bytes(13) + b"\2"

    def pseudo(self, protocol: int, size: int) -> bytes:
        source, destination = self.addresses()
        return source + destination + u(protocol, 4) + u(size, 4)


def transport(protocol: int, data: bytes, field: bytes, options: bytes = b"") -> bytes:
    if protocol == UDP:
        return u(5353, 2) + u(443, 2) + u(8 + len(data), 2) + field + data
    return (
        fill("tcp", 12) + u((20 + len(options)) // 4 << 4, 1) + b"\x18" + u(512, 2) + field + bytes(2) + options + data
    )


def partial(packet: bytes) -> bytes:
    return u(packet[0] | 0x80, 1) + packet[1:]


def inner() -> dict[str, Any]:
    cases: list[Case] = []

    def done(name: str, plaintext: bytes, packet: bytes) -> None:
        cases.append({"name": name, "plaintext": plaintext, "packet": packet})

    def dropped(name: str, plaintext: bytes, reason: str) -> None:
        cases.append({"name": name, "plaintext": plaintext, "reason": reason})

    def left(ip: Addressed, protocol: int, data: bytes, options: bytes = b"") -> tuple[bytes, bytes, int]:
        """The packet as the sender leaves it, as the receiver completes it, and the completed field."""
        empty = transport(protocol, data, bytes(2), options)
        pseudo = ip.pseudo(protocol, len(empty))
        checksum = summed(pseudo + empty) ^ 0xFFFF
        written = 0xFFFF if checksum == 0 and protocol == UDP else checksum
        unfinished = transport(protocol, data, u(summed(pseudo), 2), options)
        complete = transport(protocol, data, u(written, 2), options)
        return partial(ip.wrap(protocol, unfinished)), ip.wrap(protocol, complete), written

    def nulled(ip: Addressed, protocol: int) -> bytes:
        """Data with which the checksum comes out as 0."""
        size = len(transport(protocol, bytes(2), bytes(2)))
        rest = summed(ip.pseudo(protocol, size) + transport(protocol, bytes(2), bytes(2)))
        return u(rest ^ 0xFFFF, 2)

    v4, v6 = Addressed(4), Addressed(6)
    kinds = (
        ("IPv4", v4),
        ("IPv4, 4 option bytes", Addressed(4, b"\1\1\1\0")),
        ("IPv4, 40 option bytes", Addressed(4, b"\1" * 40)),
        ("IPv6", v6),
    )
    for name, ip in kinds:
        for protocol, label, extra in ((TCP, "TCP", b""), (TCP, "TCP with options", b"\1" * 12), (UDP, "UDP", b"")):
            for size in (0, 1, 2, 33, 1280):
                before, after, _ = left(ip, protocol, fill(name + label, size), extra)
                done(f"{name}, {label}, {size} bytes", before, after)
        before, after, _ = left(ip, UDP, b"padded")
        done(f"{name}, UDP, padding is neither kept nor summed", before + b"padding", after)
        before, after, written = left(ip, UDP, nulled(ip, UDP))
        assert written == 0xFFFF
        done(f"{name}, UDP, a checksum of 0 is written ffff", before, after)
        before, after, written = left(ip, TCP, nulled(ip, TCP))
        assert written == 0
        done(f"{name}, TCP, a checksum of 0 stays", before, after)

    plain = ((v4, b"\x08\0hello"), (v6, b"\x80\0hello"))
    done("keepalive", b"", b"")
    for ip, data in plain:
        packet = ip.wrap(1, data)
        done(f"IPv{ip.version}, any protocol", packet, packet)
        done(f"IPv{ip.version}, padding cut", packet + bytes(9), packet)
        done(f"IPv{ip.version}, no payload", ip.wrap(59, b""), ip.wrap(59, b""))
        dropped(f"IPv{ip.version}, shorter than it says", packet[:-1], "opened_malformed")
        dropped(f"IPv{ip.version}, header alone is cut", packet[:19], "opened_malformed")
        dropped(f"IPv{ip.version}, checksum left, shorter than it says", partial(packet)[:-1], "opened_malformed")
        dropped(f"IPv{ip.version}, checksum left, neither TCP nor UDP", partial(packet), "bad_partial")
    packet = v4.wrap(UDP, transport(UDP, b"four", b"\1\2"))
    wrong_checksum = packet
    done("IPv4, a transport checksum that was not left is not looked at", wrong_checksum, wrong_checksum)
    dropped("IPv6, cut in its addresses", v6.wrap(1, b"data")[:39], "opened_malformed")
    dropped("IPv4, header length 16", b"\x44" + packet[1:], "opened_malformed")
    dropped("IPv4, header longer than the packet", b"\x4f" + packet[1:], "opened_malformed")
    dropped("IPv4, total length less than the header", packet[:2] + u(19, 2) + packet[4:], "opened_malformed")
    for nibble in (0, 1, 2, 3, 5, 7, 8, 9, 10, 11, 13, 15):
        dropped(f"first nibble {nibble:x}", u(nibble << 4 | 5, 1) + packet[1:], "opened_malformed")
    dropped("one byte", b"\x45", "opened_malformed")
    dropped("one byte, checksum left", b"\xc5", "opened_malformed")

    whole = transport(UDP, b"data", b"\1\2")
    for name, fragment in (("first fragment", 0x2000), ("last fragment", 0x0007), ("fragment, 256 x 8", 0x0100)):
        dropped(
            f"IPv4, checksum left, {name}", partial(Addressed(4, fragment=fragment).wrap(UDP, whole)), "bad_partial"
        )
    for ip in (v4, v6):
        segment = transport(TCP, b"data", b"\1\2")
        variants = (
            (TCP, "TCP header cut", segment[:19]),
            (TCP, "no TCP header", b""),
            (TCP, "data offset 16", segment[:12] + b"\x40" + segment[13:]),
            (TCP, "data offset beyond the segment", segment[:12] + b"\x70" + segment[13:]),
            (UDP, "UDP header cut", whole[:7]),
            (UDP, "UDP header cut, its length to match", whole[:4] + u(7, 2) + whole[6:7]),
            (UDP, "no UDP header", b""),
            (UDP, "UDP length too great", whole[:4] + u(13, 2) + whole[6:]),
            (UDP, "UDP length too small", whole[:4] + u(11, 2) + whole[6:]),
            (UDP, "UDP length 0", whole[:4] + bytes(2) + whole[6:]),
        )
        for protocol, name, payload in variants:
            dropped(f"IPv{ip.version}, checksum left, {name}", partial(ip.wrap(protocol, payload)), "bad_partial")
    for number, name in (
        (0, "hop-by-hop options"),
        (43, "routing header"),
        (44, "fragment header"),
        (60, "destination options"),
    ):
        header = u(UDP, 1) + bytes(7)
        dropped(f"IPv6, checksum left, {name} in front of UDP", partial(v6.wrap(number, header + whole)), "bad_partial")
    dropped("IPv4, checksum left, IPv6's number for an extension header", partial(v4.wrap(44, whole)), "bad_partial")
    return {"cases": cases}
