"""Superpackets, which only the native engine has: cut on the way out, joined on the way in, given up where refused."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import Any

import pytest

from centipede.protocol.drops import DropReason
from centipede.protocol.inner import finish_inner
from tests.contract.harness import (
    LOCAL_ADDRESS,
    LOCAL_ADDRESS_6,
    PEER_ADDRESS,
    PEER_ADDRESS_6,
    Rig,
    engine_param,
    eventually,
    make_namespaces,
    rig,
)
from tests.contract.packets import TCP, UDP, checksum, ip, udp
from tests.contract.tunnel import set_link

pytestmark = pytest.mark.parametrize("engine", [engine_param("native")])

OFFLOADS = frozenset({"csum", "tso4", "tso6", "uso4", "uso6"})
_UDP_SEGMENT = 103
_NEEDS_CSUM = 1
_GSO = {(TCP, 4): 1, (UDP, 4): 5, (TCP, 6): 4, (UDP, 6): 5}
"""VIRTIO_NET_HDR_GSO_TCPV4, _UDP_L4 and _TCPV6."""
_VNET = struct.Struct("=BBHHHH")

FIN, SYN, PSH, ACK, CWR = 0x01, 0x02, 0x08, 0x10, 0x80
OPTIONS = bytes.fromhex("0101080a0000000100000002")
"""A time stamp, as Linux puts into every segment."""


@dataclass(frozen=True)
class Segment:
    """A TCP segment or UDP datagram, and the header fields that tests vary."""

    payload: bytes
    protocol: int = TCP
    version: int = 4
    sequence: int = 1000
    acknowledged: int = 77
    flags: int = ACK
    ident: int = 0
    tos: int = 0
    port: int = 4000
    inbound: bool = False
    options: bytes = OPTIONS

    @property
    def addresses(self) -> tuple[str, str]:
        pair = (LOCAL_ADDRESS, PEER_ADDRESS) if self.version == 4 else (LOCAL_ADDRESS_6, PEER_ADDRESS_6)
        return (pair[1], pair[0]) if self.inbound else pair

    @property
    def header_bytes(self) -> int:
        return (20 if self.version == 4 else 40) + (20 + len(OPTIONS) if self.protocol == TCP else 8)

    @property
    def packet(self) -> bytes:
        """The packet with its checksums complete."""
        if self.protocol == UDP:
            made = udp(*self.addresses, self.payload, ports=(self.port, 5000))
            transport = made[20 if self.version == 4 else 40 :]
        else:
            head = struct.pack(
                ">HHIIBBHHH", self.port, 5000, self.sequence, self.acknowledged, 0x80, self.flags, 512, 0, 0
            )
            head += self.options
            value = checksum(self._pseudo(len(head) + len(self.payload)) + head + self.payload)
            transport = head[:16] + value.to_bytes(2, "big") + head[18:] + self.payload
        made = ip(*self.addresses, transport, protocol=self.protocol, tos=self.tos)
        if self.version == 4:
            made = made[:4] + self.ident.to_bytes(2, "big") + made[6:10] + bytes(2) + made[12:]
            made = made[:10] + checksum(made[:20]).to_bytes(2, "big") + made[12:]
        return made

    @property
    def undone(self) -> bytes:
        """The packet as a kernel hands it over that leaves the transport checksum to the device."""
        packet = self.packet
        field = (20 if self.version == 4 else 40) + (16 if self.protocol == TCP else 6)
        length = len(packet) - (20 if self.version == 4 else 40)
        value = ~checksum(self._pseudo(length)) & 0xFFFF
        return packet[:field] + value.to_bytes(2, "big") + packet[field + 2 :]

    @property
    def partial(self) -> bytes:
        """The undone packet as it stands on the wire."""
        undone = self.undone
        return bytes([undone[0] | 0x80]) + undone[1:]

    def vnet(self, segment_bytes: int = 0) -> bytes:
        """The virtio header in front of the undone packet; of a superpacket if a segment size is given."""
        start = 20 if self.version == 4 else 40
        kind = _GSO[self.protocol, self.version] if segment_bytes else 0
        hdr_len = self.header_bytes if segment_bytes else 0
        return _VNET.pack(_NEEDS_CSUM, kind, hdr_len, segment_bytes, start, 16 if self.protocol == TCP else 6)

    def _pseudo(self, length: int) -> bytes:
        source, destination = (ip_address(address).packed for address in self.addresses)
        return source + destination + struct.pack(">II", length, self.protocol)

    def cut(self, segment_bytes: int) -> list[Segment]:
        """The segments of this superpacket."""
        starts = range(0, len(self.payload), segment_bytes)
        last = starts[-1]
        return [
            replace(
                self,
                payload=self.payload[start : start + segment_bytes],
                sequence=(self.sequence + start) % 2**32,
                ident=(self.ident + number) % 2**16,
                flags=self.flags & ~((0 if start == last else FIN | PSH) | (CWR if start else 0)),
            )
            for number, start in enumerate(starts)
        ]


def payload(size: int) -> bytes:
    return bytes(n * 13 % 251 for n in range(size))


@contextmanager
def native_rig(engine: str, *, offloads: frozenset[str] = OFFLOADS, **options: Any) -> Iterator[Rig]:
    with rig(engine, vnet_hdr=True, offloads=offloads, **options) as built:
        yield built


KINDS = pytest.mark.parametrize(
    ("protocol", "version"), [(TCP, 4), (TCP, 6), (UDP, 4), (UDP, 6)], ids=["tcp4", "tcp6", "udp4", "udp6"]
)


# Out: one read, one train.


@KINDS
@pytest.mark.parametrize(
    ("size", "segment_bytes"), [(1, 500), (499, 500), (500, 500), (501, 500), (1501, 100), (61000, 1360), (65000, 1100)]
)
def test_a_superpacket_leaves_in_segments(
    engine: str, protocol: int, version: int, size: int, segment_bytes: int
) -> None:
    whole = Segment(
        payload(size), protocol, version, sequence=2**32 - 700, flags=ACK | PSH | FIN | CWR, ident=65530, tos=1
    )
    with native_rig(engine) as built:
        built.apply()
        built.tun.ends[0].socket.send(whole.vnet(segment_bytes) + whole.undone)
        expected = [segment.packet for segment in whole.cut(segment_bytes)]
        plaintexts = [built.unseal(datagram) for datagram in built.remotes[0].take_many(len(expected))]
        assert all(plaintext[0] & 0x80 for plaintext in plaintexts)
        assert [finish_inner(plaintext) for plaintext in plaintexts] == expected
        assert not built.drops()


@KINDS
@pytest.mark.parametrize(("tos", "urgent"), [(46 << 2, True), (38 << 2, False)], ids=["EF", "AF43"])
def test_of_a_superpacket_the_class_says_whether_it_is_urgent(
    engine: str, protocol: int, version: int, tos: int, urgent: bool
) -> None:
    whole = Segment(payload(3000), protocol, version, flags=ACK | FIN, tos=tos)
    with native_rig(engine, paths=3) as built:
        plan = built.plan(paths=(built.path(0),), urgent=(built.path(1), built.path(2)))
        built.apply(peers=(built.peer(plan),))
        built.tun.ends[0].socket.send(whole.vnet(1000) + whole.undone)
        expected = [segment.packet for segment in whole.cut(1000)]
        for path in (1, 2) if urgent else (0,):
            plaintexts = [built.unseal(datagram) for datagram in built.remotes[path].take_many(len(expected))]
            assert [finish_inner(plaintext) for plaintext in plaintexts] == expected
        for path in range(3):
            built.expect_path(path, tx_packets=3 * int((path > 0) == urgent))


@KINDS
def test_an_undone_packet_leaves_partial(engine: str, protocol: int, version: int) -> None:
    one = Segment(payload(333), protocol, version)
    with native_rig(engine) as built:
        built.apply()
        built.tun.ends[0].socket.send(one.vnet() + one.undone)
        plaintext = built.unseal(built.remotes[0].take())
        assert plaintext == one.partial
        assert finish_inner(plaintext) == one.packet


@pytest.mark.parametrize("undone", [True, False])
@pytest.mark.parametrize("version", [4, 6])
def test_a_syn_asks_for_no_more_than_fits_whether_its_checksum_is_done_or_not(
    engine: str, version: int, undone: bool
) -> None:
    asked, most = (
        Segment(b"", TCP, version, flags=SYN, options=b"\x02\x04" + mss.to_bytes(2, "big") + b"\x01" * 8)
        for mss in (1460, 1160 if version == 4 else 1140)
    )
    with native_rig(engine) as built:
        built.apply(narrow_bytes=1200)
        sent = asked.vnet() + asked.undone if undone else bytes(10) + asked.packet
        built.tun.ends[0].socket.send(sent)
        plaintext = built.unseal(built.remotes[0].take())
        assert plaintext == (most.partial if undone else most.packet)
        assert finish_inner(plaintext) == most.packet


@pytest.mark.parametrize("segment_bytes", [0, 1100, 1348])
def test_superpackets_and_undone_packets_are_cut_to_fit(engine: str, segment_bytes: int) -> None:
    whole = Segment(payload(5000 if segment_bytes else 1300), TCP, 6, flags=ACK | PSH)
    most = 1200 - whole.header_bytes
    with native_rig(engine) as built:
        built.apply(narrow_bytes=1200)
        built.tun.ends[0].socket.send(whole.vnet(segment_bytes) + whole.undone)
        expected = whole.cut(min(segment_bytes or most, most))
        plaintexts = [built.unseal(datagram) for datagram in built.remotes[0].take_many(len(expected))]
        assert plaintexts == [segment.partial for segment in expected]
        assert [finish_inner(plaintext) for plaintext in plaintexts] == [segment.packet for segment in expected]


def test_a_finished_packet_leaves_as_it_is(engine: str) -> None:
    one = Segment(payload(50))
    with native_rig(engine) as built:
        built.apply()
        built.tun.ends[0].socket.send(bytes(10) + one.packet)
        assert built.unseal(built.remotes[0].take()) == one.packet


def test_an_undone_packet_that_may_not_be_partial_is_summed(engine: str) -> None:
    """TCP behind an IPv6 destination options header: the receiver would not find it."""
    one = Segment(payload(50), TCP, 6)
    extension = bytes([TCP, 0, 1, 4, 0, 0, 0, 0])

    def extended(packet: bytes) -> bytes:
        length = int.from_bytes(packet[4:6], "big") + len(extension)
        return packet[:4] + length.to_bytes(2, "big") + bytes([60]) + packet[7:40] + extension + packet[40:]

    with native_rig(engine) as built:
        built.apply()
        built.tun.ends[0].socket.send(_VNET.pack(_NEEDS_CSUM, 0, 0, 0, 48, 16) + extended(one.undone))
        assert built.unseal(built.remotes[0].take()) == extended(one.packet)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        bytes(9),
        _VNET.pack(_NEEDS_CSUM, 1, 0, 0, 20, 16),  # segments of no size
        _VNET.pack(0, 1, 0, 100, 20, 16),  # a superpacket that needs no checksum
        _VNET.pack(_NEEDS_CSUM, 1, 0, 100, 20, 6),  # TCP with UDP's checksum
        _VNET.pack(_NEEDS_CSUM, 1, 0, 100, 12, 16),  # a transport header inside the IP header
        _VNET.pack(_NEEDS_CSUM, 0, 0, 0, 65000, 16),  # a checksum beyond the packet
        _VNET.pack(_NEEDS_CSUM, 9, 0, 100, 20, 16),  # an unknown kind
    ],
)
def test_a_malformed_virtio_header(engine: str, header: bytes) -> None:
    one = Segment(payload(200))
    with native_rig(engine) as built:
        built.apply()
        built.tun.ends[0].socket.send(header + one.undone if len(header) == 10 else header or b"\0")
        built.tun.ends[0].socket.send(bytes(10) + one.packet)
        assert built.unseal(built.remotes[0].take()) == one.packet
        assert built.drops() == {DropReason.INNER_MALFORMED: 1}


def test_copies_of_a_train_are_the_same_bytes(engine: str) -> None:
    whole = Segment(payload(5000))
    with native_rig(engine, paths=2) as built:
        built.apply(peers=(built.peer(built.plan(copies=2)),))
        built.tun.ends[0].socket.send(whole.vnet(1000) + whole.undone)
        first, second = (remote.take_many(5) for remote in built.remotes)
        assert first == second
        built.expect_path(0, tx_packets=5)
        built.expect_path(1, tx_packets=5)


def test_segmentation_refused_by_the_kernel(engine: str) -> None:
    """Trains of datagrams beyond the device's MTU are refused: they leave one by one, in fragments, and it counts."""
    (space,) = make_namespaces(1)
    whole = Segment(payload(4200))
    try:
        space.run(set_link, "lo", mtu=1280)
        built = space.run(Rig, engine, vnet_hdr=True, offloads=OFFLOADS)
        try:
            built.apply()
            for _ in range(2):
                built.tun.ends[0].socket.send(whole.vnet(1400) + whole.undone)
                plaintexts = [built.unseal(datagram) for datagram in built.remotes[0].take_many(3)]
                assert [finish_inner(plaintext) for plaintext in plaintexts] == [s.packet for s in whole.cut(1400)]
            assert built.engine.details["fallbacks"] == "udp_segment 1"
            built.expect_path(tx_packets=6)
            assert not built.drops()
        finally:
            built.close()
    finally:
        space.close()


