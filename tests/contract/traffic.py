"""Traffic through a tunnel, checked byte for byte at its end."""

from __future__ import annotations

import hashlib
import random
import socket
import struct
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Self

from tests.contract.tunnel import World, inner

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


def transfer(world: World, sender: str, receiver: str, version: int, size_bytes: int, *, streams: int = 1) -> None:
    """Send random data by TCP in writes of odd sizes, over some streams at once; what arrives must have its hash."""
    with ExitStack() as stack, ThreadPoolExecutor(2 * streams) as pool:
        listener = stack.enter_context(world.socket(receiver, _FAMILIES[version], socket.SOCK_STREAM))
        listener.bind((inner(receiver, version), 0))
        listener.listen(streams)
        pairs = []
        for seed in range(streams):
            client = stack.enter_context(_resetting(world.socket(sender, _FAMILIES[version], socket.SOCK_STREAM)))
            client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"cubic")
            client.bind((inner(sender, version), 0))
            client.connect(listener.getsockname())
            server = stack.enter_context(_resetting(listener.accept()[0]))
            server.settimeout(client.gettimeout())
            pairs.append((pool.submit(_send_all, client, size_bytes, seed), pool.submit(_receive_all, server)))
        for sent, received in pairs:
            assert sent.result() == received.result()


def _resetting(sock: socket.socket) -> socket.socket:
    """Have the connection end with a reset: nothing of it is retransmitted into the next test's tunnel."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return sock


def _send_all(sock: socket.socket, size_bytes: int, seed: int) -> tuple[int, str]:
    rng = random.Random(seed)
    digest = hashlib.sha256()
    left = size_bytes
    while left:
        data = rng.randbytes(min(left, rng.randrange(1, 60001)))
        sock.sendall(data)
        digest.update(data)
        left -= len(data)
    sock.shutdown(socket.SHUT_WR)
    return size_bytes, digest.hexdigest()


def _receive_all(sock: socket.socket) -> tuple[int, str]:
    digest = hashlib.sha256()
    size_bytes = 0
    while data := sock.recv(1 << 18):
        digest.update(data)
        size_bytes += len(data)
    return size_bytes, digest.hexdigest()


class Datagrams:
    """A UDP sender and a UDP receiver on two hosts."""

    def __init__(self, world: World, sender: str, receiver: str, version: int) -> None:
        self.sender = world.socket(sender, _FAMILIES[version], socket.SOCK_DGRAM)
        self.receiver = world.socket(receiver, _FAMILIES[version], socket.SOCK_DGRAM)
        self.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        self.sender.bind((inner(sender, version), 0))
        self.receiver.bind((inner(receiver, version), 0))
        self.sender.connect(self.receiver.getsockname())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sender.close()
        self.receiver.close()

    def pass_on(self, payloads: Sequence[bytes], *, at_once: int = 40) -> None:
        """Send datagrams and receive them, so few at once that no queue overflows; they must arrive as they left."""
        for at in range(0, len(payloads), at_once):
            batch = payloads[at : at + at_once]
            for payload in batch:
                self.sender.send(payload)
            assert [self.receiver.recv(65535) for _ in batch] == batch


def payloads(sizes: Iterable[int], seed: int = 1) -> list[bytes]:
    """Random payloads of these sizes."""
    rng = random.Random(seed)
    return [rng.randbytes(size) for size in sizes]
