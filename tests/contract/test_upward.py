"""What goes up to the control thread: control datagrams unopened, bounded rings, and what garbage comes to."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Callable

import pytest

from centipede.engine.contract import RING_SIZE
from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.table import Datagram, FirstData, NewRemote
from centipede.system.udp import open_sockets
from tests.contract.harness import (
    LOCAL_ADDRESS,
    PEER_ADDRESS,
    Rig,
    endpoint_of,
    readable,
    udp_socket,
)
from tests.contract.packets import udp

MakeRig = Callable[..., Rig]

INNER = udp(PEER_ADDRESS, LOCAL_ADDRESS, b"inner")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("size", [1, 72, 208, 1472])
def test_handshake_datagrams_go_up_as_they_are(make_rig: MakeRig, host: str, size: int) -> None:
    rig = make_rig(host=host)
    data = b"\x81" + bytes(range(1, 251)) * 6
    assert not readable(rig.engine.event_fd, 0)
    before = time.monotonic()
    rig.inject(data[:size])
    event = rig.event(Datagram)
    path = rig.path()
    assert (event.local, event.remote, event.data, event.path_received) == (path.local, path.remote, data[:size], 0)
    assert before <= event.arrived <= time.monotonic()
    assert not readable(rig.engine.event_fd, 0)
    assert rig.engine.events() == []


def test_control_goes_up_with_the_count_of_its_path(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)
    rig.apply()
    control = rig.seal(0, bytes(64), control=True, shard=0xFFFF)
    rig.inject(control)
    assert rig.event(Datagram).path_received == 0
    for counter in range(3):
        rig.deliver(counter, INNER)
        rig.deliver(counter, INNER)
    rig.deliver(0, INNER, path=1)
    rig.inject(control)
    rig.inject(control, path=1)
    assert {(event.remote, event.path_received) for event in (rig.event(Datagram), rig.event(Datagram))} == {
        (rig.path(0).remote, 6),
        (rig.path(1).remote, 1),
    }
    with udp_socket() as stranger:
        stranger.sendto(control, rig.locals[0])
        event = rig.event(Datagram)
    assert (event.data, event.path_received) == (control, 0)


def test_a_workers_events_keep_their_order(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(sessions=(rig.session(pending=True),))
    rig.inject(b"\x81 first")
    rig.deliver(0, INNER)
    rig.inject(rig.seal(0, bytes(64), control=True))
    rig.inject(b"\x81 last")
    first, data, control, last = rig.events(4)
    assert isinstance(first, Datagram)
    assert first.data == b"\x81 first"
    assert isinstance(data, FirstData)
    assert isinstance(control, Datagram)
    assert control.path_received == 1
    assert isinstance(last, Datagram)
    assert last.data == b"\x81 last"


def test_a_flood_of_handshakes_starves_nobody(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply(sessions=(rig.session(pending=True),))
    for number in range(RING_SIZE + 7):
        rig.inject(b"\x81 %d" % number)
    rig.inject(rig.seal(0, bytes(64), control=True))
    rig.deliver(0, INNER)
    assert rig.tun.ends[0].take() == INNER
    rig.expect_drops({DropReason.HANDSHAKE_RING_FULL: 7})
    *handshakes, control, data = rig.events(RING_SIZE + 2)
    for number, event in enumerate(handshakes):
        assert isinstance(event, Datagram)
        assert event.data == b"\x81 %d" % number
    assert isinstance(control, Datagram)
    assert isinstance(data, FirstData)
    rig.inject(b"\x81 again")
    assert rig.event(Datagram).data == b"\x81 again"


def test_a_flood_of_control_starves_nobody(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    for number in range(RING_SIZE + 7):
        rig.inject(rig.seal(number, b"", control=True))
    rig.inject(b"\x81 handshake")
    rig.expect_drops({DropReason.CONTROL_RING_FULL: 7})
    *controls, handshake = rig.events(RING_SIZE + 1)
    assert len(controls) == RING_SIZE
    assert isinstance(handshake, Datagram)
    assert handshake.data == b"\x81 handshake"


def test_control_of_no_session_takes_nobodys_place(make_rig: MakeRig) -> None:
    """Anybody can make it: it must not fill the ring that heartbeats go up by."""
    rig = make_rig()
    rig.inject(rig.seal(0, bytes(64), control=True))
    rig.expect_drops({DropReason.UNKNOWN_SESSION: 1})
    rig.apply()
    for number in range(RING_SIZE + 7):
        rig.inject(rig.seal(number, bytes(64), control=True, base=b"nobody"))
    heartbeat = rig.seal(0, bytes(64), control=True)
    rig.inject(heartbeat)
    assert rig.event(Datagram).data == heartbeat
    rig.expect_drops({DropReason.UNKNOWN_SESSION: RING_SIZE + 8})


def test_new_remotes_without_number_are_bounded(make_rig: MakeRig) -> None:
    """Each datagram comes from a source of its own, as an authenticated peer could arrange, and is delivered."""
    rig = make_rig()
    rig.apply()
    count = RING_SIZE + 50
    for counter in range(count):
        with udp_socket() as source:
            source.sendto(rig.seal(counter, INNER), rig.locals[0])
        assert rig.tun.ends[0].take() == INNER
    told = [event for event in rig.events_left() if isinstance(event, NewRemote)]
    assert len(told) <= RING_SIZE
    assert set(rig.drops()) <= {DropReason.EVENT_RING_FULL}


# Garbage, and errors that are none of the engine's making.


def garbage(rng: random.Random, good: bytes, base: bytes) -> bytes:
    """A datagram that is not authentic data: noise, noise under our session's name, or a damaged good one."""
    match rng.randrange(4):
        case 0:
            return rng.randbytes(rng.choice([0, 1, 16, 31, 32, 72, 168, 208, 1452]))
        case 1:
            return bytes(2) + rng.randbytes(6) + base + bytes(2) + rng.randbytes(rng.randrange(1400))
        case 2:
            at, bit = rng.randrange(len(good)), 1 << rng.randrange(8)
            return good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :]
        case _:
            return good[: rng.randrange(len(good))]


