"""Check an array against its manifest: blocks, digest, shape, dtype, layout and size. Without one, read it to its end."""

from __future__ import annotations

import functools
import math
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...files.stored_files import lies_in
from ...files.stored_manifest import read_leaves, read_manifest
from ...formats.contract import StoredArray
from ...formats.registry import open_stored, split_inside
from ...plain.array_spec import LETTERS
from ...plain.content_digest import LeafDigests
from ...plain.digest_leaves import Leaves, leaves_of
from ...plain.errors import DamagedFileError, KeyNotFoundError, MmapstoreError
from ...plain.manifest import DIRECTORY_MANIFEST, SUFFIX, ArrayManifest, leaves_path
from ...plain.memory_budget import MemoryPlan
from ...readers.contract import Reader
from ..flow.regions import Region
from .regions import Check
from .rows import BLOCK_NBYTES, BLOCKS, BOOKKEEPING, by_numpy, read_ahead, rows_in_order, rows_together, scratch_nbytes
from .verdict import LISTED, ArrayVerdict, BadBlock, dtype_words

Words = tuple[list[str], list[str], list[str]]
"""Problems, what was checked, and notes."""
_OWN_CHECKS = {
    "fletcher32": "the fletcher32 checksum of every chunk",
    "crc32c": "the CRC-32C checksum of every chunk",
    "crc32": "the CRC-32 checksum of every chunk",
    "adler32": "the Adler-32 checksum of every chunk",
    "gzip": "the CRC-32 checksum inside the gzip stream of every chunk",
    "zlib": "the Adler-32 checksum inside the deflate stream of every chunk",
    "bz2": "the CRC-32 checksums inside the bzip2 stream of every chunk",
    "bzip2": "the CRC-32 checksums inside the bzip2 stream of every chunk",
}


