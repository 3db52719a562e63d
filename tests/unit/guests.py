"""A guest's kernel that is none, and a QEMU that is none, for tests of everything around them."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

from lab import initramfs
from lab.guest_kernel import GuestKernel

FAKE_QEMU = """\
#!/bin/sh
# Finds the directory it is to share and plays the guest that FAKE_GUEST names.
for word in "$@"; do
    case $word in
        local,id=out,path=*) out=$(echo "$word" | sed 's/.*,path=//; s/,security_model=.*//; s/,,/,/g')/guest ;;
        file:*) console=${word#file:} ;;
    esac
done
echo $$ >"$out/pid"
printf '%s\\n' "$@" >"$out/arguments"
case $FAKE_GUEST in
    whole) : >"$out/started"; echo said >"$out/stdout"; echo complained >"$out/stderr"; echo 6 >"$out/status" ;;
    panic) : >"$out/started"; echo "Kernel panic - not syncing: test" >"$console"
        for line in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do echo "line $line" >>"$console"; done ;;
    hang) : >"$out/started"; echo "still here" >"$console"; exec sleep 600 ;;
    refuse) echo "cannot do that" >&2; exit 1 ;;
esac
"""


def make_modules(directory: Path, needs: Mapping[str, Sequence[str]], built_in: Sequence[str] = ()) -> Path:
    """Return a directory of modules: each path with the paths it depends on."""
    modules = directory / "modules"
    for path in needs:
        (modules / path).parent.mkdir(parents=True, exist_ok=True)
        (modules / path).write_bytes(path.encode())
    modules.mkdir(exist_ok=True)
    (modules / "modules.dep").write_text("".join(f"{path}: {' '.join(found)}\n" for path, found in needs.items()))
    (modules / "modules.builtin").write_text("".join(f"{path}\n" for path in built_in))
    return modules


def make_kernel(directory: Path) -> GuestKernel:
    """Return a kernel whose files are there and mean nothing."""
    kernel = GuestKernel(
        release="9.9-test",
        version="9.9-1",
        suite="trixie",
        package="linux-image-9.9-test",
        package_sha256="ab" * 32,
        busybox="1.0",
        image_sha256="cd" * 32,
        directory=str(directory),
        fetched_at=0.0,
    )
    modules = make_modules(directory, {f"kernel/{name}.ko": [] for name in initramfs.BOOT_MODULES})
    kernel.modules_root.mkdir(parents=True)
    modules.rename(kernel.modules)
    kernel.image.write_bytes(b"kernel")
    kernel.busybox_program.write_bytes(b"busybox")
    return kernel


def make_qemu(directory: Path) -> None:
    """Put the QEMU that is none into a directory."""
    program = directory / "qemu-system-x86_64"
    program.write_text(textwrap.dedent(FAKE_QEMU))
    program.chmod(0o755)
