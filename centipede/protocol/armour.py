"""Armour: offers and exports as text that survives a terminal, a mail and a pipe: base64 lines under a header line."""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Literal, TypeAlias

from centipede.errors import HandoverError

Kind: TypeAlias = Literal["offer", "export"]
_COLUMNS = 76
_LONGEST_CHARACTERS = 8192


def armour(kind: Kind, data: bytes) -> str:
    """The text, ending in a newline."""
    text = b64encode(data).decode("ascii")
    lines = [text[start : start + _COLUMNS] for start in range(0, len(text), _COLUMNS)]
    return "\n".join((_header(kind), *lines, ""))


def unarmour(kind: Kind, text: str) -> bytes:
    """The bytes in a text. Raises HandoverError, and nothing else, for any text that is none of this kind."""
    header, _, body = text.strip().partition("\n")
    if header.strip() != _header(kind):
        raise HandoverError(f"this is no {kind}: its first line would be '{_header(kind)}'; was something else piped?")
    if len(body) > _LONGEST_CHARACTERS:
        raise HandoverError(f"this is far longer than any {kind}; was something piped after it?")
    try:
        return b64decode("".join(body.split()), validate=True)
    except ValueError:
        raise HandoverError(f"this {kind} was damaged on its way; send it again as it was printed") from None


def _header(kind: Kind) -> str:
    return f"centipede {kind} v1"
