"""Messages: what is written is read back, and any bytes at all give a value or Refused."""

from ipaddress import IPv4Address, IPv6Address
from typing import TypeAlias

from hypothesis import example, given
from hypothesis import strategies as st

from centipede.protocol.drops import Refused
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.handshake import NO_PSK, Attempt, Params, acknowledge_sid, check_mac1, open_initiate
from centipede.protocol.identity import Identity, PublicKey, parse_key, render_key
from centipede.protocol.session import LAST_SHARD
from centipede.protocol.wire import Addresses, Control, Heartbeat, Observed, Parted, UnknownControl, decode_control

I = Identity.from_seed(b"\1" * 32)  # noqa: E741 - the initiator's name in the protocol
R = Identity.from_seed(b"\2" * 32)
ATTEMPT = Attempt.begin(
    I, R.public, NO_PSK, timestamp=1, base=bytes(6), shard=0, params=Params(1.0, 1420), random=bytes(32)
)

u8, u16, u32, u64 = (st.integers(0, 2**bits - 1) for bits in (8, 16, 32, 64))
seconds = u16.map(lambda units: units / 100)
octets = st.binary(min_size=8, max_size=8)
endpoints = st.builds(
    Endpoint.of,
    st.one_of(u32.map(IPv4Address), st.integers(0, 2**128 - 1).map(IPv6Address)).map(str),
    st.integers(1, 0xFFFF),
)
params = st.builds(Params, gap_s=seconds, largest_inner=u16, features=u16, k=st.integers(0, 4))


@st.composite
def heartbeats(draw: st.DrawFn) -> Heartbeat:
    probe = draw(st.booleans())
    return draw(
        st.builds(
            Heartbeat,
            challenge=octets,
            next_in_s=seconds,
            t1_us=u64,
            response=st.none() | octets,
            echo_us=u64,
            arrival_us=u64,
            received=u32,
            sent=u32,
            received_kib=u32,
            largest_bytes=u16,
            path=u16,
            k=st.integers(0, 4),
            weight=u8,
            answer_now=st.booleans(),
            aggregating=st.booleans(),
            draining=st.booleans(),
            bye=st.booleans(),
            probe=st.just(probe),
            padding_bytes=st.integers(0, 9000 if probe else 0),
        )
    )


messages = st.one_of(
    heartbeats(),
    st.builds(Addresses, st.lists(endpoints, max_size=16).map(tuple)),
    st.builds(Observed, endpoints),
    st.builds(Parted, st.lists(st.integers(0, 65535), max_size=64).map(tuple)),
)
Message: TypeAlias = Heartbeat | Addresses | Observed | Parted


@given(messages)
def test_control_messages_are_read_back(message: Message) -> None:
    assert decode_control(message.encode()) == message


@given(messages, st.binary(max_size=40))
def test_bytes_after_a_message_are_passed_over(message: Message, more: bytes) -> None:
    read = decode_control(message.encode() + more)
    if isinstance(message, Heartbeat) and message.probe:
        assert isinstance(read, Heartbeat)
        assert read.padding_bytes == message.padding_bytes + len(more)
    else:
        assert read == message


@given(messages, st.data())
def test_a_cut_message_is_refused(message: Message, data: st.DataObject) -> None:
    plaintext = message.encode()
    shortest = len(plaintext) - message.padding_bytes if isinstance(message, Heartbeat) else len(plaintext)
    assert read_control(plaintext[: data.draw(st.integers(0, shortest - 1))]) is None


@given(
    st.one_of(
        st.binary(max_size=400),
        st.builds(lambda kind, rest: bytes([kind]) + rest, st.sampled_from([1, 2, 3, 4]), st.binary(max_size=400)),
    )
)
@example(b"")
def test_any_bytes_are_a_control_message_or_refused(plaintext: bytes) -> None:
    message = read_control(plaintext)
    if message is not None and not isinstance(message, UnknownControl):
        assert decode_control(message.encode()) == message


def read_control(plaintext: bytes) -> Control | None:
    try:
        return decode_control(plaintext)
    except Refused:
        return None


@given(params)
def test_params_are_read_back(value: Params) -> None:
    assert Params.decode(value.encode()) == value


@given(
    params,
    params,
    *(st.integers(0, LAST_SHARD), st.integers(0, LAST_SHARD)),
    *(st.binary(min_size=6, max_size=6), st.binary(min_size=6, max_size=6)),
    *(u64, st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32)),
)
def test_handshakes_carry_what_each_end_said(
    mine: Params,
    theirs: Params,
    my_shard: int,
    their_shard: int,
    my_base: bytes,
    their_base: bytes,
    timestamp: int,
    psk: bytes,
    random: bytes,
) -> None:
    attempt = Attempt.begin(
        I, R.public, psk, timestamp=timestamp, base=my_base, shard=my_shard, params=mine, random=random
    )
    initiate = open_initiate(R, attempt.message)
    initiate.verify()
    assert (initiate.remote, initiate.timestamp) == (I.public, timestamp)
    assert (initiate.base, initiate.shard, initiate.params) == (my_base, my_shard, mine)
    message, keys = initiate.acknowledge(R, psk, base=their_base, shard=their_shard, params=theirs, random=random)
    finished = attempt.finish(message)
    assert (finished.base, finished.shard, finished.params) == (their_base, their_shard, theirs)
    assert finished.keys.tx_data == keys.rx_data
    assert finished.keys.rx_control == keys.tx_control


handshakes = st.one_of(
    st.binary(max_size=300),
    st.builds(
        lambda kind, rest: kind + rest,
        st.sampled_from([b"\x81\1" + bytes(6), b"\x82\1" + bytes(6), b"\x83\1" + bytes(6)]),
        st.sampled_from([64, 160, 200]).flatmap(lambda size: st.binary(min_size=size, max_size=size)),
    ),
)


@given(handshakes)
def test_any_bytes_are_refused_as_handshake(datagram: bytes) -> None:
    """Nobody hits a mac1 by chance, so each of these is refused; the point is that nothing else is raised."""
    for call in (
        lambda: open_initiate(R, datagram),
        lambda: ATTEMPT.finish(datagram),
        lambda: check_mac1(R.public, datagram),
    ):
        try:
            call()
        except Refused:
            continue
        raise AssertionError("not refused")
    acknowledge_sid(datagram)


@given(st.binary(min_size=32, max_size=32))
def test_any_bytes_are_a_public_key_or_valueerror(raw: bytes) -> None:
    try:
        public = PublicKey.from_raw(raw)
    except ValueError:
        return
    assert PublicKey.from_text(public.text).raw == raw
    assert any(I.exchange(public.x25519))


@given(st.binary(min_size=32, max_size=32))
def test_key_texts_are_read_back(raw: bytes) -> None:
    assert parse_key(render_key(raw)) == raw


@given(st.text(max_size=60))
def test_any_text_is_a_key_or_valueerror(text: str) -> None:
    try:
        raw = parse_key(text)
    except ValueError:
        return
    assert render_key(raw) == text.strip()


@given(endpoints)
def test_endpoints_are_read_back(endpoint: Endpoint) -> None:
    assert Endpoint.parse(str(endpoint)) == endpoint
