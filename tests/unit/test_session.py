"""Session packets: the header byte by byte, and what sealing refuses."""

from typing import Any

import pytest

from centipede.protocol.session import (
    ANY_SHARD,
    COUNTER_LIMIT,
    COUNTER_REKEY,
    HEADER_BYTES,
    LAST_SHARD,
    BytesLike,
    Header,
    Opener,
    Sealer,
    is_handshake,
    parse_header,
)

KEY = bytes(range(32))
BASE = b"abcdef"


def seal(counter: int = 5, **changes: Any) -> bytes:
    fields: dict[str, Any] = {"source": 3, "base": BASE, "shard": 7, "plaintext": b"plaintext"}
    return Sealer(KEY).seal(counter, **fields | changes)


def test_header_bytes() -> None:
    datagram = seal(0x0102030405, source=0x2A15, shard=0x0607)
    assert datagram[:16] == bytes.fromhex("2a15000102030405") + BASE + bytes.fromhex("0607")
    assert len(datagram) == HEADER_BYTES + len(b"plaintext")
    assert seal(0, source=0, control=True)[0] == 0x40
    assert seal(0, source=LAST_SHARD, control=True)[:2] == b"\x7f\xfe"


def test_empty_data_packet_of_the_first_vector() -> None:
    key = bytes.fromhex("af77df80af67b1a62cb516a756c8154f328a883106c753b2307b05463d7f46dc")
    datagram = Sealer(key).seal(0, source=0, base=b"\x0b" * 6, shard=0, plaintext=b"")
    assert datagram.hex() == "00000000000000000b0b0b0b0b0b00001a49823bce13958017de6027fa3c6a6c"


def test_parse_header() -> None:
    assert parse_header(seal()) == Header(control=False, source=3, counter=5, base=BASE, shard=7)
    control = seal(COUNTER_LIMIT - 1, source=LAST_SHARD, shard=ANY_SHARD, control=True)
    assert parse_header(control) == Header(True, LAST_SHARD, COUNTER_LIMIT - 1, BASE, ANY_SHARD)
    assert parse_header(b"\x3f" + b"\xff" * 31) == Header(False, 0x3FFF, 2**48 - 1, b"\xff" * 6, 0xFFFF)


@pytest.mark.parametrize("datagram", [b"", b"\0", bytes(31), b"\x80" + bytes(31), b"\xff" * 100])
def test_what_has_no_header(datagram: bytes) -> None:
    assert parse_header(datagram) is None


@pytest.mark.parametrize(
    ("datagram", "expected"), [(b"", False), (b"\0", False), (b"\x7f", False), (b"\x80", True), (b"\xff" * 9, True)]
)
def test_is_handshake(datagram: bytes, expected: bool) -> None:
    assert is_handshake(datagram) is expected


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_will_do(kind: type[bytes] | type[bytearray] | type[memoryview]) -> None:
    plaintext: BytesLike = kind(b"plaintext")
    datagram: BytesLike = kind(seal())
    assert seal(plaintext=plaintext) == datagram
    assert parse_header(datagram) == parse_header(seal())
    assert Opener(KEY).open(datagram) == b"plaintext"
    assert not is_handshake(datagram)


def test_every_one_bit_change_is_refused() -> None:
    datagram = seal()
    number = int.from_bytes(datagram, "big")
    opener = Opener(KEY)
    assert opener.open(datagram) == b"plaintext"
    for bit in range(8 * len(datagram)):
        assert opener.open((number ^ 1 << bit).to_bytes(len(datagram), "big")) is None


@pytest.mark.parametrize("size", range(HEADER_BYTES))
def test_open_refuses_what_is_shorter_than_a_header(size: int) -> None:
    assert Opener(KEY).open(seal()[:size]) is None


def test_another_key_does_not_open() -> None:
    assert Opener(bytes(32)).open(seal()) is None


@pytest.mark.parametrize(
    ("counter", "source"), [(-1, 0), (COUNTER_LIMIT, 0), (2**48, 0), (0, -1), (0, LAST_SHARD + 1), (0, 2**14)]
)
def test_seal_refuses_numbers_that_would_repeat_a_nonce(counter: int, source: int) -> None:
    with pytest.raises(ValueError, match="no such packet number"):
        seal(counter, source=source)


def test_rekey_comes_well_before_the_limit() -> None:
    assert COUNTER_REKEY * 2 == COUNTER_LIMIT == 1 << 44


def test_keys_are_not_printed() -> None:
    for thing in (Sealer(KEY), Opener(KEY)):
        assert repr(thing) == f"{type(thing).__name__}(secret)"
