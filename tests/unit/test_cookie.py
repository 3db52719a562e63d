"""Cookies: the messages, and a node that asks for them under load and answers when it is asked."""

from __future__ import annotations

import random

import pytest

from centipede.protocol.cookie import (
    LIFE_S,
    MESSAGE_BYTES,
    CookieJar,
    answered_mac1,
    mac1_of,
    open_cookie,
    seal_cookie,
    with_mac2,
)
from centipede.protocol.drops import DropReason, Refused
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handshake import ACKNOWLEDGE_BYTES, INITIATE_BYTES
from centipede.protocol.timing import Timing
from tests.unit.test_node_handshake import LOCAL, OTHER_LOCAL, OWN, PEER, REMOTE, STRANGER, WALL_NS, Lone, initiate

FIRST = initiate().message
HERE = Endpoint("192.0.2.1", 1)


def test_a_cookie_proves_the_address_it_was_baked_for() -> None:
    jar = CookieJar(random.Random(1).randbytes)
    proven = with_mac2(FIRST, jar.bake(HERE, 0.0))
    assert jar.accepts(proven, HERE, 0.0)
    for other in (Endpoint("192.0.2.1", 2), Endpoint("192.0.2.2", 1), Endpoint("2001:db8::1", 1)):
        assert not jar.accepts(proven, other, 0.0)
    assert not jar.accepts(FIRST, HERE, 0.0)
    assert not jar.accepts(with_mac2(initiate(2).message, b"\0" * 16), HERE, 0.0)
    assert not CookieJar(random.Random(2).randbytes).accepts(proven, HERE, 0.0)


@pytest.mark.parametrize("baked", [0.0, LIFE_S / 2, LIFE_S - 0.001])
def test_a_cookie_is_good_for_its_life_and_ends(baked: float) -> None:
    jar = CookieJar(random.Random(1).randbytes)
    jar.bake(HERE, 0.0)
    proven = with_mac2(FIRST, jar.bake(HERE, baked))
    assert jar.accepts(proven, HERE, baked + LIFE_S - 0.001)
    assert not jar.accepts(proven, HERE, baked + 2 * LIFE_S + 0.002)
    assert not jar.accepts(proven, HERE, 10 * LIFE_S)


