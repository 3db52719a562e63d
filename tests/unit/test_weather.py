"""The weather: the same for the same seed, and there is always a link that is well."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from lab import scenario
from lab.errors import LabError
from lab.impairment import Impairment
from lab.timeline import AddressChange, AnyEvent, Blackhole, BlackholeEnd, LinkChange, LinkDown, LinkUp, NatRebind
from lab.weather import Ground, WeatherModel, events

LINKS = ("wifi", "lte", "cable")
GROUNDS = {
    link: Ground((ip_interface(f"10.{number}.0.1/24"), ip_interface("fd00::1/64")), Impairment(delay_ms=10, loss=0.01))
    for number, link in enumerate(LINKS, 1)
}


def weather(seed: int, links: tuple[str, ...] = LINKS) -> WeatherModel:
    return WeatherModel(seed=seed, begins=3.0, ends=300.0, host="left", links=links, nats={"wifi": "home"})


def link_of(event: AnyEvent) -> str:
    return "wifi" if isinstance(event, NatRebind) else str(getattr(event, "link", ""))


def troubles(found: list[AnyEvent], link: str) -> list[tuple[float, float]]:
    """Return from when to when the link was not well; a change of address takes a moment."""
    ours = [event for event in found if link_of(event) == link]
    spans = []
    while ours:
        event = ours.pop(0)
        moment = isinstance(event, AddressChange | NatRebind)
        spans.append((event.at, event.at if moment else ours.pop(0).at))
    return spans


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("links", [LINKS, LINKS[:2]])
def test_at_every_moment_a_link_is_well_and_has_been_for_a_while(seed: int, links: tuple[str, ...]) -> None:
    given = weather(seed, links)
    found = events(given, GROUNDS)
    assert len(found) > 50
    assert [event.at for event in found] == sorted(event.at for event in found)
    spans = {link: troubles(found, link) for link in links}
    for number in range(2990):
        now = number / 10
        well = [
            link
            for link in links
            if all(not begin - 1e-9 <= now < end + given.settle_s - 0.02 for begin, end in spans[link])
        ]
        assert well, now


@pytest.mark.parametrize("seed", range(20))
def test_every_trouble_ends(seed: int) -> None:
    for link in LINKS:
        ours = [event for event in events(weather(seed), GROUNDS) if link_of(event) == link]
        while ours:
            event = ours.pop(0)
            if isinstance(event, LinkDown):
                assert isinstance(ours.pop(0), LinkUp)
            elif isinstance(event, Blackhole):
                end = ours.pop(0)
                assert isinstance(end, BlackholeEnd)
                assert end.towards == event.towards
            elif isinstance(event, LinkChange):
                end = ours.pop(0)
                assert isinstance(end, LinkChange)
                assert GROUNDS[link].usual.merge(event.change).merge(end.change) == GROUNDS[link].usual
            elif isinstance(event, AddressChange):
                assert ip_interface(event.address) in GROUNDS[link].addresses[0].network
            else:
                assert isinstance(event, NatRebind)


def test_the_seed_decides() -> None:
    assert events(weather(5), GROUNDS) == events(weather(5), GROUNDS)
    assert events(weather(5), GROUNDS) != events(weather(6), GROUNDS)


def test_a_scenario_has_its_weather_on_its_timeline() -> None:
    day = scenario.load(scenario.find("mobile-day"))
    assert day.weather is not None
    assert len(day.timeline) > 10
    text = scenario.find("mobile-day").read_text()
    with pytest.raises(LabError, match="mobile-day: weather: 'left' must have all its links"):
        scenario.parse(
            text.replace('links = ["wifi", "lte"]\nnats', 'links = ["wifi", "dsl"]\nnats'), name="mobile-day"
        )
