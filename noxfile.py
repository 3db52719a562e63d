"""Sessions of the project, one for each promise. ``./run SESSION`` is the convenient way to call them.

All sessions share one environment below ``.nox``, with the project installed in place. It is brought up to date only
when something that decides its content has changed: requirements, constraints, the build or the C sources.
"""

from __future__ import annotations

import hashlib
import os
import sys
import venv
from pathlib import Path

import nox

ROOT = Path(__file__).resolve().parent
ENVIRONMENT = ROOT / ".nox" / "environment"
SCENARIOS = "tests/lab/test_scenarios.py"
CONSTRAINTS = ROOT / "constraints.txt"
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

nox.options.sessions = ["lint", "tests"]
nox.options.default_venv_backend = "none"


@nox.session
def bench(session: nox.Session) -> None:
    """Compare Centipede with wireguard-go and draw the chart: -- --quick, --full, --repeat N, --tunnel KEY."""
    prepare(session)
    python(session, "-m", "lab", "bench", *session.posargs)


@nox.session
def tests(session: nox.Session) -> None:
    """All tests but the scenarios, which are the session lab; random order, all cores. Arguments go to pytest."""
    prepare(session)
    pytest(session, *(session.posargs or [f"--ignore={SCENARIOS}"]))


@nox.session
def lab(session: nox.Session) -> None:
    """Every scenario of the lab once, side by side: -- --full for other tunnels and repetitions, one at a time."""
    prepare(session)
    # for the other tunnels; without one of them their runs say so
    session.run(str(ENVIRONMENT / "bin" / "python"), "-m", "lab.setup", external=True, success_codes=[0, 1])
    if session.posargs:
        python(session, "-m", "lab", "run", "--all", *session.posargs)
    else:
        pytest(session, SCENARIOS, "-m", "not alone")
        pytest(session, SCENARIOS, "-m", "alone", workers="0")


@nox.session
def simulate(session: nox.Session) -> None:
    """Simulated storms between nodes, of all kinds in turn: -- --seeds 10000."""
    prepare(session)
    python(session, "-m", "lab.simulate", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Fuzz the C engine's parsers from the committed corpus: -- --seconds N, --grow, TARGET."""
    prepare(session)
    python(session, "tests/fuzz/run.py", *session.posargs)


@nox.session
def sanitize(session: nox.Session) -> None:
    """The C engine under ThreadSanitizer, its contract tests under AddressSanitizer and UBSan. Arguments: pytest's."""
    prepare(session)
    python(session, "tests/c/run.py", "stress", "--sanitize", "tsan")
    python(session, "tests/c/run.py", "stress", "--sanitize", "asan")
    words = [str(ENVIRONMENT / "bin" / "python"), "tests/c/run.py", "contract", "--sanitize", "asan"]
    python(session, "-m", "lab", "enter", *words, "-n", cores(), *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """The pages alone: links, shown configurations, cited sections; walk-throughs are followed to the letter."""
    prepare(session)
    pytest(session, "tests/unit/test_pages.py", *map(str, ROOT.glob("tests/e2e/test_*_page.py")), *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Formatting, lint, types and spelling."""
    prepare(session, "lint")
    python(session, "-m", "ruff", "format", "--check")
    python(session, "-m", "ruff", "check")
    python(session, "-m", "mypy")
    python(session, "-m", "codespell_lib")


def python(session: nox.Session, *arguments: str) -> None:
    """Run the environment's Python."""
    session.run(str(ENVIRONMENT / "bin" / "python"), *arguments, external=True)


def pytest(session: nox.Session, *arguments: str, workers: str | None = None) -> None:
    """Run tests on all cores, where need be in a user namespace in which they may build networks."""
    parallel = ["-n", workers or cores(), "--dist", "loadgroup"]
    words = [str(ENVIRONMENT / "bin" / "python"), "-m", "pytest", *parallel, *arguments]
    python(session, "-m", "lab", "enter", *words)


def cores() -> str:
    """The number of processors this process may use, for pytest's ``-n``."""
    return str(len(os.sched_getaffinity(0)))


def prepare(session: nox.Session, *groups: str) -> None:
    """Have an environment with the project, its lab, and the given groups of requirements besides those for tests."""
    for group in ("test", *groups):
        requirements = nox.project.dependency_groups(PROJECT, group)
        once(session, f"group-{group}", repr(requirements), ["install", *requirements])
    build = PROJECT["build-system"]["requires"]
    once(session, "build", repr(build), ["install", *build])
    # without isolation the build uses the pinned tools just installed
    once(session, "project", sources(), ["install", "--no-build-isolation", "--editable", f"{ROOT}[lab]"])


def once(session: nox.Session, name: str, content: str, pip: list[str]) -> None:
    """Call pip unless it was called before for the same content with the same Python and constraints."""
    renew_environment()
    stamp = ENVIRONMENT / f"stamp-{name}"
    wanted = hashlib.sha256(f"{CONSTRAINTS.read_text()}\0{content}".encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    python(session, "-m", "pip", "--quiet", "--disable-pip-version-check", *pip, "--constraint", str(CONSTRAINTS))
    stamp.write_text(wanted)


def renew_environment() -> None:
    """Make the environment anew, empty, if there is none or if it belongs to another Python than this one."""
    stamp = ENVIRONMENT / "stamp-python"
    if stamp.exists() and stamp.read_text() == sys.version:
        return
    venv.create(ENVIRONMENT, clear=True, with_pip=True)
    stamp.write_text(sys.version)


def sources() -> str:
    """Return a digest of everything the installation in place is made from."""
    package = ROOT / "centipede"
    files = [
        ROOT / "pyproject.toml",
        ROOT / "setup.py",
        package / "engine" / "build.py",
        package / "protocol" / "drops.py",
    ]
    files += sorted((package / "engine" / "csrc").glob("*.[ch]"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(ROOT)}\0".encode())
        digest.update(file.read_bytes() if file.exists() else b"-")
    return digest.hexdigest()
