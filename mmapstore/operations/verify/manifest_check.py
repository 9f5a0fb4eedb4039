"""An array against its manifest: blocks, digest, shape, dtype, layout and size. Or by itself, where it has none."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...files.stored_files import lies_in
from ...files.stored_manifest import read_manifest
from ...formats.contract import HasChunks, StoredArray
from ...formats.registry import list_stored, open_stored, split_inside
from ...plain.array_spec import LETTERS
from ...plain.content_digest import LeafDigests
from ...plain.digest_leaves import leaves_of
from ...plain.errors import DamagedFileError, KeyNotFoundError, MmapstoreError
from ...plain.manifest import DIRECTORY_MANIFEST, SUFFIX, ArrayManifest, leaves_path
from ...plain.memory_budget import MemoryPlan
from ..manifest_files import read_leaves
from .rows import BLOCK_NBYTES, BLOCKS, Array, NumpyFile, Rows, read_ahead, rows_in_order
from .verdict import LISTED, ArrayVerdict, BadBlock, dtype_words

Report = Callable[[int, int, int], None]  # samples done, of how many, bytes of one
BOOKKEEPING = 4 << 20  # Python objects, and what malloc rounds up
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
    """An array that a manifest describes: the file, and what `open` takes to get there."""

    name: str
    path: str
    where: str
    entry: ArrayManifest


def described_arrays(path: str) -> list[Described]:
    """Return the entries of the manifest at `path`, or beside it; none where there is no manifest.

    Raises DamagedFileError for a manifest that cannot be read, KeyNotFoundError for a field that a directory does not have.
    """
    outer, inside = split_inside(path)
    inside = (inside or "").strip("/")
    within = Path(outer, DIRECTORY_MANIFEST)
    if within.is_file():
        found = [
            _described(outer, within, name, entry, f"{outer}::/{name}") for name, entry in read_manifest(within).fields.items()
        ]
        chosen = [each for each in found if not inside or inside in (each.name.partition("::/")[2], each.entry.key.strip("/"))]
        if found and not chosen:
            names = ", ".join(each.name.partition("::/")[2] for each in found)
            raise KeyNotFoundError(f"{outer} has no field {inside!r}; it has {names}.")
        return chosen
    beside = Path(outer.rstrip("/" + os.sep) + SUFFIX)
    if not beside.is_file():
        return []
    found = []
    for entry in read_manifest(beside).fields.values():
        key = entry.key.strip("/")
        if entry.file == Path(outer).name and (not inside or key == inside or key.startswith(inside + "/")):
            found.append(_described(str(Path(outer).parent), beside, key, entry, f"{outer}::/{key}" if key else outer))
    return found


def _described(directory: str, where: Path, name: str, entry: ArrayManifest, shown: str) -> Described:
    path = Path(directory, entry.file)
    if not lies_in(path, directory):
        raise DamagedFileError(f"{where} names the file {entry.file!r}, which is outside its directory.")
    return Described(shown, str(path), str(where), entry)


def undescribed_keys(path: str, found: list[Described]) -> list[str]:
    """Arrays that lie in the same container, and that its manifest does not name."""
    outer, inside = split_inside(path)
    if inside or os.path.isfile(os.path.join(outer, DIRECTORY_MANIFEST)):
        return []
    known = {each.entry.key.strip("/") for each in found}
    return [listing.key for listing in list_stored(outer, None) if listing.key.strip("/") not in known]


def plan_for_one(values: Rows, together: int) -> MemoryPlan:
    return MemoryPlan(
        {
            "blocks read": BLOCKS * together * values.row_nbytes,
            "decoding": values.scratch_nbytes,
            "bookkeeping": BOOKKEEPING,
        }
    )


def opened_rows(stored: StoredArray, path: str, max_memory: int, independent: bool) -> Rows:
    if independent and path.endswith(".npy"):
        stored = NumpyFile(stored, path)
    return rows_in_order(stored, max(1, max_memory // 8), independent)


def check_described(each: Described, max_memory: int, independent: bool, report: Report) -> ArrayVerdict:
    """One array against what its manifest says."""
    entry = each.entry
    try:
        stored = open_stored(each.path, entry.key or None)
    except MmapstoreError as error:
        return ArrayVerdict(
            each.name,
            ok=False,
            summary=f"{each.name}: DAMAGED, it cannot be opened",
            problems=(str(error),),
            shape=entry.shape,
            dtype=entry.dtype,
        )
    shape, dtype = tuple(int(n) for n in stored.shape), stored.dtype.str
    if (shape, dtype) != (entry.shape, entry.dtype):
        return ArrayVerdict(
            each.name,
            ok=False,
            summary=f"{each.name}: NOT WHAT WAS WRITTEN, another array is there",
            problems=(
                f"found {shape} {stored.dtype}, expected {entry.shape} {np.dtype(entry.dtype)} as {each.where} says: "
                "the data was replaced. Write it again, or delete the manifest if this is the data you want",
            ),
            shape=shape,
            dtype=dtype,
        )
    problems = _inconsistencies(each, stored)
    values = opened_rows(stored, each.path, max_memory, independent)
    if problems:
        return ArrayVerdict(
            each.name, ok=False, summary=f"{each.name}: THE MANIFEST IS DAMAGED", problems=tuple(problems), shape=shape, dtype=dtype
        )
    together = min(values.rows_together(min(BLOCK_NBYTES, max_memory // 8), max_memory // 4), _rows_in_block(values, entry))
    plan_for_one(values, together).require(max_memory, f"Verifying {each.name}", "Give a larger max_memory= (--max-memory).")
    bad, digests = _checked_blocks(each, stored, values, together, report)
    sha256 = digests.root(entry.shape)
    if entry.sha256 and sha256 != entry.sha256:
        problems += [f"SHA-256 of all values is {sha256}, expected {entry.sha256}"] if sha256 else []
        problems += _damaged_leaves(each, digests)
    extra = _appended(stored, each.path)
    if extra:
        problems.append(extra)
    return _verdict(each, values, bad, sha256, problems, independent)


def _damaged_leaves(each: Described, digests: LeafDigests) -> list[str]:
    """Name the ranges of an array, of which the digest is not the one of its manifest, that were changed or cannot be read."""
    entry = each.entry
    leaves = leaves_of(entry.shape, np.dtype(entry.dtype).itemsize)
    if len(leaves) < 2:
        return []
    expected = read_leaves(each.where, entry)
    if not expected:
        return [f"which range was changed is not known: {leaves_path(each.where)} is missing, or belongs to another manifest"]
    axis = "samples" if entry.layout[0] in "NT" else f"places along {entry.layout[0]}"
    found = []
    for leaf, (written, now) in enumerate(zip(expected, digests.of(entry.shape), strict=True)):
        if now != written:
            start, stop = leaves.rows(leaf, math.prod(entry.shape[1:]))
            why = "cannot be read" if now is None else "hold other values than were written"
            found.append(f"{axis} [{start}, {stop}) {why} (leaf {leaf} of {len(leaves)})")
    return [*found[:LISTED], *([f"and {len(found) - LISTED} more leaves"] if len(found) > LISTED else [])]


def _inconsistencies(each: Described, stored: StoredArray) -> list[str]:
    entry, found = each.entry, []
    samples = entry.shape[0] if entry.shape else 0
    blocks = -(-samples // entry.block_samples) if entry.block_samples > 0 else -1
    if blocks != len(entry.checksums):
        found.append(
            f"{each.where} has {len(entry.checksums)} checksums of blocks of {entry.block_samples} samples; expected {blocks} "
            f"for {samples} samples. Write the data again"
        )
    if len(entry.layout) != len(entry.shape) or set(entry.layout) - set(LETTERS):
        found.append(f"{each.where} gives the axes {entry.shape} the letters {entry.layout!r}; expected one of {LETTERS} for each")
    if entry.episodes[-1] != samples:
        found.append(f"{each.where} says that episodes end at sample {entry.episodes[-1]}; expected {samples}")
    return found


def _rows_in_block(values: Rows, entry: ArrayManifest) -> int:
    return max(1, min(entry.block_samples, entry.shape[0]) * (values.rows // max(1, entry.shape[0])))


def _checked_blocks(
    each: Described, stored: StoredArray, values: Rows, together: int, report: Report
) -> tuple[list[BadBlock], LeafDigests]:
    """All blocks that are not as written, in order; and the digests of all leaves that could be read."""
    entry = each.entry
    per_sample = values.rows // max(1, entry.shape[0])  # rows: more than one where samples are cut
    block_rows = entry.block_samples * per_sample
    bad: list[BadBlock] = []
    digests = LeafDigests(entry.dtype)
    crc, broken = 0, ""

    def steps() -> Iterator[tuple[int, int]]:
        for block in range(0, values.rows, block_rows):
            end = min(block + block_rows, values.rows)
            for start in range(block, end, together):
                yield start, min(start + together, end)

    with ThreadPoolExecutor(2, "ThreadPoolExecutor-mmapstore-verify") as threads:
        for start, stop, found in read_ahead(values, steps(), together, threads):
            hashed: Future[None] | None = None
            if isinstance(found, MmapstoreError):
                broken = broken or str(found)
            else:
                hashed = threads.submit(digests.update, found, start * values.row_values)
                crc = zlib.crc32(_stored_bytes(found, stored.dtype), crc)
            if stop % block_rows == 0 or stop == values.rows:
                number = (stop - 1) // block_rows
                if broken:
                    bad.append(_bad_block(each, stored, number, f"cannot be read: {broken}"))
                elif f"{crc:08x}" != entry.checksums[number]:
                    bad.append(_bad_block(each, stored, number, f"checksum {crc:08x}, expected {entry.checksums[number]}"))
                crc, broken = 0, ""
            if hashed is not None:
                hashed.result()
            report(stop // per_sample, entry.shape[0], per_sample * values.row_nbytes)
    return bad, digests


def _stored_bytes(found: Array, dtype: np.dtype[Any]) -> memoryview:
    """The bytes that the checksum was taken of: in stored byte order."""
    return (found if dtype.isnative else found.byteswap()).reshape(-1).view(np.uint8).data


def _bad_block(each: Described, stored: StoredArray, number: int, problem: str) -> BadBlock:
    start = number * each.entry.block_samples
    stop = min(start + each.entry.block_samples, each.entry.shape[0])
    extents, place = stored.extents, None
    if extents is not None and extents.is_one_run and extents.offset_of(0) >= 0:
        place = (extents.offset_of(0) + start * extents.row_nbytes, extents.offset_of(0) + stop * extents.row_nbytes)
    return BadBlock(number, (start, stop), each.path, place, problem)


def _appended(stored: StoredArray, path: str) -> str:
    """Return the bytes behind the values of a .npy file, where there should be none."""
    extents = stored.extents
    if extents is None or not path.endswith(".npy") or not os.path.isfile(path):
        return ""
    end = extents.offset_of(0) + extents.rows * extents.row_nbytes
    found = os.path.getsize(path)
    return f"{path} has {found} bytes, expected {end}: {found - end} were appended behind the last value" if found != end else ""


def _verdict(
    each: Described, values: Rows, bad: list[BadBlock], sha256: str, problems: list[str], independent: bool
) -> ArrayVerdict:
    entry, blocks = each.entry, len(each.entry.checksums)
    checked = [
        f"shape {entry.shape}, {np.dtype(entry.dtype)}, {entry.layout}, read {values.how}"
        if independent
        else f"shape {entry.shape}, {np.dtype(entry.dtype)}, {entry.layout}"
    ]
    notes = []
    if entry.sha256 and sha256 == entry.sha256:
        checked.append("the SHA-256 digest of all values is the one that its manifest names")
    elif not entry.sha256:
        notes.append("its manifest names no SHA-256 digest to compare with")
    if bad:
        problems.insert(0, f"{len(bad)} of {blocks} blocks are not what was written; the first bad one is number {bad[0].number}")
    else:
        checked.insert(
            0,
            f"all {blocks} blocks have the checksums of {each.where}"
            if blocks > 1
            else f"its one block has the checksum of {each.where}",
        )
    ok = not problems
    return ArrayVerdict(
        each.name,
        ok=ok,
        summary=f"{each.name}: {'whole, every value is the one that was written' if ok else 'DAMAGED'}",
        shape=entry.shape,
        dtype=entry.dtype,
        problems=tuple(problems),
        checked=tuple(checked) if ok else (),
        notes=tuple(notes),
        sha256=sha256,
        bad_blocks=tuple(bad[: 10 * LISTED]),
        bad_block_count=len(bad),
        nbytes=values.nbytes,
    )


def check_by_itself(stored: StoredArray, path: str, max_memory: int, independent: bool, report: Report) -> ArrayVerdict:
    """An array that no manifest describes: read to the end, with whatever checksums its format has inside."""
    values = opened_rows(stored, path, max_memory, independent)
    together = values.rows_together(min(BLOCK_NBYTES, max_memory // 8), max_memory // 4)
    plan_for_one(values, together).require(max_memory, f"Verifying {values.name}", "Give a larger max_memory= (--max-memory).")
    digests, problems = LeafDigests(values.dtype), []
    failed = 0
    with ThreadPoolExecutor(2, "ThreadPoolExecutor-mmapstore-verify") as threads:
        for start, stop, found in read_ahead(values, values.steps(together), together, threads):
            if isinstance(found, MmapstoreError):
                failed += 1
                if failed == 1:
                    problems.append(f"rows [{start}, {stop}) along the first axis cannot be read: {found}")
            elif not failed:
                digests.update(found)
            report(stop, values.rows, values.row_nbytes)
    if failed > 1:
        problems.append(f"and {failed - 1} more runs of that length cannot be read")
    extra = _appended(stored, path)
    checked = ["every value can be read"] if values.rows else ["it is empty"]
    inside = _checks_inside(stored)
    checked += [f"and found right: {words}" for words in inside]
    notes = [extra] if extra else []
    if not inside and values.rows:
        notes.append("no manifest is there and the format keeps no checksums, so a changed value cannot be told from the right one")
    elif values.rows:
        notes.append("no manifest is there to tell whether these are the values that were written")
    state = "DAMAGED" if problems else "readable from end to end"
    return ArrayVerdict(
        values.name,
        ok=not problems,
        summary=f"{values.name}: {state}, {values.shape} {dtype_words(values.dtype)}",
        shape=values.shape,
        dtype=stored.dtype.str,
        problems=tuple(problems),
        checked=tuple(checked) if not problems else (),
        notes=tuple(notes),
        sha256="" if failed else digests.root(values.shape),
        nbytes=values.nbytes,
    )


def _checks_inside(stored: StoredArray) -> list[str]:
    chunks = stored.encoded if isinstance(stored, HasChunks) else None
    names = [codec.name for codec in chunks.chain] if chunks is not None else []
    return [_OWN_CHECKS[name] for name in dict.fromkeys(names) if name in _OWN_CHECKS]