def test_every_one_bit_change_of_a_cookie_is_noticed() -> None:
    message = seal_cookie(OWN.public, FIRST, b"c" * 16, b"n" * 16)
    assert len(message) == MESSAGE_BYTES
    assert open_cookie(OWN.public, message) == b"c" * 16
    for bit in range(8 * MESSAGE_BYTES):
        changed = bytearray(message)
        changed[bit // 8] ^= 1 << bit % 8
        if answered_mac1(bytes(changed)) == mac1_of(FIRST):
            with pytest.raises(Refused) as caught:
                open_cookie(OWN.public, bytes(changed))
            assert caught.value.reason is DropReason.COOKIE_UNDECRYPTABLE
    with pytest.raises(Refused):
        open_cookie(PEER.public, message)


def test_misuse_raises_at_once() -> None:
    for cookie, n in ((bytes(15), bytes(16)), (bytes(16), bytes(17))):
        with pytest.raises(ValueError, match="16 bytes"):
            seal_cookie(OWN.public, FIRST, cookie, n)
    with pytest.raises(ValueError, match="208 bytes"):
        with_mac2(FIRST[:-1], bytes(16))


# The responder.


def flood(lone: Lone, count: int) -> None:
    """Initiates of a stranger who knows the node's public key, from everywhere."""
    for number in range(count):
        message = initiate(number, identity=STRANGER).message
        lone.receive(message, remote=Endpoint(f"203.{number >> 8 & 255}.{number & 255}.1", 9))


def test_without_load_nobody_is_asked_and_any_mac2_is_passed_over() -> None:
    lone = Lone()
    flood(lone, 50)
    (answer,) = lone.receive(with_mac2(FIRST, b"from an earlier load"[:16]))
    assert len(answer.data) == ACKNOWLEDGE_BYTES


def test_under_load_an_address_must_be_shown_to_be_real() -> None:
    lone = Lone()
    flood(lone, 80)
    attempt = initiate()
    (asked,) = lone.receive(attempt.message)
    assert (asked.local, asked.remote, len(asked.data)) == (LOCAL, REMOTE, MESSAGE_BYTES)
    assert lone.dropped()[DropReason.COOKIE_REQUIRED] > 1
    proven = with_mac2(attempt.message, open_cookie(OWN.public, asked.data))
    (still,) = lone.receive(proven, remote=Endpoint("198.51.100.9", 1))
    assert len(still.data) == MESSAGE_BYTES
    (answer,) = lone.receive(proven)
    attempt.finish(answer.data)
    # A copy of an Initiate that was answered costs nothing: it is answered again without a cookie, over another pair.
    (copy,) = lone.receive(attempt.message, local=OTHER_LOCAL)
    assert copy.data == answer.data


def test_load_passes() -> None:
    lone = Lone()
    flood(lone, 80)
    assert len(lone.receive(FIRST)[0].data) == MESSAGE_BYTES
    lone.run_until(1.5)
    assert len(lone.receive(initiate(WALL_NS + 1).message)[0].data) == ACKNOWLEDGE_BYTES


def test_nobody_without_the_public_key_gets_an_answer_under_load() -> None:
    lone = Lone()
    flood(lone, 80)
    assert lone.receive(FIRST[:176] + bytes(32)) == []


# The initiator.


def asked(lone: Lone) -> tuple[bytes, bytes]:
    """The Initiate the node sent last, and a Cookie for it."""
    message = lone.sent[-1][1].data
    assert len(message) == INITIATE_BYTES
    return message, seal_cookie(PEER.public, message, b"c" * 16, b"n" * 16)


def seeking() -> Lone:
    lone = Lone(timing=Timing())
    lone.node.set_endpoints(PEER.public, [REMOTE], lone.now)
    lone.take()
    lone.run_until(0.0)
    return lone


def test_a_cookie_is_answered_at_once_and_used_from_then_on() -> None:
    lone = seeking()
    message, cookie = asked(lone)
    (again,) = lone.receive(cookie)
    assert again.data == with_mac2(message, b"c" * 16)
    assert lone.receive(cookie) == []  # once is enough; the rhythm of the attempt goes on
    lone.run_until(4.0)
    assert {datagram.data for at, datagram in lone.sent if at > 0} == {again.data}
    lone.sent.clear()
    lone.run_until(6.0)  # the next attempt
    later = lone.sent[-1][1].data
    assert later[:192] != message[:192]
    assert later == with_mac2(later, b"c" * 16)


def test_a_cookie_is_for_one_pair_and_for_two_minutes() -> None:
    lone = Lone(keepalive=True)
    lone.node.set_locals([LOCAL, OTHER_LOCAL], 0.0)
    lone.node.set_endpoints(PEER.public, [REMOTE], 0.0)
    lone.take()
    lone.run_until(0.0)
    _, cookie = asked(lone)
    lone.receive(cookie)
    lone.sent.clear()
    lone.run_until(100.0)
    for _, datagram in lone.sent:
        proven = datagram.data == with_mac2(datagram.data, b"c" * 16)
        assert proven == (datagram.local == LOCAL)
    lone.run_until(130.0)
    lone.sent.clear()
    lone.run_until(170.0)
    assert len(lone.sent) > 2
    assert all(datagram.data[192:] == bytes(16) for _, datagram in lone.sent)


def test_cookies_nobody_asked_for_are_dropped() -> None:
    lone = seeking()
    message, cookie = asked(lone)
    assert lone.receive(cookie, remote=Endpoint("203.0.113.1", 1)) == []
    assert lone.receive(seal_cookie(PEER.public, FIRST, b"c" * 16, b"n" * 16)) == []
    assert lone.dropped() == {DropReason.UNKNOWN_ATTEMPT: 2}
    assert lone.receive(seal_cookie(OWN.public, message, b"c" * 16, b"n" * 16)) == []
    assert lone.dropped() == {DropReason.UNKNOWN_ATTEMPT: 2, DropReason.COOKIE_UNDECRYPTABLE: 1}
    for _ in range(100):
        lone.receive(cookie)
    assert lone.dropped()[DropReason.RATE_LIMITED] > 50
