"""Slots, order and choice of the sessions of one peer."""

from __future__ import annotations

from itertools import count

import pytest

from centipede.protocol.association import (
    ESTABLISHED_SLOTS,
    MOST_ESTABLISHED,
    MOST_SOURCES,
    PENDING_SLOTS,
    Association,
    Session,
)
from centipede.protocol.drops import DropReason
from centipede.protocol.handshake import Params, SessionKeys
from centipede.protocol.identity import Identity
from centipede.protocol.session import ANY_SHARD, COUNTER_REKEY, Sealer, parse_header
from centipede.protocol.table import Run
from centipede.protocol.timing import Timing

TIMING = Timing()
LOW, HIGH = sorted((Identity.from_seed(bytes([n]) * 32).public for n in (1, 2)), key=lambda key: key.raw)


class Bench:
    """An association, and sessions made to measure."""

    def __init__(self) -> None:
        self.ended: list[int] = []
        self.association = Association(TIMING, lambda session: self.ended.append(session.number))
        self._numbers = count(1)

    def session(self, timestamp: int, *, ours: bool = True, born: float = 0.0, initiator: str = "low") -> Session:
        number = next(self._numbers)
        keys = SessionKeys(*(bytes([number]) * 31 + bytes([kind]) for kind in range(4)))
        return Session(
            number=number,
            peer=1,
            base=bytes([number]) * 6,
            peer_base=bytes(6),
            run=Run(),
            own=Run(),
            keys=keys,
            timestamp=timestamp,
            initiator=LOW if initiator == "low" else HIGH,
            ours=ours,
            params=Params(10.0, 1420),
            born=born,
            rekey_at=born + (122.0 if ours else 150.0),
        )

    def establish(self, timestamp: int, now: float, *, initiator: str = "low") -> Session:
        session = self.session(timestamp, born=now, initiator=initiator)
        self.association.establish(session, now)
        return session

    def choose(self, paths: set[int], now: float) -> Session | None:
        """Choose as for a peer with one machine."""
        session = self.association.choose(paths, now)
        self.association.sending = () if session is None else (session,)
        return session

    @property
    def order(self) -> list[int]:
        return [session.number for session in self.association.established]


@pytest.mark.parametrize(
    ("sessions", "order"),
    [
        # (timestamp, established at, initiator); sessions are numbered 1, 2, 3 as they are established
        ([(10, 0.0, "low")], [1]),
        ([(10, 0.0, "low"), (20, 1.0, "low")], [2, 1]),  # greater timestamp
        ([(20, 0.0, "low"), (10, 1.0, "low")], [1, 2]),  # smaller timestamp within the tie window
        ([(20, 0.0, "low"), (10, 2.99, "low")], [1, 2]),
        ([(20, 0.0, "low"), (10, 3.0, "low")], [2, 1]),  # after it, the newer is current whatever its timestamp
        ([(10, 0.0, "low"), (10, 1.0, "high")], [2, 1]),  # equal timestamps: the greater key
        ([(10, 0.0, "high"), (10, 1.0, "low")], [1, 2]),
        ([(30, 0.0, "low"), (10, 1.0, "low"), (20, 2.0, "low")], [1, 3, 2]),
        ([(30, 0.0, "low"), (10, 2.0, "low"), (20, 4.0, "low")], [3, 1, 2]),
        ([(30, 0.0, "low"), (40, 6.0, "low"), (35, 7.0, "low")], [2, 3, 1]),
    ],
)
def test_tie_break(sessions: list[tuple[int, float, str]], order: list[int]) -> None:
    bench = Bench()
    for timestamp, now, initiator in sessions:
        bench.establish(timestamp, now, initiator=initiator)
    assert bench.order == order