def test_garbage_from_the_network_is_accounted_for(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rng = random.Random(20)  # any seed will do; a fixed one makes failures repeatable
    good = rig.seal(3, INNER)
    made = [garbage(rng, good, rig.RX_BASE) for _ in range(1500)]
    for datagram in [*made, good]:
        rig.inject(datagram)
    assert rig.tun.ends[0].take() == INNER
    rig.expect_path(rx_packets=1)
    rig.apply(peers=(rig.peer(),), sessions=())  # what waits for its source shard to be heard waits no more
    assert len(rig.events_left()) + sum(rig.drops().values()) == len(made)


def test_garbage_from_the_tun_device_is_accounted_for(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rng = random.Random(21)
    good = udp(LOCAL_ADDRESS, PEER_ADDRESS, b"good")
    heads = [b"", b"\x45", b"\x4f", b"\x60", b"\x45\0\0\x14" + bytes(16), b"\x60\0\0\0\0\0\0\1" + bytes(32)]
    made = [rng.choice(heads) + rng.randbytes(rng.randrange(1, 100)) for _ in range(1000)]
    for packet in [*made, good]:
        rig.tun.ends[0].socket.send(packet)
    assert rig.unseal(rig.remotes[0].take()) == good
    rig.expect_path(tx_packets=1)
    assert sum(rig.drops().values()) == len(made)
    assert set(rig.drops()) == {DropReason.INNER_MALFORMED, DropReason.NO_ROUTE}


def test_a_late_icmp_error_disturbs_nobody(make_rig: MakeRig) -> None:
    rig = make_rig()
    # A connected socket hears of ICMP errors: the kernel reports them with the next receive.
    (fd,) = open_sockets(Endpoint("127.0.0.1", 0), 1)
    with udp_socket() as remote, socket.socket(fileno=fd) as connected:
        connected.connect(remote.getsockname())
        local, port = endpoint_of(connected), remote.getsockname()[1]
        rig.engine.add_local(local, [connected.detach()])
    for _ in range(3):
        assert rig.engine.send(local, Endpoint("127.0.0.1", port), b"to a closed port") in (
            None,
            DropReason.SEND_REFUSED,  # the error of the one before came in time for this one
        )
    with udp_socket(port=port) as remote:
        remote.sendto(b"\x81 all the same", local)
        assert rig.event(Datagram).data == b"\x81 all the same"
    assert DropReason.RECEIVE_FAILED not in rig.drops()
