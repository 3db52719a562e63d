"""What becomes of TCP where the interface cannot say how narrow the paths are. docs/protocol.md "Path MTU"."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address

import pytest

from tests.contract.harness import LOCAL_ADDRESS, LOCAL_ADDRESS_6, PEER_ADDRESS, PEER_ADDRESS_6, Rig
from tests.contract.packets import TCP, checksum, ip, udp

MakeRig = Callable[..., Rig]

FIN, SYN, RST, PSH, ACK, URG, CWR = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x80
NARROW = 1200
NOP, WINDOW_SCALE, SACK = b"\x01", b"\x03\x03\x07", b"\x04\x02"


def mss(size: int) -> bytes:
    return b"\x02\x04" + size.to_bytes(2, "big")


def tcp(
    options: bytes,
    *,
    flags: int = SYN,
    version: int = 4,
    payload: bytes = b"",
    words: int | None = None,
    sequence: int = 1,
) -> bytes:
    """A TCP packet with a right checksum; ``words`` is what it says of its header's length."""
    source, destination = (LOCAL_ADDRESS, PEER_ADDRESS) if version == 4 else (LOCAL_ADDRESS_6, PEER_ADDRESS_6)
    options += bytes(-len(options) % 4)
    length = (20 + len(options)) // 4 if words is None else words
    head = bytes.fromhex("0fa0 1388") + sequence.to_bytes(4, "big") + bytes(4)
    head += bytes([length << 4, flags]) + bytes.fromhex("ffff 0000 0000")
    segment = head + options + payload
    pseudo = ip_address(source).packed + ip_address(destination).packed + len(segment).to_bytes(4, "big")
    value = checksum(pseudo + bytes([0, 0, 0, TCP]) + segment)
    return ip(source, destination, segment[:16] + value.to_bytes(2, "big") + segment[18:], protocol=TCP)


def through(rig: Rig, packet: bytes) -> bytes:
    """What the peer gets of a packet."""
    rig.tun.ends[0].socket.send(packet)
    return rig.unseal(rig.remotes[0].take())


@pytest.mark.parametrize(("version", "most"), [(4, NARROW - 40), (6, NARROW - 60)])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"", b""),
        (b"", SACK + NOP + WINDOW_SCALE),
        (NOP, NOP),  # at an odd place, where the checksum has it the other way round
        (NOP * 2 + WINDOW_SCALE, SACK),
        (SACK + WINDOW_SCALE + NOP, b""),
    ],
)
@pytest.mark.parametrize("flags", [SYN, SYN | ACK])
def test_a_syn_asks_for_no_more_than_fits(
    make_rig: MakeRig, version: int, most: int, before: bytes, after: bytes, flags: int
) -> None:
    rig = make_rig()
    rig.apply(narrow_bytes=NARROW)
    for asked in (1460, most + 1, most, 536):
        got = through(rig, tcp(before + mss(asked) + after, flags=flags, version=version))
        assert got == tcp(before + mss(min(asked, most)) + after, flags=flags, version=version)
    assert not rig.drops()


@pytest.mark.parametrize(
    "packet",
    [
        tcp(mss(1460), flags=ACK),
        tcp(mss(1460), flags=FIN | ACK),
        tcp(SACK + WINDOW_SCALE),
        tcp(b"\x00\x00" + mss(1460)),
        tcp(b"\x05\x00" + mss(1460)),
        tcp(b"\x05\x01" + mss(1460)),
        tcp(b"\x05\xff" + mss(1460)),
        tcp(b"\x02\x05\x05\xb4\x00"),
        tcp(b"\x02\x04\x05\xb4", words=5),
        tcp(b"\x01\x01\x02\x04", words=6),
        tcp(b"", words=15),
        tcp(b"", words=0),
        udp(LOCAL_ADDRESS, PEER_ADDRESS, bytes(5) + b"\x02" + mss(1460)),
        ip(LOCAL_ADDRESS, PEER_ADDRESS, bytes(13) + b"\x02", protocol=TCP),
        ip(LOCAL_ADDRESS, PEER_ADDRESS, b"", protocol=TCP),
    ],
    ids=[
        "no SYN",
        "FIN",
        "no MSS",
        "after the end",
        "an option of no length",
        "an option of one byte",
        "an option beyond the header",
        "an MSS of another length",
        "data",
        "cut off",
        "a header beyond the packet",
        "a header of nothing",
        "UDP",
        "no whole header",
        "no header",
    ],
)
def test_all_else_is_left_as_it_is(make_rig: MakeRig, packet: bytes) -> None:
    rig = make_rig()
    rig.apply(narrow_bytes=NARROW)
    assert through(rig, packet) == packet


