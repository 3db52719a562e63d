"""Host names to addresses, on a thread of its own: a name server that does not answer must not hold up the tunnel.

The control thread asks, goes on, and collects the answers when the descriptor is readable. When to ask, and again
after a failure, is decided elsewhere (centipede/names.py).
"""

from __future__ import annotations

import os
import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from centipede.protocol.endpoint import Endpoint


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of one question: ``endpoints`` in the resolver's order, or the ``error`` in words."""

    host: str
    port: int
    endpoints: tuple[Endpoint, ...] = ()
    error: str = ""


def look_up(host: str, port: int) -> Answer:
    """Ask the host's resolver (hosts file, DNS, whatever it is set up to use). Blocks."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
    except OSError as error:  # gaierror is one
        return Answer(host, port, error=error.strerror or str(error))
    except UnicodeError:
        return Answer(host, port, error="not a host name")
    endpoints = dict.fromkeys(Endpoint.of(str(address[0]), port) for *_, address in found)
    return Answer(host, port, tuple(endpoints))


class Resolver:
    """Answers questions in their order. ``ask`` and ``answers`` belong to one thread; neither blocks."""

    def __init__(self, look_up: Callable[[str, int], Answer] = look_up) -> None:
        self._look_up = look_up
        self._questions: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        # A daemon thread: getaddrinfo can hang for half a minute and must not keep the process from ending.
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def fileno(self) -> int:
        return self._event

    def ask(self, host: str, port: int) -> None:
        """Put a question. Its :class:`Answer` comes later."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="resolver", daemon=True)
            self._thread.start()
        self._questions.put((host, port))

    def answers(self) -> list[Answer]:
        """Take the answers that have come. Clears the descriptor."""
        try:
            os.eventfd_read(self._event)
        except BlockingIOError:
            return []
        taken = []
        while not self._answers.empty():
            taken.append(self._answers.get())
        return taken

    def close(self) -> None:
        """Let the thread end after the question it is at. The descriptor stays open for as long as the thread lives."""
        if self._thread is None:
            os.close(self._event)
        else:
            self._questions.put(None)

    def _work(self) -> None:
        while (question := self._questions.get()) is not None:
            self._answers.put(self._look_up(*question))
            os.eventfd_write(self._event, 1)
        os.close(self._event)
