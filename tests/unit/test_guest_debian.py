"""Debian's archive, without a network."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab import debian
from lab.debian import PUBLIC_MIRROR, Archive, FetchError, debian_mirror


@pytest.mark.parametrize(
    ("listed", "mirror"),
    [
        ("http://mirror.example/debian-security/\nhttp://mirror.example/debian/\n", "http://mirror.example/debian/"),
        ("https://mirror.example/ubuntu/\n", PUBLIC_MIRROR),
        ("", PUBLIC_MIRROR),
    ],
)
def test_the_mirror_is_the_one_apt_uses(listed: str, mirror: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "run_tool", lambda _argv: listed)
    assert debian_mirror() == mirror


def test_without_the_archives_keys_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debian, "KEYRINGS", (tmp_path / "none",))
    with pytest.raises(FetchError, match="debian-archive-keyring"), Archive.open("sid", beside=tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_tool_that_fails_is_quoted() -> None:
    with pytest.raises(FetchError, match=r"^worse$"):
        debian.run_tool(["sh", "-c", "echo bad >&2; echo worse >&2; exit 3"])
    with pytest.raises(FetchError, match=r"^no-such-tool: No such file"):
        debian.run_tool(["no-such-tool"])
