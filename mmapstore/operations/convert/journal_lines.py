"""Lines of a journal that is only ever added to: JSON behind its CRC-32. The last line may have been cut short by a kill."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ...files.system_errors import explaining_write_errors

UNREADABLE = (ValueError, KeyError, TypeError, AttributeError, RecursionError)  # what comes of a journal that others wrote


def journal_line(found: dict[str, Any]) -> str:
    text = json.dumps(found)
    return f"{zlib.crc32(text.encode()):08x} {text}\n"


def journal_lines(data: bytes) -> tuple[list[dict[str, Any]], int]:
    """What the lines say that are whole, and how many bytes these have. Raises ValueError for one that is not as it was written.

    >>> written = journal_line({"a": 1}) + journal_line({"b": [2]})[:-3]
    >>> journal_lines(written.encode())
    ([{'a': 1}], 18)
    """
    whole = data.rfind(b"\n") + 1
    return [_checked(line) for line in data[:whole].split(b"\n")[:-1]], whole


def _checked(line: bytes) -> dict[str, Any]:
    crc, _, text = line.partition(b" ")
    if crc != f"{zlib.crc32(text):08x}".encode():
        raise ValueError("the CRC-32 of a line is another")
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"a line holds a {type(found).__name__}")
    return found


def add_lines(path: str, lines: Iterable[dict[str, Any]]) -> None:
    """Write these behind those that are there; they are on disk when this returns. Raises WriteError."""
    with explaining_write_errors(path), Path(path).open("ab") as file:
        file.write("".join(map(journal_line, lines)).encode())
        file.flush()
        os.fsync(file.fileno())


def cut_to(path: str, nbytes: int) -> None:
    """Take away a line that was cut short, so that the next begins on its own."""
    with explaining_write_errors(path):
        os.truncate(path, nbytes)
