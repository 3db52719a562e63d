"""What the lab fetches for itself: the newest wireguard-go, from Debian's newer suites, into a cache of its own.

Debian 12 carries a wireguard-go of 2022, which is three to four times slower than today's. To compare with the one
people will run, the package of a newer suite is downloaded by apt into a private directory and unpacked there. It is
never installed, and the machine's own package lists are not touched. apt verifies it by the archive's signatures; what
was verified is recorded beside the program: version, suite, hash.

Invariants: nothing outside the cache is written; the record is replaced in one step, so that a reader sees an old
program or a new one; without a network an existing cache is used as it is. Only :func:`fetch_wireguard_go` uses the
network, everything else reads. ``python -m lab.setup`` fetches and says what it got.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

import msgspec

from lab.debian import Archive, FetchError, locked, package_field, replace_file, run_tool, sha256

SUITES = ("sid", "trixie")
"""Debian suites to try, newest first. The first whose program runs on this machine is taken."""
REFRESH_AFTER_S = 7 * 86400.0
"""A cached program younger than this is used without asking the archive."""
_RECORD = "wireguard-go.json"


class WireguardGo(msgspec.Struct, frozen=True):
    """One wireguard-go program and where it came from. Kept as JSON beside the program."""

    path: str
    """The program itself."""
    version: str
    """The package's version, such as ``0.0.20260522-1``; for a program of no package, what it calls itself."""
    suite: str
    """The Debian suite it was fetched from, or ``installed``."""
    sha256: str
    """Hash of the program."""
    package_sha256: str = ""
    """Hash of the package it was unpacked from, as apt verified it."""
    fetched_at: float = 0.0
    """Wall time of the fetch in seconds since 1970; 0 for an installed program."""
    note: str = ""
    """Why it is not the newest, in words; empty when it is."""


def cache_directory() -> Path:
    """The lab's cache for this user: ``$XDG_CACHE_HOME/centipede-lab``, by default below ``~/.cache``."""
    configured = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (configured if configured.is_absolute() else Path.home() / ".cache") / "centipede-lab"


def wireguard_go(cache: Path | None = None) -> WireguardGo | None:
    """The wireguard-go to use: the cached one if it still is what was recorded, else the installed one, else None."""
    return _cached(cache or cache_directory()) or _installed()


def fetch_wireguard_go(cache: Path | None = None, *, now: float | None = None) -> WireguardGo | None:
    """Make the cache hold the newest wireguard-go and return what :func:`wireguard_go` would, with a note if need be.

    ``now`` is wall time, seconds since 1970. Uses the network, unless the cache is fresh. Never raises for a machine
    that lacks apt, network or keyring: the note of the result says so. None means there is no wireguard-go at all.
    """
    cache = cache or cache_directory()
    now = time.time() if now is None else now
    try:
        with locked(cache):
            found = _cached(cache)
            if found is None or not 0 <= now - found.fetched_at < REFRESH_AFTER_S:
                found = _fetch(cache, now)
        return found
    except (FetchError, OSError) as error:
        fallback = wireguard_go(cache)
        if fallback is None:
            return None
        return msgspec.structs.replace(fallback, note=f"not refreshed from Debian: {error}")


def _cached(cache: Path) -> WireguardGo | None:
    try:
        found = msgspec.json.decode((cache / _RECORD).read_bytes(), type=WireguardGo)
        unchanged = sha256(Path(found.path)) == found.sha256
    except (OSError, msgspec.DecodeError):
        return None
    return found if unchanged else None


def _installed() -> WireguardGo | None:
    program = shutil.which("wireguard-go")
    if program is None:
        return None
    try:
        version = run_tool(["dpkg-query", "--show", "--showformat", "${Version}", "wireguard-go"])
    except FetchError:
        version = _version_text(Path(program))
    return WireguardGo(program, version, "installed", sha256(Path(program)), note="not fetched from Debian")


def _fetch(cache: Path, now: float) -> WireguardGo:
    """Fetch from the first suite that works. Raises FetchError with all their reasons."""
    reasons: list[str] = []
    for suite in SUITES:
        try:
            with Archive.open(suite, beside=cache) as archive:
                found = _fetch_from(archive, cache, now)
        except FetchError as error:
            reasons.append(f"{suite}: {error}")
            continue
        replace_file(cache / _RECORD, msgspec.json.format(msgspec.json.encode(found)))
        for other in cache.glob("wireguard-go-*"):
            if other != Path(found.path).parent:
                shutil.rmtree(other, ignore_errors=True)
        return found
    raise FetchError("; ".join(reasons))


def _fetch_from(archive: Archive, cache: Path, now: float) -> WireguardGo:
    package = archive.download("wireguard-go")
    version = package_field(package, "Version")
    run_tool(["dpkg", "-x", str(package), str(archive.scratch / "unpacked")])
    program = archive.scratch / "unpacked/usr/bin/wireguard-go"
    _version_text(program)  # proves that it runs here: a newer suite's program may want a newer C library
    home = cache / f"wireguard-go-{version}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    program.rename(home / "wireguard-go")
    return WireguardGo(
        path=str(home / "wireguard-go"),
        version=version,
        suite=archive.suite,
        sha256=sha256(home / "wireguard-go"),
        package_sha256=sha256(package),
        fetched_at=now,
    )


def _version_text(program: Path) -> str:
    """What the program calls itself. Raises FetchError if it does not run."""
    return (run_tool([str(program), "--version"]).splitlines() or ["unknown"])[0].removeprefix("wireguard-go ").strip()


def main() -> int:
    """Fetch, and say what there is. 1 if there is no wireguard-go at all."""
    found = fetch_wireguard_go()
    if found is None:
        print("wireguard-go: none could be fetched or found; comparisons will go without it", file=sys.stderr)
        return 1
    note = f" ({found.note})" if found.note else ""
    print(f"wireguard-go {found.version} from {found.suite}: {found.path}{note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
