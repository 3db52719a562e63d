"""What the daemon says: lines on standard error or in a file, as text or as JSON, through the standard library.

Keys are never given to a log call; identities appear as their first 8 characters.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import time
from pathlib import Path

LEVELS = ("debug", "info", "warning", "error")
_FILE_BYTES = 1 << 20
_FILES_KEPT = 2


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time (UTC, RFC 3339), level, interface, message."""

    def __init__(self, interface: str) -> None:
        super().__init__()
        self._interface = interface

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "interface": self._interface,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def configure(interface: str, *, level: str, as_json: bool, file: Path | None) -> None:
    """Send the log of the whole process to ``file`` (turned over at 1 MiB, 0600), or to standard error.

    Raises OSError if the file cannot be written.
    """
    handler: logging.Handler
    if file is None:
        handler = logging.StreamHandler()
    else:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        handler = logging.handlers.RotatingFileHandler(file, maxBytes=_FILE_BYTES, backupCount=_FILES_KEPT)
    handler.setFormatter(
        JsonFormatter(interface)
        if as_json
        else logging.Formatter(f"%(asctime)s %(levelname)s {interface}: %(message)s")
    )
    root = logging.getLogger()
    for old in root.handlers[:]:
        root.removeHandler(old)
        old.close()
    root.addHandler(handler)
    # Libraries keep their details to themselves; the level is about Centipede's own lines.
    root.setLevel(logging.WARNING)
    logging.getLogger("centipede").setLevel(level.upper())
