"""What members make of a store: registrations, records, counts, and a store that is gone, wiped or lies."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from functools import partial
from itertools import count

import pytest

from centipede.cluster.directory import Directory, StorePlan
from centipede.cluster.etcd import MOST_RECORDS, Etcd, StoreError
from centipede.cluster.grants import Grants, lives, slot
from centipede.cluster.record import Sealer, open_record
from centipede.cluster.registry import GRACE_S, Registry, View
from centipede.cluster.store import Keeper, Left
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.grant import Grant
from centipede.protocol.handover import HandedSession, Handover
from centipede.protocol.handshake import Params, SessionKeys
from centipede.protocol.identity import Identity
from centipede.protocol.table import Run
from lab.process import wait_until
from tests.unit.gateway import Memory, gateway

SECRET = bytes(range(32))
OWN = Identity.from_seed(bytes([1]) * 32).public
PEER = Identity.from_seed(bytes([2]) * 32).public
OF = 8
SESSION_LIFE_S = 180.0
WALL_NS = 1_700_000_000 * 10**9


def handed(base: int, age_s: float = 1.0) -> HandedSession:
    keys = SessionKeys(*(bytes([n]) * 32 for n in range(4)))
    params = Params(gap_s=10.0, largest_inner=1420)
    return HandedSession(
        Grant(Run(), 0, 0),
        True,
        5,
        bytes([base]) * 6,
        bytes([base + 1]) * 6,
        Run(0, params.k),
        age_s,
        0.0,
        params,
        params,
        keys,
    )


def known(*sessions: HandedSession, floor: int = 7) -> Handover:
    return Handover(OWN, PEER, floor, 3, (Endpoint("198.51.100.7", 5),), sessions)


class Machine:
    """A member's two parts, and what passes between them."""

    def __init__(self, endpoint: str, number: int, life: int, address: Endpoint | None = None) -> None:
        self.etcd = Etcd([endpoint], None)
        self.address = address or Endpoint(f"10.8.0.{number}", 5)
        self.registry = Registry(SECRET, number, OF, 0, self.address, bytes([life]) * 16, SESSION_LIFE_S)
        registry = self.registry
        self.keeper = Keeper(self.etcd, "/t/", registry.name, registry.registration, registry.is_own)
        self.left: dict[str, Left] = {}
        self.handovers: list[Handover] = []
        self.now = 100.0
        self.view = View(b"")

    def publish(self, handover: Handover) -> None:
        put = self.registry.publish(handover, self.wall_ns)
        assert put is not None
        assert self.registry.store is not None
        self.left[put[0]] = Left(put[0], self.registry.store, put[1])

    @property
    def wall_ns(self) -> int:
        return WALL_NS + round(self.now * 1e9)

    def round(self) -> None:
        self.view = self.keeper.round(self.left)
        self.handovers += self.registry.take(self.view, self.now, self.wall_ns)

    def claim(self, has: frozenset[bytes] = frozenset()) -> list[str]:
        names = self.registry.claim({PEER}, has.__contains__, self.now, self.wall_ns)
        assert self.registry.store is not None
        self.left.update((name, Left(name, self.registry.store)) for name in names)
        return names

    def sessions(self) -> list[HandedSession]:
        return [session for each in self.handovers for session in each.sessions]

    def get_session(self) -> HandedSession:
        """Wait for the only session the store has, and serve it."""
        self.round()
        self.now += GRACE_S
        self.round()
        assert len(self.claim()) == 1
        self.round()
        (session,) = self.sessions()
        return session


Join = Callable[..., Machine]


@pytest.fixture
def join(endpoint: str) -> Iterator[Join]:
    """Makes machines, and closes their connections at the end."""
    with ExitStack() as stack:

        def join(number: int, life: int, address: Endpoint | None = None) -> Machine:
            machine = Machine(endpoint, number, life, address)
            stack.callback(machine.etcd.close)
            return machine

        yield join


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def endpoint(memory: Memory) -> Iterator[str]:
    with gateway(memory) as endpoint:
        yield endpoint


def test_members_find_each_other(join: Join) -> None:
    one, two = join(1, 11), join(2, 12)
    one.round()
    two.round()
    one.round()
    two.round()
    assert (one.registry.others, two.registry.others) == ((two.address,), (one.address,))
    two.keeper.leave()
    one.round()
    assert one.registry.others == ()