def test_both_ends_order_ties_alike_whatever_came_first() -> None:
    handshakes = [(10, "low"), (10, "high"), (20, "low"), (15, "high")]
    here, there = Bench(), Bench()
    for bench, ours in ((here, handshakes), (there, list(reversed(handshakes)))):
        for step, (timestamp, initiator) in enumerate(ours):
            bench.establish(timestamp, step * 0.5, initiator=initiator)
    orders = [[one.order for one in bench.association.established] for bench in (here, there)]
    assert orders[0] == orders[1]
    assert len(orders[0]) == ESTABLISHED_SLOTS


def test_three_slots_and_the_one_that_sends_keeps_its_own() -> None:
    bench = Bench()
    first = bench.establish(10, 0.0)
    first.heard.add(1)
    assert bench.choose({1}, 2.0) is first
    for step in range(1, 6):
        bench.establish(10 + step, 10.0 * step)  # never heard: their handshakes got lost on the other side
        assert bench.choose({1}, 10.0 * step) is first
    assert bench.order == [6, 5, 1]
    assert bench.ended == [2, 3, 4]


def test_each_of_several_machines_keeps_the_session_it_is_sent_to_under() -> None:
    bench = Bench()
    used = tuple(bench.establish(10 + step, 10.0 * step) for step in range(3))
    bench.association.sending = used
    for step in range(3, 7):
        bench.establish(10 + step, 10.0 * step)
    assert bench.order == [7, 6, 3, 2, 1]
    assert bench.ended == [4, 5]


def test_the_sessions_of_many_machines_are_bounded() -> None:
    bench = Bench()
    for step in range(3 * MOST_ESTABLISHED):
        bench.establish(10 + step, 10.0 * step)
        bench.association.sending = tuple(bench.association.established)
    assert len(bench.order) == MOST_ESTABLISHED


def test_a_session_near_its_end_does_not_last_and_the_time_is_told() -> None:
    bench = Bench()
    timing = Timing()
    session = bench.establish(10, 0.0)
    session.heard.add(1)
    bench.association.sending = (session,)
    assert bench.association.lasts(session, {1, 2}, 100.0)
    assert not bench.association.lasts(session, {2}, 100.0), "its machine may not have it"
    fades_at = bench.association.choice_at(100.0)
    assert fades_at == session.born + timing.reject_s - timing.overlap_s
    assert not bench.association.lasts(session, {1}, fades_at)


def test_what_is_said_on_a_path_goes_under_the_newest_session_heard_there() -> None:
    bench = Bench()
    assert bench.association.known_on(1) is None
    old, new = bench.establish(10, 0.0), bench.establish(20, 100.0)
    assert bench.association.known_on(1) is new
    old.heard.add(1)
    assert bench.association.known_on(1) is old
    new.heard.add(1)
    assert bench.association.known_on(1) is new


def test_a_session_of_which_a_path_is_silent_while_an_older_one_is_heard_there_is_lost_to_its_machine() -> None:
    bench = Bench()
    old, new = bench.establish(10, 0.0), bench.establish(20, 100.0)
    for path in (1, 2):
        bench.association.hear(new, path, 101.0, 3.0)
    bench.association.hear(old, 1, 104.0, 3.0)  # both are heard while they overlap
    assert bench.association.known_on(1) is new
    bench.association.hear(old, 1, 104.1, 3.0)
    assert bench.association.known_on(1) is old
    assert bench.choose({1}, 105.0) is old
    assert bench.choose({2}, 105.0) is new
    bench.association.hear(new, 1, 106.0, 3.0)
    assert bench.choose({1}, 106.0) is new


def test_pending_ones_are_four_and_live_ten_seconds() -> None:
    bench = Bench()
    sessions = [bench.session(10 + step, ours=False, born=float(step)) for step in range(6)]
    evictions = [bench.association.add_pending(session) for session in sessions]
    assert evictions == [False] * PENDING_SLOTS + [True, True]
    assert bench.ended == [1, 2]
    assert bench.association.expires_at() == 12.0
    bench.association.expire(12.0)
    assert bench.ended == [1, 2, 3]
    bench.association.establish(sessions[5], 12.5)
    assert [session.number for session in bench.association.pending] == [4, 5]
    assert bench.association.current is sessions[5]
    assert not sessions[5].table_entry(0.0).pending


