"""The test build: the native engine's extension with the trace, and the environment that daemons take it from.

    python -m tests.trace.build DIRECTORY

builds below DIRECTORY and prints that environment for a shell. Daemons that are started in it, by hand or by a scenario
of the lab, then write DIRECTORY/trace.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from centipede.engine import build
from tests.trace.entry import VARIABLE

HERE = Path(__file__).resolve().parent
NATIVE = "CENTIPEDE_TEST_NATIVE"
"""The environment variable that names the extension's directory."""


def extension(directory: Path, sources: Sequence[Path] = ()) -> Path:
    """Build the extension below a directory, from the engine's own sources if not from others; returns its file."""
    files = [*(sources or build.sources()), HERE / "trace.c"]
    builder = build.builder(link_args=("-Wl,--wrap=aead_seal",), files=files, installing=False)
    return Path(builder.compile(tmpdir=str(directory)))


def environment(extension_file: Path | None, trace: Path) -> dict[str, str]:
    """What daemons need in their environment to write a trace; without an extension, with the reference engine."""
    places = [str(HERE / "daemon"), str(HERE.parents[1])]
    native = {NATIVE: str(extension_file.parent)} if extension_file else {}
    return {"PYTHONPATH": os.pathsep.join(places), VARIABLE: str(trace), **native}


def main() -> None:
    """The command line."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.trace.build DIRECTORY")
    directory = Path(sys.argv[1]).resolve()
    for name, value in environment(extension(directory), directory / "trace").items():
        print(f"export {name}='{value}'")


if __name__ == "__main__":
    main()