def test_two_machines_with_one_number_are_told_so_and_the_second_serves_nothing_of_the_store(join: Join) -> None:
    one, maker = join(1, 11), join(2, 12)
    wrong = join(1, 13, Endpoint("10.8.0.9", 5))
    one.round()
    maker.round()
    maker.publish(known(handed(1)))
    maker.round()
    wrong.round()
    wrong.now += GRACE_S
    wrong.round()
    assert wrong.registry.holder == one.address
    assert wrong.claim() == []
    one.keeper.leave()
    wrong.round()
    assert wrong.registry.holder is None


def test_a_machine_that_restarts_takes_its_number_back_at_once(join: Join) -> None:
    join(1, 11).round()
    again = join(1, 12)
    again.round()
    assert again.registry.holder is None
    assert again.view.anew


def test_a_session_whose_maker_is_gone_is_served_with_shards_nobody_had(join: Join, memory: Memory) -> None:
    maker = join(1, 11)
    maker.round()
    maker.publish(known(handed(1)))
    maker.round()
    runs = []
    for life, number in enumerate((2, 2, 3, 1, 2), start=20):
        machine = join(number, life)
        machine.now = maker.now + 10.0
        session = machine.get_session()
        assert session.base == handed(1).base
        assert session.age_s == pytest.approx(1.0 + 10.0 + GRACE_S, abs=0.1)
        runs.append(session.grant.run.first)
        memory.expire(machine.keeper._lease)
    made_by_rule = {slot(n, OF, life, 0).first for n in range(1, OF + 1) for life in range(lives(OF) // 2)}  # type: ignore[union-attr]
    assert len(set(runs)) == len(runs)
    assert not made_by_rule & set(runs)


def test_a_maker_leaves_the_slots_that_the_store_counts() -> None:
    grants = Grants(OF, lives(OF) // 2)
    runs = [grants.run(b"session", 2, bytes([life]), 0) for life in range(lives(OF))]
    assert all(run is not None for run in runs[: lives(OF) // 2])
    assert not any(run is not None for run in runs[lives(OF) // 2 :])


def test_what_the_maker_tells_is_not_asked_of_the_store(join: Join) -> None:
    maker, other = join(1, 11), join(2, 12)
    maker.round()
    maker.publish(known(handed(1)))
    maker.round()
    other.round()
    assert other.claim() == []  # the maker has a while to tell it
    other.now += GRACE_S
    assert other.claim(frozenset({handed(1).base})) == []
    assert [each.floor for each in other.handovers] == [7]


def test_a_session_that_is_over_is_not_served(join: Join) -> None:
    maker, other = join(1, 11), join(2, 12)
    maker.round()
    maker.publish(known(handed(1, age_s=SESSION_LIFE_S - 10.0)))
    maker.round()
    other.now += 10.0
    other.round()
    other.now += GRACE_S
    assert other.claim() == []


def test_a_session_is_never_put_into_a_store_that_may_have_forgotten_counts(join: Join, memory: Memory) -> None:
    maker = join(1, 11)
    maker.round()
    maker.publish(known(handed(1)))
    first = maker.registry.store
    memory.keys.clear()
    memory.leases.clear()
    maker.round()
    assert maker.view.anew
    assert maker.registry.store != first
    assert not any(key.startswith(b"/t/sessions/") for key in memory.keys)
    maker.publish(known(handed(1), handed(3)))
    maker.round()
    late = join(2, 12)
    assert late.get_session().base == handed(3).base


def test_a_member_that_stood_still_puts_nothing_that_was_counted_and_forgotten(join: Join, memory: Memory) -> None:
    maker = join(1, 11)
    maker.round()
    maker.publish(known(handed(1)))
    maker.round()
    assert join(2, 12).get_session().base == handed(1).base
    maker.publish(known(handed(1), floor=8))  # and then it stands still until the store has forgotten all of it
    memory.expire()
    maker.round()
    assert not any(key.startswith(b"/t/sessions/") for key in memory.keys)
    assert maker.left == {}
    assert maker.view.anew
    assert maker.registry.publish(known(handed(1)), maker.wall_ns) is None
    maker.publish(known(handed(1), handed(3)))
    maker.round()
    assert join(2, 13).get_session().base == handed(3).base


@pytest.mark.parametrize("what", ["put", "counted"])
def test_nothing_is_done_once_the_registration_ended(join: Join, memory: Memory, what: str) -> None:
    maker, machine = join(1, 11), join(2, 12)
    maker.round()
    maker.publish(known(handed(1)))
    maker.round()
    machine.round()
    if what == "put":
        machine.publish(known(handed(3)))
    else:
        machine.now += GRACE_S
        assert machine.claim()
    keep_alive = machine.etcd.keep_alive

    def stand_still(lease: int) -> bool:
        kept = keep_alive(lease)
        memory.expire(lease)
        return kept

    machine.etcd.keep_alive = stand_still  # type: ignore[method-assign]
    before = memory.keys.keys() - {b"/t/members/2"}
    machine.round()
    assert memory.keys.keys() == before
    assert len(machine.left) == 1
    machine.etcd.keep_alive = keep_alive  # type: ignore[method-assign]
    machine.round()
    assert machine.left == {}
    assert machine.view.anew
    assert memory.keys.keys() == before | {b"/t/members/2"}


def test_what_another_registration_found_is_found_again(join: Join, memory: Memory) -> None:
    maker, machine = join(1, 11), join(2, 12)
    maker.round()
    maker.publish(known(handed(1)))
    maker.round()
    machine.round()
    memory.expire(machine.keeper._lease)
    machine.round()
    assert machine.get_session().base == handed(1).base


def test_a_store_put_back_to_an_earlier_state_is_another(join: Join, memory: Memory) -> None:
    maker = join(1, 11)
    maker.round()
    first = maker.registry.store
    maker.round()
    memory.revision -= 1
    maker.round()
    assert maker.view.anew
    assert maker.registry.store != first


def test_a_registration_that_ended_is_made_anew(join: Join, memory: Memory) -> None:
    machine = join(1, 11)
    anew = []
    for _ in range(2):
        machine.round()
        anew.append(machine.view.anew)
    memory.expire()
    machine.round()
    assert [*anew, machine.view.anew] == [True, False, True]
    assert b"/t/members/1" in memory.keys


def test_what_was_left_while_it_was_gone_is_put_when_it_is_back(endpoint: str, join: Join, memory: Memory) -> None:
    machine = join(1, 11)
    machine.round()
    machine.publish(known(handed(1)))
    memory.gone = True
    with pytest.raises(StoreError, match=f"^{endpoint}: "):
        machine.round()
    memory.gone = False
    machine.round()
    assert machine.left == {}
    assert any(key.startswith(b"/t/sessions/") for key in memory.keys)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"[]",
        b"{}",
        b"[" * 100000,
        b'{"header":{"revision":"x"},"responses":[{},{},{}]}',
        b'{"header":{"revision":1e999},"responses":[' + b",".join([b'{"response_range":{}}'] * 3) + b"]}",
        b'{"header":{},"responses":[' + b",".join([b'{"response_range":{"kvs":[{"key":"\xc3\xa9"}]}}'] * 3) + b"]}",
    ],
)
def test_an_answer_that_makes_no_sense_is_a_store_that_is_gone(join: Join, memory: Memory, answer: bytes) -> None:
    memory.answer = answer
    with pytest.raises(StoreError, match="not an answer of etcd; check the port in endpoints"):
        join(1, 11).round()


def test_the_next_endpoint_is_asked_if_one_makes_no_sense(endpoint: str, memory: Memory) -> None:
    memory.answer = b'{"header":{},"succeeded":true}'
    with closing(Etcd([endpoint, "http://127.0.0.1:9"], None)) as etcd:
        with pytest.raises(StoreError, match=endpoint):
            etcd.count("/a", b"", 0, ("/b", b""))
        with pytest.raises(StoreError, match=r"127\.0\.0\.1:9: "):
            etcd.grant(10)


def test_what_no_etcd_would_say_is_told_as_that(endpoint: str, memory: Memory) -> None:
    memory.answer, memory.status = b"404 page not found", 404
    reason = ": 404 not an answer of etcd; check the port in endpoints$"
    with closing(Etcd([endpoint], None)) as etcd, pytest.raises(StoreError, match=reason):
        etcd.grant(10)


def test_a_store_that_takes_nothing_still_shows_who_is_there(join: Join, memory: Memory) -> None:
    one, two = join(1, 11), join(2, 12)
    one.round()
    memory.full = True
    two.round()
    assert two.registry.others == (one.address,)
    assert two.view.reason.endswith("429 etcdserver: mvcc: database space exceeded")
    memory.full = False
    two.round()
    assert two.view.reason == ""
    one.round()
    assert one.registry.others == (two.address,)


def test_a_claim_does_not_wait_for_what_is_to_be_put(join: Join) -> None:
    machine = join(1, 11)
    machine.round()
    store = machine.view.store
    clock = count(step=0.6)
    machine.keeper._clock = lambda: next(clock)
    machine.left = {f"sessions/{n}/1": Left(f"sessions/{n}/1", store, b"x") for n in range(5)}
    machine.left["grants/1/1"] = Left("grants/1/1", store)
    machine.round()
    assert machine.view.grants == (("grants/1/1", 1),)


def test_what_was_told_by_the_channel_takes_no_room(join: Join) -> None:
    maker, other = join(1, 11), join(2, 12)
    maker.round()
    maker.publish(known(handed(1), handed(3)))
    maker.round()
    other.round()
    assert other.claim(frozenset({handed(1).base})) == []
    other.now += GRACE_S
    assert len(other.claim()) == 1, "and what it told of the other alone is asked for"


def test_a_store_that_closes_after_each_answer_is_as_good(join: Join, memory: Memory) -> None:
    memory.closes = True
    one, two = join(1, 11), join(2, 12)
    for each in (one, two, one):
        each.round()
    assert one.registry.others == (two.address,)


def test_a_round_that_fails_gives_nobody_s_number_away(join: Join, memory: Memory) -> None:
    holder, wrong = join(1, 11), join(1, 12, Endpoint("10.8.0.9", 5))
    for each in (holder, wrong):
        each.round()
    assert wrong.registry.holder == holder.address
    memory.full = True
    memory.expire(wrong.keeper._lease)
    wrong.round()
    assert wrong.view.reason
    assert wrong.registry.holder == holder.address


def test_all_pages_are_looked_at_in_one_round(join: Join) -> None:
    maker, other = join(1, 11), join(2, 12)
    maker.round()
    store = maker.view.store
    maker.left = {f"sessions/{n}/1": Left(f"sessions/{n}/1", store, b"x") for n in range(2 * MOST_RECORDS + 1)}
    maker.keeper._clock = other.keeper._clock = lambda: 0.0
    maker.round()
    other.round()
    assert len(other.view.records) == 2 * MOST_RECORDS + 1


def test_an_endpoint_that_answers_drop_by_drop_is_left(endpoint: str, memory: Memory) -> None:
    memory.part_bytes = 1
    with closing(Etcd([endpoint, "http://127.0.0.1:9"], None)) as etcd:
        with pytest.raises(StoreError, match="timed out"):
            etcd.grant(10)
        memory.paused.set()
        with pytest.raises(StoreError, match=r"127\.0\.0\.1:9: "):
            etcd.grant(10)


def test_what_the_store_says_does_nothing_to_a_terminal(endpoint: str, memory: Memory) -> None:
    memory.answer, memory.status = b'{"error":"no\\u001b[2J\\u0000 way"}', 503
    with closing(Etcd([endpoint], None)) as etcd, pytest.raises(StoreError, match=r": 503 no \[2J way$"):
        etcd.grant(10)


def test_the_next_endpoint_is_asked_if_one_is_gone(endpoint: str) -> None:
    with closing(Etcd(["http://127.0.0.1:9", endpoint], None)) as etcd:
        with pytest.raises(StoreError):
            etcd.grant(10)
        assert etcd.grant(10) > 0


def test_the_store_learns_nothing_and_can_change_nothing(join: Join, memory: Memory) -> None:
    maker = join(1, 11)
    maker.round()
    maker.publish(known(handed(1)))
    maker.round()
    seen = b"".join(key + base64.b64decode(kept.value) for key, kept in memory.keys.items())
    for secret in (PEER.raw, OWN.raw, handed(1).base, handed(1).keys.tx_data, b"10.8.0.1", maker.address.packed):
        assert secret not in seen
    other = join(2, 12)
    (key,) = (key for key in memory.keys if key.startswith(b"/t/sessions/"))
    kept = memory.keys[key]
    for changed in (b"", bytes(200), base64.b64decode(kept.value)[:-1]):
        memory.keys[key] = replace(kept, value=base64.b64encode(changed).decode())
        memory.revision += 1
        memory.keys[key].revision = memory.revision
        other.round()
    assert other.handovers == []
    assert other.registry.refused == 3


def test_a_record_is_good_under_its_own_name_only() -> None:
    sealed = Sealer(SECRET, bytes([1]) * 16).seal("members/1", b"body")
    assert open_record(SECRET, "members/1", sealed) == (bytes([1]) * 16, b"body")
    assert open_record(SECRET, "members/2", sealed) is None
    assert open_record(bytes(32), "members/1", sealed) is None


def test_a_record_that_could_not_be_put_while_its_sessions_lived_is_left(join: Join, memory: Memory) -> None:
    machine, now = join(1, 11), [0.0]
    machine.keeper._clock = lambda: now[0]
    machine.round()
    store = machine.view.store
    machine.left = {
        name: Left(name, store, b"x", until) for name, until in (("sessions/1/1", 180.0), ("sessions/2/1", 360.0))
    }
    memory.full = True
    machine.round()
    assert len(machine.left) == 2
    now[0], memory.full = 180.0, False
    machine.round()
    assert machine.left == {}
    assert [key for key in memory.keys if b"sessions" in key] == [b"/t/sessions/2/1"]


@pytest.mark.parametrize("body", ['{"error":"no","code":9}', '{"code":9,"message":"no","details":[]}'])
def test_what_etcd_says_is_told_whatever_its_version(endpoint: str, memory: Memory, body: str) -> None:
    memory.answer, memory.status = body.encode(), 400
    with closing(Etcd([endpoint], None)) as etcd, pytest.raises(StoreError, match=r": 400 no$"):
        etcd.grant(10)


def test_a_member_with_much_to_put_stays_registered(endpoint: str, memory: Memory) -> None:
    clock = count(step=0.3)  # of each record: as if the store were slow
    registry = Registry(SECRET, 1, OF, 0, Endpoint("10.8.0.1", 5), bytes(16), SESSION_LIFE_S)
    with closing(Etcd([endpoint], None)) as etcd:
        keeper = Keeper(etcd, "/t/", registry.name, registry.registration, registry.is_own, lambda: next(clock))
        store = keeper.round({}).store
        waiting = {f"sessions/{n}/1": Left(f"sessions/{n}/1", store, b"x") for n in range(20)}
        left = [len(waiting)]
        while waiting:
            leases = len(memory.leases)
            assert keeper.round(waiting).members, "and it is registered all the while"
            left.append(len(waiting))
            assert len(memory.leases) == leases + 1, "one lease for what is put in one round"
    assert left == [20, 16, 12, 8, 4, 0]


def test_a_registration_that_a_life_before_took_with_it_is_made_anew(join: Join, memory: Memory) -> None:
    before = join(1, 1)
    before.round()
    now = join(1, 2)
    now.round()
    memory.expire(before.keeper._lease)
    before.round()  # its thread ends late, and its registration is of the same machine
    before.keeper.leave()
    now.round()
    now.round()
    assert now.view.members == {now.registry.name: now.registry.registration}


def test_members_that_count_in_other_numbers_share_nothing_in_a_store(endpoint: str, memory: Memory) -> None:
    plan = StorePlan((endpoint,), "/t", None, SESSION_LIFE_S, lambda: WALL_NS)
    places: set[bytes] = set()

    def registered(number: int) -> bool:
        places.update(key for key in tuple(memory.keys) if key.endswith(b"/members/1"))
        return len(places) == number

    for number, of in enumerate((4, 5), 1):
        directory = Directory(plan, SECRET, 1, of, 0, Endpoint("10.8.0.1", of), bytes([of]) * 16)
        with closing(directory):
            wait_until(partial(registered, number), timeout_s=20.0, what="a registration in a place of its own")
    assert len(places) == 2