def test_a_session_ends_at_its_age() -> None:
    bench = Bench()
    session = bench.establish(10, 100.0)
    assert bench.association.expires_at() == 280.0
    bench.association.expire(279.9)
    assert bench.association.established == [session]
    bench.association.expire(280.0)
    assert not bench.association.established
    assert bench.ended == [1]


@pytest.mark.parametrize(
    ("old_heard", "new_heard", "usable", "age_s", "chosen"),
    [
        ({1, 2}, set(), {1, 2}, 0.5, "old"),
        ({1, 2}, {1}, {1, 2}, 0.5, "old"),  # not on all paths yet
        ({1, 2}, {1, 2}, {1, 2}, 0.5, "new"),
        ({1, 2}, {1}, {1, 2}, 1.0, "new"),  # for a second, on any
        ({1, 2}, set(), {1, 2}, 50.0, "old"),  # an Acknowledge alone is not heard
        ({3}, set(), {1, 2}, 0.1, "new"),  # but if no older session is usable, it will do
        ({3}, {1}, {1, 2}, 0.1, "new"),
        ({1, 2, 3}, {2}, {2}, 0.1, "new"),  # the paths that are not usable do not matter
    ],
)
def test_choice(old_heard: set[int], new_heard: set[int], usable: set[int], age_s: float, chosen: str) -> None:
    bench = Bench()
    old = bench.establish(10, 0.0)
    new = bench.establish(20, 100.0)
    old.heard |= old_heard
    new.heard |= new_heard
    expected = {"old": old, "new": new}[chosen]
    assert bench.choose(usable, 100.0 + age_s) is expected


def test_the_time_of_a_choice_by_age_is_told() -> None:
    bench = Bench()
    bench.establish(10, 0.0)
    bench.establish(20, 100.0)
    assert bench.association.choice_at(100.2) == 101.0
    assert bench.association.choice_at(101.0) == float("inf")


def test_no_session_no_choice() -> None:
    bench = Bench()
    bench.association.add_pending(bench.session(10, ours=False))
    assert bench.choose({1}, 0.0) is None
    assert bench.association.speaking(0.0, 1) == []
    assert bench.association.rekey_at() == float("inf")


def test_heartbeats_go_under_both_sessions_for_a_while_and_longer_while_the_new_one_is_unheard() -> None:
    bench = Bench()
    old = bench.establish(10, 0.0)
    old.heard.add(1)
    bench.choose({1}, 50.0)
    assert bench.association.speaking(50.0, 1) == [old]
    new = bench.establish(20, 100.0)
    assert bench.association.speaking(101.9, 1) == [new, old]
    bench.choose({1}, 150.0)
    assert bench.association.speaking(150.0, 1) == [new, old], "the peer may never have got to confirm the new one"
    new.heard.add(1)
    bench.choose({1}, 151.0)
    assert bench.association.speaking(151.0, 1) == [new]
    old.heard.add(2)
    assert bench.association.speaking(151.0, 2) == [new, old], "another machine, which may have no other"


def test_rekey_is_due_by_age_by_wear_and_again_when_the_new_session_stays_unheard() -> None:
    bench = Bench()
    session = bench.establish(10, 0.0)
    session.heard.add(1)
    assert bench.association.rekey_at() == 122.0
    session.tx_since = COUNTER_REKEY
    assert bench.association.rekey_at() == float("-inf")
    session.tx_since = 0
    new = bench.establish(20, 122.0)
    assert bench.association.rekey_at() == 127.0, "an attempt's time after one that nobody heard"
    new.heard.add(1)
    assert bench.association.rekey_at() == 244.0