# In: one train, one write.


def send_train(built: Rig, plaintexts: Sequence[bytes], first_counter: int = 0) -> None:
    """Have the peer send datagrams that arrive together: all of one size, but the last may be shorter."""
    datagrams = [built.seal(first_counter + n, plaintext) for n, plaintext in enumerate(plaintexts)]
    size = len(datagrams[0])
    assert all(len(datagram) == size for datagram in datagrams[:-1])
    assert len(datagrams[-1]) <= size
    control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", size))] if len(datagrams) > 1 else []
    built.remotes[0].socket.sendmsg([b"".join(datagrams)], control, 0, built.locals[0])


def inbound(**fields: Any) -> Segment:
    return Segment(inbound=True, **fields)


@KINDS
@pytest.mark.parametrize("partial", [False, True], ids=["summed", "partial"])
def test_a_train_becomes_one_superpacket(engine: str, protocol: int, version: int, partial: bool) -> None:
    whole = inbound(payload=payload(3300), protocol=protocol, version=version, flags=ACK | PSH, ident=9, tos=2)
    with native_rig(engine) as built:
        built.apply()
        send_train(built, [segment.partial if partial else segment.packet for segment in whole.cut(1000)])
        assert built.tun.ends[0].take() == whole.vnet(1000) + whole.undone
        assert built.tun.ends[0].silent()
        built.expect_path(rx_packets=4)
        assert not built.drops()


