"""Weather: what happens to a device's links by chance, the same for the same seed.

Owns the choice of events. Must not know how they are carried out (lab/timeline.py) nor what runs over the links. The
links take turns as the *anchor*: while one is the anchor nothing happens to it, and nothing has happened to it for a
while before, so that at every moment a path works that has had time to be found. All others are plagued, each by one
trouble at a time. Every trouble ends; when the weather ends all links are well.
"""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from lab.impairment import Change, Impairment
from lab.link import Interface
from lab.timeline import (
    AddressChange,
    AnyEvent,
    Blackhole,
    BlackholeEnd,
    LinkChange,
    LinkDown,
    LinkUp,
    NatRebind,
)

_EPISODE_S = (5.0, 9.0)
"""How long a link is the anchor."""
_TROUBLE_S = (0.3, 3.0)
_PAUSE_S = (0.2, 1.5)


class WeatherModel(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[weather]``: a host whose links are plagued by chance."""

    seed: int
    begins: float
    ends: float
    """In seconds after traffic may begin."""
    host: str
    links: tuple[str, ...]
    """Two at least; the first is the first anchor."""
    nats: Mapping[str, str] = {}
    """The router that translates behind a link, by link."""
    settle_s: float = 4.0
    """How long a link has been well before it is the anchor."""


class Ground(NamedTuple):
    """What is known of a link that is plagued."""

    addresses: tuple[Interface, ...]
    """Those of the host on it."""
    usual: Impairment
    """What it does to frames in good weather."""


def events(weather: WeatherModel, grounds: Mapping[str, Ground]) -> list[AnyEvent]:
    """Return the events, in their order. ``grounds`` has every link of the weather."""
    return sorted(_episodes(weather, grounds), key=lambda event: event.at)


def _episodes(weather: WeatherModel, grounds: Mapping[str, Ground]) -> Iterator[AnyEvent]:
    chance = random.Random(weather.seed)
    now, anchor = weather.begins, weather.links[0]
    while (end := now + chance.uniform(*_EPISODE_S)) + weather.settle_s <= weather.ends:
        others = [link for link in weather.links if link != anchor]
        for link in others:
            yield from _troubles(chance, weather, link, grounds[link], now, end)
        now, anchor = end + weather.settle_s, chance.choice(others)


def _troubles(
    chance: random.Random, weather: WeatherModel, link: str, ground: Ground, begin: float, end: float
) -> Iterator[AnyEvent]:
    at = begin + chance.uniform(*_PAUSE_S)
    while at < end:
        until = min(end, at + chance.uniform(*_TROUBLE_S))
        yield from _trouble(chance, weather, link, ground, round(at, 2), round(until, 2))
        at = until + chance.uniform(*_PAUSE_S)


def _trouble(
    chance: random.Random, weather: WeatherModel, link: str, ground: Ground, at: float, until: float
) -> Iterator[AnyEvent]:
    usual = ground.usual
    kinds = ["down", "dark", "one-way", "loss", "slow", "address", *(["rebind"] if link in weather.nats else [])]
    match chance.choice(kinds):
        case "down":
            yield LinkDown(at=at, link=link, host=weather.host)
            yield LinkUp(at=until, link=link, host=weather.host)
        case "dark":
            yield Blackhole(at=at, link=link)
            yield BlackholeEnd(at=until, link=link)
        case "one-way":
            yield Blackhole(at=at, link=link, towards=weather.host)
            yield BlackholeEnd(at=until, link=link, towards=weather.host)
        case "loss":
            yield LinkChange(at=at, link=link, change=Change(loss=round(chance.uniform(0.02, 0.5), 2)))
            yield LinkChange(at=until, link=link, change=Change(loss=usual.loss))
        case "slow":
            delay_ms = round(usual.delay_ms + chance.uniform(20, 200))
            yield LinkChange(at=at, link=link, change=Change(delay_ms=delay_ms))
            yield LinkChange(at=until, link=link, change=Change(delay_ms=usual.delay_ms))
        case "address":
            yield _move(chance, weather.host, link, ground, at)
        case "rebind":
            yield NatRebind(at=at, router=weather.nats[link])


def _move(chance: random.Random, host: str, link: str, ground: Ground, at: float) -> AddressChange:
    """Return a change to another IPv4 address of the same network, none that is in use."""
    network = next(address.network for address in ground.addresses if address.version == 4)
    address = ipaddress.ip_interface(f"{network[chance.randrange(50, 250)]}/{network.prefixlen}")
    return AddressChange(
        at=at, link=link, host=host, address=str(address), first="add" if chance.random() < 0.5 else "remove"
    )
