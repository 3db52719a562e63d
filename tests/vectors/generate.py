"""Writes the wire vectors, tests/vectors/*.json, from docs/protocol.md alone: ``python -m tests.vectors.generate DIR``.

A second witness of the wire: it and the modules beside it import the standard library's hashes and nothing else,
neither the project nor a cryptographic library. Equal input gives equal output, byte for byte. README.md says what the
files hold.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.vectors.handovers import handover
from tests.vectors.handshakes import cookies, handshake, keys
from tests.vectors.inners import inner
from tests.vectors.packets import control, session, window
from tests.vectors.primitives import check_primitives

FILES = {
    "keys": keys,
    "handshake": handshake,
    "cookie": cookies,
    "session": session,
    "control": control,
    "inner": inner,
    "window": window,
    "handover": handover,
}


def render(value: dict[str, Any]) -> str:
    """JSON with one entry of a list of cases to a line, bytes as hexadecimal."""
    parts = []
    for name, entry in value.items():
        if isinstance(entry, list):
            lines = ",\n    ".join(json.dumps(item, default=bytes.hex) for item in entry)
            parts.append(f"  {json.dumps(name)}: [\n    {lines}\n  ]")
        elif isinstance(entry, dict):
            parts.append(f"  {json.dumps(name)}: " + render(entry).replace("\n", "\n  ").rstrip())
        else:
            parts.append(f"  {json.dumps(name)}: {json.dumps(entry, default=bytes.hex)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(directory: str) -> None:
    check_primitives()
    for name, make in FILES.items():
        Path(directory, f"{name}.json").write_text(render(make()), encoding="ascii")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.vectors.generate DIRECTORY")
    main(sys.argv[1])