@dataclass(frozen=True)
class Described:
    """An array that a manifest describes: its name for `open`, its file, the manifest's path, and the name of its entry there."""

    name: str
    path: str
    where: str
    field: str

    @functools.cached_property
    def entry(self) -> ArrayManifest:
        return read_manifest(self.where).fields[self.field]

    def open(self) -> StoredArray:
        return open_stored(self.path, self.entry.key or None)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the entry out: the checksums of an array of many blocks take megabytes, which workers do not need."""
        return {name: value for name, value in vars(self).items() if name != "entry"}


def described_arrays(path: str) -> list[Described]:
    """Return the entries of the manifest at `path`, or beside it; none where there is no manifest.

    Raises DamagedFileError for a manifest that cannot be read, KeyNotFoundError for a field that a directory does not have.
    """
    outer, inside = split_inside(path)
    inside = (inside or "").strip("/")
    where = Path(outer, DIRECTORY_MANIFEST)
    is_directory = where.is_file()
    if not is_directory:
        where = Path(outer.rstrip("/" + os.sep) + SUFFIX)
        if not where.is_file():
            return []
    fields, found = read_manifest(where).fields, []
    for field_name, entry in fields.items():
        key = entry.key.strip("/")
        if is_directory:
            name, is_meant = f"{outer}::/{field_name}", inside in ("", field_name, key)
        else:
            name, is_meant = f"{outer}::/{key}" if key else outer, not inside or f"{key}/".startswith(f"{inside}/")
            is_meant = is_meant and entry.file == Path(outer).name
        file = where.parent / entry.file
        if is_meant and not lies_in(file, where.parent):
            raise DamagedFileError(f"{where} names the file {entry.file!r}, which is outside its directory.")
        if is_meant:
            found.append(Described(name, str(file), str(where), field_name))
            vars(found[-1])["entry"] = entry  # so that the manifest is read once
    if is_directory and fields and not found:
        raise KeyNotFoundError(f"{outer} has no field {inside!r}; it has {', '.join(fields)}.")
    return found


@dataclass
class Record:
    """The result of one region."""

    checksums: dict[int, int] = field(default_factory=dict)  # the CRC-32 of each block whose bytes could be read, by its number
    leaves: dict[int, bytes] = field(default_factory=dict)  # the SHA-256 of each run of values that was hashed, by its number
    unread: list[tuple[int, int, str]] = field(default_factory=list)  # rows that could not be read: first, last + 1, and why


@dataclass(frozen=True)
class ReadThrough(Check):
    """Reads one array to its end, and compares it with the blocks and the digest of its manifest where it has one.

    Regions are samples [start, stop). They may be checked in any order, in any process, and more than once.
    """

    name: str
    path: str
    stored: StoredArray
    rows: Reader
    together: int
    manifest: Described | None
    leading: int  # axes that count samples, and places along the first axis where samples do not follow each other
    block_samples: int  # 0 where no blocks have checksums
    independent: bool

    @classmethod
    def of(
        cls, stored: StoredArray, name: str, path: str, manifest: Described | None, max_memory: int, independent: bool
    ) -> ReadThrough:
        """Decide how the array is read. Raises MemoryBudgetError, MissingPackageError, DamagedFileError."""
        if independent and path.endswith(".npy"):
            stored = by_numpy(name, path)
        leading, block = 1, 0
        if manifest is not None and manifest.entry.checksums:
            leading, block = _leading(manifest.entry), manifest.entry.block_samples
        rows = rows_in_order(stored, max(1, max_memory // 8), independent, leading)
        together = rows_together(rows, min(BLOCK_NBYTES, max_memory // 8), max_memory // 4)
        in_block = block * (len(rows.spec) // max(1, math.prod(stored.shape[:leading])))  # rows
        if block:
            together = max(1, min(together, in_block))
        swapped = 0 if stored.dtype.isnative else together
        blocks = (min(BLOCKS * together, len(rows.spec)) + swapped) * rows.spec.sample_nbytes
        rows = rows.within(max_memory - blocks - BOOKKEEPING)
        parts = {"blocks read": blocks, "decoding": scratch_nbytes(rows, together, in_block), "bookkeeping": BOOKKEEPING}
        MemoryPlan(parts).require(max_memory, f"Verifying {name}", "Give a larger max_memory= (--max-memory).")
        return cls(name, path, stored, rows, together, manifest, leading, block, independent)

    @property
    def samples(self) -> int:
        return math.prod(self.stored.shape[: self.leading]) if math.prod(self.stored.shape) else 0

    @property
    def sample_nbytes(self) -> int:
        return self._row_per_sample * self.rows.spec.sample_nbytes

    @property
    def _row_per_sample(self) -> int:
        """More than one where samples are cut."""
        return len(self.rows.spec) // max(1, self.samples)

    @property
    def _block_rows(self) -> int:
        return max(1, (self.block_samples or self.samples) * self._row_per_sample)

    @property
    def unit(self) -> int:
        return self.block_samples or self.together

    def read(self, region: Region, done: Callable[[int], Any]) -> Record:
        """Read a region, and on to the end of the last leaf that begins in it."""
        record, digests, rows = Record(), LeafDigests(self.rows.spec.dtype), self.rows
        row_values = max(1, math.prod(rows.spec.sample_shape))
        per_sample, block = self._row_per_sample, self._block_rows
        at, last = (sample * per_sample for sample in region)
        leaf = Leaves(0, rows.spec.dtype.itemsize).run
        end = min(len(rows.spec), -(-(-(-last * row_values // leaf) * leaf) // row_values))
        steps = []
        while at < end:
            steps.append((at, min(at + self.together, end, (at // block + 1) * block)))
            at = steps[-1][1]
        crc: int | None = 0
        with ThreadPoolExecutor(2, "ThreadPoolExecutor-mmapstore-verify") as threads:
            for start, stop, found in read_ahead(rows, steps, self.together, threads):
                if isinstance(found, MmapstoreError):
                    record.unread.append((start, stop, str(found)))
                    crc = None
                else:
                    hashed = threads.submit(digests.update, found, start * row_values)
                    stored = found if self.stored.dtype.isnative else found.byteswap()
                    crc = zlib.crc32(stored.reshape(-1).view(np.uint8).data, crc) if crc is not None else None
                    hashed.result()
                if stop % block == 0 or stop == len(rows.spec):
                    if crc is not None:
                        record.checksums[(stop - 1) // block] = crc
                    crc = 0
                done(stop // per_sample)
        digests.of(self.stored.shape)  # the last leaf, which may be short
        record.leaves = digests.done
        return record

    def merged(self, records: Iterator[Record]) -> ArrayVerdict:
        checksums: dict[int, int] = {}
        digests, unread = LeafDigests(self.rows.spec.dtype), set()
        for record in records:
            checksums |= record.checksums
            digests.done |= record.leaves
            unread |= set(record.unread)
        sha256, bad = digests.root(self.stored.shape), list[BadBlock]()
        if self.manifest is None:
            problems, checked, notes = self._by_itself(sorted(unread))
            state, form = "readable from end to end", f", {self.stored.shape} {dtype_words(self.rows.spec.dtype)}"
        else:
            bad = list(self._bad_blocks(self.manifest.entry, checksums, sorted(unread)))
            problems, checked, notes = self._against(self.manifest, bad, sha256, digests)
            state, form = "whole, every value is the one that was written", ""
        if appended := _appended(self.stored, self.path):
            (notes if self.manifest is None else problems).append(appended)
        return ArrayVerdict(
            self.name,
            ok=not problems,
            summary=f"{self.name}: {'DAMAGED' if problems else state}{form}",
            shape=self.stored.shape,
            dtype=self.stored.dtype.str,
            problems=tuple(problems),
            checked=() if problems else tuple(checked),
            notes=tuple(notes),
            sha256=sha256,
            bad_blocks=tuple(bad[: 10 * LISTED]),
            bad_block_count=len(bad),
            nbytes=self.samples * self.sample_nbytes,
        )

    def _against(self, manifest: Described, bad: list[BadBlock], sha256: str, digests: LeafDigests) -> Words:
        entry, count = manifest.entry, len(manifest.entry.checksums)
        how = f", read {self.rows.why}" if self.independent else ""
        problems, notes = list[str](), list[str]()
        checked = [f"shape {self.stored.shape}, {self.stored.dtype}, {entry.layout}{how}"]
        if bad:
            problems.append(f"{len(bad)} of {count} blocks are not what was written; the first bad one is number {bad[0].number}")
        if count:
            blocks = f"all {count} blocks have the checksums" if count > 1 else "its one block has the checksum"
            checked.insert(0, f"{blocks} of {manifest.where}")
        if not entry.sha256:
            notes.append("its manifest names no SHA-256 digest to compare with")
        elif sha256 == entry.sha256:
            checked.append("the SHA-256 digest of all values is the one that its manifest names")
        else:
            problems += [f"SHA-256 of all values is {sha256}, expected {entry.sha256}"] if sha256 else []
            problems += _damaged_leaves(manifest, digests)
        return problems, checked, notes

    def _by_itself(self, unread: list[tuple[int, int, str]]) -> Words:
        problems = [f"rows [{start}, {stop}) along the first axis cannot be read: {why}" for start, stop, why in unread[:1]]
        problems += [f"and {len(unread) - 1} more runs of that length cannot be read"] if len(unread) > 1 else []
        located = self.stored.located
        names = dict.fromkeys(codec.name for codec in located.chain) if located is not None else {}
        inside = [f"and found right: {_OWN_CHECKS[name]}" for name in names if name in _OWN_CHECKS]
        checked = ["every value can be read" if self.samples else "it is empty", *inside]
        words = "no manifest is there to tell whether these are the values that were written"
        if not inside:
            words = "no manifest is there and the format keeps no checksums, so a changed value cannot be told from the right one"
        return problems, checked, [words] if self.samples else []

    def _bad_blocks(
        self, entry: ArrayManifest, checksums: dict[int, int], unread: list[tuple[int, int, str]]
    ) -> Iterator[BadBlock]:
        block = self._block_rows
        why = {start // block: words for start, _, words in reversed(unread)}  # no run goes past the end of a block
        located = self.stored.located
        for number, expected in enumerate(entry.checksums):
            found = f"{checksums[number]:08x}" if number in checksums else ""
            if found == expected:
                continue
            problem = f"checksum {found}, expected {expected}" if found else f"cannot be read: {why[number]}"
            samples = number * entry.block_samples, min((number + 1) * entry.block_samples, self.samples)
            place = None
            if located is not None and located.offset is not None:
                place = located.offset + samples[0] * self.sample_nbytes, located.offset + samples[1] * self.sample_nbytes
            yield BadBlock(number, samples, self.path, place, problem)


def _leading(entry: ArrayManifest) -> int:
    """Return the number of axes at the front that count samples in C order: N, T or both, in this order; else 1."""
    if entry.layout.startswith("TN") and min(entry.shape[:2]) > 1:
        return 1
    return len(entry.layout) - len(entry.layout.lstrip("NT")) or 1


def inconsistencies(each: Described) -> list[str]:
    entry, found = each.entry, []
    if len(entry.layout) != len(entry.shape) or set(entry.layout) - set(LETTERS):
        return [f"{each.where} gives the axes {entry.shape} the letters {entry.layout!r}; expected one of {LETTERS} for each"]
    samples = math.prod([n for letter, n in zip(entry.layout, entry.shape, strict=True) if letter in "NT"] or entry.shape[:1])
    is_in_order = math.prod(entry.shape[: _leading(entry)]) == samples
    blocks = -(-samples // entry.block_samples) if entry.block_samples > 0 and is_in_order else 0
    if len(entry.checksums) != blocks and (entry.checksums or not entry.sha256):
        found.append(
            f"{each.where} has {len(entry.checksums)} checksums of blocks of {entry.block_samples} samples; expected {blocks} "
            f"for {samples} samples. Write the data again"
        )
    if entry.episodes[-1] != samples:
        found.append(f"{each.where} says that episodes end at sample {entry.episodes[-1]}; expected {samples}")
    return found


def _damaged_leaves(each: Described, digests: LeafDigests) -> list[str]:
    """Name the ranges of an array, of which the digest is not the one of its manifest, that were changed or cannot be read."""
    entry = each.entry
    leaves = leaves_of(entry.shape, np.dtype(entry.dtype).itemsize)
    if len(leaves) < 2:
        return []
    expected = read_leaves(each.where, entry)
    if not expected:
        return [f"which range was changed is not known: {leaves_path(each.where)} is missing, or belongs to another manifest"]
    leading = _leading(entry)
    axis = "samples" if math.prod(entry.shape[:leading]) == entry.episodes[-1] else f"places along {entry.layout[0]}"
    found = []
    for leaf, (written, now) in enumerate(zip(expected, digests.of(entry.shape), strict=True)):
        if now != written:
            start, stop = leaves.rows(leaf, math.prod(entry.shape[leading:]))
            why = "cannot be read" if now is None else "hold other values than were written"
            found.append(f"{axis} [{start}, {stop}) {why} (leaf {leaf} of {len(leaves)})")
    return [*found[:LISTED], *([f"and {len(found) - LISTED} more leaves"] if len(found) > LISTED else [])]


def _appended(stored: StoredArray, path: str) -> str:
    """Return the bytes behind the values of a .npy file, where there should be none."""
    located = stored.located
    if located is None or located.offset is None or not path.endswith(".npy") or not os.path.isfile(path):
        return ""
    end = located.offset + math.prod(stored.shape) * stored.dtype.itemsize
    found = os.path.getsize(path)
    return f"{path} has {found} bytes, expected {end}: {found - end} were appended behind the last value" if found != end else ""
