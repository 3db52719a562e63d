"""The guest's first file system: busybox, the modules it takes to see the host's files, and the script that starts.

Owns the cpio archive's bytes, the order in which modules are loaded, and ``/init``. Must not know QEMU or commands:
what the guest is to do lies in the directory that it mounts. Invariant: equal input gives equal bytes.

What ``/init`` makes:

    /          the host's root, read-only over 9p, under an overlay whose writes are kept in memory and lost
    /guest/out the one directory whose files stay, over 9p
    /guest/tmp memory

In that directory's subdirectory ``guest`` it finds the script ``command``, and the file ``modules`` with the path of
the modules on the host. It writes ``started`` there just before the script runs, then the script's ``stdout``,
``stderr`` and, last and in one step, ``status``. Without the file ``status`` the guest has not come to its end.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from lab.errors import LabError

HOST_TAG = "host"
OUT_TAG = "out"
OUT = Path("/guest/out")
"""Where the guest sees the directory of its command and results."""
FILES = "guest"
"""Its subdirectory for what concerns the guest itself."""
STARTED = "started"
"""In it, there once the command has begun."""
TEMPORARY = Path("/guest/tmp")
BOOT_MODULES = ("virtio_pci", "9pnet_virtio", "9p", "overlay")
"""What is loaded before anything else, besides what these depend on."""
LATER_MODULES = ("tun", "veth", "wireguard")
"""Loaded by name, since no device node or request calls them in time; all others come when they are asked for."""

_INIT = """\
#!/bin/sh
# Runs as process 1 of the guest.
export PATH=/bin
end() {{ echo "guest: $1" >/dev/console; sync; poweroff -f; }}
must() {{ "$@" || end "cannot $*"; }}

must mount -t proc proc /proc
must mount -t sysfs sys /sys
must mount -t devtmpfs dev /dev
for module in /modules/*; do
    must insmod "$module"
done
must mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 {host} /ro
must mount -t 9p -o trans=virtio,version=9p2000.L,cache=none,msize=512000 {out} /out
must mount -t tmpfs -o mode=755 rw /rw
must mkdir /rw/upper /rw/work
must mount -t overlay -o lowerdir=/ro,upperdir=/rw/upper,workdir=/rw/work root /new
must mount --bind "/ro$(cat {files}/modules)" /lib/modules
for module in {later}; do
    must modprobe "$module"
done

must mkdir -p /new{out_directory} /new{temporary} /new/lib/modules
must mount -t proc proc /new/proc
must mount -t sysfs sys /new/sys
must mount -t devtmpfs dev /new/dev
must mkdir -p /new/dev/pts /new/dev/shm
must mount -t devpts -o mode=620,ptmxmode=666 devpts /new/dev/pts
must mount -t tmpfs -o mode=1777 shm /new/dev/shm
must mount -t tmpfs -o mode=755 run /new/run
must mount -t tmpfs -o mode=1777 tmp /new{temporary}
must mount --bind /out /new{out_directory}
must mount --bind /lib/modules /new/lib/modules
chmod 666 /new/dev/net/tun
hostname guest
ip link set lo up

# Whoever enters a mount namespace lands at its topmost root, so that chroot alone would not do. This script itself
# stays below, as do the programs that the kernel starts.
cd /new
must mount --move /new /

: >{files}/started
if [ -e {files}/interactive ]; then
    setsid -c chroot . /bin/sh {command} </dev/ttyS0 >/dev/ttyS0 2>&1
else
    chroot . /bin/sh {command} </dev/null >{files}/stdout 2>{files}/stderr
fi
echo $? >{files}/status.partial
sync
mv {files}/status.partial {files}/status
poweroff -f
"""


def build(busybox: Path, modules: Path) -> bytes:
    """Return the archive for a kernel whose modules lie in ``modules``. Raises LabError if it lacks one."""
    files: dict[str, tuple[int, bytes]] = {}
    for directory in ("bin", "sbin", "dev", "proc", "sys", "ro", "rw", "out", "new", "lib", "lib/modules", "modules"):
        files[directory] = (stat.S_IFDIR | 0o755, b"")
    files["bin/busybox"] = (stat.S_IFREG | 0o755, busybox.read_bytes())
    for name in (
        "sh",
        "mount",
        "mkdir",
        "insmod",
        "cat",
        "chmod",
        "chroot",
        "setsid",
        "sync",
        "mv",
        "poweroff",
        "hostname",
        "ip",
    ):
        files[f"bin/{name}"] = (stat.S_IFLNK | 0o777, b"busybox")
    for name in ("bin/modprobe", "sbin/modprobe"):  # the kernel calls the latter
        files[name] = (stat.S_IFLNK | 0o777, b"/bin/busybox")
    for number, path in enumerate(load_order(BOOT_MODULES, modules)):
        files[f"modules/{number:03}-{Path(path).name}"] = (stat.S_IFREG | 0o644, (modules / path).read_bytes())
    init = _INIT.format(
        host=HOST_TAG,
        out=OUT_TAG,
        out_directory=OUT,
        files=f"/out/{FILES}",
        command=OUT / FILES / "command",
        temporary=TEMPORARY,
        later=" ".join(LATER_MODULES),
    )
    files["init"] = (stat.S_IFREG | 0o755, init.encode())
    return cpio(files)


def load_order(names: Iterable[str], modules: Path) -> list[str]:
    """Return the files of some modules and of all they depend on, each after what it depends on.

    Built-in ones have no file. Raises LabError for a module the kernel does not have.
    """
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, found = line.partition(":")
        needs[path] = found.split()
    by_name = {_module_name(path): path for path in needs}
    built_in = {_module_name(path) for path in (modules / "modules.builtin").read_text().splitlines()}
    ordered: dict[str, None] = {}

    def add(path: str) -> None:
        for needed in needs[path]:
            if needed not in ordered:
                add(needed)
        ordered[path] = None

    for name in names:
        if name in by_name:
            add(by_name[name])
        elif name not in built_in:
            raise LabError(f"the guest's kernel has no module {name}")
    return list(ordered)


def _module_name(path: str) -> str:
    return Path(path).name.removesuffix(".ko").replace("-", "_")


def cpio(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """Return a cpio archive as the kernel unpacks it: path to mode and content (a link's content is its target).

    Format "newc" of Documentation/driver-api/early-userspace/buffer-format.rst: a header of 110 ASCII characters, the
    name with its zero, the content, both padded to a multiple of 4. Everything belongs to root and has no time.
    """
    return b"".join(_members(files))


def _members(files: Mapping[str, tuple[int, bytes]]) -> Iterator[bytes]:
    for number, (name, (mode, content)) in enumerate(files.items(), 1):
        yield _member(name, number, mode, content)
    yield _member("TRAILER!!!", 0, 0, b"")


def _member(name: str, number: int, mode: int, content: bytes) -> bytes:
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (number, mode, 0, 0, links, 0, len(content), 0, 0, 0, 0, len(encoded), 0)
    header = b"070701" + b"".join(b"%08x" % value for value in fields)
    return _padded(header + encoded) + _padded(content)


def _padded(content: bytes) -> bytes:
    return content + b"\0" * (-len(content) % 4)
