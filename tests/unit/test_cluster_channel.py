"""The channel between members, over sockets of this machine."""

from __future__ import annotations

import random
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from types import SimpleNamespace

import pytest

from centipede.cluster.channel import Channel
from centipede.errors import HostError
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import Identity
from centipede.protocol.node import Node, PeerSpec
from centipede.protocol.session import Sealer
from centipede.protocol.timing import Timing
from centipede.show import Cluster, ClusterMember, _cluster

OWN = Identity.from_seed(bytes([1]) * 32)
PEER = Identity.from_seed(bytes([2]) * 32).public
DEADLINE_S = 20.0


@pytest.fixture
def got() -> list[bytes]:
    """What was forwarded to either."""
    return []


@pytest.fixture
def pair(got: list[bytes]) -> Iterator[tuple[Channel, Channel]]:
    with ExitStack() as stack:
        channels = [stack.enter_context(Channel(Endpoint("127.0.0.1", 0))) for _ in range(2)]
        addresses = [Endpoint(*channel.address) for channel in channels]
        for number, channel in enumerate(channels, 1):
            run, spare = channel.shards(number, 2, 1)
            dice = random.Random(number)
            node = Node(OWN, run=run, spare=spare, timing=Timing(), random=dice.randbytes)
            node.add_peer(PeerSpec(PEER, "peer"), None, 0.0)
            channel.join(node, OWN, number, 2, 1, [addresses[2 - number]], dice.randbytes, got.append)
        yield channels[0], channels[1]


def exchange(channels: tuple[Channel, Channel]) -> None:
    """Let both do what is due, and take what comes within a moment."""
    now = time.monotonic()
    for channel in channels:
        channel.handle_timer([PEER], now)
    ready, _, _ = select.select(channels, [], [], 0.2)
    for channel in ready:
        channel.receive(time.monotonic())


def test_members_find_each_other_and_each_has_shards_of_its_own(pair: tuple[Channel, Channel]) -> None:
    until = time.monotonic() + DEADLINE_S
    while not all(
        channel.cluster.is_heard(channel.cluster.members[0], time.monotonic()) and not channel.cluster.members[0].untold
        for channel in pair
    ):
        assert time.monotonic() < until
        exchange(pair)
    assert [channel.cluster.members[0].number for channel in pair] == [2, 1]
    assert [channel.run.first for channel in pair] == [0, 16]


def test_data_for_the_other_is_brought_to_it_and_no_other(pair: tuple[Channel, Channel], got: list[bytes]) -> None:
    here, there = pair
    until = time.monotonic() + DEADLINE_S
    while not all(channel.cluster.is_heard(channel.cluster.members[0], time.monotonic()) for channel in pair):
        assert time.monotonic() < until
        exchange(pair)
    sealer = Sealer(bytes(32))
    # As large as a path carries, and so larger than a frame with what the channel adds.
    strayed = [sealer.seal(0, source=0, base=b"base-6", shard=shard, plaintext=bytes(8920)) for shard in (17, 5)]
    for datagram in strayed:
        here.forward(datagram, time.monotonic())
    while not got:
        assert time.monotonic() < until
        exchange(pair)
    assert got == strayed[:1]
    assert (here.cluster.forwarded, there.cluster.received) == (1, 1)


def test_what_is_found_in_a_store_does_not_wait_for_the_next_greeting(
    pair: tuple[Channel, Channel], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, _ = pair
    channel.handle_timer([PEER], 100.0)
    assert channel.next_timer == 101.0
    looks: list[float] = []
    directory = SimpleNamespace(handle_timer=lambda *given: looks.append(given[-1]), close=lambda: None)
    monkeypatch.setattr(channel, "directory", directory)
    for now in (101.0, 101.2, 101.4):
        assert channel.next_timer <= now
        channel.handle_timer([PEER], now)
    assert looks == [101.0, 101.2, 101.4]


def test_an_address_of_another_machine_is_told_in_a_sentence() -> None:
    with pytest.raises(HostError, match=r"^cannot listen on 192\.0\.2\.1:5 for the other members: .*; name an address"):
        Channel(Endpoint("192.0.2.1", 5))


def test_nothing_of_a_cluster_is_loaded_without_one() -> None:
    code = "import sys, centipede.cli, centipede.daemon; sys.exit('centipede.cluster' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_show_says_in_words_who_the_members_are() -> None:
    shown = Cluster(
        member=2,
        of=8,
        first_shard=16,
        shards=2,
        members=[
            ClusterMember(address="10.8.0.1:5", member=1, state="up", last_heard_s=0.4, behind=0),
            ClusterMember(address="10.8.0.3:5", member=3, state="silent", last_heard_s=65.0, behind=0),
            ClusterMember(address="10.8.0.4:5", member=None, state="silent", last_heard_s=None, behind=0),
        ],
    )
    words = _cluster(shown)
    assert words.startswith("2 of 8, shards 16 to 17; 1 at 10.8.0.1:5 up; 3 at 10.8.0.3:5 silent for ")
    assert words.endswith("; 10.8.0.4:5 never heard")
    wrong = ClusterMember(
        address="10.8.0.5:5", member=None, state="silent", last_heard_s=None, behind=0, mistake="it has of = 4"
    )
    assert _cluster(Cluster(member=2, of=8, shards=1, members=[wrong])).endswith(
        "; 10.8.0.5:5 does not count, for it has of = 4"
    )
    strayed = _cluster(Cluster(member=1, of=2, shards=1, forwarded=35))
    assert strayed == "1 of 2, shard 0; 35 packets of others forwarded, 0 own got from them"
    assert _cluster(Cluster(draining=True)) == "draining"
