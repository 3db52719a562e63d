from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyroute2 import IPRoute

from centipede.errors import HostError
from centipede.system import tun
from centipede.system.tun import OFFLOAD_BITS, Tun, open_tun
from tests.contract.harness import Namespace, make_namespaces

TUNGETIFF = 0x800454D2
IFREQ = struct.Struct("16sH22x")
VNET_HDR_BYTES = 10


@pytest.fixture
def namespace() -> Iterator[Namespace]:
    (made,) = make_namespaces(1)
    yield made
    made.close()


def open_descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


def interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def bring_up(name: str, address: str) -> None:
    with IPRoute() as netlink:
        index = netlink.link_lookup(ifname=name)[0]
        netlink.addr("add", index=index, address=address, prefixlen=24)
        netlink.link("set", index=index, state="up")


def close(device: Tun) -> None:
    for fd in device.fds:
        os.close(fd)


@pytest.mark.netns
@pytest.mark.parametrize("queues", [1, 3])
def test_the_interface_lives_as_long_as_its_descriptors(namespace: Namespace, queues: int) -> None:
    before = open_descriptors()
    device = namespace.run(open_tun, "cpd0", queues, vnet_hdr=False)
    assert (device.name, len(device.fds), device.vnet_hdr, device.offloads) == ("cpd0", queues, False, frozenset())
    assert namespace.run(interfaces) >= {"cpd0"}
    for fd in device.fds:
        assert not os.get_blocking(fd)
        assert not os.get_inheritable(fd)
        name, _ = IFREQ.unpack(fcntl.ioctl(fd, TUNGETIFF, bytes(IFREQ.size)))
        assert name.rstrip(b"\0") == b"cpd0"
    close(device)
    assert "cpd0" not in namespace.run(interfaces)
    assert open_descriptors() == before


@pytest.mark.netns
@pytest.mark.parametrize("vnet_hdr", [False, True])
def test_packets_pass(namespace: Namespace, vnet_hdr: bool) -> None:
    device = namespace.run(open_tun, "cpd0", 1, vnet_hdr=vnet_hdr)
    namespace.run(bring_up, "cpd0", "10.9.0.1")
    header = VNET_HDR_BYTES if vnet_hdr else 0
    with namespace.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"out", ("10.9.0.2", 9))
        packets: list[bytes] = []
        while not packets or not packets[-1].endswith(b"out"):  # IPv6 router solicitations come first
            assert select.select(device.fds, [], [], 5)[0]
            packets.append(os.read(device.fds[0], 2048))
    assert packets[-1][header : header + 1] == b"\x45"
    assert packets[-1][header + 16 : header + 20] == bytes([10, 9, 0, 2])
    close(device)


@pytest.mark.netns
def test_offloads_are_as_many_as_the_kernel_has(namespace: Namespace) -> None:
    device = namespace.run(open_tun, "cpd0", 2, vnet_hdr=True)
    assert device.vnet_hdr
    assert device.offloads >= {"csum", "tso4", "tso6"}
    assert device.offloads <= OFFLOAD_BITS.keys()
    close(device)


@pytest.mark.netns
def test_offloads_an_older_kernel_does_not_have(namespace: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = []

    def ioctl(fd: int, request: int, argument: bytes | int) -> object:
        if isinstance(argument, int) and argument & (OFFLOAD_BITS["uso4"] | OFFLOAD_BITS["uso6"]):
            refused.append(argument)
            raise OSError(22, "Invalid argument")
        return fcntl.ioctl(fd, request, argument)

    monkeypatch.setattr(tun, "ioctl", ioctl)
    device = namespace.run(open_tun, "cpd0", 1, vnet_hdr=True)
    assert refused == [0x67]
    assert device.offloads == {"csum", "tso4", "tso6"}
    close(device)


@pytest.mark.netns
def test_a_name_in_use(namespace: Namespace) -> None:
    device = namespace.run(open_tun, "cpd0", 1, vnet_hdr=False)
    before = open_descriptors()
    with pytest.raises(HostError, match="interface cpd0 exists already: remove it"):
        namespace.run(open_tun, "cpd0", 2, vnet_hdr=False)
    with pytest.raises(HostError, match="interface lo exists already"):
        namespace.run(open_tun, "lo", 1, vnet_hdr=False)
    assert open_descriptors() == before
    close(device)


@pytest.mark.netns
def test_more_queues_than_the_kernel_has(namespace: Namespace) -> None:
    before = open_descriptors()
    with pytest.raises(HostError, match="does not allow 300 queues on interface cpd0: set fewer workers"):
        namespace.run(open_tun, "cpd0", 300, vnet_hdr=False)
    assert "cpd0" not in namespace.run(interfaces)
    assert open_descriptors() == before


@pytest.mark.netns
def test_a_name_the_kernel_does_not_take(namespace: Namespace) -> None:
    with pytest.raises(HostError, match="choose another name"):
        namespace.run(open_tun, "a/b", 1, vnet_hdr=False)


@pytest.mark.parametrize("name", ["", "sixteen-bytes-xx", "éééééééé"])
def test_a_name_of_the_wrong_length(name: str) -> None:
    with pytest.raises(ValueError):
        open_tun(name, 1, vnet_hdr=False)


@pytest.mark.parametrize(
    ("number", "sentence"),
    [(2, "/dev/net/tun is missing: load the driver"), (19, "/dev/net/tun is missing"), (13, "no permission to create")],
)
def test_the_device_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, number: int, sentence: str) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(HostError, match=sentence):
        open_tun("cpd0", 1, vnet_hdr=False)


@pytest.mark.netns
@pytest.mark.parametrize(
    ("number", "sentence"),
    [(1, "no permission to create interface cpd0: run as root"), (5, "interface cpd0 could not be created: Input")],
)
def test_the_interface_cannot_be_created(
    namespace: Namespace, monkeypatch: pytest.MonkeyPatch, number: int, sentence: str
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(tun, "ioctl", refuse)
    before = open_descriptors()
    with pytest.raises(HostError, match=sentence):
        namespace.run(open_tun, "cpd0", 1, vnet_hdr=False)
    assert open_descriptors() == before
