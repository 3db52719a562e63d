"""Inner packets: any bytes are survived, and a checksum left to the receiver comes out as a naive sum has it."""

from hypothesis import given
from hypothesis import strategies as st

from centipede.protocol.drops import DropReason
from centipede.protocol.inner import finish_inner, read_inner

TCP, UDP = 6, 17


def summed(data: bytes) -> int:
    """One's complement sum, word by word."""
    total = 0
    for position in range(0, len(data), 2):
        total += int.from_bytes(data[position : position + 2].ljust(2, b"\0"), "big")
        total = (total & 0xFFFF) + (total >> 16)
    return total


def ipv4(source: bytes, destination: bytes, protocol: int, options: bytes, payload: bytes) -> bytes:
    size = 20 + len(options)
    head = bytes([0x40 | size // 4, 0]) + (size + len(payload)).to_bytes(2, "big") + b"\0\0\x40\0\x40"
    return head + bytes([protocol, 0, 0]) + source + destination + options + payload


def ipv6(source: bytes, destination: bytes, protocol: int, payload: bytes) -> bytes:
    head = b"\x60\0\0\0" + len(payload).to_bytes(2, "big") + bytes([protocol, 64])
    return head + source + destination + payload


def segment(protocol: int, fill: bytes, options: bytes, data: bytes, checksum: int) -> bytes:
    field = checksum.to_bytes(2, "big")
    if protocol == UDP:
        return fill[:4] + (8 + len(data)).to_bytes(2, "big") + field + data
    return fill[:12] + bytes([(20 + len(options)) * 4, 0x18]) + fill[12:14] + field + fill[14:16] + options + data


words = st.integers(0, 10).map(lambda n: b"\1" * 4 * n)


@given(
    st.sampled_from([4, 6]),
    st.sampled_from([TCP, UDP]),
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
    words,
    words,
    st.one_of(st.binary(max_size=80), st.binary(max_size=3).map(lambda data: data * 400)),
    st.binary(max_size=9),
)
def test_completed_checksums_verify(
    version: int,
    protocol: int,
    addresses: bytes,
    fill: bytes,
    ip_options: bytes,
    tcp_options: bytes,
    data: bytes,
    padding: bytes,
) -> None:
    size = 4 if version == 4 else 16
    source, destination = addresses[:size], addresses[16 : 16 + size]

    def packet(checksum: int) -> bytes:
        payload = segment(protocol, fill, tcp_options, data, checksum)
        if version == 4:
            return ipv4(source, destination, protocol, ip_options, payload)
        return ipv6(source, destination, protocol, payload)

    length = len(segment(protocol, fill, tcp_options, data, 0))
    pseudo = source + destination + protocol.to_bytes(4, "big") + length.to_bytes(4, "big")
    checksum = summed(pseudo + segment(protocol, fill, tcp_options, data, 0)) ^ 0xFFFF
    unfinished = packet(summed(pseudo))
    plaintext = bytes([unfinished[0] | 0x80]) + unfinished[1:] + padding
    assert finish_inner(plaintext) == packet(0xFFFF if checksum == 0 and protocol == UDP else checksum)


@given(
    st.one_of(
        st.binary(max_size=120),
        st.builds(
            lambda first, rest: bytes([first]) + rest,
            st.sampled_from([0x45, 0x46, 0x60, 0xC5, 0xCF, 0xE0]),
            st.binary(min_size=40, max_size=120),
        ),
        # A length that fits, so that the look goes deeper.
        st.builds(
            lambda first, a, b, protocol, rest: (
                bytes(
                    [first, a, 0, 80 if first < 0xE0 else 40, 0, 80 if first >= 0xE0 else 0, protocol, b, 64, protocol]
                )
                + rest
            ),
            st.sampled_from([0xC5, 0xC6, 0xE0, 0x45, 0x60]),
            st.integers(0, 255),
            st.integers(0, 255),
            st.sampled_from([TCP, UDP, 44]),
            st.binary(min_size=110, max_size=110),
        ),
    )
)
def test_any_bytes_are_survived(plaintext: bytes) -> None:
    outcome = finish_inner(plaintext)
    inner = read_inner(plaintext)
    if isinstance(outcome, DropReason):
        assert outcome in (DropReason.OPENED_MALFORMED, DropReason.BAD_PARTIAL)
        assert inner is None
    elif plaintext and plaintext[0] < 0x80:
        assert inner is not None
        assert outcome == plaintext[: inner.length]
    elif plaintext:
        finished = read_inner(outcome)
        assert finished is not None
        assert finished.length == len(outcome) <= len(plaintext)
