"""The guest's kernel: Debian's own, unpacked into the lab's cache beside a static busybox, never installed.

Owns the record of what was fetched and the files it names. Must not know how a guest is started. Of the package's
modules only those are kept that a network lab can ask for; they are stored uncompressed and indexed by busybox's
depmod, so that the guest needs no tool of the host to load them.

Invariants: what the record names was verified by apt and is whole; the record is replaced in one step, and the kernel
that it named before stays until the next one, so that a guest that runs keeps its kernel. Only :func:`fetch` uses the
network.
"""

from __future__ import annotations

import lzma
import platform
import re
import shutil
import subprocess
import tarfile
import time
from pathlib import Path

import msgspec

from lab.debian import Archive, FetchError, locked, package_field, replace_file, run_tool, sha256
from lab.setup import cache_directory

SUITES = ("trixie", "bookworm")
"""Debian suites to try; a released one is wanted, since what is compared should be what people run."""
ARCHITECTURE = "x86_64"
"""The only one whose recipe is known to work."""
_METAPACKAGE = "linux-image-amd64"
_IMAGE = re.compile(r"linux-image-(\d\S*-amd64)")
_RECORD = "guest-kernel.json"
# In the package below lib/modules/RELEASE, or usr/lib/modules/RELEASE in newer ones.
_MODULES = re.compile(r"(?:\./)?(?:usr/)?lib/modules/[^/]+/(.+)")
_WANTED = re.compile(
    r"modules\.(builtin|builtin\.modinfo|order)"
    r"|kernel/(arch|crypto|lib|net)/.+"
    r"|kernel/fs/(9p|netfs|fscache|overlayfs)/.+"
    r"|kernel/drivers/virtio/.+"
    r"|kernel/drivers/net/([^/]+|(wireguard|bonding|vxlan|ipvlan|ovpn)/.+)"
)


