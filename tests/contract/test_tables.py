"""Tables and local addresses that change under traffic, and what an engine leaves behind."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from centipede.protocol.drops import DropReason
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.table import Datagram, Run
from centipede.system.udp import open_sockets
from tests.contract import packets
from tests.contract.harness import (
    DEADLINE_S,
    LOCAL_ADDRESS,
    PEER_ADDRESS,
    End,
    Rig,
    create_engine,
    eventually,
    udp_socket,
)
from tests.contract.packets import source_shard_of, udp

MakeRig = Callable[..., Rig]


def outward(number: int) -> bytes:
    return udp(LOCAL_ADDRESS, PEER_ADDRESS, b"%d" % number)


def inward(number: int) -> bytes:
    return udp(PEER_ADDRESS, LOCAL_ADDRESS, b"%d" % number)


# Sessions live once.


def test_a_session_never_lives_twice(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    rig.apply(peers=(rig.peer(),), sessions=())
    with pytest.raises(ValueError):
        rig.apply()
    rig.deliver(0, inward(0))
    rig.expect_drops({DropReason.UNKNOWN_SESSION: 1})  # the table before still applies
    newer = rig.session(session=rig.SESSION + 1)
    rig.apply(peers=(rig.peer(rig.plan(session=rig.SESSION + 1)),), sessions=(newer,))
    rig.deliver(0, inward(0))
    assert rig.tun.ends[0].take() == inward(0)
    with pytest.raises(ValueError):
        rig.apply(sessions=(rig.session(), newer))
    rig.tun.ends[0].socket.send(outward(0))
    assert rig.unseal(rig.remotes[0].take()) == outward(0)


def test_a_session_keeps_its_shards(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.apply()
    with pytest.raises(ValueError):
        rig.apply(sessions=(rig.session(own=Run(3)),))
    rig.tun.ends[0].socket.send(outward(0))
    assert source_shard_of(rig.remotes[0].take()) == 0


def test_sessions_may_end_in_any_order(make_rig: MakeRig) -> None:
    rig = make_rig()
    first, second, third = (rig.session(session=rig.SESSION + n, base=b"base-%d" % n) for n in range(3))
    nobody = (rig.peer(),)
    rig.apply(peers=nobody, sessions=(first, second))
    rig.apply(peers=nobody, sessions=(first, second, third))
    rig.apply(peers=nobody, sessions=(first, third))
    rig.deliver(0, inward(0), base=first.base)
    rig.deliver(0, inward(2), base=third.base)
    assert rig.tun.ends[0].take_many(2) == [inward(0), inward(2)]
    with pytest.raises(ValueError):
        rig.apply(peers=nobody, sessions=(second, third))


def test_a_window_outlives_the_table(make_rig: MakeRig) -> None:
    rig = make_rig()
    for counter in range(3):
        rig.apply()
        rig.deliver(counter, inward(counter))
        assert rig.tun.ends[0].take() == inward(counter)
    for counter in range(3):
        rig.deliver(counter, inward(counter))
    rig.expect_drops({DropReason.DUPLICATE: 3})


def test_paths_come_and_go(make_rig: MakeRig) -> None:
    rig = make_rig(paths=2)
    rig.apply()
    assert set(rig.engine.counters().paths) == {rig.PATH, rig.PATH + 1}
    rig.apply(routes=(), peers=(), sessions=())
    assert rig.engine.counters().paths == {}
    assert rig.engine.counters().peers_tx == {}


# Local addresses.


def test_an_address_is_free_once_removed(make_rig: MakeRig) -> None:
    rig = make_rig(workers=2, paths=2)
    rig.apply()
    rig.engine.remove_local(rig.locals[0])
    os.close(open_sockets(rig.locals[0], 1)[0])
    rig.engine.add_local(rig.locals[0], open_sockets(rig.locals[0], 2))
    rig.deliver(0, inward(0))
    rig.deliver(0, inward(0), path=1)
    rig.expect_drops({DropReason.DUPLICATE: 1})
    rig.tun.ends[1].socket.send(outward(0))
    assert rig.unseal(rig.remotes[0].take()) == outward(0)
    rig.inject(b"\x81 up")
    assert rig.event(Datagram).local == rig.locals[0]


def test_an_address_added_later_serves_the_table_at_hand(make_rig: MakeRig) -> None:
    rig = make_rig()
    rig.remotes.append(End(udp_socket()))
    rig.locals.append(Endpoint("127.0.0.1", 0))
    with udp_socket() as placeholder:  # the number of a port that will be free
        rig.locals[1] = Endpoint("127.0.0.1", placeholder.getsockname()[1])
    rig.apply(peers=(rig.peer(rig.plan(copies=2)),))
    rig.tun.ends[0].socket.send(outward(0))
    rig.remotes[0].take()
    rig.expect_drops({DropReason.SEND_UNREACHABLE: 1})
    rig.engine.add_local(rig.locals[1], open_sockets(rig.locals[1], 1))
    rig.tun.ends[0].socket.send(outward(1))
    assert rig.remotes[0].take() == rig.remotes[1].take()
    rig.deliver(0, inward(0), path=1)
    rig.expect_path(1, rx_packets=1)


# Change under load.


def test_no_packet_is_lost_or_doubled_while_tables_change(make_rig: MakeRig) -> None:
    """Packets go out and in while the plan moves from session to session; each arrives once, under a live session."""
    rig = make_rig(workers=2, paths=2)
    first = rig.session()
    rig.apply()
    sent = 0
    inn: list[bytes] = []
    out: list[bytes] = []
    stop = threading.Event()

    def traffic() -> None:
        nonlocal sent
        arrived, deadline = 0, time.monotonic() + 2 * DEADLINE_S
        while (not stop.is_set() or arrived < sent) and time.monotonic() < deadline:
            if not stop.is_set() and sent - arrived < 50:  # less than any queue holds
                rig.tun.ends[sent % 2].socket.send(outward(sent))
                rig.deliver(sent, inward(sent), path=sent % 2)
                sent += 1
            for queue in rig.tun.ends:
                inn.extend(queue.take_waiting())
            for remote in rig.remotes:
                out.extend(remote.take_waiting())
            arrived = min(len(inn), len(out))

    def change(turn: int) -> None:
        newest = [rig.session(session=rig.SESSION + n, base=b"%06d" % n) for n in (turn, turn + 1)]
        plan = rig.plan(session=rig.SESSION + turn, base=b"%06d" % turn, paths=(rig.path(turn % 2),))
        rig.apply(peers=(rig.peer(plan),), sessions=(first, *newest))
        before = sent
        eventually(lambda: sent > before, "traffic")

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(traffic)
        try:
            for turn in range(1, 150):
                change(turn)
        finally:
            stop.set()
        running.result()

    assert sorted(inn) == sorted(inward(number) for number in range(sent))
    assert sorted(packets.unseal(rig.TX_KEY, datagram) for datagram in out) == sorted(
        outward(number) for number in range(sent)
    )
    numbers = {(d[8:14], packets.source_shard_of(d), packets.counter_of(d)) for d in out}
    assert len(numbers) == sent, "a nonce was used twice"
    assert not rig.drops()


@pytest.mark.usefixtures("restless_threads")
def test_one_window_for_all_workers(make_rig: MakeRig) -> None:
    """The same datagrams reach four workers at once; each counter is delivered once."""
    rig = make_rig(workers=4)
    rig.apply(sessions=(rig.session(sources=(Run(0, 1),)),))
    senders = [udp_socket() for _ in range(12)]  # the kernel spreads sources over the workers' sockets
    count = 200  # so few that they fit into one queue
    datagrams = [rig.seal(number, inward(number), shard=number % 4, source=number % 2) for number in range(count)]
    start = threading.Barrier(4)

    def send(part: int) -> None:
        start.wait()
        for datagram in datagrams:
            for sender in senders[part::4]:
                sender.sendto(datagram, rig.locals[0])

    threads = [threading.Thread(target=send, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    delivered: list[bytes] = []

    def all_delivered() -> bool:
        for queue in rig.tun.ends:
            delivered.extend(queue.take_waiting())
        return len(delivered) >= count

    eventually(all_delivered, f"{count} packets")
    for thread in threads:
        thread.join()
    for sender in senders:
        sender.close()
    rig.expect_drops({DropReason.DUPLICATE: count * (len(senders) - 1)})
    assert sorted(delivered) == sorted(inward(number) for number in range(count))
    assert all(queue.silent() for queue in rig.tun.ends)


# The end.


def test_nothing_stays_open(make_rig: MakeRig) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    threads = threading.active_count()
    rig = make_rig(workers=3, paths=2)
    rig.apply()
    rig.tun.ends[2].socket.send(outward(0))
    rig.remotes[0].take()
    rig.close()
    rig.engine.close()
    assert set(Path("/proc/self/fd").iterdir()) == before
    assert threading.active_count() == threads
    assert rig.engine.events() == []


def test_an_engine_never_started_closes(engine: str) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    ours, theirs = os.pipe2(os.O_NONBLOCK)
    built = create_engine(engine, [ours])
    assert built.workers == 1
    assert built.name == engine
    local = Endpoint("127.0.0.1", 0)
    built.add_local(local, open_sockets(local, 1))
    built.close()
    os.close(theirs)
    assert set(Path("/proc/self/fd").iterdir()) == before


def test_details_are_for_people(make_rig: MakeRig) -> None:
    rig = make_rig()
    assert rig.engine.details["aead"]
