"""Key files: one key in base64, readable by their owner alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from centipede.protocol.identity import parse_key

_MOST_BYTES = 4096


def load_key(path: Path, command: str) -> bytes:
    """The 32 bytes in a key file, as ``command`` prints them.

    Raises ValueError with the middle of a sentence: what is wrong with the file and what to do. It never repeats what
    the file holds.
    """
    try:
        # Non-blocking, or opening a FIFO would wait for somebody to write into it.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(fd).st_mode
            if not stat.S_ISREG(mode):
                raise ValueError(f"{path} is not a plain file; name a file that holds one key")
            check_private(path, mode)
            content = os.read(fd, _MOST_BYTES)
        finally:
            os.close(fd)
    except FileNotFoundError:
        raise ValueError(f"{path} does not exist; make a key with '{command} > {path}'") from None
    except PermissionError:
        raise ValueError(f"{path} cannot be read by this user; run as its owner or change its owner") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error.strerror}); see to the file") from None
    try:
        return parse_key(content.decode("ascii"))
    except ValueError:
        raise ValueError(
            f"{path} does not hold one key of 44 characters of base64; make one with '{command} > {path}'"
        ) from None


def check_private(path: Path, mode: int) -> None:
    """Raise ValueError if group or others have any right to a file that holds a secret."""
    if mode & 0o077:
        raise ValueError(
            f"{path} is open to other users (mode {stat.S_IMODE(mode):04o}) but holds a secret; run 'chmod 600 {path}'"
        )
