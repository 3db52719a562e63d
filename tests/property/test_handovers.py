"""Offers and exports: what is written is read back, and any bytes at all give a value or HandoverError."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from centipede.errors import HandoverError
from centipede.protocol.armour import Kind, armour, unarmour
from centipede.protocol.export import Export
from centipede.protocol.grant import SHARDS_END, Grant
from centipede.protocol.handover import HandedSession, Handover
from centipede.protocol.handshake import SessionKeys
from centipede.protocol.identity import Identity
from centipede.protocol.offer import Offer
from centipede.protocol.table import Run
from tests.property.test_messages import endpoints, params, u64

IDENTITY = Identity.from_seed(b"\1" * 32)
PEER = Identity.from_seed(b"\2" * 32).public
ONE_TIME = b"\3" * 32
EXPORTING = b"\4" * 32
PUBLIC = bytes.fromhex("5dfedd3b6bd47f6fa28ee15d969d5bb0ea53774d488bdaf9df1c6e0124b3ef22")  # of ONE_TIME
OFFER = Offer(1, bytes(16), PUBLIC, IDENTITY.public).encode(IDENTITY)
kinds: st.SearchStrategy[Kind] = st.sampled_from(("offer", "export"))
keys = st.binary(min_size=32, max_size=32)
bases = st.binary(min_size=6, max_size=6)
milliseconds = st.integers(0, 2**32 - 1).map(lambda units: units / 1000)


@st.composite
def grants(draw: st.DrawFn, k: int) -> Grant:
    run = Run(draw(st.integers(0, (SHARDS_END >> k) - 1)) << k, k)
    first = draw(st.integers(run.first + run.size, SHARDS_END))
    return Grant(run, first, draw(st.integers(first, SHARDS_END)))


@st.composite
def sessions(draw: st.DrawFn) -> HandedSession:
    peer_params = draw(params)
    return HandedSession(
        grant=draw(grants(1)),
        ours=draw(st.booleans()),
        timestamp=draw(u64),
        base=draw(bases),
        peer_base=draw(bases),
        peer_run=Run(0, peer_params.k),
        age_s=draw(milliseconds),
        idle_s=draw(milliseconds),
        params=draw(params),
        peer_params=peer_params,
        keys=SessionKeys(*(draw(keys) for _ in range(4))),
    )


exports = st.builds(
    Export,
    st.builds(
        Handover,
        st.just(IDENTITY.public),
        st.just(PEER),
        u64,
        u64,
        st.lists(endpoints, max_size=16).map(tuple),
        st.lists(sessions(), max_size=3).map(tuple),
    ),
    st.booleans(),
)


@given(st.integers(0, 4), st.lists(endpoints, max_size=16).map(tuple))
def test_an_offer_is_read_back(k: int, addresses: tuple[object, ...]) -> None:
    offer = Offer(k, b"\7" * 16, PUBLIC, IDENTITY.public, addresses)  # type: ignore[arg-type]
    assert Offer.decode(offer.encode(IDENTITY)) == offer


@given(exports)
def test_an_export_is_read_back(export: Export) -> None:
    assert Export.open(export.seal(OFFER, IDENTITY, EXPORTING), OFFER, ONE_TIME, IDENTITY.public) == export


@given(st.binary(max_size=400), st.sampled_from((b"", b"CPDO\1", b"CPDM\1")))
def test_any_bytes(data: bytes, start: bytes) -> None:
    for read in (Offer.decode, lambda data: Export.open(data, OFFER, ONE_TIME, IDENTITY.public)):
        with pytest.raises(HandoverError):
            read(start + data)


@given(st.integers(0, 8 * (len(OFFER)) - 1))
def test_any_changed_bit_of_an_offer(bit: int) -> None:
    changed = bytes(byte ^ (0x80 >> bit % 8 if bit // 8 == at else 0) for at, byte in enumerate(OFFER))
    with pytest.raises(HandoverError):
        Offer.decode(changed)


@given(st.binary(max_size=800), st.integers(0, 3))
def test_any_plaintext_in_an_export(rest: bytes, count: int) -> None:
    with suppress(HandoverError):
        assert len(Handover.decode(rest, sessions=count, k=1).sessions) == count


@given(kinds, st.binary(max_size=1000))
def test_text_is_read_back(kind: Kind, data: bytes) -> None:
    assert unarmour(kind, armour(kind, data)) == data
    assert unarmour(kind, "\r\n" + armour(kind, data).replace("\n", "\r\n")) == data


@given(kinds, st.text(), st.booleans())
def test_any_text(kind: Kind, text: str, headed: bool) -> None:
    with suppress(HandoverError):
        unarmour(kind, f"centipede {kind} v1\n{text}" if headed else text)


@given(st.integers(0, 4), st.lists(st.tuples(st.booleans(), st.integers(0, 4), st.booleans()), max_size=60))
def test_no_shard_is_granted_twice(k: int, steps: list[tuple[bool, int, bool]]) -> None:
    machines = [Grant(Run(0, k), 1 << k, SHARDS_END)]
    for newest, size, rest in steps:
        at = len(machines) - 1 if newest else 0
        try:
            machines[at], given_ = machines[at].cut(size, rest=rest)
        except ValueError:
            continue
        assert not (rest and machines[at].first < machines[at].end)
        machines.append(given_)
    owned = [range(each.run.first, each.run.first + each.run.size) for each in machines]
    owned += [range(each.first, each.end) for each in machines]
    shards = [shard for each in owned for shard in each]
    assert len(shards) == len(set(shards))
    assert all(0 <= shard < SHARDS_END for shard in shards)
