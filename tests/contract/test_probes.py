"""Datagrams that may not be fragmented, by both engines, over a loopback interface of 1280 bytes."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from centipede.protocol.drops import DropReason
from tests.contract.harness import ENGINES, Rig, endpoint_of, make_namespaces, udp_socket
from tests.contract.tunnel import set_link

pytestmark = pytest.mark.netns


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_probe_is_never_fragmented_and_all_else_is(engine: str, host: str) -> None:
    (namespace,) = make_namespaces(1)
    with closing(namespace):
        namespace.run(set_link, "lo", mtu=1280)
        with closing(namespace.run(Rig, engine, paths=0)) as built, closing(namespace.run(udp_socket, host)) as remote:
            assert isinstance(remote, socket.socket)
            local = namespace.run(built.add_local, host)
            for _ in range(2):  # what the one send needs does not stay
                assert built.engine.send(local, endpoint_of(remote), bytes(1232), dont_fragment=True) is None
                assert built.engine.send(local, endpoint_of(remote), bytes(1452)) is None
                reason = built.engine.send(local, endpoint_of(remote), bytes(1452), dont_fragment=True)
                assert reason is DropReason.SEND_TOO_BIG
            assert [len(remote.recv(2000)) for _ in range(4)] == [1232, 1452] * 2
            assert built.drops() == {DropReason.SEND_TOO_BIG: 2}
