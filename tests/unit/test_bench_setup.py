"""The lab's cache of fetched programs, without a network."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from lab import setup
from lab.debian import FetchError, sha256
from lab.setup import WireguardGo


def cached(cache: Path, content: bytes = b"#!/bin/sh\n", fetched_at: float = 1000.0) -> WireguardGo:
    """Put a program into a cache."""
    program = cache / "wireguard-go-1" / "wireguard-go"
    program.parent.mkdir(parents=True)
    program.write_bytes(content)
    made = WireguardGo(str(program), "1-1", "sid", sha256(program), "ab" * 32, fetched_at)
    (cache / "wireguard-go.json").write_bytes(msgspec.json.encode(made))
    return made


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Every fetch fails; returns when fetches were tried."""
    tried: list[float] = []

    def fetch(_cache: Path, now: float) -> WireguardGo:
        tried.append(now)
        raise FetchError("no network")

    monkeypatch.setattr(setup, "_fetch", fetch)
    return tried


def test_a_cached_program_is_used_as_recorded(tmp_path: Path) -> None:
    made = cached(tmp_path)
    assert setup.wireguard_go(tmp_path) == made


def test_a_program_that_is_not_what_was_recorded_is_not_used(tmp_path: Path) -> None:
    made = cached(tmp_path)
    Path(made.path).write_bytes(b"something else")
    found = setup.wireguard_go(tmp_path)
    assert found is None or found.suite == "installed"


def test_a_fresh_cache_asks_nobody(tmp_path: Path, no_network: list[float]) -> None:
    made = cached(tmp_path)
    assert setup.fetch_wireguard_go(tmp_path, now=1000.0 + setup.REFRESH_AFTER_S - 1) == made
    assert no_network == []


def test_an_old_cache_without_a_network_is_used_and_says_so(tmp_path: Path, no_network: list[float]) -> None:
    made = cached(tmp_path)
    found = setup.fetch_wireguard_go(tmp_path, now=1000.0 + setup.REFRESH_AFTER_S)
    assert no_network
    assert found == msgspec.structs.replace(made, note="not refreshed from Debian: no network")


def test_a_record_from_the_future_is_refreshed(tmp_path: Path, no_network: list[float]) -> None:
    cached(tmp_path, fetched_at=1e12)
    setup.fetch_wireguard_go(tmp_path, now=1000.0)
    assert no_network


def test_without_cache_and_network_the_installed_program_is_all_there_is(
    tmp_path: Path, no_network: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert setup.fetch_wireguard_go(tmp_path / "cache", now=0.0) is None
    assert no_network
    program = tmp_path / "wireguard-go"
    program.write_text("#!/bin/sh\necho wireguard-go v9\n")
    program.chmod(0o755)
    found = setup.fetch_wireguard_go(tmp_path / "cache", now=0.0)
    assert found is not None
    assert (found.suite, found.version) == ("installed", "v9")
    assert "no network" in found.note


@pytest.mark.parametrize(("value", "base"), [("/var/cache", Path("/var/cache")), ("", None), ("relative", None)])
def test_the_cache_follows_the_users_setting(value: str, base: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", value)
    assert setup.cache_directory() == (base or Path.home() / ".cache") / "centipede-lab"
