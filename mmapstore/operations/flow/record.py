"""The blocks that a write has on disk, of all its fields, as its journal keeps them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from .target import Output


@dataclass
class Record:
    """The blocks that are complete, of all fields alike."""

    block_samples: int = 0  # samples in each block
    chunk_samples: dict[str, int] = field(default_factory=dict)  # samples in each chunk, by field
    checksums: dict[str, list[str]] = field(default_factory=dict)  # by field, CRC-32 of each complete block, 8 hex digits
    samples: int = 0  # number of samples in these blocks
    # the sample at which each episode begins; the last ones may lie behind `samples`
    starts: list[int] = field(default_factory=list)
    # (sample that follows, name) of each item of the source that was skipped
    skipped: list[tuple[int, str]] = field(default_factory=list)
    done: bool = False  # the source has ended
    counts: dict[str, int] = field(default_factory=dict)  # other counts of these blocks, by name
    # names of the `.npy` files that samples are appended to, beside the target; empty where a partial file is written
    grows: list[str] = field(default_factory=list)
    began_with: int = 0  # number of blocks that were complete before the first was written

    def __post_init__(self) -> None:
        self._recorded: dict[str, int] = {}  # how much of each list is in the journal
        for name in self.chunk_samples:
            self.checksums.setdefault(name, [])

    @property
    def blocks(self) -> int:
        return min(map(len, self.checksums.values()))

    @property
    def has_progress(self) -> bool:
        return self.blocks > self.began_with

    def keep(self, blocks: int, samples: int) -> None:
        """Forget all but the first blocks, which hold so many samples, if there are more; call `Journal.rewrite` then."""
        if blocks < self.blocks:
            self.samples, self.done = samples, False
        for checksums in self.checksums.values():
            del checksums[blocks:]

    def all_lines(self) -> Iterable[dict[str, Any]]:
        self._recorded = {}
        form = {"chunk_samples": self.chunk_samples, "block_samples": self.block_samples}
        return [{**form, "grows": self.grows, "began_with": self.began_with, **next(iter(self.new_lines()))}]

    def new_lines(self) -> Iterable[dict[str, Any]]:
        known = [start for start in self.starts[self._recorded.get("starts", 0) :] if start <= self.samples]
        skipped = [each for each in self.skipped[self._recorded.get("skipped", 0) :] if each[0] <= self.samples]
        blocks = self._recorded.get("blocks", 0)
        added = {name: checksums[blocks:] for name, checksums in self.checksums.items()}
        self._recorded = {
            "starts": self._recorded.get("starts", 0) + len(known),
            "skipped": self._recorded.get("skipped", 0) + len(skipped),
            "blocks": self.blocks,
        }
        return [
            {
                "checksums": added,
                "samples": self.samples,
                "starts": known,
                "skipped": skipped,
                "done": self.done,
                "counts": self.counts,
            }
        ]

    def take(self, line: dict[str, Any]) -> None:
        if not self.block_samples:
            self.block_samples, self.chunk_samples = line["block_samples"], dict(line["chunk_samples"])
            self.grows, self.began_with = line["grows"], line["began_with"]
            self.checksums = {name: [] for name in self.chunk_samples}
        if line["checksums"].keys() != self.checksums.keys():
            raise ValueError("a line is of other fields")
        for name, checksums in line["checksums"].items():
            self.checksums[name] += checksums
        self.starts += line["starts"]
        self.skipped += [(at, name) for at, name in line["skipped"]]
        self.samples, self.done, self.counts = line["samples"], line["done"], dict(line["counts"])
        self._require_sound(line)

    def _require_sound(self, line: dict[str, Any]) -> None:
        numbers = [self.block_samples, self.samples, self.began_with, *self.chunk_samples.values(), *self.counts.values()]
        numbers += [*line["starts"], *(at for at, _ in line["skipped"])]
        names = [*self.grows, *(name for _, name in line["skipped"])]
        texts = [*names, *(text for texts in line["checksums"].values() for text in texts)]
        lists = [*line["checksums"].values(), line["starts"], self.grows]
        is_sound = (
            all(map(is_count, numbers))
            and all(isinstance(text, str) for text in texts)
            and all(isinstance(each, list) for each in lists)
            and self.checksums
            and self.block_samples > 0
            and isinstance(self.done, bool)
        )
        if not is_sound:
            raise ValueError("its record is of something else")


def is_count(value: object) -> bool:
    """Return True for a whole number that may count bytes or samples."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def name_beside(output: Output, path: str) -> str:
    """Return the name of the output, or of a file in it, that is the same from wherever the output is named."""
    return os.path.relpath(path, os.path.dirname(output.path) or ".")


def grown_paths(output: Output, record: Any) -> list[str]:
    """Return the files that grow where samples are appended in place; empty where a partial file is written.

    Raises ValueError for a name that is no file of the output: a journal that somebody made up reaches no other file.
    """
    return [_path_beside(output, name) for name in record.grows] if isinstance(record, Record) else []


def _path_beside(output: Output, name: str) -> str:
    own = os.path.basename(output.path)
    folder, _, file = name.rpartition("/") if os.sep == "/" else name.replace(os.sep, "/").rpartition("/")
    if name != own and (folder != own or file in ("", ".", "..")):
        raise ValueError(f"it names {name}, which is no file of {output.path}")
    return os.path.join(os.path.dirname(output.path), name)
