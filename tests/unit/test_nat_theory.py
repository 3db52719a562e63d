"""Who gets through to whom across NATs: the table people read, and what evidence is taken for."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from centipede.protocol.endpoint import Endpoint
from lab.nat import Refusal
from lab.nat_theory import Cause, Evidence, Site, cause, theory

PAGE = Path(__file__).resolve().parents[2] / "docs" / "nat.md"
SITES = {
    "none": Site.NONE,
    "full cone": Site.FULL_CONE,
    "address-restricted": Site.ADDRESS_RESTRICTED,
    "port-restricted": Site.PORT_RESTRICTED,
    "symmetric": Site.SYMMETRIC,
}
LEFT, RIGHT = Endpoint("192.0.2.1", 1111), Endpoint("192.0.2.2", 2222)


def table() -> dict[tuple[Site, Site], str]:
    """The table of the page."""
    rows = [[word.strip() for word in line.strip("| ").split("|")] for line in PAGE.read_text().splitlines()]
    head = next(row for row in rows if row[0] == "left end behind")
    rights = [SITES[word.removeprefix("right: ")] for word in head[1:]]
    return {
        (SITES[row[0]], right): word
        for row in rows
        if len(row) == len(head) and row[0] in SITES
        for right, word in zip(rights, row[1:], strict=True)
    }


def test_the_page_says_what_theory_says() -> None:
    words = {(None, None): "connects", (Cause.UNFOUND, None): "when told", (Cause.UNFOUND, Cause.OTHER_PORT): "never"}
    pairs = list(itertools.product(Site, repeat=2))
    assert table() == {
        (left, right): words[theory(left, right, told=False), theory(left, right, told=True)] for left, right in pairs
    }


def test_theory_does_not_care_who_is_left() -> None:
    for (left, right), told in itertools.product(itertools.combinations(Site, 2), (False, True)):
        assert theory(left, right, told=told) is theory(right, left, told=told)


def evidence(end: Endpoint, *refused: tuple[Endpoint, int]) -> Evidence:
    return Evidence(end, {Refusal((source.host, source.port), port) for source, port in refused})


STRANGER = Endpoint("192.0.2.9", 9)
FROM_OTHER_PORT = evidence(LEFT, (Endpoint(RIGHT.host, 2300), LEFT.port))
AT_TOLD_PORT = evidence(RIGHT, (LEFT, RIGHT.port))


@pytest.mark.parametrize(
    ("left", "right", "told", "found"),
    [
        pytest.param(evidence(LEFT), evidence(RIGHT), False, Cause.UNFOUND, id="nothing was sent"),
        pytest.param(evidence(LEFT, (STRANGER, 1)), evidence(RIGHT), False, Cause.UNFOUND, id="a stranger knocked"),
        pytest.param(evidence(LEFT), AT_TOLD_PORT, False, Cause.UNKNOWN, id="sent though told nothing"),
        pytest.param(FROM_OTHER_PORT, AT_TOLD_PORT, True, Cause.OTHER_PORT, id="one sends from another port"),
        pytest.param(FROM_OTHER_PORT, evidence(RIGHT), True, Cause.UNKNOWN, id="the other sent nothing yet"),
        pytest.param(evidence(LEFT), AT_TOLD_PORT, True, Cause.UNKNOWN, id="only one was refused"),
        pytest.param(evidence(LEFT, (RIGHT, LEFT.port)), AT_TOLD_PORT, True, Cause.UNKNOWN, id="ports as told"),
        pytest.param(
            evidence(LEFT, (Endpoint(RIGHT.host, 2300), 77)), AT_TOLD_PORT, True, Cause.UNKNOWN, id="elsewhere"
        ),
    ],
)
def test_what_the_nats_refused_tells_why(left: Evidence, right: Evidence, told: bool, found: Cause) -> None:
    assert cause(left, right, told=told) is found
    assert cause(right, left, told=told) is found
