"""Control messages: offsets of the heartbeat's fields, and what cannot be written."""

from typing import Any

import pytest

from centipede.protocol.drops import DropReason, Refused
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.wire import (
    HEARTBEAT_BYTES,
    MOST_ADDRESSES,
    MOST_PARTED,
    Addresses,
    Heartbeat,
    Observed,
    Parted,
    UnknownControl,
    decode_control,
)

CHALLENGE, RESPONSE = b"chalenge", b"response"
V4, V6 = Endpoint.of("192.0.2.10", 51820), Endpoint.of("2001:db8::1", 443)


def heartbeat(**changes: Any) -> Heartbeat:
    given: dict[str, Any] = {"challenge": CHALLENGE, "next_in_s": 0.2, "t1_us": 1}
    return Heartbeat(**given | changes)


@pytest.mark.parametrize(
    ("changes", "offset", "raw"),
    [
        ({}, 0, "0100ff00"),
        ({"response": RESPONSE}, 1, "01"),
        ({"answer_now": True}, 1, "02"),
        ({"aggregating": True}, 1, "04"),
        ({"draining": True}, 1, "08"),
        ({"bye": True}, 1, "10"),
        ({"probe": True}, 1, "20"),
        ({"weight": 7}, 2, "0700"),
        ({"next_in_s": 0.2}, 4, "0014"),
        ({"next_in_s": 655.35}, 4, "ffff"),
        ({"next_in_s": 0.204}, 4, "0014"),
        ({"next_in_s": 0.206}, 4, "0015"),
        ({"largest_bytes": 1452}, 6, "05ac"),
        ({}, 8, CHALLENGE.hex() + "00" * 8),
        ({"response": RESPONSE}, 16, RESPONSE.hex()),
        ({"t1_us": 0x0102030405060708}, 24, "0102030405060708"),
        ({"echo_us": 0x0102030405060708}, 32, "0102030405060708"),
        ({"arrival_us": 0x0102030405060708}, 40, "0102030405060708"),
        ({"received": 0x01020304}, 48, "01020304"),
        ({"sent": 0x01020304}, 52, "01020304"),
        ({"received_kib": 0x01020304}, 56, "01020304"),
        ({"path": 0x0102}, 60, "0102"),
        ({"k": 4}, 62, "0400"),
        ({"probe": True, "padding_bytes": 3}, 63, "00000000"),
    ],
)
def test_heartbeat_layout(changes: dict[str, Any], offset: int, raw: str) -> None:
    plaintext = heartbeat(**changes).encode()
    assert plaintext[offset : offset + len(raw) // 2].hex() == raw
    assert len(plaintext) == HEARTBEAT_BYTES + changes.get("padding_bytes", 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"challenge": b"short"},
        {"challenge": b"nine bytes"},
        {"response": b""},
        {"response": b"short"},
        {"k": 5},
        {"k": -1},
        {"weight": 256},
        {"weight": -1},
        {"next_in_s": 655.36},
        {"next_in_s": -0.01},
        {"largest_bytes": 65536},
        {"t1_us": 2**64},
        {"t1_us": -1},
        {"received": 2**32},
        {"path": 65536},
        {"padding_bytes": 1},
        {"padding_bytes": -1, "probe": True},
    ],
)
def test_heartbeat_that_does_not_fit(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        heartbeat(**changes).encode()


def test_response_is_read_only_if_the_flag_says_so() -> None:
    plaintext = bytearray(heartbeat(response=RESPONSE).encode())
    plaintext[1] = 0
    message = decode_control(bytes(plaintext))
    assert isinstance(message, Heartbeat)
    assert message.response is None


def test_addresses_layout() -> None:
    assert Addresses((V4, V6)).encode().hex() == (
        "02020000000000000400ca6cc000020a000000000000000000000000060001bb20010db8000000000000000000000001"
    )


def test_observed_layout() -> None:
    assert Observed(V4).encode().hex() == "0304ca6c00000000c000020a000000000000000000000000"
    assert Observed(V6).encode().hex() == "030601bb0000000020010db8000000000000000000000001"


def test_mapped_address_is_the_ipv4_address() -> None:
    plaintext = bytes.fromhex("030601bb0000000000000000000000000000ffffc000020a")
    assert decode_control(plaintext) == Observed(Endpoint.of("192.0.2.10", 443))


def test_addresses_that_cannot_be_written() -> None:
    with pytest.raises(ValueError, match="at most 16"):
        Addresses((V4,) * (MOST_ADDRESSES + 1)).encode()
    for message in (Addresses((V4, Endpoint.of("192.0.2.1", 0))), Observed(Endpoint.of("::1", 0))):
        with pytest.raises(ValueError, match="port 0"):
            message.encode()


def test_parted_layout() -> None:
    assert Parted((1, 0xFFFF)).encode().hex() == "04020000000000000001ffff"


@pytest.mark.parametrize(
    ("message", "why"), [(Parted(tuple(range(MOST_PARTED + 1))), "at most 64"), (Parted((65536,)), "0..65535")]
)
def test_paths_that_cannot_be_written(message: Parted, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        message.encode()


@pytest.mark.parametrize("kind", [0, 5, 255])
def test_unknown_type(kind: int) -> None:
    assert decode_control(bytes([kind])) == UnknownControl(kind)


@pytest.mark.parametrize("plaintext", [b"", b"\1" * 63, b"\2", b"\3" * 23])
def test_short_messages(plaintext: bytes) -> None:
    with pytest.raises(Refused) as caught:
        decode_control(plaintext)
    assert caught.value.reason is DropReason.CONTROL_MALFORMED
    assert str(caught.value) == "control_malformed"
