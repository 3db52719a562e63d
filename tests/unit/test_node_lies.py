"""A peer that is who it says, and says what cannot be: the node takes all of it, and gives what engines can take."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from centipede.engine.native import _pack_table
from centipede.protocol.counters import EngineCounters, PathCounters
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.session import ANY_SHARD, Opener, Sealer
from centipede.protocol.table import Run
from centipede.protocol.wire import Addresses, Heartbeat, Observed, Parted, decode_control
from tests.unit.test_node_handshake import LOCAL, OTHER_LOCAL, OTHER_REMOTE, PEER, REMOTE, Lone, initiate

STEPS = 40
EDGES = (0, 1, 2**31, 2**32 - 1, 2**53, 2**63, 2**64 - 1)
PLACES = (
    "0.0.0.1",
    "127.0.0.1",
    "224.0.0.1",
    "255.255.255.255",
    "203.0.113.9",
    "::1",
    "fe80::1",
    "ff02::1",
    "2001:db8::1",
)


@dataclass
class Liar:
    """Answers each heartbeat, with a clock, counts and wishes drawn by chance."""

    dice: random.Random
    lone: Lone
    clocks: dict[tuple[Endpoint, Endpoint], int] = field(default_factory=dict)
    _counter: int = 0
    _seen: int = 0

    def __post_init__(self) -> None:
        attempt = initiate()
        (answer,) = self.lone.receive(attempt.message)
        finished = attempt.finish(answer.data)
        self._base = finished.base
        self._sealer, self._opener = Sealer(finished.keys.tx_control), Opener(finished.keys.rx_control)
        self._seen = len(self.lone.sent)
        self.say(LOCAL, REMOTE, self.heartbeat(LOCAL, REMOTE, None, 0))

    def say(self, local: Endpoint, remote: Endpoint, plaintext: bytes) -> None:
        source = 0 if self.dice.random() < 0.97 else self.dice.randrange(2**14 - 1)
        datagram = self._sealer.seal(
            self._counter, source=source, base=self._base, shard=ANY_SHARD, plaintext=plaintext, control=True
        )
        self._counter += 1
        self.lone.receive(datagram, local=local, remote=remote)

    def heartbeat(self, local: Endpoint, remote: Endpoint, response: bytes | None, echo_us: int) -> bytes:
        dice = self.dice
        if (local, remote) not in self.clocks or dice.random() < 0.05:
            self.clocks[local, remote] = dice.choice(EDGES)
        clock_us = self.clocks[local, remote] + int(self.lone.now * 1e6)
        arrival_us = clock_us + dice.choice((0, 0, 20_000, 500_000))
        return Heartbeat(
            challenge=dice.randbytes(8),
            next_in_s=dice.choice((0.0, 0.2, 0.2, 655.35)),
            t1_us=(arrival_us + dice.choice((0, 1000))) % 2**64,
            response=response,
            echo_us=echo_us,
            arrival_us=arrival_us % 2**64,
            received=dice.randrange(2**32),
            received_kib=dice.randrange(2**32),
            largest_bytes=dice.randrange(2**16),
            path=dice.randrange(2**16),
            weight=dice.randrange(256),
            answer_now=True,
            aggregating=True,
            draining=dice.random() < 0.1,
            bye=dice.random() < 0.02,
        ).encode()

    def answer(self) -> None:
        sent, self._seen = self.lone.sent[self._seen :], len(self.lone.sent)
        for _, datagram in sent:
            plaintext = self._opener.open(datagram.data) if datagram.data[0] < 0x80 else None
            message = None if plaintext is None else decode_control(plaintext)
            if isinstance(message, Heartbeat):
                told = self.heartbeat(datagram.local, datagram.remote, message.challenge, message.t1_us)
                self.say(datagram.local, datagram.remote, told)

    def chatter(self) -> None:
        dice = self.dice
        places = [Endpoint.of(dice.choice(PLACES), dice.randrange(1, 2**16)) for _ in range(dice.randrange(17))]
        parted = Parted(tuple(dice.randrange(2**16) for _ in range(dice.randrange(65))))
        message = dice.choice((Addresses(tuple(places)), parted, Observed(Endpoint("192.0.2.9", 5))))
        remote = dice.choice((REMOTE, OTHER_REMOTE, Endpoint("203.0.113.5", dice.randrange(2**16))))
        self.say(LOCAL, remote, message.encode() if dice.random() < 0.8 else dice.randbytes(dice.randrange(80)))


@pytest.mark.parametrize("scheduler", ["adaptive", "aggregate", "fastest", "redundant"])
def test_whatever_a_peer_says_is_taken(scheduler: str) -> None:
    lone = Lone(scheduler=scheduler, keepalive=True)
    lone.node.set_locals([LOCAL, OTHER_LOCAL], 0.0)
    lone.node.set_endpoints(PEER.public, [REMOTE, OTHER_REMOTE], 0.0)
    lone.take()
    liar = Liar(random.Random(scheduler), lone)
    for step in range(STEPS):
        lone.run_until(lone.now + liar.dice.choice((0.2, 0.2, 0.2, 3.0)))
        traffic = PathCounters(tx_packets=step, tx_bytes=1000 * step, last_rx=lone.now)
        lone.node.observe(EngineCounters(paths=dict.fromkeys(range(1, 12), traffic), peers_tx={1: lone.now}))
        liar.answer()
        liar.chatter()
        _pack_table(lone.table, bytearray())
        lone.node.status(lone.now)
        handover = lone.node.share(PEER.public, lambda _: Run(16), (), lone.now)
        assert handover is not None
        handover.encode()
