"""What contenders are told, without starting any."""

from __future__ import annotations

import socket
import threading
import tomllib
from ipaddress import ip_address, ip_interface
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from centipede.config import load_config
from centipede.protocol.endpoint import Endpoint
from centipede.protocol.identity import Identity
from lab.errors import LabError
from lab.host import Host
from lab.tunnels import TUNNELS, make_tunnel
from lab.tunnels.base import TunnelEnd, TunnelError, TunnelOptions, wait_for_traffic
from lab.tunnels.centipede import Readiness, cluster_section, configuration
from lab.tunnels.plain import Plain
from lab.tunnels.wireguard_go import configuration as wireguard_configuration
from lab.tunnels.wireguard_go import dialogue

OWN, REMOTE = Identity.from_seed(bytes([1]) * 32), Identity.from_seed(bytes([2]) * 32)


def end(name: str, number: int, **others: Any) -> TunnelEnd:
    return TunnelEnd(
        host=cast("Host", SimpleNamespace(name=name)),
        inner=(ip_interface(f"10.7.0.{number}/24"), ip_interface(f"fd07::{number}/64")),
        outer=(ip_address(f"192.0.2.{number}"), ip_address(f"2001:db8::{number}")),
        **others,
    )


A, B = end("a", 1), end("b", 2)


@pytest.mark.parametrize(
    "options",
    [
        TunnelOptions(),
        TunnelOptions(scheduler="redundant", copies="all", heartbeat_s=0.05, keepalive_s=5, workers=2),
        TunnelOptions(timing={"rekey_s": 2.0}, listen=("auto",), mtu=1300),
    ],
)
def test_centipede_accepts_the_configuration_it_is_given(options: TunnelOptions, tmp_path: Path) -> None:
    file = tmp_path / "cpd0.toml"
    file.touch(mode=0o600)
    file.write_text(configuration(OWN, A, REMOTE, B, "python", options))
    config = load_config(file)
    assert config.engine == "python"
    assert config.mtu == options.mtu
    assert config.identity.public == OWN.public
    (peer,) = config.peers
    assert peer.spec.public_key == REMOTE.public
    assert peer.spec.scheduler == options.scheduler
    assert [str(target) for target in peer.endpoints] == ["192.0.2.2:51820", "[2001:db8::2]:51820"]


def test_an_end_that_cannot_be_found_is_configured_without_endpoints() -> None:
    hidden = end("b", 2, found_at=())
    assert tomllib.loads(configuration(OWN, A, REMOTE, hidden, "auto", TunnelOptions()))["peer"][0]["endpoints"] == []
    lines = wireguard_configuration(bytes(32), bytes(32), A, hidden, TunnelOptions())
    assert not any(line.startswith("endpoint=") for line in lines)


@pytest.mark.parametrize("store", [None, "http://10.8.0.9:2379"])
def test_machines_of_a_cluster_are_told_of_each_other_or_of_their_store(store: str | None, tmp_path: Path) -> None:
    machines = [end(name, 2, channel=ip_address(f"10.8.0.{n}"), store=store) for n, name in enumerate("abc", 1)]
    file = tmp_path / "cpd0.toml"
    file.touch(mode=0o600)
    text = configuration(OWN, machines[1], REMOTE, A, "python", TunnelOptions())
    file.write_text(text + cluster_section(machines[1], machines))
    cluster = load_config(file).cluster
    assert cluster is not None
    assert (cluster.member, cluster.of, str(cluster.listen)) == (2, 3, "10.8.0.2:51821")
    others = [] if store else ["10.8.0.1:51821", "10.8.0.3:51821"]
    assert [str(each) for each in cluster.members] == others
    assert (None if cluster.store is None else cluster.store.endpoints) == (store and (store,))


def test_wireguard_is_told_of_one_endpoint_and_of_the_other_end_alone() -> None:
    seen = end("b", 2, found_at=(Endpoint("203.0.113.9", 7000), Endpoint("203.0.113.10", 7000)))
    lines = wireguard_configuration(bytes([1]) * 32, bytes([2]) * 32, A, seen, TunnelOptions(keepalive_s=5))
    assert lines[0] == "set=1"
    assert [line for line in lines if line.startswith("endpoint=")] == ["endpoint=203.0.113.9:7000"]
    assert [line for line in lines if line.startswith("allowed_ip=")] == [
        "allowed_ip=10.7.0.2/32",
        "allowed_ip=fd07::2/128",
    ]
    assert "persistent_keepalive_interval=5" in lines


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [(b"errno=0\n\n", None), (b"errno=-22\n\n", "refused set=1: -22"), (b"", "refused set=1: no answer")],
)
def test_a_refusal_of_wireguard_go_is_told(answer: bytes, complaint: str | None, tmp_path: Path) -> None:
    path = tmp_path / "wg0.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                while not connection.recv(4096).endswith(b"\n\n"):
                    pass
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            if complaint is None:
                assert dialogue(path, ["set=1"]) == [("errno", "0")]
            else:
                with pytest.raises(TunnelError, match=complaint):
                    dialogue(path, ["set=1"])
        finally:
            thread.join()


def test_a_daemon_is_ready_when_it_says_so(tmp_path: Path) -> None:
    with Readiness(tmp_path / "notify") as readiness, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as daemon:
        assert not readiness.reached()
        daemon.sendto(b"STATUS=starting", readiness.address)
        assert not readiness.reached()
        daemon.sendto(b"STATUS=up\nREADY=1", readiness.address)
        assert readiness.reached()
    assert not (tmp_path / "notify").exists()


def test_without_a_vpn_the_outer_addresses_are_the_targets() -> None:
    assert Plain().address(B) == "192.0.2.2"
    assert Plain().address(B, 6) == "2001:db8::2"
    assert Plain().versions(B) == (4, 6)


def test_tunnels_are_known_by_name() -> None:
    for name in TUNNELS:
        assert make_tunnel(name).name in name
    with pytest.raises(LabError, match="no tunnel 'ipsec'"):
        make_tunnel("ipsec")


@pytest.mark.parametrize("channel", [None, ip_address("10.6.0.1")])
def test_no_machine_of_a_cluster_waits_for_an_answer(monkeypatch: pytest.MonkeyPatch, channel: Any) -> None:
    called: list[tuple[str, str]] = []

    def answers(host: Host, target: str) -> bool:
        called.append((host.name, target))
        return True

    monkeypatch.setattr("lab.tunnels.base.answers", answers)
    far = end("b", 2, channel=channel)
    wait_for_traffic(make_tunnel("centipede"), A, far, 1.0)
    there = [("a", "10.7.0.2"), ("a", "fd07::2")]
    assert called == (there if channel else [*there, ("b", "10.7.0.1"), ("b", "fd07::1")])