def test_a_fragment_is_left_as_it_is(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(narrow_bytes=NARROW)
    whole = tcp(mss(1460))
    head = whole[:6] + b"\x20\x00" + whole[8:10] + bytes(2) + whole[12:20]
    fragment = head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + whole[20:]
    assert through(rig, fragment) == fragment


def test_the_latest_table_says_whether_paths_are_narrow(make_rig: MakeRig) -> None:
    rig = make_rig()
    for narrow, expected in ((0, 1460), (NARROW, NARROW - 40), (1260, 1220), (0, 1460)):
        rig.apply(narrow_bytes=narrow)
        assert through(rig, tcp(mss(1460))) == tcp(mss(expected))


def test_what_waited_for_a_session_is_clamped_as_well(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(peers=(rig.peer(),), narrow_bytes=NARROW)
    rig.tun.ends[0].socket.send(tcp(mss(1460)))
    rig.events(1)
    rig.apply(narrow_bytes=NARROW)
    assert rig.unseal(rig.remotes[0].take()) == tcp(mss(NARROW - 40))


# Connections over IPv6 that are older than the narrow path.


@pytest.mark.parametrize("options", [b"", NOP * 2 + b"\x08\x0a" + bytes(range(8))], ids=["bare", "with timestamps"])
@pytest.mark.parametrize("size", [1, 2, 3, 80, 1140, 1141])
def test_what_is_too_long_is_cut(make_rig: MakeRig, options: bytes, size: int) -> None:
    """``size`` is how much is too long."""
    rig = make_rig()
    rig.apply(narrow_bytes=NARROW)
    most = NARROW - 60 - len(options)
    payload = bytes(n * 13 % 251 for n in range(most + size))
    sequence = 2**32 - 700
    rig.tun.ends[0].socket.send(
        tcp(options, flags=CWR | ACK | PSH | FIN, version=6, payload=payload, sequence=sequence) + b"what is behind"
    )
    starts = range(0, len(payload), most)
    expected = [
        tcp(
            options,
            flags=ACK | (0 if start else CWR) | (PSH | FIN if start + most >= len(payload) else 0),
            version=6,
            payload=payload[start : start + most],
            sequence=(sequence + start) % 2**32,
        )
        for start in starts
    ]
    assert [rig.unseal(datagram) for datagram in rig.remotes[0].take_many(len(expected))] == expected
    assert not rig.drops()


@pytest.mark.parametrize(
    "packet",
    [
        tcp(b"", flags=ACK, version=6, payload=bytes(NARROW - 60)),
        tcp(b"", flags=SYN, version=6, payload=bytes(NARROW)),
        tcp(b"", flags=RST, version=6, payload=bytes(NARROW)),
        tcp(b"", flags=ACK | URG, version=6, payload=bytes(NARROW)),
        tcp(b"", flags=ACK, version=6, payload=bytes(NARROW))[:-1] + b"\x01",
        tcp(b"", flags=ACK, version=6, payload=bytes(NARROW), words=4),
        tcp(b"", flags=ACK, version=4, payload=bytes(NARROW)),
        udp(LOCAL_ADDRESS_6, PEER_ADDRESS_6, bytes(NARROW)),
        ip(LOCAL_ADDRESS_6, PEER_ADDRESS_6, bytes([TCP, 0, 1, 4, 0, 0, 0, 0]) + bytes(NARROW), protocol=60),
    ],
    ids=["fits", "SYN", "RST", "URG", "damaged", "no whole header", "IPv4", "UDP", "extension header"],
)
def test_nothing_else_is_cut(make_rig: MakeRig, packet: bytes) -> None:
    rig = make_rig()
    rig.apply(narrow_bytes=NARROW)
    assert through(rig, packet) == packet


def test_nothing_is_cut_where_paths_are_wide(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    packet = tcp(b"", flags=ACK, version=6, payload=bytes(1300))
    assert through(rig, packet) == packet
