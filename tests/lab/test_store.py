"""The lab's store: it is there when it is started, keeps what it had, and is missed in words."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from ipaddress import ip_address
from pathlib import Path
from typing import TypeVar

import pytest

from centipede.cluster.etcd import Etcd, Range, StoreError
from lab.host import Host
from lab.store import Store, endpoint, unavailable, version

_T = TypeVar("_T")
ADDRESS = ip_address("127.0.0.1")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host("keeper", tmp_path / "keeper")
    yield made
    made.close()


def ask(host: Host, question: Callable[[Etcd], _T]) -> _T:
    def there() -> _T:
        with closing(Etcd([endpoint(ADDRESS)], None)) as etcd:
            return question(etcd)

    return host.call(there)


@pytest.mark.netns
def test_a_store_that_was_killed_is_back_with_what_it_had(host: Host) -> None:
    if (reason := unavailable()) is not None:
        pytest.skip(f"this machine can run no store: {reason}")
    store = Store(host, ADDRESS)
    assert store.processes == []
    store.start()
    ask(host, lambda etcd: etcd.create("/here", b"kept", 0))
    (process,) = store.processes
    process.kill()
    with pytest.raises(StoreError, match="refused"):
        ask(host, lambda etcd: etcd.look([Range("/")]))
    store.start()
    ((found,),) = ask(host, lambda etcd: etcd.look([Range("/")])).ranges
    assert (found.key, found.value) == ("/here", b"kept")
    store.stop()
    assert not any(process.running for process in host.processes)


def test_urls_are_those_of_either_ip_version() -> None:
    assert endpoint(ADDRESS) == "http://127.0.0.1:2379"
    assert endpoint(ip_address("fd00::7")) == "http://[fd00::7]:2379"


def test_a_machine_without_etcd_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert version() is None
    assert unavailable() == "it has no etcd: apt-get install --no-install-recommends etcd-server"
    program = tmp_path / "etcd"
    program.write_text("#!/bin/sh\necho etcd Version: 3.4.23\n")
    program.chmod(0o755)
    assert (version(), unavailable()) == ("3.4.23", None)
