"""Changes: only what differs is touched, and what cannot change while running is refused by name."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import pytest

from centipede.changes import compare, find_peer
from centipede.config import Config, PeerConfig, parse_peer
from centipede.errors import ControlError
from centipede.fields import ANYWHERE, parse_listen
from centipede.protocol.identity import Identity
from centipede.protocol.timing import Timing


def peer(number: int, **keys: Any) -> PeerConfig:
    table = {"public_key": Identity.from_seed(bytes([number]) * 32).public.text, "name": f"peer-{number}", **keys}
    return parse_peer(table, "test", Path("/"))


BEFORE = Config(
    file=Path("/etc/centipede/site-a.toml"),
    name="site-a",
    identity=Identity.from_seed(bytes([1]) * 32),
    addresses=(ip_interface("10.7.0.1/24"),),
    listen=(ANYWHERE,),
    mtu=1420,
    engine="auto",
    workers=None,
    peers=(peer(2), peer(3)),
    timing=Timing(),
)


def test_nothing_differs() -> None:
    changes = compare(BEFORE, replace(BEFORE, peers=(peer(3), peer(2)), file=Path("/elsewhere.toml")))
    assert (changes.added, changes.removed, changes.changed, changes.words) == ((), (), (), ())


def test_peers_are_told_apart_by_their_keys() -> None:
    changes = compare(BEFORE, replace(BEFORE, peers=(peer(3, name="renamed"), peer(4))))
    assert [each.spec.name for each in changes.added] == ["peer-4"]
    assert [each.spec.name for each in changes.removed] == ["peer-2"]
    assert [each.spec.name for each in changes.changed] == ["renamed"]
    assert changes.words == ("peer peer-4 added", "peer peer-2 removed", "peer renamed changed")


@pytest.mark.parametrize(
    "keys", [{"endpoints": ["192.0.2.1"]}, {"allowed_ips": ["10.0.0.0/8"]}, {"copies": 3}, {"keepalive": True}]
)
def test_every_setting_of_a_peer_counts(keys: dict[str, Any]) -> None:
    changes = compare(BEFORE, replace(BEFORE, peers=(peer(2, **keys), peer(3))))
    assert changes.words == ("peer peer-2 changed",)


def test_settings_of_the_interface() -> None:
    after = replace(BEFORE, mtu=1300, listen=(parse_listen("eth0"),), addresses=(ip_interface("10.7.0.9/24"),))
    assert compare(BEFORE, after).words == ("addresses changed", "listen changed", "mtu changed")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"identity": Identity.from_seed(bytes([9]) * 32)}, "private_key"),
        ({"engine": "python"}, "engine"),
        ({"workers": 2}, "workers"),
        ({"timing": Timing(rekey_s=5.0)}, r"\[timing\]"),
        ({"engine": "python", "workers": 2}, "engine and workers"),
    ],
)
def test_what_only_a_restart_can_change(change: dict[str, Any], named: str) -> None:
    with pytest.raises(
        ControlError, match=rf"{named} cannot change while site-a is running; run 'centipede down site-a'"
    ):
        compare(BEFORE, replace(BEFORE, **change))


def test_peers_are_found_by_name_and_by_key() -> None:
    second = BEFORE.peers[1]
    assert find_peer(BEFORE.peers, "peer-3") is second
    assert find_peer(BEFORE.peers, second.spec.public_key.text) is second
    with pytest.raises(ControlError, match="there is no peer 'peer-9'; there are: peer-2, peer-3"):
        find_peer(BEFORE.peers, "peer-9")
