"""Names: when host names are asked for, and what is known of them."""

from __future__ import annotations

import math
import select
import threading

import pytest

from centipede.fields import Target, parse_target
from centipede.names import FIRST_PAUSE_S, LONGEST_PAUSE_S, Names
from centipede.protocol.endpoint import Endpoint
from centipede.system.resolve import Answer, Resolver, look_up

HOME = parse_target("home.example:7")
WORK = parse_target("work.example:8")
NUMBER = parse_target("192.0.2.1:9")
A = Endpoint("198.51.100.1", 7)
B = Endpoint("198.51.100.2", 7)


class Asked:
    """A resolver that is only asked."""

    def __init__(self) -> None:
        self.questions: list[tuple[str, int]] = []
        self.names = Names(lambda host, port: self.questions.append((host, port)))

    def answer(self, target: Target, *endpoints: Endpoint, now: float, error: str = "") -> bool:
        return self.names.take(Answer(target.host, target.port, endpoints, error), now)

    def take(self) -> list[tuple[str, int]]:
        questions, self.questions = self.questions, []
        return questions


def test_new_names_are_asked_for_at_once_and_only_names() -> None:
    asked = Asked()
    asked.names.want([HOME, NUMBER])
    assert asked.take() == [("home.example", 7)]
    asked.names.want([HOME, WORK, NUMBER])
    assert asked.take() == [("work.example", 8)]
    assert asked.names.endpoints([HOME, NUMBER]) == (Endpoint("192.0.2.1", 9),)
    assert asked.names.unresolved([HOME, NUMBER]) == {"home.example": ""}
    assert asked.names.next_timer == math.inf


def test_an_answer_takes_the_place_of_the_name() -> None:
    asked = Asked()
    asked.names.want([HOME, NUMBER])
    assert asked.answer(HOME, A, B, now=0.0)
    assert asked.names.endpoints([NUMBER, HOME]) == (Endpoint("192.0.2.1", 9), A, B)
    assert asked.names.unresolved([HOME]) == {}
    assert not asked.answer(HOME, B, A, now=1.0)  # only the order differs
    assert asked.answer(HOME, B, now=2.0)
    assert asked.names.endpoints([HOME]) == (B,)


def test_failures_are_asked_again_ever_more_slowly_without_limit() -> None:
    asked = Asked()
    asked.names.want([HOME])
    now, pauses = 0.0, []
    for _ in range(10):
        asked.take()
        assert not asked.answer(HOME, now=now, error="no such name")
        pauses.append(asked.names.next_timer - now)
        now = asked.names.next_timer
        asked.names.handle_timer(now - 0.01, silent=())
        assert asked.take() == []
        asked.names.handle_timer(now, silent=())
        assert asked.take() == [("home.example", 7)]
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == LONGEST_PAUSE_S
    assert asked.names.unresolved([HOME]) == {"home.example": "no such name"}


def test_a_known_name_is_asked_again_only_while_its_peer_is_silent() -> None:
    asked = Asked()
    asked.names.want([HOME])
    asked.take()
    asked.answer(HOME, A, now=0.0)
    asked.names.handle_timer(asked.names.next_timer, silent=())
    assert asked.take() == []
    later = asked.names.next_timer
    assert later > FIRST_PAUSE_S
    asked.names.handle_timer(later, silent={("home.example", 7)})
    assert asked.take() == [("home.example", 7)]


def test_a_name_is_asked_again_as_soon_as_its_peer_falls_silent() -> None:
    asked = Asked()
    silent = {("home.example", 7)}
    asked.names.want([HOME])
    asked.take()
    asked.answer(HOME, A, now=0.0)
    asked.names.note_silent(silent, 0.5)  # not heard so far: that is no news
    assert asked.names.next_timer == FIRST_PAUSE_S
    asked.names.note_silent((), 0.6)
    asked.names.handle_timer(FIRST_PAUSE_S, silent=())
    assert asked.names.next_timer > 30
    asked.names.note_silent(silent, 20.0)
    assert asked.names.next_timer == 20.0
    asked.names.handle_timer(20.0, silent)
    assert asked.take() == [("home.example", 7)]
    asked.names.note_silent(silent, 20.1)  # the question is out
    assert asked.names.next_timer == math.inf
    asked.answer(HOME, A, now=20.2)
    asked.names.note_silent(silent, 20.3)  # asked again in its rhythm, not at each word
    assert asked.names.next_timer == 20.2 + FIRST_PAUSE_S


def test_what_was_found_survives_a_failure() -> None:
    asked = Asked()
    asked.names.want([HOME])
    asked.answer(HOME, A, now=0.0)
    assert not asked.answer(HOME, now=1.0, error="server down")
    assert asked.names.endpoints([HOME]) == (A,)


def test_a_change_of_addresses_hurries_what_waits() -> None:
    asked = Asked()
    asked.names.want([HOME, WORK])
    asked.take()
    asked.answer(HOME, now=0.0, error="no network")
    asked.names.hurry(0.1)
    assert asked.names.next_timer == 0.1
    asked.names.handle_timer(0.1, silent=())
    assert asked.take() == [("home.example", 7)]  # the question for the other one is still out


def test_answers_for_names_nobody_wants_any_more_are_ignored() -> None:
    asked = Asked()
    asked.names.want([HOME])
    asked.names.want([])
    assert not asked.answer(HOME, A, now=0.0)
    assert asked.names.endpoints([HOME]) == ()


def test_the_resolver_answers_through_its_descriptor() -> None:
    def play(host: str, port: int) -> Answer:
        return Answer(host, port, (Endpoint("192.0.2.1", port),)) if host == "known" else Answer(host, port, error="no")

    with Resolver(play) as resolver:
        assert resolver.answers() == []
        resolver.ask("known", 7)
        resolver.ask("unknown", 8)
        answers: list[Answer] = []
        while len(answers) < 2:
            ready, _, _ = select.select([resolver], [], [], 10.0)
            assert ready
            answers += resolver.answers()
    for thread in threading.enumerate():
        if thread.name == "resolver":
            thread.join(10.0)  # it closes its descriptor, which tests that count them would miss
    assert answers == [Answer("known", 7, (Endpoint("192.0.2.1", 7),)), Answer("unknown", 8, error="no")]


def test_the_host_s_resolver() -> None:
    assert Endpoint("127.0.0.1", 9) in look_up("localhost", 9).endpoints
    assert look_up("192.0.2.7", 9) == Answer("192.0.2.7", 9, (Endpoint("192.0.2.7", 9),))


@pytest.mark.parametrize("host", ["", "a" * 70, "\udc80"])
def test_names_nobody_can_resolve(host: str) -> None:
    answer = look_up(host, 9)
    assert answer.error or answer.endpoints  # the empty name may mean this host