def test_a_session_under_which_many_shards_were_heard_is_renewed_but_not_without_end() -> None:
    bench = Bench()
    session = bench.establish(10, 0.0)
    session.heard.add(1)
    for first in range(16, 16 * 14, 16):
        session.hear_run(Run(first, 4))
    assert bench.association.rekey_at() == 30.0, "the next one will have heard as many at once"
    for first in range(16 * 14, 16 * 16, 16):
        assert session.hear_run(Run(first, 4))
    assert not session.hear_run(Run(16, 2)), "it contradicts another"
    assert bench.association.rekey_at() == 30.0
    assert not session.hear_run(Run(16 * 16, 4))
    assert bench.association.rekey_at() == 5.0, "sooner, for somebody who came has no room"
    again = bench.establish(20, 10.0)
    again.heard.add(1)
    for first in range(16, 16 * 17, 16):
        again.hear_run(Run(first, 4))
    assert bench.association.rekey_at() == 40.0, "there are too many in all"


def sealed(session: Session, counter: int, *, source: int = 0, key: bytes | None = None) -> bytes:
    """A control packet of the peer's."""
    sealer = Sealer(session.keys.rx_control if key is None else key)
    return sealer.seal(counter, source=source, base=session.base, shard=ANY_SHARD, plaintext=b"x", control=True)


def opened(session: Session, datagram: bytes) -> bytes | DropReason:
    header = parse_header(datagram)
    assert header is not None
    return session.open_control(header, datagram)


def test_control_is_opened_once_per_counter_and_shard() -> None:
    session = Bench().session(10)
    assert opened(session, sealed(session, 5)) == b"x"
    assert opened(session, sealed(session, 5)) is DropReason.DUPLICATE
    assert opened(session, sealed(session, 4)) == b"x"
    assert opened(session, sealed(session, 5, source=1)) == b"x"
    assert opened(session, sealed(session, 10_000)) == b"x"
    assert opened(session, sealed(session, 10_000 - 2 * 4096)) is DropReason.OLD
    assert opened(session, sealed(session, 6, key=bytes(32))) is DropReason.BAD_TAG
    assert opened(session, sealed(session, 10_001)) == b"x"


def test_source_shards_are_bounded_and_forgeries_take_none() -> None:
    session = Bench().session(10)
    for source in range(1000, 2000):
        assert opened(session, sealed(session, 0, source=source, key=bytes(32))) is DropReason.BAD_TAG
    answers = [opened(session, sealed(session, 0, source=source)) for source in range(MOST_SOURCES + 1)]
    assert answers == [b"x"] * MOST_SOURCES + [DropReason.UNKNOWN_SHARD]


def test_own_control_counters_ascend() -> None:
    session = Bench().session(10)
    headers = []
    for _ in range(5):
        datagram = session.seal_control(b"x", source=0, shard=0)
        assert datagram is not None
        headers.append(parse_header(datagram))
    assert [header and header.counter for header in headers] == [0, 1, 2, 3, 4]


def test_runs_that_contradict_each_other_are_refused() -> None:
    session = Bench().session(10)
    assert session.hear_run(Run(0, 0))
    assert not session.hear_run(Run(0, 2)), "shard 0 is a run of its own already"
    assert session.hear_run(Run(4, 2))
    assert not session.hear_run(Run(4, 1))
    assert not session.hear_run(Run(5, 0))
    assert session.table_entry(0.0).sources == (Run(0, 0), Run(4, 2))
    for first in range(16, 16 * 30, 16):
        session.hear_run(Run(first, 4))
    assert sum(run.size for run in session.sources) <= MOST_SOURCES


def test_clear_ends_everything() -> None:
    bench = Bench()
    bench.establish(10, 0.0)
    bench.association.add_pending(bench.session(20, ours=False))
    bench.association.sending = tuple(bench.association.established)
    bench.association.clear()
    assert bench.ended == [2, 1]
    assert bench.association.sending == ()
    assert bench.association.expires_at() == float("inf")


def test_keys_are_not_printed() -> None:
    session = Bench().session(10)
    assert repr(session.keys.tx_data) not in repr(session)
    assert "Sealer" not in repr(session)
