"""Debian's archive as the lab uses it: single packages of any suite, downloaded and verified, never installed.

Owns apt's private directories, the options that keep apt inside them, and the tools' calls. Must not know what a
package is for. apt verifies the suite by the archive's signature and a package by the suite's hashes; the machine's own
package lists, sources and status are neither read nor written.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from lab.errors import LabError

PUBLIC_MIRROR = "http://deb.debian.org/debian/"
"""Debian's public name for its archive, for machines whose apt knows no Debian mirror (Ubuntu)."""
KEYRINGS = (
    Path("/usr/share/keyrings/debian-archive-keyring.gpg"),
    Path("/usr/share/keyrings/debian-archive-keyring.pgp"),
)
STEP_TIMEOUT_S = 120.0
"""How long one call of apt or dpkg may take."""


class FetchError(LabError):
    """A package could not be fetched; the text says why in one line."""


class Archive:
    """One suite of the archive, with the lists apt has just got for it."""

    def __init__(self, suite: str, scratch: Path) -> None:
        self.suite = suite
        self._scratch = scratch

    @classmethod
    @contextmanager
    def open(cls, suite: str, *, beside: Path) -> Iterator[Self]:
        """Get the lists of a suite into a directory in ``beside`` that lasts as long as the context. Raises FetchError.

        Uses the network.
        """
        keyring = next((path for path in KEYRINGS if path.exists()), None)
        if keyring is None:
            raise FetchError("package debian-archive-keyring is not installed, so nothing could be verified")
        mirror = debian_mirror()
        with tempfile.TemporaryDirectory(dir=beside, prefix="apt-") as directory:
            scratch = Path(directory)
            for name in ("sources", "state/lists/partial", "cache/archives/partial", "packages"):
                (scratch / name).mkdir(parents=True)
            (scratch / "status").touch()
            source = f"deb [signed-by={keyring} target=Packages] {mirror} {suite} main\n"
            (scratch / "sources" / "debian.list").write_text(source)
            archive = cls(suite, scratch)
            archive._apt("apt-get", "update")
            yield archive

    @property
    def scratch(self) -> Path:
        """A directory for what is made of the packages, gone with the context."""
        return self._scratch

    def download(self, package: str) -> Path:
        """Download a package and return its file, which lasts as long as the context. Raises FetchError."""
        directory = self._scratch / "packages"
        self._apt("apt-get", "download", package, cwd=directory)
        found = list(directory.glob(f"{package}_*.deb"))
        if len(found) != 1:
            raise FetchError(f"apt downloaded {len(found)} packages {package} instead of one")
        return found[0]

    def dependencies(self, package: str) -> list[str]:
        """Return the names of the packages a package depends on directly. Raises FetchError."""
        listed = self._apt("apt-cache", "depends", "--important", package)
        return [line.split(":", 1)[1].strip() for line in listed.splitlines() if line.strip().startswith("Depends:")]

    def version(self, package: str) -> str:
        """Return the version of a package that would be downloaded. Raises FetchError."""
        shown = self._apt("apt-cache", "show", "--no-all-versions", package)
        for line in shown.splitlines():
            if line.startswith("Version:"):
                return line.split(":", 1)[1].strip()
        raise FetchError(f"{self.suite} has no package {package}")

    def _apt(self, program: str, *words: str, cwd: Path | None = None) -> str:
        return run_tool([program, "-q", *_options(self._scratch), *words], cwd=cwd)


def debian_mirror() -> str:
    """The Debian mirror that apt on this machine is configured with, else Debian's public name. Ends with a slash."""
    listed = run_tool(["apt-get", "indextargets", "--no-release-info", "--format", "$(REPO_URI)"])
    for uri in listed.splitlines():
        if uri.rstrip("/").endswith("/debian"):
            return uri.rstrip("/") + "/"
    return PUBLIC_MIRROR


def package_field(package: Path, name: str) -> str:
    """Return a field of a package file, such as ``Version``. Raises FetchError."""
    return run_tool(["dpkg-deb", "--field", str(package), name])


def _options(scratch: Path) -> list[str]:
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


def run_tool(argv: Sequence[str], *, cwd: Path | None = None) -> str:
    """Return the standard output of a program. Raises FetchError with the last line it complained with."""
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


def sha256(path: Path) -> str:
    """Return the hash of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replace_file(path: Path, content: bytes) -> None:
    """Write a file so that readers see the old one or the new one."""
    partial = path.with_suffix(".partial")
    partial.write_bytes(content)
    partial.replace(path)


@contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Hold a cache directory, made if need be, alone: several runs may start at once."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
