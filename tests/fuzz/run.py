"""Fuzz the C engine with libFuzzer: ``python tests/fuzz/run.py [--seconds N] [TARGET...]``.

Builds each target with clang, AddressSanitizer and UndefinedBehaviorSanitizer under build/fuzz, and runs it from the
corpus beside this file. Exits with 1 at the first input that breaks a target; libFuzzer then names the file it wrote.
``--grow`` merges new inputs that reach new code into the committed corpus.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "fuzz"

TARGETS = {
    "segment": {"segment", "packet"},
    "coalesce": {"coalesce", "segment", "packet"},
    "receive": {
        "address",
        "coalesce",
        "engine",
        "inbound",
        "list",
        "outbound",
        "packet",
        "ring",
        "routes",
        "segment",
        "shelf",
        "table",
        "train",
        "window",
        "worker",
    },
    "table": {"table", "address", "list", "routes"},
}
"""The files of the engine that each target is linked with; it brings stand-ins for what it leaves out."""


def build(target: str) -> Path:
    """Compile a target; the program."""
    sys.path.insert(0, str(ROOT))
    from centipede.engine import build as engine

    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / target
    command = ["clang", *engine.STANDARD, "-O1", "-g", "-fno-omit-frame-pointer", *engine.macro_flags()]
    command += ["-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined"]
    command += [f"-I{engine.SOURCE}", f"-I{HERE}", str(HERE / f"{target}.c"), "-o", str(program), "-lpthread"]
    command += [str(engine.SOURCE / f"{name}.c") for name in sorted(TARGETS[target])]
    subprocess.run(command, check=True)
    return program


def fuzz(target: str, seconds: int, grow: bool) -> int:
    """Run a target for a while; libFuzzer's exit status."""
    program = build(target)
    corpus = HERE / "corpus" / target
    found = BUILD / f"{target}-corpus"
    found.mkdir(exist_ok=True)
    command = [str(program), f"-max_total_time={seconds}", "-max_len=8192", "-timeout=10", "-print_final_stats=1"]
    command += [f"-artifact_prefix={BUILD}/{target}-", "-verbosity=0", str(found), str(corpus)]
    status = subprocess.run(command, check=False).returncode
    if status == 0 and grow:
        subprocess.run([str(program), "-merge=1", "-max_len=2048", "-verbosity=0", str(corpus), str(found)], check=True)
    return status


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; default: all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--grow", action="store_true", help="add what was learnt to the committed corpus")
    options = parser.parse_args()
    if not shutil.which("clang"):
        sys.exit(
            "clang is not installed: fuzzing needs it and its libFuzzer (apt-get install clang libclang-rt-14-dev)"
        )
    unknown = set(options.targets) - set(TARGETS)
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    for target in options.targets or TARGETS:
        print(f"== {target}", flush=True)
        if status := fuzz(target, options.seconds, options.grow):
            sys.exit(f"{target} broke with status {status}; the input is in {BUILD}")


if __name__ == "__main__":
    main()
