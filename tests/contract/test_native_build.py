"""How the C engine is built, and what becomes of an installation where it cannot be."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from centipede.engine import build, choose, native
from centipede.protocol.drops import DropReason
from tests.contract.harness import unavailable

ROOT = Path(__file__).parents[2]


def build_in(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build the extension below a directory; the source tree stays as it is."""
    command = [
        sys.executable,
        "setup.py",
        "build_ext",
        f"--build-lib={directory}/lib",
        f"--build-temp={directory}/temp",
    ]
    return subprocess.run(
        command, cwd=ROOT, env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def test_without_a_compiler_the_reason_is_kept(tmp_path: Path) -> None:
    built = build_in(tmp_path, CC="false")
    assert built.returncode == 0, built.stderr
    package = tmp_path / "lib" / "centipede" / "engine"
    assert (package / "_native.reason").read_text() == "there was no working C compiler\n"
    assert not list(package.glob("_native*.so"))


def test_without_libcrypto_the_reason_is_kept(tmp_path: Path) -> None:
    if reason := unavailable("native"):
        pytest.skip(f"the native engine cannot be built here: {reason}")
    header = tmp_path / "include" / "openssl" / "evp.h"
    header.parent.mkdir(parents=True)
    header.write_text("#error there is none\n")
    built = build_in(tmp_path, CFLAGS=f"-I{tmp_path}/include")
    assert built.returncode == 0, built.stderr
    reason_file = tmp_path / "lib" / "centipede" / "engine" / "_native.reason"
    assert reason_file.read_text() == "the headers of libcrypto were missing (libssl-dev)\n"


def missing(name: str) -> SimpleNamespace:
    raise ModuleNotFoundError(f"No module named {name!r}", name=name)


def broken(name: str) -> SimpleNamespace:
    raise ImportError("libcrypto.so.3: cannot open shared object file", name=name)


def outdated(name: str) -> SimpleNamespace:
    return SimpleNamespace(lib=SimpleNamespace(engine_drop_reasons=lambda: len(DropReason) - 1))


@pytest.mark.parametrize(
    ("load", "reason", "words"),
    [
        (missing, None, "it was not built"),
        (missing, "there was no working C compiler\n", "it was not built, because there was no working C compiler"),
        (broken, None, "it cannot be loaded: libcrypto.so.3: cannot open shared object file"),
        (outdated, None, "it was built from another version: build it again (pip install)"),
    ],
    ids=["missing", "not built", "broken", "outdated"],
)
def test_what_is_said_without_the_extension(
    load: object, reason: str | None, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason_file = tmp_path / "_native.reason"
    if reason:
        reason_file.write_text(reason)
    monkeypatch.setattr(native, "_REASON_FILE", reason_file)
    monkeypatch.setattr(native, "import_module", load)
    loaded = native._load()
    assert loaded == words
    monkeypatch.setattr(native, "_loaded", loaded)
    assert native.available() == words
    assert choose("auto").name == "python"
    assert choose("auto").reason == f"the native engine cannot be used: {words}"


def test_the_engine_counts_by_our_reasons() -> None:
    if reason := unavailable("native"):
        pytest.skip(f"the native engine cannot be used: {reason}")
    lib = importlib.import_module("centipede.engine._native").lib
    assert lib.engine_drop_reasons() == len(DropReason)
    assert dict(build.drop_macros())["DROP_BAD_TAG"] == str(int(DropReason.BAD_TAG))


@pytest.mark.parametrize("name", ["_ENDPOINT", "_RUN", "_ROUTE", "_PATH", "_PEER", "_SESSION", "_EVENT"])
def test_structures_are_packed_as_c_has_them(name: str) -> None:
    if reason := unavailable("native"):
        pytest.skip(f"the native engine cannot be used: {reason}")
    ffi = importlib.import_module("centipede.engine._native").ffi
    assert getattr(native, name).size == ffi.sizeof(f"struct engine{name.lower()}")
