"""The guest's kernel: what is kept of a package, and what the cache remembers."""

from __future__ import annotations

import lzma
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lab import guest_kernel
from lab.debian import FetchError
from lab.guest_kernel import fetch, unpack_kernel

RELEASE = "9.9.1+deb99-amd64"
BUSYBOX = """#!/bin/sh
[ "$1" = depmod ] && echo "kernel/net/a.ko:" >"$3/lib/modules/$4/modules.dep"
"""


def package(directory: Path, name: str, version: str, files: dict[str, bytes]) -> Path:
    """Make a package file."""
    tree = directory / f"tree-{name}-{version}"
    for path, content in files.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        (tree / path).write_bytes(content)
        (tree / path).chmod(0o755)
    (tree / "DEBIAN").mkdir(parents=True)
    control = f"Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: x\nDescription: x\n"
    (tree / "DEBIAN" / "control").write_text(control)
    file = directory / f"{name}_{version}.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", tree, file], check=True, capture_output=True)
    return file


def kernel_files(modules: str) -> dict[str, bytes]:
    return {
        f"boot/vmlinuz-{RELEASE}": b"image",
        f"boot/config-{RELEASE}": b"config",
        f"{modules}/{RELEASE}/kernel/net/a.ko": b"module a",
        f"{modules}/{RELEASE}/kernel/net/deep/b.ko.xz": lzma.compress(b"module b"),
        f"{modules}/{RELEASE}/kernel/drivers/net/veth.ko": b"veth",
        f"{modules}/{RELEASE}/kernel/drivers/net/ethernet/big.ko": b"card",
        f"{modules}/{RELEASE}/kernel/sound/noise.ko": b"noise",
        f"{modules}/{RELEASE}/modules.builtin": b"",
    }


class FakeArchive:
    """A suite with one kernel and a busybox, and a note of what was downloaded."""

    def __init__(self, directory: Path, version: str = "9.9.1-1", suite: str = "trixie") -> None:
        self.suite = suite
        self.scratch = directory / f"scratch-{suite}-{version}"
        self.scratch.mkdir(exist_ok=True)
        self.downloads: list[str] = []
        name = f"linux-image-{RELEASE}"
        self._version = version
        self._files = {
            name: package(self.scratch, name, version, kernel_files("usr/lib/modules")),
            "busybox-static": package(self.scratch, "busybox-static", "1.2", {"usr/bin/busybox": BUSYBOX.encode()}),
        }

    def dependencies(self, name: str) -> list[str]:
        assert name == "linux-image-amd64"
        return [f"linux-image-{RELEASE}"]

    def version(self, _name: str) -> str:
        return self._version

    def download(self, name: str) -> Path:
        self.downloads.append(name)
        return self._files[name]


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def serve(monkeypatch: pytest.MonkeyPatch, archive: FakeArchive) -> None:
    """Have the archive's suite served, and no other."""

    @contextmanager
    def open_suite(suite: str, *, beside: Path) -> Iterator[FakeArchive]:
        assert beside.is_dir()
        if suite != archive.suite:
            raise FetchError("no such suite")
        yield archive

    monkeypatch.setattr("lab.guest_kernel.Archive.open", open_suite)
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")


@pytest.mark.parametrize("modules", ["lib/modules", "usr/lib/modules"])
def test_wanted_modules_are_kept_decompressed(tmp_path: Path, modules: str) -> None:
    file = package(tmp_path, "kernel", "1", kernel_files(modules))
    unpack_kernel(file, tmp_path / "unpacked", RELEASE)
    found = {
        str(path.relative_to(tmp_path / "unpacked")): path.read_bytes()
        for path in (tmp_path / "unpacked").rglob("*")
        if path.is_file()
    }
    kept = f"lib/modules/{RELEASE}"
    assert found == {
        "vmlinuz": b"image",
        f"{kept}/kernel/net/a.ko": b"module a",
        f"{kept}/kernel/net/deep/b.ko": b"module b",
        f"{kept}/kernel/drivers/net/veth.ko": b"veth",
        f"{kept}/modules.builtin": b"",
    }


def test_a_package_without_the_kernel_is_refused(tmp_path: Path) -> None:
    file = package(tmp_path, "kernel", "1", kernel_files("lib/modules"))
    with pytest.raises(FetchError, match=r"no kernel 1\.2\.3"):
        unpack_kernel(file, tmp_path / "unpacked", "1.2.3")
    broken = tmp_path / "broken.deb"
    broken.write_bytes(b"!<arch>\n")
    with pytest.raises(FetchError, match=r"broken\.deb"):
        unpack_kernel(broken, tmp_path / "unpacked", RELEASE)


def test_a_kernel_is_fetched_once_for_each_version(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = FakeArchive(tmp_path)
    serve(monkeypatch, first)
    kernel = fetch(cache, now=1000.0)
    assert (kernel.release, kernel.version, kernel.suite) == (RELEASE, "9.9.1-1", "trixie")
    assert kernel.image.read_bytes() == b"image"
    assert (kernel.modules / "modules.dep").read_text() == "kernel/net/a.ko:\n"
    assert guest_kernel.guest_kernel(cache) == kernel
    again = fetch(cache, now=2000.0)
    assert again.directory == kernel.directory
    assert len(first.downloads) == 2

    serve(monkeypatch, FakeArchive(tmp_path, "9.9.1-2"))
    newer = fetch(cache, now=3000.0)
    assert newer.version == "9.9.1-2"
    assert kernel.home.exists()  # a guest may be running on it
    serve(monkeypatch, FakeArchive(tmp_path, "9.9.1-3"))
    fetch(cache, now=4000.0)
    assert not kernel.home.exists()


def test_the_next_suite_is_tried_and_all_reasons_are_told(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, FakeArchive(tmp_path, suite="bookworm"))
    assert fetch(cache, now=1000.0).suite == "bookworm"
    serve(monkeypatch, FakeArchive(tmp_path, suite="elsewhere"))
    with pytest.raises(FetchError, match="trixie: no such suite; bookworm: no such suite"):
        fetch(cache, now=2000.0)
    assert guest_kernel.guest_kernel(cache) is not None


def test_a_kernel_that_is_not_what_was_recorded_is_not_used(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(monkeypatch, FakeArchive(tmp_path))
    kernel = fetch(cache, now=1000.0)
    kernel.image.write_bytes(b"another image")
    assert guest_kernel.guest_kernel(cache) is None
    assert fetch(cache, now=1001.0).image.read_bytes() == b"image"


def test_other_machines_are_told_that_there_is_no_guest_for_them(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    with pytest.raises(FetchError, match="this is riscv64"):
        fetch(cache)
    assert guest_kernel.guest_kernel(cache) is None