@KINDS
def test_one_partial_packet_asks_for_its_checksum(engine: str, protocol: int, version: int) -> None:
    one = inbound(payload=payload(77), protocol=protocol, version=version)
    with native_rig(engine) as built:
        built.apply()
        built.deliver(0, one.partial + b"padding")
        assert built.tun.ends[0].take() == one.vnet() + one.undone


def test_two_flows_in_one_train(engine: str) -> None:
    flows = [inbound(payload=payload(3000), port=port) for port in (4000, 4001)]
    segments = [segment for pair in zip(*(flow.cut(1000) for flow in flows), strict=True) for segment in pair]
    with native_rig(engine) as built:
        built.apply()
        send_train(built, [segment.partial for segment in segments])
        assert built.tun.ends[0].take_many(2) == [flow.vnet(1000) + flow.undone for flow in flows]


FIRST = inbound(payload=payload(400))
SECOND = replace(FIRST, sequence=1400)


@pytest.mark.parametrize(
    "second",
    [
        replace(SECOND, sequence=1401),
        replace(SECOND, sequence=1000),
        replace(SECOND, acknowledged=78),
        replace(SECOND, tos=3),
        replace(SECOND, flags=ACK | SYN),
        replace(SECOND, flags=ACK | FIN),
        replace(SECOND, flags=ACK | CWR),
        replace(SECOND, port=4001),
        replace(SECOND, version=6, payload=payload(380)),
        replace(SECOND, protocol=UDP, payload=payload(424)),
    ],
    ids=[
        "gap",
        "again",
        "acknowledgement",
        "ecn",
        "syn",
        "fin",
        "cwr",
        "other flow",
        "other version",
        "other protocol",
    ],
)
def test_what_must_not_be_joined(engine: str, second: Segment) -> None:
    with native_rig(engine) as built:
        built.apply()
        send_train(built, [FIRST.partial, second.partial])
        expected = {FIRST.vnet() + FIRST.undone, second.vnet() + second.undone}
        assert set(built.tun.ends[0].take_many(2)) == expected


