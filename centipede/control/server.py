"""The daemon's end of the control socket: several clients at once, and none can hold up the control thread.

All sockets are non-blocking and everything has a bound: clients, request length, and answers that wait (a client that
does not read gets no further request of its served). What a client did wrong is answered by a sentence; a client that
vanishes is forgotten.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import selectors
import socket
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from centipede.control.messages import REQUEST_BYTES, VERSION, Request, Response, socket_address
from centipede.errors import CentipedeError, HostError

MOST_CLIENTS = 16

_decoder = msgspec.json.Decoder(Request)


class ControlServer:
    """Serves one socket path, for as long as it lives: nobody else can serve the same.

    ``handle`` carries a request out and returns what to answer (anything msgspec can encode), or raises CentipedeError.
    The owner registers nothing: the server puts its sockets into ``selector`` with a callable as data, to be called
    when they are ready.
    """

    def __init__(self, path: Path, selector: selectors.BaseSelector, handle: Callable[[Request], Any]) -> None:
        """Raises HostError if another daemon serves the path, or the host refuses."""
        self._path = path
        self._selector = selector
        self._handle = handle
        self._clients: set[_Client] = set()
        self._lock = _lock(path)
        try:
            self._listener = _listen(path)
        except OSError as error:
            os.close(self._lock)
            raise HostError(f"control socket {path} cannot be made: {error.strerror}; see to its directory") from error
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the socket and let every client see the end."""
        self._selector.unregister(self._listener)
        self._listener.close()
        self._path.unlink(missing_ok=True)
        _lock_path(self._path).unlink(missing_ok=True)
        for client in tuple(self._clients):
            client.flush()
            self.forget(client)
        os.close(self._lock)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            if len(self._clients) < MOST_CLIENTS:
                self._clients.add(_Client(connection, self._selector, self))
            else:
                connection.close()

    def answer(self, line: bytes) -> bytes:
        """The response to one request line. Never raises."""
        try:
            request = _decoder.decode(line)
            if request.version != VERSION:
                raise CentipedeError(f"this daemon speaks version {VERSION}, not {request.version}; restart it")
            response = Response(VERSION, result=msgspec.Raw(msgspec.json.encode(self._handle(request))))
        except CentipedeError as error:
            response = Response(VERSION, error=str(error))
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            response = Response(
                VERSION, error=f"not a request that this daemon knows: {error}; restart it if it is older"
            )
        return msgspec.json.encode(response) + b"\n"

    def forget(self, client: _Client) -> None:
        """Close a client's connection."""
        self._clients.discard(client)
        client.close()


class _Client:
    """One connection."""

    def __init__(self, connection: socket.socket, selector: selectors.BaseSelector, server: ControlServer) -> None:
        self._socket = connection
        self._selector = selector
        self._server = server
        self._received = bytearray()
        self._waiting = b""
        selector.register(connection, selectors.EVENT_READ, self._ready)

    def close(self) -> None:
        self._selector.unregister(self._socket)
        self._socket.close()

    def flush(self) -> None:
        """Send what waits, as far as the client takes it."""
        with contextlib.suppress(OSError):
            while self._waiting:
                self._waiting = self._waiting[self._socket.send(self._waiting) :]

    def _ready(self) -> None:
        try:
            if not self._waiting and not self._receive():
                self._server.forget(self)
                return
            while self._serve():
                pass
        except BlockingIOError:
            pass
        except OSError:
            self._server.forget(self)
            return
        self._selector.modify(
            self._socket, selectors.EVENT_WRITE if self._waiting else selectors.EVENT_READ, self._ready
        )

    def _receive(self) -> bool:
        """Read once. False when the client is to go: it hung up, or its line is too long."""
        chunk = self._socket.recv(REQUEST_BYTES)
        self._received += chunk
        return bool(chunk) and not (len(self._received) > REQUEST_BYTES and b"\n" not in self._received)

    def _serve(self) -> bool:
        """Send the rest of the last answer, then serve one request. False when there is no whole request."""
        while self._waiting:
            self._waiting = self._waiting[self._socket.send(self._waiting) :]
        line, newline, rest = self._received.partition(b"\n")
        if not newline:
            return False
        self._received = rest
        self._waiting = self._server.answer(bytes(line))
        return True


def _lock_path(path: Path) -> Path:
    return path.with_suffix(".lock")


def _lock(path: Path) -> int:
    """Hold the lock file beside ``path`` as long as the returned descriptor is open.

    The socket alone cannot say who serves it: between a starter's look and its bind another may have bound. A lock
    vanishes with its process, whatever ends it, so a stale one does not exist.
    """
    lock = _lock_path(path)
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The one before us may have unlinked the file between our open and our lock.
                if lock.exists() and os.path.samestat(os.fstat(fd), lock.stat()):
                    return fd
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
    except BlockingIOError:
        raise HostError(
            f"{path.stem} is running already (control socket {path}); stop it with 'centipede down {path.stem}'"
        ) from None
    except OSError as error:
        raise HostError(
            f"the directory {path.parent} cannot be used for the control socket: {error.strerror}; "
            "run as root, or choose another with --runtime-dir"
        ) from error


def _listen(path: Path) -> socket.socket:
    """A listening socket at ``path``, mode 0600, in place of a stale one."""
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    before = os.umask(0o177)
    try:
        with socket_address(path) as address:
            listener.bind(address)
        listener.listen(MOST_CLIENTS)
    except OSError:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener
