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

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

SUITES = ("sid", "trixie")
"""Debian suites to try, newest first. The first whose program runs on this machine is taken."""
PUBLIC_MIRROR = "http://deb.debian.org/debian/"
"""Debian's public name for its archive, for machines whose apt knows no Debian mirror (Ubuntu)."""
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
REFRESH_AFTER_S = 7 * 86400.0
"""A cached program younger than this is used without asking the archive."""
STEP_TIMEOUT_S = 120.0
"""How long one call of apt or dpkg may take."""

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


class FetchError(Exception):
    """A program could not be fetched; the text says why in one line."""


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
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / "lock"):
            found = _cached(cache)
            if found is None or not 0 <= now - found.fetched_at < REFRESH_AFTER_S:
                found = _fetch(cache, now)
        return found
    except (FetchError, OSError) as error:
        fallback = wireguard_go(cache)
        if fallback is None:
            return None
        return msgspec.structs.replace(fallback, note=f"not refreshed from Debian: {error}")


def debian_mirror() -> str:
    """The Debian mirror that apt on this machine is configured with, else Debian's public name. Ends with a slash."""
    listed = _run(["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)"])
    for uri in listed.splitlines():
        if uri.rstrip("/").endswith("/debian"):
            return uri.rstrip("/") + "/"
    return PUBLIC_MIRROR


def _cached(cache: Path) -> WireguardGo | None:
    try:
        found = msgspec.json.decode((cache / _RECORD).read_bytes(), type=WireguardGo)
        unchanged = _sha256(Path(found.path)) == found.sha256
    except (OSError, msgspec.DecodeError):
        return None
    return found if unchanged else None


def _installed() -> WireguardGo | None:
    program = shutil.which("wireguard-go")
    if program is None:
        return None
    try:
        version = _run(["dpkg-query", "--show", "--showformat", "${Version}", "wireguard-go"])
    except FetchError:
        version = _version_text(Path(program))
    return WireguardGo(program, version, "installed", _sha256(Path(program)), note="not fetched from Debian")


def _fetch(cache: Path, now: float) -> WireguardGo:
    """Fetch from the first suite that works. Raises FetchError with all their reasons."""
    keyring = next((path for path in KEYRINGS if path.exists()), None)
    if keyring is None:
        raise FetchError("package debian-archive-keyring is not installed, so nothing could be verified")
    mirror = debian_mirror()
    reasons: list[str] = []
    for suite in SUITES:
        with tempfile.TemporaryDirectory(dir=cache, prefix="apt-") as scratch:
            try:
                found = _fetch_suite(cache, Path(scratch), suite, mirror, keyring, now)
            except FetchError as error:
                reasons.append(f"{suite}: {error}")
                continue
        _replace(cache / _RECORD, msgspec.json.format(msgspec.json.encode(found)))
        for other in cache.glob("wireguard-go-*"):
            if other != Path(found.path).parent:
                shutil.rmtree(other, ignore_errors=True)
        return found
    raise FetchError("; ".join(reasons))


def _fetch_suite(cache: Path, scratch: Path, suite: str, mirror: str, keyring: Path, now: float) -> WireguardGo:
    for directory in ("sources", "state/lists/partial", "cache/archives/partial", "packages"):
        (scratch / directory).mkdir(parents=True)
    (scratch / "status").touch()
    source = f"deb [signed-by={keyring} target=Packages] {mirror} {suite} main\n"
    (scratch / "sources" / "debian.list").write_text(source)
    apt = ["apt-get", "-q", *_apt_options(scratch)]
    _run([*apt, "update"])
    _run([*apt, "download", "wireguard-go"], cwd=scratch / "packages")
    packages = list((scratch / "packages").glob("wireguard-go_*.deb"))
    if len(packages) != 1:
        raise FetchError(f"apt downloaded {len(packages)} packages instead of one")
    version = _run(["dpkg-deb", "--field", str(packages[0]), "Version"])
    _run(["dpkg", "-x", str(packages[0]), str(scratch / "unpacked")])
    program = scratch / "unpacked/usr/bin/wireguard-go"
    _version_text(program)  # proves that it runs here: a newer suite's program may want a newer C library
    home = cache / f"wireguard-go-{version}"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir()
    program.rename(home / "wireguard-go")
    return WireguardGo(
        path=str(home / "wireguard-go"),
        version=version,
        suite=suite,
        sha256=_sha256(home / "wireguard-go"),
        package_sha256=_sha256(packages[0]),
        fetched_at=now,
    )


def _apt_options(scratch: Path) -> list[str]:
    """Options that keep apt inside the scratch directory; proxies and the like stay as the machine has them."""
    settings = {
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": str(scratch / "sources"),
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": "/dev/null",
        "Dir::State": str(scratch / "state"),
        "Dir::State::status": str(scratch / "status"),
        "Dir::Cache": str(scratch / "cache"),
        # root's apt would fetch as another user, who cannot enter a private cache directory
        "APT::Sandbox::User": "root",
        "APT::Get::AllowUnauthenticated": "false",
        "APT::Update::Error-Mode": "any",
        "Acquire::AllowInsecureRepositories": "false",
        "Acquire::Languages": "none",
        "Acquire::PDiffs": "false",
        "Acquire::Retries": "2",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
    }
    return [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]


def _version_text(program: Path) -> str:
    """What the program calls itself. Raises FetchError if it does not run."""
    return (_run([str(program), "--version"]).splitlines() or ["unknown"])[0].removeprefix("wireguard-go ").strip()


def _run(argv: Sequence[str], *, cwd: Path | None = None) -> str:
    """Standard output of a program. Raises FetchError with the last line it complained with."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=STEP_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{argv[0]} took longer than {STEP_TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise FetchError(f"{argv[0]}: {error.strerror}") from error
    if done.returncode != 0:
        complaints = (done.stderr or done.stdout).strip().splitlines()
        raise FetchError(complaints[-1] if complaints else f"{argv[0]} ended with {done.returncode}")
    return done.stdout.strip()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the cache alone: several runs may start at once."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


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
