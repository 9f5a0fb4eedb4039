"""Chunks that lie many to a file: the index of each shard, read when first asked for and checked before it is believed."""

from __future__ import annotations

import os
import stat
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np

from ..files.descriptors import Descriptor, read_exactly
from ..files.system_errors import explaining_read_errors
from ..plain.chunk_grid import ChunkGrid
from ..plain.errors import DamagedFileError, NotFoundError
from .located import ChunkPlace, Located
from .zarr_chunks import ChunkNames
from .zarr_codecs import ByteOrder

MOST_INDEX_NBYTES = 64 << 20  # the indexes of an array that are kept; those used last stay
_ENTRY_NBYTES = 1024  # the objects around the index of a shard: more than what they were seen to take
_NOWHERE = 2**64 - 1  # offset and size of a chunk that was not stored


class _Identity(NamedTuple):
    """The facts of a file that stay until it is written anew."""

    device: int
    inode: int
    size: int
    modified: int


@dataclass(frozen=True)
class ShardForm:
    """The layout of shards."""

    shape: tuple[int, ...]  # of a shard, in elements; a multiple of the chunk's along each axis
    index_first: bool  # whether the index stands at the start of the file, and not at its end
    byte_order: ByteOrder  # of the numbers in the index
    has_checksum: bool  # whether the crc32c of the index follows it

    def index_nbytes(self, chunk: tuple[int, ...]) -> int:
        """Return the bytes of the index in the file: an offset and a size for each chunk, and the checksum."""
        return 16 * len(ChunkGrid(self.shape, chunk)) + 4 * self.has_checksum


class _Shard(NamedTuple):
    """A shard that was looked into; `entries` of its index are (chunks, 2) uint64: offset and size."""

    path: str
    identity: _Identity
    entries: np.ndarray[Any, np.dtype[np.uint64]]


@dataclass(eq=False, kw_only=True)
class ChunksInShards(Located):
    """Chunks many to a file; `grid` is that of the inner chunks. Keeps the indexes of shards, at most `MOST_INDEX_NBYTES`."""

    names: ChunkNames
    form: ShardForm

    def __post_init__(self) -> None:
        chunk = self.grid.chunk
        self._shards, self._in_shard = ChunkGrid(self.grid.shape, self.form.shape), ChunkGrid(self.form.shape, chunk)
        self._entry_nbytes = self.form.index_nbytes(chunk) + _ENTRY_NBYTES + 4 * len(self.names.before)
        self._most_entries = max(1, MOST_INDEX_NBYTES // self._entry_nbytes)
        self._kept: OrderedDict[int, _Shard] = OrderedDict()
        self._lock = threading.Lock()
        _all.add(self)

    def __getstate__(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.__post_init__()

    @property
    def nbytes(self) -> int:
        return min(self._most_entries, len(self._shards)) * self._entry_nbytes

    @property
    def has_rows(self) -> bool:
        return False  # a chunk is found by its shard's index, under a lock: not one by one

    def places(self, numbers: Sequence[int]) -> list[ChunkPlace | None]:
        """Return the places of inner chunks in the files of their shards; None if the shard, or the chunk in it, was not stored.

        Once in each call, a shard whose index is kept is seen to be the file that it was.

        Raises DamagedFileError (a shard or an index that cannot be what was written, or was written anew since), NotReadableError.
        """
        found: list[ChunkPlace | None] = []
        seen: set[int] = set()
        at, shard = -1, None
        outer, inner = np.divmod(self.grid.places(numbers), np.array(self._in_shard.counts, np.int64))
        shards, within = outer @ self._shards.strides, inner @ self._in_shard.strides
        with self._lock:
            for number, number_of_shard, entry in zip(numbers, shards.tolist(), within.tolist(), strict=True):
                if number_of_shard != at:
                    at, shard = number_of_shard, None  # let go of the last index before there is another
                    shard = self._shard(at, is_seen=at in seen)
                    seen.add(at)
                if shard is None:
                    found.append(None)
                    continue
                offset, nbytes = shard.entries[entry].tolist()
                if offset + nbytes > shard.identity.size:
                    if offset == nbytes == _NOWHERE:
                        found.append(None)
                        continue
                    raise DamagedFileError(
                        f"{shard.path}: its index places chunk {self.grid.place(number)} of the array at byte {offset}, {nbytes} "
                        f"bytes long, but the file ends at byte {shard.identity.size}. It was truncated or damaged; write it again."
                    )
                found.append(ChunkPlace(shard.path, offset, nbytes))
        return found

    def _shard(self, number: int, is_seen: bool) -> _Shard | None:
        shard = self._kept.get(number)
        if shard is not None:
            self._kept.move_to_end(number)
            if not is_seen and _identity(shard.path) != shard.identity:
                raise DamagedFileError(f"{shard.path} was written anew or deleted since its index was read. Open the store again.")
            return shard
        path = self.names.path(self._shards.place(number))
        if _identity(path) is None:
            if not os.path.isdir(self.root):
                raise DamagedFileError(f"{self.root} is gone since it was opened, and its shards with it. Check the disk.")
            return None
        while len(self._kept) >= self._most_entries:
            self._kept.popitem(last=False)
        shard = self._read(path)
        if shard is not None:
            self._kept[number] = shard
        return shard

    def _read(self, path: str) -> _Shard | None:
        with explaining_read_errors(path):
            try:
                descriptor = Descriptor(path)  # not among those kept open: it is read once
            except NotFoundError:
                return None
            identity, wanted = _identity_of(descriptor.status), self.form.index_nbytes(self.grid.chunk)
            if wanted > identity.size:
                raise DamagedFileError(
                    f"{path} has {identity.size} bytes, fewer than the {wanted} of a shard's index. "
                    "It was truncated; copy or write it again."
                )
            stored = np.empty(wanted, np.uint8)
            read_exactly(descriptor, 0 if self.form.index_first else identity.size - wanted, [stored])
        numbers = stored[: len(stored) - 4 * self.form.has_checksum]
        if self.form.has_checksum:
            expected, computed = int.from_bytes(stored[-4:].tobytes(), "little"), _crc32c(numbers)
            if computed != expected:
                raise DamagedFileError(
                    f"{path}: the index of the shard has the checksum {computed:#010x}, expected {expected:#010x} (crc32c). "
                    "It was damaged, or was being written; copy or write it again."
                )
        entries = numbers.view(np.uint64).reshape(-1, 2)
        if not np.dtype(np.uint64).newbyteorder(self.form.byte_order).isnative:
            entries.byteswap(inplace=True)
        return _Shard(path, identity, entries)


_all: weakref.WeakSet[ChunksInShards] = weakref.WeakSet()


def _after_fork() -> None:
    for chunks in list(_all):
        chunks._lock = threading.Lock()  # another thread may have held it, in the middle of a change
        chunks._kept = OrderedDict()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _identity(path: str) -> _Identity | None:
    """Return the facts of a file; None if there is none."""
    with explaining_read_errors(path):
        try:
            status = os.stat(path)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISREG(status.st_mode):
            raise DamagedFileError(f"{path} is not a file; expected a shard. Copy or write the store again.")
        return _identity_of(status)


def _identity_of(status: os.stat_result) -> _Identity:
    return _Identity(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


def _crc32c(data: np.ndarray[Any, np.dtype[np.uint8]]) -> int:
    from google_crc32c import value  # a dependency of zarr, without which no store is opened

    return int(value(data))
