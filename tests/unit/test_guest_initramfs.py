"""The guest's first file system: its bytes, and the order of modules."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from lab import initramfs
from lab.errors import LabError
from tests.unit.guests import make_modules


def unpack(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Read a newc archive by the letter of its format."""
    found: dict[str, tuple[int, bytes]] = {}
    at = 0
    while True:
        assert at % 4 == 0
        assert archive[at : at + 6] == b"070701"
        fields = [int(archive[at + 6 + 8 * n : at + 14 + 8 * n], 16) for n in range(13)]
        mode, size, name_size = fields[1], fields[6], fields[11]
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        begin = at + 110 + name_size
        begin += -begin % 4
        if name == b"TRAILER!!!\0":
            assert begin == len(archive)
            return found
        found[name[:-1].decode()] = (mode, archive[begin : begin + size])
        at = begin + size
        at += -at % 4


@pytest.mark.parametrize("length", range(6))
def test_an_archive_holds_what_was_put_in(length: int) -> None:
    files = {
        "d" * (length + 1): (stat.S_IFDIR | 0o755, b""),
        "d/f": (stat.S_IFREG | 0o644, b"x" * length),
        "link": (stat.S_IFLNK | 0o777, b"d/f"),
    }
    assert unpack(initramfs.cpio(files)) == files


def test_modules_come_after_what_they_need(tmp_path: Path) -> None:
    modules = make_modules(
        tmp_path, {"a/top.ko": ["b/mid-dle.ko", "c/low.ko"], "b/mid-dle.ko": ["c/low.ko"], "c/low.ko": []}
    )
    assert initramfs.load_order(["top"], modules) == ["c/low.ko", "b/mid-dle.ko", "a/top.ko"]
    assert initramfs.load_order(["mid_dle", "top", "low"], modules) == ["c/low.ko", "b/mid-dle.ko", "a/top.ko"]


def test_what_is_built_in_needs_no_file_and_what_is_nowhere_is_missed(tmp_path: Path) -> None:
    modules = make_modules(tmp_path, {}, built_in=["kernel/drivers/virtio/virtio_pci.ko"])
    assert initramfs.load_order(["virtio_pci"], modules) == []
    with pytest.raises(LabError, match="no module 9p"):
        initramfs.load_order(["9p"], modules)


def test_equal_input_gives_equal_bytes_and_all_that_init_calls_is_there(tmp_path: Path) -> None:
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"\x7fELF")
    modules = make_modules(tmp_path, {f"kernel/{name}.ko": [] for name in initramfs.BOOT_MODULES})
    archive = initramfs.build(busybox, modules)
    assert archive == initramfs.build(busybox, modules)
    files = unpack(archive)
    assert files["bin/busybox"] == (stat.S_IFREG | 0o755, b"\x7fELF")
    assert files["sbin/modprobe"][1] == b"/bin/busybox"
    loaded = sorted(name for name in files if name.startswith("modules/"))
    assert [name.partition("-")[2] for name in loaded] == [f"{name}.ko" for name in initramfs.BOOT_MODULES]
    mode, script = files["init"]
    assert mode == stat.S_IFREG | 0o755
    lines = [line.split() for line in script.decode().replace("must ", "").splitlines()]
    shell = {"end()", "must()", "for", "do", "done", "if", "else", "fi", "cd", "export", "echo", ":", "#", "#!/bin/sh"}
    for command in {words[0] for words in lines if words} - shell:
        assert f"bin/{command}" in files, command
