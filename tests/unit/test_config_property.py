"""Whatever a configuration or a control request holds, the answer is a configuration or one sentence."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from centipede import config as module
from centipede.config import InterfaceTable, PeerTable, load_config, parse_peer
from centipede.errors import ConfigError
from centipede.fields import (
    parse_interface_address,
    parse_listen,
    parse_name,
    parse_network,
    parse_peer_name,
    parse_target,
)
from centipede.protocol.identity import Identity
from centipede.protocol.timing import Timing

KEY = Identity.from_seed(bytes([2]) * 32).public.text

LIKELY = st.sampled_from(
    [
        KEY,
        "auto",
        "all",
        "redundant",
        "fastest",
        "python",
        "10.7.0.1/24",
        "fd07::/64",
        "eth0:7",
        "[::1]:7",
        "a.b:7",
        "::",
    ]
)
SCALAR = st.one_of(LIKELY, st.text(max_size=20), st.integers(), st.floats(), st.booleans(), st.datetimes())
VALUE = SCALAR | st.lists(SCALAR, max_size=3) | st.dictionaries(st.text(max_size=5), SCALAR, max_size=3)


def tables(known: tuple[str, ...]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(known) | st.text(max_size=8), VALUE, max_size=6)


PEERS = tables(PeerTable.__struct_fields__)
FILES = st.fixed_dictionaries(
    {},
    optional={
        "interface": tables(InterfaceTable.__struct_fields__) | VALUE,
        "peer": st.lists(PEERS, max_size=2) | VALUE,
        "timing": tables(tuple(Timing.__dataclass_fields__)) | VALUE,
        "other": VALUE,
    },
)


@given(PEERS)
def test_any_peer_table(table: dict[str, Any]) -> None:
    told(lambda: parse_peer(table, "here", Path("/nonexistent")))
    told(lambda: parse_peer({"public_key": KEY, **table}, "here", Path("/nonexistent")))


@given(FILES)
def test_any_file(written: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_read", lambda file: written)
        patched.setattr(module, "_private_key", lambda *_: bytes([1]) * 32)
        patched.setattr(module, "check_private", lambda *_: None)
        patched.setattr(Path, "stat", lambda _: type("Status", (), {"st_mode": 0})())
        told(lambda: load_config(Path("/nonexistent/a.toml")))
        interface = written.get("interface")
        if isinstance(interface, dict):
            interface["address"] = ["10.7.0.1/24"]
            told(lambda: load_config(Path("/nonexistent/a.toml")))


def told(act: Callable[[], object]) -> None:
    """Whether it works or not, it fails in no other way than by a sentence."""
    with contextlib.suppress(ConfigError):
        act()


@pytest.mark.parametrize(
    "parse", [parse_interface_address, parse_listen, parse_name, parse_network, parse_peer_name, parse_target]
)
@given(text=st.text() | st.from_regex(r"\[?[0-9a-fA-F:.%]{1,40}\]?(:[0-9]{0,6})?(/[0-9]{0,3})?", fullmatch=True))
def test_any_text(parse: Callable[[str], object], text: str) -> None:
    with contextlib.suppress(ValueError):
        assert str(parse(text))
