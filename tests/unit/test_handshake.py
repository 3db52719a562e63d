"""The handshake: the first vector, every one-bit change, wrong secrets, and misuse by ourselves."""

import hashlib
import hmac
from typing import Any

import pytest

from centipede.protocol.drops import DropReason, Refused
from centipede.protocol.handshake import (
    ACKNOWLEDGE_BYTES,
    INITIATE_BYTES,
    NO_PSK,
    Attempt,
    Finished,
    Initiate,
    Params,
    SessionKeys,
    acknowledge_sid,
    check_mac1,
    initiate_digest,
    mac1_key,
    open_initiate,
)
from centipede.protocol.identity import Identity, PublicKey

I = Identity.from_seed(b"\1" * 32)  # noqa: E741 - the initiator's name in the protocol
R = Identity.from_seed(b"\2" * 32)
STRANGER = Identity.from_seed(b"\3" * 32)
PARAMS = Params(gap_s=10.0, largest_inner=1420)
TIMESTAMP = 1700000000000000000


def begin(remote: PublicKey = R.public, psk: bytes = NO_PSK, **changes: Any) -> Attempt:
    given: dict[str, Any] = {"timestamp": TIMESTAMP, "base": b"\x0a" * 6, "shard": 0, "params": PARAMS}
    return Attempt.begin(I, remote, psk, **given | {"random": bytes(32)} | changes)


def acknowledge(initiate: Initiate, psk: bytes = NO_PSK, **changes: Any) -> tuple[bytes, SessionKeys]:
    given: dict[str, Any] = {"base": b"\x0b" * 6, "shard": 0, "params": PARAMS, "random": bytes(32)}
    return initiate.acknowledge(R, psk, **given | changes)


def exchange(attempt: Attempt, psk: bytes = NO_PSK) -> tuple[bytes, SessionKeys]:
    initiate = open_initiate(R, attempt.message)
    initiate.verify()
    return acknowledge(initiate, psk)


def flipped(datagram: bytes, bit: int) -> bytes:
    return (int.from_bytes(datagram, "big") ^ 1 << bit).to_bytes(len(datagram), "big")


def with_mac1(public: PublicKey, covered: bytes) -> bytes:
    return covered + hmac.digest(hashlib.sha256(b"Centipede v1 mac1" + public.raw).digest(), covered, "sha256")[:16]


def reason_of(call: Any, *arguments: Any) -> DropReason:
    with pytest.raises(Refused) as caught:
        call(*arguments)
    return caught.value.reason


def open_and_verify(datagram: bytes) -> Initiate:
    initiate = open_initiate(R, datagram)
    initiate.verify()
    return initiate


def test_first_vector() -> None:
    attempt = Attempt.from_ephemeral(
        *(I, R.public, NO_PSK),
        timestamp=TIMESTAMP,
        base=b"\x0a" * 6,
        shard=0,
        params=PARAMS,
        ephemeral=b"\3" * 32,
    )
    assert PARAMS.encode().hex() == "03e8058c00000000"
    assert hashlib.sha256(attempt.message).hexdigest().startswith("ce61bebea115d10c717cf2921a5f8d2b")
    message, keys = open_and_verify(attempt.message).acknowledge_with(
        R, NO_PSK, base=b"\x0b" * 6, shard=0, params=PARAMS, ephemeral=b"\4" * 32
    )
    assert hashlib.sha256(message).hexdigest().startswith("507b12a6fe87a6d9c57776f3ec2c1a8f")
    finished = attempt.finish(message)
    assert finished.keys.tx_data.hex().startswith("af77df80af67b1a62cb516a756c8154f")
    assert finished.keys.tx_data == keys.rx_data


@pytest.mark.parametrize("psk", [NO_PSK, b"\x5a" * 32])
def test_both_ends_agree(psk: bytes) -> None:
    mine, theirs = Params(0.5, 1280, 0, 2), Params(25.0, 8920, 0, 4)
    attempt = begin(psk=psk, shard=4, params=mine)
    initiate = open_and_verify(attempt.message)
    assert (initiate.remote, initiate.timestamp, initiate.base) == (I.public, TIMESTAMP, attempt.base)
    assert (initiate.shard, initiate.params) == (4, mine)
    message, keys = acknowledge(initiate, psk, shard=16, params=theirs)
    assert (len(attempt.message), len(message)) == (INITIATE_BYTES, ACKNOWLEDGE_BYTES)
    assert attempt.finish(message) == Finished(
        SessionKeys(keys.rx_data, keys.tx_data, keys.rx_control, keys.tx_control), b"\x0b" * 6, 16, theirs
    )
    assert len({keys.rx_data, keys.tx_data, keys.rx_control, keys.tx_control}) == 4


