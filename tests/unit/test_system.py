"""The small pieces that touch Linux: signals, the service manager, core dumps, the log, plans of links."""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from ipaddress import ip_interface, ip_network
from pathlib import Path

import pytest

from centipede.log import configure
from centipede.system.links import LinkPlan, LinkWatch
from centipede.system.notify import notify
from centipede.system.signals import Signals

ROOT = Path(__file__).resolve().parents[2]
TIMEOUT_S = 10.0


def test_signals_make_a_descriptor_readable() -> None:
    before = signal.getsignal(signal.SIGUSR1)
    with Signals((signal.SIGUSR1, signal.SIGUSR2)) as signals:
        assert signals.take() == frozenset()
        for number in (signal.SIGUSR1, signal.SIGUSR1, signal.SIGUSR2):
            os.kill(os.getpid(), number)
        ready, _, _ = select.select([signals], [], [], TIMEOUT_S)
        assert ready
        assert signals.take() == {signal.SIGUSR1, signal.SIGUSR2}
        assert signals.take() == frozenset()
    assert signal.getsignal(signal.SIGUSR1) is before


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_gets_a_datagram(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool) -> None:
    name = f"centipede-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(f"\0{name}" if abstract else name)
        manager.settimeout(TIMEOUT_S)
        monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}" if abstract else name)
        notify("READY=1")
        assert manager.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", [None, "", "relative", "/absent/socket"])
def test_without_a_service_manager_nothing_happens(monkeypatch: pytest.MonkeyPatch, address: str | None) -> None:
    if address is None:
        monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    else:
        monkeypatch.setenv("NOTIFY_SOCKET", address)
    notify("READY=1")


def test_core_dumps_are_forbidden() -> None:
    script = (
        "import resource, ctypes\n"
        "from centipede.system.memory import forbid_core_dumps, lock_memory\n"
        "forbid_core_dumps(); lock_memory()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "(0, 0) 0\n"


@pytest.fixture
def clean_logging() -> Iterator[None]:
    root, own = logging.getLogger(), logging.getLogger("centipede")
    before = root.handlers[:], root.level, own.level
    yield
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers[:], root.level, own.level = before


@pytest.mark.usefixtures("clean_logging")
def test_the_log_is_lines_with_the_level_it_was_given(tmp_path: Path) -> None:
    file = tmp_path / "logs" / "site-a.log"
    configure("site-a", level="info", as_json=False, file=file)
    logging.getLogger("centipede.daemon").info("up, %d workers", 2)
    logging.getLogger("centipede.daemon").debug("too much")
    logging.getLogger("somebody.else").info("too much")
    (line,) = file.read_text().splitlines()
    assert line.endswith(" INFO site-a: up, 2 workers")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.usefixtures("clean_logging")
def test_the_log_as_json(tmp_path: Path) -> None:
    file = tmp_path / "site-a.log"
    configure("site-a", level="debug", as_json=True, file=file)
    log = logging.getLogger("centipede.daemon")
    log.warning('a "quoted"\nword')
    try:
        raise KeyError("k")
    except KeyError:
        log.exception("defect")
    first, second = map(json.loads, file.read_text().splitlines())
    assert (first["level"], first["interface"], first["message"]) == ("warning", "site-a", 'a "quoted"\nword')
    assert first["time"].endswith("Z")
    assert second["traceback"].endswith("KeyError: 'k'")


def test_routes_are_what_no_address_covers() -> None:
    plan = LinkPlan.of(
        1420,
        [ip_interface("10.7.0.1/24"), ip_interface("fd07::1/64")],
        [ip_network(text) for text in ("10.7.0.2/32", "10.0.0.0/8", "fd07::/64", "fd08::/64", "10.7.0.0/24")],
    )
    assert plan.addresses == (ip_interface("10.7.0.1/24"), ip_interface("fd07::1/64"))
    assert plan.routes == (ip_network("10.0.0.0/8"), ip_network("fd08::/64"))


def test_the_watch_never_blocks() -> None:
    with LinkWatch() as watch:
        watch.drain()
        assert select.select([watch], [], [], 0)[0] == []
