"""Write the seeds of the corpus: well-formed inputs that random bytes would take for ever to become.

``python tests/fuzz/seeds.py`` writes ``corpus/*/seed-*``. Shares no code with the engine.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent

TCP, UDP = 6, 17
ACK, PSH = 0x10, 0x08
NEEDS_CSUM = 1
TCPV4, TCPV6, UDP_L4 = 1, 4, 5


def fold(data: bytes) -> int:
    """The folded ones' complement sum (RFC 1071), not complemented."""
    total: int = sum(struct.unpack(f">{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def packet(version: int, protocol: int, payload: bytes, *, sequence: int = 0, flags: int = ACK, partial: bool) -> bytes:
    """A TCP or UDP packet; partial: its checksum field is the pseudo-header's sum."""
    if protocol == TCP:
        head = (
            struct.pack(">HHIIBBHHH", 1000, 2000, sequence, 7, 0x80, flags, 500, 0, 0)
            + bytes.fromhex("0101080a")
            + bytes(8)
        )
        field = 16
    else:
        head = struct.pack(">HHHH", 1000, 2000, 8 + len(payload), 0)
        field = 6
    length = len(head) + len(payload)
    if version == 4:
        addresses = bytes([10, 0, 0, 1, 10, 0, 0, 2])
        ip = struct.pack(">BBHHHBBH", 0x45, 0, 20 + length, 1, 0x4000, 64, protocol, 0) + addresses
        ip = ip[:10] + struct.pack(">H", ~fold(ip) & 0xFFFF) + ip[12:]
    else:
        addresses = b"\xfd" + bytes(14) + b"\x01" + b"\xfd" + bytes(14) + b"\x02"
        ip = struct.pack(">IHBB", 6 << 28, length, protocol, 64) + addresses
    pseudo = addresses + struct.pack(">II", length, protocol)
    value = fold(pseudo) if partial else ~fold(pseudo + head + payload) & 0xFFFF
    return ip + head[:field] + struct.pack(">H", value) + head[field + 2 :] + payload


def vnet(version: int, protocol: int, size: int) -> bytes:
    """A virtio header of a superpacket with segments of this size."""
    kind = UDP_L4 if protocol == UDP else TCPV4 if version == 4 else TCPV6
    return struct.pack("=BBHHHH", NEEDS_CSUM, kind, 0, size, 20 if version == 4 else 40, 16 if protocol == TCP else 6)


def segment_seeds() -> Iterator[bytes]:
    for version in (4, 6):
        for protocol in (TCP, UDP):
            whole = packet(version, protocol, bytes(range(250)), flags=ACK | PSH, partial=True)
            yield vnet(version, protocol, 60) + whole
            yield bytes(10) + packet(version, protocol, b"whole", partial=False)


def runs() -> Iterator[list[tuple[bytes, bool]]]:
    """Packets that follow each other in a flow, and whether each is partial."""
    for version in (4, 6):
        for protocol in (TCP, UDP):
            for partial in (False, True):
                sizes = (40, 40, 40, 13)
                yield [
                    (
                        packet(
                            version,
                            protocol,
                            bytes([n]) * size,
                            sequence=40 * n,
                            flags=ACK | (PSH if n == 3 else 0),
                            partial=partial,
                        ),
                        partial,
                    )
                    for n, size in enumerate(sizes)
                ]


def coalesce_seeds() -> Iterator[bytes]:
    for offloads in (0, 1, 3, 7):
        for run in runs():
            yield bytes([offloads]) + b"".join(struct.pack("=HB", len(p), partial) + p for p, partial in run)


def receive_seeds() -> Iterator[bytes]:
    for number, run in enumerate(runs()):
        each = 32 + len(run[0][0])
        train = b""
        for counter, (inner, partial) in enumerate(run):
            base = b"BBBBB\0" if number == 3 else b"AAAAA\0"
            plaintext = bytes([inner[0] | (0x80 if partial else 0)]) + inner[1:]
            train += struct.pack(">Q6sH16s", counter // 2 if number == 5 else counter, base, 0, b"") + plaintext
        yield bytes([number & 1]) + struct.pack("=H", each) + train
    yield b"\0" + struct.pack("=H", 96) + struct.pack(">Q6sH", 1 << 62, b"AAAAA\0", 0xFFFF) + bytes(80)
    yield b"\0" + struct.pack("=H", 208) + b"\x81\x01" + bytes(206)


def table_seeds() -> Iterator[bytes]:
    route = bytes([1, 8, 1, 10, 0, 0, 0]) + bytes([1, 16, 2, 10, 1, 0, 0]) + bytes([0, 64, 1, 0xFD]) + bytes(15)
    paths = bytes([3, 1, 51, 1, 1, 53, 2])
    peers = bytes([1, 5, 0, 1, 0, 1, 2]) + bytes([2, 5, 0, 1, 0, 0, 0])
    sessions = bytes([5, 1, 0, 1, 3, 1])
    table = bytes([1, 3, 2, 1, 1, 1]) + route + paths + bytes([1, 2]) + peers + sessions
    yield table
    yield table * 3


def main() -> None:
    """Write them all."""
    for target, seeds in {
        "segment": segment_seeds,
        "coalesce": coalesce_seeds,
        "receive": receive_seeds,
        "table": table_seeds,
    }.items():
        directory = HERE / "corpus" / target
        directory.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(seeds()):
            (directory / f"seed-{number:02}").write_bytes(seed)


if __name__ == "__main__":
    main()
