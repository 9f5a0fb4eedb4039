"""A table of the archives in a directory: one line per file or store, with the reason for each refusal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..formats.registry import suffixes
from ..plain.display import text_table
from ..plain.memory_budget import format_bytes

_HEADINGS = ("archive", "arrays", "values", "on disk", "read")


@dataclass(frozen=True)
class Archive:
    """A file or store in a directory of archives.

    Attributes
    ----------
    name : relative to the directory
    arrays : those that can be opened
    bytes : of their values, decoded; `bytes_on_disk` of the file or store
    read : how they will be read, in a few words, each way once
    refused : "name: why" of every array that cannot be opened, or why none can
    """

    name: str
    arrays: int = 0
    bytes: int = 0
    bytes_on_disk: int = 0
    read: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def claims_to_be_an_archive(path: Path) -> bool:
    """Return True for the suffix of an archive; a file that is none is then refused with a reason."""
    return path.suffix.lower() in suffixes()


def archive_table(archives: Sequence[Archive]) -> Iterator[str]:
    """Yield a heading, one line per archive, and below it the reasons of refusals.

    >>> print("\\n".join(archive_table([Archive("a.h5", 2, 1200, 800, ("memory-mapped",), ("a.h5::/s: text",))])))
    archive  arrays   values  on disk  read
    a.h5          2  1.20 kB    800 B  memory-mapped
               refused: a.h5::/s: text
    """
    rows = [_HEADINGS] + [
        (each.name, str(each.arrays), format_bytes(each.bytes), format_bytes(each.bytes_on_disk), ", ".join(each.read) or "-")
        for each in archives
    ]
    heading, *lines = text_table(rows, "<>>><", indent="")
    yield heading
    for each, line in zip(archives, lines, strict=True):
        yield line
        for reason in each.refused:
            yield f"{' ' * (max(len(row[0]) for row in rows) + 4)}refused: {reason}"
