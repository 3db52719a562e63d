"""Building of the C engine: the one place that knows its sources, flags and libraries.

``setup.py`` takes ``ffibuilder`` from here, so that installing the package builds ``centipede.engine._native``. As a
program it builds variants for tests:

    python -m centipede.engine.build --check            compile csrc strictly with every compiler there is
    python -m centipede.engine.build --sanitize asan    build the extension under build/asan (or tsan)

This module must not import the package: while it is being installed, the package cannot be imported.
"""

from __future__ import annotations

import argparse
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any

from cffi import FFI

ROOT = Path(__file__).resolve().parents[2]
SOURCE = Path(__file__).resolve().parent / "csrc"
DROPS = SOURCE.parents[1] / "protocol" / "drops.py"
MODULE = "centipede.engine._native"

STANDARD = ("-std=gnu11", "-D_GNU_SOURCE")
OPTIMISED = ("-O2", "-fno-strict-aliasing", "-fvisibility=hidden")
STRICT = ("-Wall", "-Wextra", "-Werror", "-Wshadow", "-Wconversion", "-Wno-sign-conversion", "-Wvla")
LIBRARIES = ("crypto", "pthread", "dl")

SANITIZERS = {
    "asan": ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"),
    "tsan": ("-fsanitize=thread",),
}


def sources() -> list[Path]:
    """The C files of the engine."""
    return sorted(SOURCE.glob("*.c"))


def drop_macros() -> list[tuple[str, str]]:
    """``DROP_NO_ROUTE`` and the like, from the one list of reasons, so that C cannot diverge from it."""
    reasons: type[IntEnum] = runpy.run_path(str(DROPS))["DropReason"]
    macros = [(f"DROP_{reason.name}", str(int(reason))) for reason in reasons]
    return [*macros, ("DROP_REASONS", str(max(reasons) + 1))]


def macro_flags() -> list[str]:
    """:func:`drop_macros` as a compiler takes them."""
    return [f"-D{name}={value}" for name, value in drop_macros()]


def declarations() -> str:
    """What of ``engine.h`` is for cffi: the part between its two marks."""
    text = (SOURCE / "engine.h").read_text()
    return text.partition("end mark the text is also the declaration for cffi */")[2].partition("/* cdef: end */")[0]


def builder(
    compile_args: Sequence[str] = (),
    link_args: Sequence[str] = (),
    *,
    files: Sequence[Path] = (),
    installing: bool = True,
) -> Any:
    """The cffi builder of the extension: for setuptools while installing, else for a compilation of its own.

    ``files`` are its sources in place of the engine's.
    """
    ffi = FFI()
    ffi.cdef(declarations())
    ffi.set_source(
        MODULE,
        '#include "engine.h"',
        # setuptools wants names relative to the project; a compilation of its own happens in another directory
        sources=[os.path.relpath(file, ROOT) if installing else str(file) for file in files or sources()],
        depends=[os.path.relpath(path, ROOT) for path in (*sorted(SOURCE.glob("*.h")), DROPS, Path(__file__))],
        include_dirs=[str(SOURCE)],
        define_macros=drop_macros(),
        libraries=list(LIBRARIES),
        extra_compile_args=[*STANDARD, *OPTIMISED, *compile_args],
        extra_link_args=list(link_args),
        optional=installing,  # the package is whole without it
    )
    return ffi


def check() -> None:
    """Compile the engine with warnings as errors, with gcc and clang as far as they are installed."""
    compilers = [compiler for compiler in ("gcc", "clang") if shutil.which(compiler)]
    if not compilers:
        sys.exit("neither gcc nor clang is installed")
    for compiler in compilers:
        for source in sources():
            command = [compiler, *STANDARD, *OPTIMISED, *STRICT, "-fsyntax-only", *macro_flags(), str(source)]
            subprocess.run(command, check=True)
        print(f"{compiler}: {len(sources())} files without a warning")


def sanitized(name: str) -> Path:
    """Build the extension with a sanitizer; the directory that then holds ``_native``."""
    flags = [*SANITIZERS[name], "-g", "-O1", "-fno-omit-frame-pointer"]
    directory = ROOT / "build" / name
    built = builder(flags, flags, installing=False).compile(tmpdir=str(directory))
    return Path(built).parent


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Build variants of the C engine.")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--check", action="store_true", help="compile strictly, build nothing")
    what.add_argument("--sanitize", choices=sorted(SANITIZERS), help="build the extension with a sanitizer")
    options = parser.parse_args()
    if options.check:
        check()
    else:
        print(sanitized(options.sanitize))


if __name__ == "__main__":
    main()
elif __name__ == "__cffi__":
    ffibuilder = builder()