def test_every_one_bit_change_of_initiate_is_refused_but_those_of_mac2() -> None:
    message = begin().message
    for bit in range(8 * INITIATE_BYTES):
        changed = flipped(message, bit)
        if changed[:192] == message[:192]:
            assert open_and_verify(changed).digest == open_initiate(R, message).digest
        else:
            reason_of(open_and_verify, changed)


def test_every_one_bit_change_of_initiate_with_mac1_recomputed_is_refused() -> None:
    message = begin().message
    for bit in range(8 * 176):
        changed = with_mac1(R.public, flipped(message[:176], bit)) + bytes(16)
        in_header = bit >= 8 * 168  # bit 0 is the last of byte 175
        expected = DropReason.HANDSHAKE_MALFORMED if in_header else DropReason.INITIATE_UNDECRYPTABLE
        assert reason_of(open_and_verify, changed) is expected


def test_every_one_bit_change_of_acknowledge_is_refused() -> None:
    attempt = begin()
    message, _ = exchange(attempt)
    for bit in range(8 * ACKNOWLEDGE_BYTES):
        reason_of(attempt.finish, flipped(message, bit))


def test_every_one_bit_change_of_acknowledge_with_mac1_recomputed_is_refused() -> None:
    attempt = begin()
    message, _ = exchange(attempt)
    for bit in range(8 * 152):
        reason = reason_of(attempt.finish, with_mac1(I.public, flipped(message[:152], bit)))
        assert reason in (
            DropReason.HANDSHAKE_MALFORMED,
            DropReason.UNKNOWN_ATTEMPT,
            DropReason.ACKNOWLEDGE_UNDECRYPTABLE,
        )


@pytest.mark.parametrize(("mine", "theirs"), [(NO_PSK, b"\1" * 32), (b"\1" * 32, NO_PSK), (b"\1" * 32, b"\2" * 32)])
def test_wrong_psk_is_refused(mine: bytes, theirs: bytes) -> None:
    attempt = begin(psk=mine)
    message, _ = exchange(attempt, theirs)
    assert reason_of(attempt.finish, message) is DropReason.ACKNOWLEDGE_UNDECRYPTABLE


def test_acknowledge_of_another_attempt_is_refused() -> None:
    first, second, same_sid = begin(), begin(base=b"\x0c" * 6), begin(random=b"\1" * 32)
    message, _ = exchange(first)
    assert reason_of(second.finish, message) is DropReason.UNKNOWN_ATTEMPT
    assert reason_of(same_sid.finish, message) is DropReason.ACKNOWLEDGE_UNDECRYPTABLE


def test_acknowledge_of_somebody_else_is_refused() -> None:
    """An initiator that was answered by a holder of another identity, who saw all it could see."""
    attempt = begin(remote=STRANGER.public)
    initiate = open_initiate(STRANGER, attempt.message)
    message, _ = initiate.acknowledge(R, NO_PSK, base=bytes(6), shard=0, params=PARAMS, random=bytes(32))
    assert reason_of(attempt.finish, message) is DropReason.BAD_SIGNATURE


def test_refused_attempt_can_still_be_finished() -> None:
    attempt = begin()
    message, keys = exchange(attempt)
    for bit in (0, 200, 900):
        reason_of(attempt.finish, flipped(message, bit))
    assert attempt.finish(message).keys.tx_data == keys.rx_data
    assert attempt.finish(message).keys.tx_data == keys.rx_data


def test_messages_are_not_taken_for_one_another() -> None:
    attempt = begin()
    message, _ = exchange(attempt)
    assert reason_of(open_initiate, I, message) is DropReason.HANDSHAKE_MALFORMED
    assert reason_of(begin(remote=R.public).finish, message[:8] + attempt.message[8:168]) is DropReason.BAD_MAC1
    to_initiator = Attempt.begin(
        R, I.public, NO_PSK, timestamp=1, base=bytes(6), shard=0, params=PARAMS, random=bytes(32)
    )
    assert reason_of(attempt.finish, to_initiator.message) is DropReason.UNKNOWN_ATTEMPT