def test_nothing_is_joined_behind_a_push(engine: str) -> None:
    segments = [
        replace(segment, flags=ACK | (PSH if number == 1 else 0))
        for number, segment in enumerate(inbound(payload=payload(1600)).cut(400))
    ]
    halves = [
        replace(segments[0], payload=payload(1600)[:800], flags=ACK | PSH),
        replace(segments[2], payload=payload(1600)[800:]),
    ]
    with native_rig(engine) as built:
        built.apply()
        send_train(built, [segment.partial for segment in segments])
        assert built.tun.ends[0].take_many(2) == [half.vnet(400) + half.undone for half in halves]


@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_a_wrong_checksum_stays_wrong(engine: str, protocol: int) -> None:
    segments = [segment.packet for segment in inbound(payload=payload(1200), protocol=protocol).cut(400)]
    segments[1] = segments[1][:-1] + bytes([segments[1][-1] ^ 1])
    with native_rig(engine) as built:
        built.apply()
        send_train(built, segments)
        assert built.tun.ends[0].take_many(3) == [bytes(10) + segment for segment in segments]


def test_a_datagram_without_checksum_stays_without(engine: str) -> None:
    packets = [packet[:26] + bytes(2) + packet[28:] for packet in (inbound(payload=b"x" * 9, protocol=UDP).packet,) * 2]
    with native_rig(engine) as built:
        built.apply()
        send_train(built, packets)
        assert built.tun.ends[0].take_many(2) == [bytes(10) + packet for packet in packets]


