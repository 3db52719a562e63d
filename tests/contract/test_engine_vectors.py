"""The wire vectors of tests/vectors, which share no code with Centipede, through an engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from centipede.engine.contract import Engine
from centipede.protocol.drops import DropReason
from centipede.protocol.table import Datagram, Route, Run
from tests.contract.harness import LOCAL_ADDRESS, PEER_ADDRESS, Rig
from tests.contract.packets import udp

MakeRig = Callable[..., Rig]

DEFAULT_WINDOW = 65536
REASONS = {reason.label: reason for reason in DropReason}


def cases(name: str) -> list[Any]:
    """The cases of a file of vectors."""
    loaded: dict[str, list[Any]] = json.loads((Path(__file__).parents[1] / "vectors" / f"{name}.json").read_bytes())
    return loaded["cases"]


def dropped(engine: Engine) -> int:
    return sum(engine.counters().drops.values())


@pytest.mark.parametrize("run", [Run(0, 1), Run(16), Run(16382)], ids=str)
def test_session_packets_open(make_rig: MakeRig, run: Run) -> None:
    rig = make_rig()
    rig.run = run
    chosen = [case for case in cases("session") if case["shard"] in run and not case["control"]]
    sessions = [
        rig.session(
            session=rig.SESSION + number,
            base=bytes.fromhex(case["base"]),
            key=bytes.fromhex(case["key"]),
            sources=(Run(case["source"]),),
        )
        for number, case in enumerate(chosen)
    ]
    rig.apply(peers=(rig.peer(),), sessions=tuple(sessions))
    for case in chosen:
        rig.inject(bytes.fromhex(case["datagram"]))
    # Their plaintexts are noise, hence no packets; but they are authentic.
    rig.expect_path(rx_packets=len(chosen), rx_copies=0)
    assert len(chosen) >= 1
    keepalives = sum(not case["plaintext"] for case in chosen)
    rig.expect_drops({DropReason.OPENED_MALFORMED: len(chosen) - keepalives})


def test_damaged_session_packets_do_not(make_rig: MakeRig) -> None:
    rig = make_rig()
    vectors = json.loads((Path(__file__).parents[1] / "vectors" / "session.json").read_bytes())["damaged"]
    intact = bytes.fromhex(vectors["intact"])
    rig.run = Run(4, 1)
    session = rig.session(base=intact[8:14], key=bytes.fromhex(vectors["key"]), sources=(Run(3), Run(2), Run(1)))
    rig.apply(peers=(rig.peer(),), sessions=(session,))
    datagrams = [bytes.fromhex(case["datagram"]) for case in vectors["cases"]]
    for datagram in datagrams:
        rig.inject(datagram)
    rig.inject(intact)
    rig.expect_path(rx_packets=1)
    assert dropped(rig.engine) + len(rig.events_left()) == len(datagrams) + 1


def test_control_packets_go_up_unopened(make_rig: MakeRig) -> None:
    rig = make_rig()
    chosen = [case for case in cases("session") if case["control"]]
    bases = dict.fromkeys(bytes.fromhex(case["base"]) for case in chosen)
    rig.apply(sessions=tuple(rig.session(session=rig.SESSION + n, base=base) for n, base in enumerate(bases)))
    for case in chosen:
        rig.inject(bytes.fromhex(case["datagram"]))
        assert rig.event(Datagram).data == bytes.fromhex(case["datagram"])
    assert chosen
    assert not rig.drops()


def test_the_handshakes_keepalives_open(make_rig: MakeRig) -> None:
    rig = make_rig()
    chosen = [case for case in cases("handshake") if case["responder"]["shard"] == 0]
    sessions = [
        rig.session(
            session=rig.SESSION + number,
            base=bytes.fromhex(case["responder"]["base"]),
            key=bytes.fromhex(case["keys"]["IR_data"]),
        )
        for number, case in enumerate(chosen)
    ]
    assert sessions
    for number, (session, case) in enumerate(zip(sessions, chosen, strict=True), start=1):
        rig.apply(peers=(rig.peer(),), sessions=(session,))
        rig.inject(bytes.fromhex(case["keepalive"]))
        rig.expect_path(rx_packets=number)  # before the next table, which no longer has this session
    assert not rig.drops()


def test_inner_packets_are_finished(make_rig: MakeRig) -> None:
    rig = make_rig()
    everything = (Route(ip_network("0.0.0.0/0"), rig.PEER), Route(ip_network("::/0"), rig.PEER))
    rig.apply(routes=everything)
    expected: dict[DropReason, int] = {}
    for counter, case in enumerate(cases("inner")):
        rig.deliver(counter, bytes.fromhex(case["plaintext"]))
        if "reason" in case:
            reason = REASONS[case["reason"]]
            expected[reason] = expected.get(reason, 0) + 1
        elif case["packet"]:
            assert rig.tun.ends[0].take().hex() == case["packet"], case["name"]
        rig.expect_drops(expected)


@pytest.mark.parametrize(
    "case", [case for case in cases("window") if case["size"] == DEFAULT_WINDOW], ids=lambda case: case["name"]
)
def test_windows(make_rig: MakeRig, case: Any) -> None:
    rig = make_rig()
    rig.apply()
    packet = udp(PEER_ADDRESS, LOCAL_ADDRESS, b"")
    for counter, _ in case["steps"]:
        rig.deliver(counter, packet)
    verdicts = [verdict for _, verdict in case["steps"]]
    expected = {DropReason.DUPLICATE: verdicts.count("seen"), DropReason.OLD: verdicts.count("old")}
    rig.expect_drops({reason: count for reason, count in expected.items() if count})
    rig.expect_path(rx_packets=len(verdicts) - verdicts.count("old"), rx_copies=verdicts.count("seen"))
    assert rig.tun.ends[0].take_many(verdicts.count("new")) == [packet] * verdicts.count("new")
