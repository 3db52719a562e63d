"""What an onlooker makes of datagrams."""

from __future__ import annotations

import pytest

from lab.probes.wire import Wire, forge_udp, read_udp


def packet(sequence: int, base: bytes = b"basebase"[:6], shard: int = 0, body: bytes = b"x") -> bytes:
    return sequence.to_bytes(8, "big") + base + shard.to_bytes(2, "big") + bytes(16) + body


def test_copies_are_one_nonce_and_other_bytes_under_it_are_found() -> None:
    wire = Wire()
    for datagram in (packet(1), packet(1), packet(2), packet(1 << 62 | 1), packet(1 << 48 | 1), packet(1, b"others")):
        wire.see(datagram)
    assert (wire.datagrams, wire.nonces, wire.reused) == (6, 5, 0)
    wire.see(packet(2, shard=16))
    wire.see(packet(1, body=b"y"))
    assert wire.reused == 2


@pytest.mark.parametrize(("datagram", "handshakes"), [(b"", 0), (bytes(31), 0), (b"\x81" + bytes(300), 1)])
def test_what_is_no_session_packet_has_no_nonce(datagram: bytes, handshakes: int) -> None:
    wire = Wire()
    wire.see(datagram)
    assert (wire.datagrams, wire.nonces, wire.handshakes) == (1, 0, handshakes)


def test_a_forged_packet_reads_as_what_was_asked_for() -> None:
    forged = forge_udp("192.0.2.1", 7, "192.0.2.2", 51820, b"payload")
    assert read_udp(forged) == ("192.0.2.1", 7, 51820, b"payload")
    assert read_udp(forged[:27]) is None
    assert read_udp(b"") is None
    assert read_udp(b"\x60" + forged[1:]) is None
    assert read_udp(forged[:6] + b"\x20\x00" + forged[8:]) is None, "a fragment"