def test_a_device_without_offloads_gets_packets(engine: str) -> None:
    segments = inbound(payload=payload(1200)).cut(400)
    with native_rig(engine, offloads=frozenset({"csum"})) as built:
        built.apply()
        send_train(built, [segment.partial for segment in segments])
        assert built.tun.ends[0].take_many(3) == [segment.vnet() + segment.undone for segment in segments]


def test_a_device_without_virtio_headers_gets_whole_packets(engine: str) -> None:
    segments = inbound(payload=payload(1200)).cut(400)
    with rig(engine) as built:
        built.apply()
        send_train(built, [segment.partial for segment in segments])
        assert built.tun.ends[0].take_many(3) == [segment.packet for segment in segments]


def test_bad_and_good_in_one_train(engine: str) -> None:
    """Each datagram of a train is judged for itself."""
    segments = inbound(payload=payload(4000)).cut(400)
    plaintexts = [segment.partial for segment in segments]
    with native_rig(engine) as built:
        built.apply()
        datagrams = [built.seal(n, plaintext) for n, plaintext in enumerate(plaintexts)]
        datagrams[2] = datagrams[2][:-1] + bytes([datagrams[2][-1] ^ 1])
        datagrams[4] = datagrams[3]
        datagrams[6] = datagrams[6][:8] + b"nobody" + datagrams[6][14:]
        control = [(socket.IPPROTO_UDP, _UDP_SEGMENT, struct.pack("=H", len(datagrams[0])))]
        built.remotes[0].socket.sendmsg([b"".join(datagrams)], control, 0, built.locals[0])
        joined = [(0, 2), (3, 4), (5, 6), (7, 10)]
        wholes = [replace(segments[a], payload=payload(4000)[400 * a : 400 * b]) for a, b in joined]
        sizes = [400 * (b - a > 1) for a, b in joined]
        assert built.tun.ends[0].take_many(4) == [
            whole.vnet(size) + whole.undone for whole, size in zip(wholes, sizes, strict=True)
        ]
        built.expect_drops({DropReason.BAD_TAG: 1, DropReason.DUPLICATE: 1, DropReason.UNKNOWN_SESSION: 1})


