"""The command line's end of the control socket."""

from __future__ import annotations

import contextlib
import os
import select
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from centipede.control.messages import RESPONSE_BYTES, Request, Response, socket_address
from centipede.errors import ControlError

TIMEOUT_S = 10.0
_decoder = msgspec.json.Decoder(Response)
_SUFFIX = ".sock"
_UCRED = struct.Struct("iII")
"""struct ucred of unix(7): pid, uid, gid."""


def socket_path(runtime_dir: Path, name: str) -> Path:
    """Where the daemon of tunnel ``name`` listens."""
    return runtime_dir / f"{name}{_SUFFIX}"


def running(runtime_dir: Path) -> list[str]:
    """Names of the tunnels that have a control socket, sorted; some may be stale. Raises ControlError."""
    try:
        return sorted(path.stem for path in runtime_dir.iterdir() if path.suffix == _SUFFIX)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ControlError(f"{runtime_dir} cannot be listed ({error.strerror}); run as root") from error


class ControlClient:
    """A connection to the daemon of one tunnel."""

    def __init__(self, runtime_dir: Path, name: str, timeout_s: float = TIMEOUT_S) -> None:
        """Raises ControlError if there is no daemon, or it may not be spoken to."""
        path = socket_path(runtime_dir, name)
        self._name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.settimeout(timeout_s)
        try:
            with socket_address(path) as address:
                self._socket.connect(address)
        except (FileNotFoundError, ConnectionRefusedError):
            self._socket.close()
            raise ControlError(
                f"{name} is not running (no daemon at {path}); start it with 'centipede up {name}'"
            ) from None
        except PermissionError:
            self._socket.close()
            raise ControlError(f"{path} may not be used by this user; run as root") from None
        except OSError as error:
            self._socket.close()
            raise ControlError(
                f"the daemon of {name} could not be reached at {path}: {error.strerror or error}"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def request(self, request: Request) -> msgspec.Raw:
        """Send a request and return the result, still JSON. Raises ControlError with the daemon's own sentence."""
        try:
            line = msgspec.json.encode(request) + b"\n"
        except UnicodeEncodeError:
            raise ControlError("what was given is no UTF-8 text; write it with UTF-8 characters alone") from None
        try:
            self._socket.sendall(line)
            response = _decoder.decode(self._receive_line())
        except TimeoutError:
            raise ControlError(f"the daemon of {self._name} did not answer in time; look at its log") from None
        except (OSError, msgspec.MsgspecError) as error:
            raise ControlError(f"the daemon of {self._name} broke off: {error}") from error
        if response.error is not None:
            raise ControlError(response.error)
        return response.result

    def wait_ended(self) -> None:
        """Return when the daemon has ended. Raises ControlError if it does not in time."""
        daemon = self._open_daemon()
        try:
            with contextlib.suppress(ConnectionError):
                while self._socket.recv(65536):
                    pass
            if daemon is not None and not select.select([daemon], [], [], self._socket.gettimeout())[0]:
                raise TimeoutError
        except TimeoutError:
            raise ControlError(f"the daemon of {self._name} did not stop in time; look at its log") from None
        finally:
            if daemon is not None:
                os.close(daemon)

    def _open_daemon(self) -> int | None:
        """A descriptor that is readable when the daemon's process has ended; None if it cannot be had."""
        credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
        pid = _UCRED.unpack(credentials)[0]  # 0 for a process of a PID namespace that is not seen from here
        try:
            return os.pidfd_open(pid) if pid not in (0, os.getpid()) else None
        except OSError:
            return None

    def _receive_line(self) -> bytes:
        received = bytearray()
        while not received.endswith(b"\n"):
            chunk = self._socket.recv(1 << 18)
            if not chunk:
                raise ConnectionError("the connection was closed")
            received += chunk
            if len(received) > RESPONSE_BYTES:
                raise ConnectionError("the answer has no end")
        return bytes(received)
