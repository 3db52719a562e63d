"""The reorder buffer against a naive model: once each, in order as far as the rule allows, never later than it says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from centipede.engine.reorder import Reorder
from centipede.protocol.table import REORDER_PACKETS

HOLD_S = 0.05


class Model:
    """All arrivals in one list, looked at from the beginning each time."""

    def __init__(self) -> None:
        self.next = -1
        self.waiting: list[tuple[float, int]] = []
        self.seen: set[int] = set()
        self.out: list[int] = []

    def take(self, counter: int, now: float) -> None:
        self.seen.add(counter)
        if self.next < 0:
            self.next = counter
        if counter < self.next:
            self.out.append(counter)
            return
        self.give_up(counter - REORDER_PACKETS)
        self.waiting.append((now, counter))
        self.follow()

    def expire(self, before: float) -> None:
        while overdue := [each for each in self.waiting if each[0] <= before]:
            self.give_up(overdue[0][1])
            self.follow()

    def give_up(self, counter: int) -> None:
        if counter >= self.next:
            self.release([waiting for _, waiting in self.waiting if waiting <= counter])
            self.next = counter + 1

    def follow(self) -> None:
        while self.waiting and self.next in self.seen:
            self.release([self.next] if any(self.next == waiting for _, waiting in self.waiting) else [])
            self.next += 1

    def release(self, counters: list[int]) -> None:
        self.out += sorted(counters)
        self.waiting = [each for each in self.waiting if each[1] not in counters]


steps = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 40), st.integers(0, 5000)),
        st.sampled_from((0.0, 0.001, 0.02, 0.06)),
        st.booleans(),
    ),
    max_size=120,
)


@given(steps)
def test_like_the_model(arrivals: list[tuple[int, float, bool]]) -> None:
    model = Model()
    reorder = Reorder(model.seen.__contains__)
    out: list[int] = []
    now, taken = 0.0, 0
    came: dict[int, float] = {}
    for counter, pause_s, elsewhere in arrivals:
        now += pause_s
        out += [int(packet) for packet in reorder.expire(now - HOLD_S)]
        model.expire(now - HOLD_S)
        assert out == model.out
        assert all(at > now - HOLD_S for c, at in came.items() if c not in out)
        if counter in model.seen:
            continue
        if elsewhere:  # another worker had it
            model.seen.add(counter)
            continue
        came[counter], taken = now, taken + 1
        model.take(counter, now)
        out += [int(packet) for packet in reorder.take(counter, b"%d" % counter, now)]
        assert out == model.out
        assert taken - len(out) <= REORDER_PACKETS
    out += [int(packet) for packet in reorder.expire(float("inf"))]
    assert sorted(out) == sorted(came)
    assert reorder.due() is None