@pytest.mark.parametrize("aead", ["ipsec-mb", "libcrypto"])
@pytest.mark.parametrize("size", [1, 15, 16, 17, 63, 64, 65, 127, 255, 1024, 1025, 1400, 9000])
def test_either_aead(engine: str, aead: str, size: int) -> None:
    from centipede.engine.native import ipsec_mb_missing

    if aead == "ipsec-mb" and (missing := ipsec_mb_missing()):
        pytest.skip(f"no ipsec-mb: {missing}")
    one = inbound(payload=payload(size), protocol=UDP)
    with rig(engine, aead=aead) as built:
        assert built.engine.details["aead"].startswith(aead)
        built.apply()
        built.deliver(0, one.packet)
        assert built.tun.ends[0].take() == one.packet
        there = replace(one, inbound=False).packet
        built.tun.ends[0].socket.send(there)
        assert built.unseal(built.remotes[0].take()) == there
        damaged = built.seal(1, one.packet)
        for position in (16, 31, 32, len(damaged) - 1):
            built.inject(damaged[:position] + bytes([damaged[position] ^ 0x10]) + damaged[position + 1 :])
        built.inject(damaged)
        assert built.tun.ends[0].take() == one.packet
        built.expect_drops({DropReason.BAD_TAG: 4})


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_data_is_steered_to_the_worker_of_its_shard(engine: str, workers: int) -> None:
    with rig(engine, workers=workers) as built:
        built.apply()
        assert "fallbacks" not in built.engine.details
        for counter in range(3):
            for shard in range(built.run.size):
                inner = udp(PEER_ADDRESS, LOCAL_ADDRESS, b"%d for shard %d" % (counter, shard))
                built.deliver(shard << 8 | counter, inner, shard=shard)
                assert built.tun.ends[shard % workers].take() == inner
        assert not built.drops()


def test_an_idle_worker_sleeps(engine: str) -> None:
    """Spinning ends: the CPU time of the process stands still."""
    with rig(engine) as built:
        built.apply()
        built.deliver(0, udp(PEER_ADDRESS, LOCAL_ADDRESS, b"wake"))
        built.tun.ends[0].take()

        def asleep() -> bool:
            return all(state != "R" for state in _worker_states())

        eventually(asleep, "a sleeping worker")


def _worker_states() -> list[str]:
    from pathlib import Path

    states = []
    for task in Path("/proc/self/task").iterdir():
        name, _, rest = task.joinpath("stat").read_text().partition("(")[2].rpartition(")")
        if name.startswith("centipede/"):
            states.append(rest.split()[0])
    return states
