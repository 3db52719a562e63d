"""Build and run the C programs beside this file, and the contract suite against a sanitized engine.

    python tests/c/run.py stress [--sanitize tsan|asan]     window, ring and table swap under threads
    python tests/c/run.py bench                             what a packet costs without the kernel, one JSON per line
    python tests/c/run.py contract --sanitize asan [ARG...] the contract tests, with ARGs for pytest

The last loads the sanitizer's run-time library into Python and puts a sanitized extension in front of the built one.
Leaks are not looked for there: the interpreter leaves much behind by intention.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT))

from centipede.engine import build  # noqa: E402 - the line above makes it importable wherever this is called from

RUNTIMES = {"asan": "libasan.so", "tsan": "libtsan.so"}


def program(name: str, sanitizer: str | None) -> Path:
    """Compile a program together with the engine's sources."""
    directory = ROOT / "build" / "c"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / (f"{name}-{sanitizer}" if sanitizer else name)
    flags = ["-g", "-O1", "-fno-omit-frame-pointer", *build.SANITIZERS[sanitizer]] if sanitizer else [*build.OPTIMISED]
    command = ["gcc", *build.STANDARD, *flags, *build.STRICT, *build.macro_flags(), f"-I{build.SOURCE}"]
    command += [str(HERE / f"{name}.c"), *map(str, build.sources()), "-o", str(path)]
    subprocess.run([*command, *(f"-l{library}" for library in build.LIBRARIES)], check=True)
    return path


def contract(sanitizer: str, arguments: list[str]) -> int:
    """Run the contract tests of the native engine with a sanitizer; pytest's exit status."""
    directory = build.sanitized(sanitizer)
    found = subprocess.run(
        ["gcc", f"-print-file-name={RUNTIMES[sanitizer]}"], check=True, capture_output=True, text=True
    )
    environment = {
        **os.environ,
        "LD_PRELOAD": found.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
        "UBSAN_OPTIONS": "print_stacktrace=1:halt_on_error=1",
        "PYTHONPATH": os.pathsep.join([str(HERE), str(ROOT)]),
        "CENTIPEDE_TEST_NATIVE": str(directory),
    }
    command = [sys.executable, "-m", "pytest", "-p", "sanitized", "tests/contract", "-k", "native", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("what", choices=["stress", "bench", "contract"])
    parser.add_argument("--sanitize", choices=sorted(build.SANITIZERS))
    options, arguments = parser.parse_known_args()
    if options.what == "contract":
        if not options.sanitize:
            parser.error("contract is for a sanitizer; without one, run pytest tests/contract")
        sys.exit(contract(options.sanitize, arguments))
    if arguments:
        parser.error(f"unknown arguments: {' '.join(arguments)}")
    # Nothing is bound lazily, in no library either: the resolver saves vector registers, hence keys, on the stack.
    environment = {**os.environ, "LD_BIND_NOW": "1"}
    sys.exit(subprocess.run([str(program(options.what, options.sanitize))], env=environment, check=False).returncode)


if __name__ == "__main__":
    main()
