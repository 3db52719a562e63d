from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from centipede.engine import native
from centipede.protocol import session
from tests.contract.harness import ENGINES, Rig, rig
from tests.trace import build
from tests.trace.cipher import Cipher
from tests.trace.entry import VARIABLE


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The name of an engine."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def extension(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The native engine with the trace."""
    return build.extension(tmp_path_factory.mktemp("trace"))


@pytest.fixture
def python_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which all session packets that Python seals in this process are traced."""
    monkeypatch.setenv(VARIABLE, str(tmp_path / "trace"))
    monkeypatch.setattr(session, "ChaCha20Poly1305", Cipher)
    return tmp_path / "trace"


@pytest.fixture
def trace(engine: str, python_trace: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file to which the engine, in this process, is traced."""
    if engine == "native":
        monkeypatch.setattr(native, "_loaded", load(request.getfixturevalue("extension")))
    return python_trace


@pytest.fixture
def make_rig(engine: str, trace: Path) -> Iterator[Callable[..., Rig]]:
    """Builds rigs around the engine with the trace; they are closed at the end."""
    with ExitStack() as stack:

        def make(**options: Any) -> Rig:
            return stack.enter_context(rig(engine, **options))

        yield make


def load(file: Path) -> ModuleType:
    """An extension from a file, beside the one that was built into the package."""
    spec = importlib.util.spec_from_file_location("centipede.engine._native", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