@pytest.mark.parametrize("datagram", [b"", b"\x81", bytes(208), b"\x83\1" + bytes(70), b"\x81\1" + bytes(166)])
def test_malformed(datagram: bytes) -> None:
    attempt = begin()
    assert reason_of(open_initiate, R, datagram) is DropReason.HANDSHAKE_MALFORMED
    assert reason_of(attempt.finish, datagram) is DropReason.HANDSHAKE_MALFORMED
    assert reason_of(check_mac1, R.public, datagram) is DropReason.HANDSHAKE_MALFORMED
    assert acknowledge_sid(datagram) is None


def test_mac1_is_the_receivers() -> None:
    attempt = begin()
    message, _ = exchange(attempt)
    check_mac1(R.public, attempt.message)
    check_mac1(I.public, message)
    assert reason_of(check_mac1, I.public, attempt.message) is DropReason.BAD_MAC1
    assert reason_of(check_mac1, R.public, message) is DropReason.BAD_MAC1
    assert mac1_key(R.public) == hashlib.sha256(b"Centipede v1 mac1" + R.public.raw).digest()


def test_digest_leaves_out_the_macs() -> None:
    message = begin().message
    assert initiate_digest(message) == hashlib.sha256(message[:176]).digest()
    assert initiate_digest(message[:176] + bytes(32)) == open_initiate(R, message).digest


def test_acknowledge_names_its_attempt() -> None:
    attempt = begin(shard=9)
    message, _ = exchange(attempt)
    assert acknowledge_sid(message) == attempt.sid == attempt.base + b"\0\x09"
    assert acknowledge_sid(attempt.message) is None
    assert acknowledge_sid(message + b"\0") is None


def test_ephemerals_differ_with_randomness_or_with_the_handshake() -> None:
    def ephemeral(attempt: Attempt) -> bytes:
        return attempt.message[8:40]

    assert len({ephemeral(begin()), ephemeral(begin(random=b"\1" * 32)), ephemeral(begin(timestamp=5))}) == 3
    first, second = (exchange(begin(timestamp=timestamp))[0][16:48] for timestamp in (1, 2))
    assert first != second


@pytest.mark.parametrize(
    "changes",
    [
        {"remote": I.public},
        {"psk": b""},
        {"psk": bytes(31)},
        {"base": bytes(5)},
        {"shard": -1},
        {"shard": 0x3FFF},
        {"random": bytes(16)},
        {"params": Params(656.0, 1420)},
        {"params": Params(-1.0, 1420)},
        {"params": Params(1.0, 65536)},
        {"params": Params(1.0, 1420, k=5)},
        {"params": Params(1.0, 1420, k=-1)},
    ],
)
def test_misuse_by_ourselves_raises_at_once(changes: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        begin(**changes)
    if "remote" not in changes:
        with pytest.raises(ValueError):
            acknowledge(open_initiate(R, begin().message), **changes)


@pytest.mark.parametrize("timestamp", [-1, 2**64])
def test_timestamp_out_of_range(timestamp: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        begin(timestamp=timestamp)


def test_nothing_secret_is_printed() -> None:
    psk = bytes(range(32))
    attempt = begin(psk=psk)
    initiate = open_initiate(R, attempt.message)
    message, keys = acknowledge(initiate, psk)
    finished = attempt.finish(message)
    assert repr(keys) == "SessionKeys()"
    secrets = [psk, keys.tx_data, keys.rx_data, keys.tx_control, keys.rx_control]
    for value in (attempt, initiate, finished):
        text = repr(value)
        assert "_psk" not in text
        assert "_chaining" not in text
        assert not any(repr(secret)[2:-1] in text or secret.hex() in text for secret in secrets)


def test_refusal_says_why_and_nothing_else() -> None:
    with pytest.raises(Refused) as caught:
        open_initiate(R, flipped(begin().message, 300))
    assert str(caught.value) == "bad_mac1"
    assert caught.value.__cause__ is None