class GuestKernel(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel and the busybox that boots it. Kept as JSON in the cache."""

    release: str
    """As ``uname -r`` in the guest says, such as ``6.12.117+deb13-amd64``."""
    version: str
    """The package's version."""
    suite: str
    """The Debian suite it was fetched from."""
    package: str
    package_sha256: str
    """Hash of the package, as apt verified it."""
    busybox: str
    """Version of busybox."""
    image_sha256: str
    """Hash of the kernel's image."""
    directory: str
    """Where it all lies."""
    fetched_at: float
    """Wall time of the fetch in seconds since 1970."""

    @property
    def home(self) -> Path:
        """``directory`` as a path."""
        return Path(self.directory)

    @property
    def image(self) -> Path:
        """The kernel."""
        return self.home / "vmlinuz"

    @property
    def busybox_program(self) -> Path:
        """The static busybox."""
        return self.home / "busybox"

    @property
    def modules_root(self) -> Path:
        """What becomes ``/lib/modules`` in the guest."""
        return self.home / "lib" / "modules"

    @property
    def modules(self) -> Path:
        """The modules of this kernel, with their index."""
        return self.modules_root / self.release


def guest_kernel(cache: Path | None = None) -> GuestKernel | None:
    """Return the kernel in the cache, None if there is none or it is not what was recorded."""
    try:
        found = msgspec.json.decode(((cache or cache_directory()) / _RECORD).read_bytes(), type=GuestKernel)
        unchanged = sha256(found.image) == found.image_sha256 and found.modules.is_dir()
    except (OSError, msgspec.DecodeError):
        return None
    return found if unchanged else None


def fetch(cache: Path | None = None, *, now: float | None = None) -> GuestKernel:
    """Make the cache hold the newest kernel of the first suite that has one, and return it.

    ``now`` is wall time, seconds since 1970. Uses the network. Raises FetchError, leaving the cache as it was.
    """
    if platform.machine() != ARCHITECTURE:
        raise FetchError(f"there is a guest for {ARCHITECTURE} machines only, and this is {platform.machine()}")
    cache = cache or cache_directory()
    reasons = []
    with locked(cache):
        before = guest_kernel(cache)
        for suite in SUITES:
            try:
                with Archive.open(suite, beside=cache) as archive:
                    found = _fetch_from(archive, cache, time.time() if now is None else now)
            except (FetchError, OSError) as error:
                reasons.append(f"{suite}: {error}")
                continue
            replace_file(cache / _RECORD, msgspec.json.format(msgspec.json.encode(found)))
            for other in cache.glob("guest-kernel-*"):
                if other.is_dir() and other not in (found.home, before and before.home):
                    shutil.rmtree(other, ignore_errors=True)
            return found
    raise FetchError(f"no kernel for the guest: {'; '.join(reasons)}")


def _fetch_from(archive: Archive, cache: Path, now: float) -> GuestKernel:
    matches = [match for name in archive.dependencies(_METAPACKAGE) if (match := _IMAGE.fullmatch(name))]
    if len(matches) != 1:
        raise FetchError(f"{_METAPACKAGE} names {len(matches)} kernels instead of one")
    package, release = matches[0][0], matches[0][1]
    known = guest_kernel(cache)
    if known is not None and (known.suite, known.version) == (archive.suite, archive.version(package)):
        return msgspec.structs.replace(known, fetched_at=now)
    file = archive.download(package)
    busybox = archive.download("busybox-static")
    unpacked = archive.scratch / "unpacked"
    (unpacked / "busybox-static").mkdir(parents=True)
    unpack_kernel(file, unpacked, release)
    run_tool(["dpkg", "-x", str(busybox), str(unpacked / "busybox-static")])
    program = next((unpacked / "busybox-static").glob("**/bin/busybox"))
    program.rename(unpacked / "busybox")
    shutil.rmtree(unpacked / "busybox-static")
    run_tool([str(unpacked / "busybox"), "depmod", "-b", str(unpacked), release])
    version = package_field(file, "Version")
    home = cache / f"guest-kernel-{release}-{version}-{int(now)}"
    shutil.rmtree(home, ignore_errors=True)
    unpacked.rename(home)
    return GuestKernel(
        release=release,
        version=version,
        suite=archive.suite,
        package=package,
        package_sha256=sha256(file),
        busybox=package_field(busybox, "Version"),
        image_sha256=sha256(home / "vmlinuz"),
        directory=str(home),
        fetched_at=now,
    )


def unpack_kernel(package: Path, directory: Path, release: str) -> None:
    """Unpack the kernel and the wanted modules of a package, decompressed. Raises FetchError."""
    modules = directory / "lib" / "modules" / release
    with subprocess.Popen(["dpkg-deb", "--fsys-tarfile", str(package)], stdout=subprocess.PIPE) as reader:
        assert reader.stdout is not None
        try:
            with tarfile.open(fileobj=reader.stdout, mode="r|") as archive:
                for member in archive:
                    source = archive.extractfile(member) if member.isfile() else None
                    target = _target(member.name, directory, modules, release)
                    if source is not None and target is not None:
                        _keep(source.read(), target)
            reader.stdout.read()  # what follows the archive's end, lest its writer be killed by it
        except (tarfile.TarError, lzma.LZMAError) as error:
            raise FetchError(f"{package.name} cannot be unpacked: {error}") from None
    if reader.returncode != 0:
        raise FetchError(f"dpkg-deb ended with {reader.returncode} while unpacking {package.name}")
    if not (directory / "vmlinuz").exists() or not modules.is_dir():
        raise FetchError(f"{package.name} has no kernel {release} where one was expected")


def _keep(content: bytes, target: Path) -> None:
    if target.suffix == ".xz":
        content, target = lzma.decompress(content), target.with_suffix("")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _target(name: str, directory: Path, modules: Path, release: str) -> Path | None:
    """Where a file of the package goes, None if it is not wanted."""
    if name.removeprefix("./") == f"boot/vmlinuz-{release}":
        return directory / "vmlinuz"
    match = _MODULES.fullmatch(name)
    if match is None or ".." in match[1] or not _WANTED.fullmatch(match[1]):
        return None
    return modules / match[1]
