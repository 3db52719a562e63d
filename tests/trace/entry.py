"""What a trace holds, and how it is compared with what was seen on the wire.

An entry is 60 bytes: 16 of the key's SHA-256, 12 of nonce, 32 of header. The header is the first 16 bytes of what was
authenticated, zeros behind it if it is shorter, and the tag: of a session packet (docs/protocol.md "Session packets")
the 32 bytes it begins with on the wire. Entries of all processes that were given one file follow each other in it.

    python -m tests.trace.entry TRACE PCAP...

compares a trace with captures of all links that the datagrams crossed, each once (``python -m lab run --pcap``).
"""

from __future__ import annotations

import hashlib
import os
import struct
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from lab.probes.wire import read_udp

VARIABLE = "CENTIPEDE_TEST_TRACE"
"""The environment variable that names the file."""

HEADER_BYTES = 32
_ENTRY = struct.Struct("16s12s16s16s")
PORT = 51820
_HANDSHAKE = 0x80
_PCAP = 0xA1B2C3D4
_PCAP_BYTES, _PCAP_PACKET_BYTES, _ETHERNET_BYTES = 24, 16, 14


@dataclass(frozen=True, slots=True)
class Entry:
    """One seal."""

    key: bytes
    """A digest of it."""
    nonce: bytes
    header: bytes

    @property
    def session(self) -> bool:
        """Whether it is a session packet: those alone authenticate their nonce."""
        return self.nonce == bytes(4) + self.header[:8]


def append(key: bytes, nonce: bytes, authenticated: bytes, tag: bytes) -> None:
    """Add an entry to the file that the environment names."""
    entry = _ENTRY.pack(hashlib.sha256(key).digest()[:16], nonce, authenticated[:16], tag)
    descriptor = os.open(os.environ[VARIABLE], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        assert os.write(descriptor, entry) == len(entry)
    finally:
        os.close(descriptor)


def load(file: Path) -> list[Entry]:
    """All entries of a trace; none if nothing was sealed."""
    data = file.read_bytes() if file.exists() else b""
    return [Entry(key, nonce, start + tag) for key, nonce, start, tag in _ENTRY.iter_unpack(data)]


@dataclass(frozen=True, slots=True)
class Account:
    """A trace beside the datagrams that were seen."""

    reused: int
    """Seals under a key and nonce that had been used."""
    sealed: int
    """Session packets in the trace."""
    seen: int
    """Session packets on the wire, all copies."""
    copies: frozenset[int]
    """How often one was seen."""
    unseen: int
    """In the trace, never on the wire."""
    unsealed: int
    """On the wire, not in the trace."""

    @classmethod
    def of(cls, entries: Iterable[Entry], datagrams: Iterable[bytes]) -> Account:
        entries = list(entries)
        uses = Counter((entry.key, entry.nonce) for entry in entries)
        sealed = {entry.header for entry in entries if entry.session}
        seen = Counter(bytes(datagram[:HEADER_BYTES]) for datagram in datagrams if is_session(datagram))
        return cls(
            reused=len(entries) - len(uses),
            sealed=sum(entry.session for entry in entries),
            seen=seen.total(),
            copies=frozenset(seen.values()),
            unseen=len(sealed - seen.keys()),
            unsealed=len(seen.keys() - sealed),
        )


def is_session(datagram: bytes) -> bool:
    """Whether a datagram of the tunnel's is a session packet."""
    return len(datagram) >= HEADER_BYTES and datagram[0] < _HANDSHAKE


def captured(file: Path, port: int = PORT) -> Iterator[bytes]:
    """The datagrams from or to a port in a capture of an Ethernet interface on this machine (pcap-savefile(5))."""
    data = file.read_bytes()
    assert struct.unpack_from("=I", data)[0] == _PCAP
    at = _PCAP_BYTES
    while at < len(data):
        (packet_bytes,) = struct.unpack_from("=8xI4x", data, at)
        found = read_udp(data[at + _PCAP_PACKET_BYTES + _ETHERNET_BYTES : at + _PCAP_PACKET_BYTES + packet_bytes])
        if found is not None and port in found[1:3]:
            yield found[3]
        at += _PCAP_PACKET_BYTES + packet_bytes


def main() -> None:
    """The command line."""
    if len(sys.argv) < 3:
        sys.exit("usage: python -m tests.trace.entry TRACE PCAP...")
    print(Account.of(load(Path(sys.argv[1])), chain.from_iterable(map(captured, map(Path, sys.argv[2:])))))


if __name__ == "__main__":
    main()
