"""Session packets: they open to what was sealed, only under their key and only untouched; any bytes are survived."""

from hypothesis import given
from hypothesis import strategies as st

from centipede.protocol.session import (
    COUNTER_LIMIT,
    HEADER_BYTES,
    LAST_SHARD,
    Header,
    Opener,
    Sealer,
    is_handshake,
    parse_header,
)

keys = st.binary(min_size=32, max_size=32)
headers = st.builds(
    Header,
    control=st.booleans(),
    source=st.integers(0, LAST_SHARD),
    counter=st.integers(0, COUNTER_LIMIT - 1),
    base=st.binary(min_size=6, max_size=6),
    shard=st.integers(0, 0xFFFF),
)
plaintexts = st.binary(max_size=300)


def seal(key: bytes, header: Header, plaintext: bytes) -> bytes:
    return Sealer(key).seal(
        header.counter,
        source=header.source,
        base=header.base,
        shard=header.shard,
        plaintext=plaintext,
        control=header.control,
    )


@given(keys, headers, plaintexts)
def test_sealed_packets_open(key: bytes, header: Header, plaintext: bytes) -> None:
    datagram = seal(key, header, plaintext)
    assert parse_header(datagram) == header
    assert Opener(key).open(datagram) == plaintext
    assert not is_handshake(datagram)
    assert len(datagram) == HEADER_BYTES + len(plaintext)


@given(keys, headers, plaintexts, st.data())
def test_no_changed_packet_opens(key: bytes, header: Header, plaintext: bytes, data: st.DataObject) -> None:
    datagram = bytearray(seal(key, header, plaintext))
    bit = data.draw(st.integers(0, 8 * len(datagram) - 1))
    datagram[bit // 8] ^= 1 << bit % 8
    assert Opener(key).open(datagram) is None


@given(keys, headers, plaintexts, st.data())
def test_no_cut_packet_opens(key: bytes, header: Header, plaintext: bytes, data: st.DataObject) -> None:
    datagram = seal(key, header, plaintext)
    assert Opener(key).open(datagram[: data.draw(st.integers(0, len(datagram) - 1))]) is None


@given(keys, keys, headers, plaintexts)
def test_other_keys_do_not_open(key: bytes, other: bytes, header: Header, plaintext: bytes) -> None:
    opened = Opener(other).open(seal(key, header, plaintext))
    assert opened == (plaintext if key == other else None)


@given(keys, st.binary(max_size=200))
def test_any_bytes_are_survived(key: bytes, datagram: bytes) -> None:
    assert Opener(key).open(datagram) is None
    header = parse_header(datagram)
    assert (header is None) == (len(datagram) < HEADER_BYTES or is_handshake(datagram))
