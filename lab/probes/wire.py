"""The wire probe: what an onlooker between the machines sees, and what comes of it when he sends it again elsewhere.

Listens on interfaces of one host, ``python -m lab.probes.wire SPEC``, SPEC being a :class:`WireSpec` as JSON. Of each
session packet (docs/protocol.md "Session packets", IPv4 outside) it takes what names key and nonce: the session base,
which its receiver chose, and source shard, class and counter. Copies are the same bytes; other bytes under the same
name are a nonce used again. What leaves over the interfaces it can send on to other machines at once, with the sender's
address and from its own. This module must not import the rest of the lab, for the process is to start quickly.

Invariant: a packet that the kernel had no room to show is counted as missed, and the probe then says nothing.
"""

from __future__ import annotations

import ipaddress
import select
import socket
import struct
import sys
import time
from hashlib import blake2b
from pathlib import Path

import msgspec

_NONCE_BYTES = 14
"""Sequence and session base."""
_HEADER_BYTES = 32
_HANDSHAKE = 0x80
_CONTROL = 0x40
_IP_BYTES = 20
_UDP_BYTES = 8
_LARGEST_BYTES = 65535
_BUFFER_BYTES = 64 << 20
_ETH_P_ALL = 3
_ETH_P_IP = 0x0800
_SO_RCVBUFFORCE = 33
_SOL_PACKET = 263
_PACKET_STATISTICS = 6
_WAKE_UP_MS = 50


class WireSpec(msgspec.Struct, frozen=True, kw_only=True):
    """What the process needs to know."""

    interfaces: tuple[str, ...]
    port: int
    """Of the tunnel's datagrams, at either end."""
    duration_s: float
    replay_to: tuple[str, ...] = ()
    """IPv4 addresses to which all that leaves over the interfaces is sent once more."""
    result: str
    """File that the process writes its account to."""
    ready: str
    """File that it creates when it listens."""


class WireResult(msgspec.Struct, frozen=True, kw_only=True):
    """What was seen."""

    datagrams: int
    nonces: int
    """Session packets, copies counted once."""
    handshakes: int
    """Initiates and what answers them, copies included."""
    reused: int
    """Packets under a key and nonce that another packet had."""
    missed: int
    replayed: int
    answered: int
    """What machines sent to the onlooker's own address in return."""
    data_answered: int
    """Those among them that are data, not control."""
    began_ns: int


class Wire:
    """The account."""

    def __init__(self) -> None:
        self._sealed: dict[bytes, bytes] = {}
        self.datagrams = self.handshakes = self.reused = 0

    def see(self, datagram: bytes) -> None:
        """Take a datagram of the tunnel's."""
        self.datagrams += 1
        if len(datagram) < _HEADER_BYTES:
            return
        if datagram[0] & _HANDSHAKE:
            self.handshakes += 1
            return
        digest = blake2b(datagram, digest_size=16).digest()
        self.reused += self._sealed.setdefault(datagram[:_NONCE_BYTES], digest) != digest

    @property
    def nonces(self) -> int:
        """How many different ones."""
        return len(self._sealed)


def read_udp(packet: bytes) -> tuple[str, int, int, bytes] | None:
    """Source address and port, destination port and payload of an IPv4 packet that is whole UDP; None for others."""
    start = (packet[0] & 15) * 4 if packet else 0
    if start < _IP_BYTES or packet[0] >> 4 != 4 or len(packet) < start + _UDP_BYTES or packet[9] != socket.IPPROTO_UDP:
        return None
    if int.from_bytes(packet[6:8], "big") & 0x3FFF:
        return None
    source_port, port, length = struct.unpack_from(">HHH", packet, start)
    payload = packet[start + _UDP_BYTES : start + length]
    return str(ipaddress.IPv4Address(packet[12:16])), source_port, port, payload


def forge_udp(source: str, source_port: int, target: str, port: int, payload: bytes) -> bytes:
    """An IPv4 packet for a raw socket, whose kernel fills in what is 0 here (raw(7)); UDP without a checksum."""
    addresses = ipaddress.IPv4Address(source).packed + ipaddress.IPv4Address(target).packed
    head = struct.pack(">BBHHHBBH", 0x45, 0, 0, 0, 0, 64, socket.IPPROTO_UDP, 0) + addresses
    return head + struct.pack(">HHHH", source_port, port, _UDP_BYTES + len(payload), 0) + payload


def watch(spec: WireSpec) -> WireResult:
    """Look and send on for as long as the spec says."""
    wire = Wire()
    missed = replayed = answered = data_answered = 0
    listening = [socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL)) for _ in spec.interfaces]
    raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    own = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    poll = select.poll()
    for sock, interface in zip(listening, spec.interfaces, strict=True):
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
        sock.bind((interface, _ETH_P_ALL))
        sock.setblocking(False)
        poll.register(sock, select.POLLIN)
    own.bind(("", 0))
    poll.register(own, select.POLLIN)
    Path(spec.ready).touch()
    began_ns = time.monotonic_ns()
    while time.monotonic_ns() < began_ns + spec.duration_s * 1e9:
        for descriptor, _ in poll.poll(_WAKE_UP_MS):
            if descriptor == own.fileno():
                try:
                    answer = own.recv(_LARGEST_BYTES)
                except OSError:  # what the network says of something that was sent
                    continue
                answered += 1
                data_answered += not answer or not answer[0] & (_HANDSHAKE | _CONTROL)
                continue
            sock = next(each for each in listening if each.fileno() == descriptor)
            packet, address = sock.recvfrom(_LARGEST_BYTES)
            found = read_udp(packet) if address[1] == _ETH_P_IP else None
            if found is None or spec.port not in found[1:3]:
                continue
            source, source_port, _, payload = found
            wire.see(payload)
            if address[2] == socket.PACKET_OUTGOING:
                for target in spec.replay_to:
                    forged = forge_udp(source, source_port, target, spec.port, payload)
                    for sender, what in ((raw, forged), (own, payload)):
                        try:
                            sender.sendto(what, (target, spec.port))
                        except OSError:  # no room: this one is not seen there
                            continue
                        replayed += 1
    for sock in listening:
        missed += struct.unpack("II", sock.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))[1]
    return WireResult(
        datagrams=wire.datagrams,
        nonces=wire.nonces,
        handshakes=wire.handshakes,
        reused=wire.reused,
        missed=missed,
        replayed=replayed,
        answered=answered,
        data_answered=data_answered,
        began_ns=began_ns,
    )


def main(argv: list[str]) -> int:
    """``SPEC``; the account goes to the file that it names."""
    if len(argv) != 1:
        print("usage: python -m lab.probes.wire SPEC", file=sys.stderr)
        return 2
    spec = msgspec.json.decode(argv[0], type=WireSpec)
    partial = Path(f"{spec.result}.partial")
    partial.write_bytes(msgspec.json.encode(watch(spec)))
    partial.rename(spec.result)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
