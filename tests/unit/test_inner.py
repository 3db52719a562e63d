"""Inner packets as they come from the TUN device. What comes out of a session packet: tests/vectors/inner.json."""

import pytest

from centipede.protocol.inner import Inner, finish_inner, read_inner
from centipede.protocol.session import BytesLike

V4 = bytes.fromhex("4500001c00004000401100000a0700010a070002") + b"8 octets"
V4_OPTIONS = bytes.fromhex("4600001800004000401100000a0700010a07000201010100")
V6 = bytes.fromhex("6000000000081140") + b"\xfd" + bytes(14) + b"\1" + b"\xfd" + bytes(14) + b"\2" + b"8 octets"
V4_INNER = Inner(bytes([10, 7, 0, 1]), bytes([10, 7, 0, 2]), 28)
V6_INNER = Inner(V6[8:24], V6[24:40], 48)


@pytest.mark.parametrize(
    ("packet", "inner"),
    [
        (V4, V4_INNER),
        (V4 + b"trailing", V4_INNER),
        (V4_OPTIONS, V4_INNER._replace(length=24)),
        (V6, V6_INNER),
        (V6 + b"trailing", V6_INNER),
        (V6[:4] + bytes(2) + V6[6:40], V6_INNER._replace(length=40)),
    ],
)
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_addresses_and_length(
    packet: bytes, inner: Inner, kind: type[bytes] | type[bytearray] | type[memoryview]
) -> None:
    buffer: BytesLike = kind(packet)
    assert read_inner(buffer) == inner


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x45",
        V4[:19],
        V4[:27],
        b"\x44" + V4[1:],
        b"\x48" + V4[1:],  # header of 32 bytes in a packet of 28
        b"\x55" + V4[1:],
        V4[:2] + b"\0\0" + V4[4:],
        V6[:39],
        V6[:47],
        b"\x70" + V6[1:],
        b"\xc5" + V4[1:],  # the checksum-partial bit has no place on a packet from the device
        b"\xe0" + V6[1:],
    ],
)
def test_not_a_whole_packet(packet: bytes) -> None:
    assert read_inner(packet) is None


@pytest.mark.parametrize("packet", [V4, V4_OPTIONS, V6, b""])
def test_whole_packets_are_not_copied(packet: bytes) -> None:
    assert finish_inner(packet) is packet
