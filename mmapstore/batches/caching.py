"""`Dataset.cache`: which fields are worth it, where their files go, and how much of them the disk may hold."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..files.system_errors import explaining_write_errors
from ..formats.npy_file import header_bytes
from ..plain.array_spec import DEFAULT_LAYOUTS, ArraySpec
from ..plain.errors import InvalidTypeError, InvalidValueError, KeyNotFoundError, WriteError
from ..plain.memory_budget import format_bytes, parse_bytes
from ..readers.cache_file import Numbers, allocated_nbytes, cache_file, flags_of
from ..readers.cached import Blocks, Cached, SampleTransform, blocks_of, transformed
from ..readers.contract import Array, Reader

if TYPE_CHECKING:
    from .dataset import Dataset

Transforms = SampleTransform | Mapping[str, SampleTransform] | None
_FORMAT = 1  # of the files: another number, other files
_PAGE = 4096  # bytes that a disk gives at once
_SPARE = 0.95  # of the free space, where a size that fits is named


@dataclass(frozen=True)
class _Field:
    """One field to be cached."""

    reader: Reader
    transform: SampleTransform | None
    spec: ArraySpec
    ends: Numbers
    first: int
    last: int
    path: str

    @property
    def overhead(self) -> int:
        """Bytes on disk beside the blocks: header, flags, and the rest of the pages of the first and last block."""
        flags = -(-len(self.ends) // _PAGE) * _PAGE
        return -(-len(header_bytes(self.spec.shape, self.spec.dtype)) // _PAGE) * _PAGE + flags + 2 * _PAGE

    def nbytes(self, last: int) -> int:
        """Return the bytes on disk with the blocks [first, last)."""
        return int(self.ends[last] - self.ends[self.first]) * self.spec.sample_nbytes + self.overhead

    def most_blocks(self, nbytes: float) -> int:
        """Return the largest `last` with which the file takes at most `nbytes`; `first` if there is none."""
        room = int((nbytes - self.overhead) // self.spec.sample_nbytes)
        found = int(np.searchsorted(self.ends, int(self.ends[self.first]) + room, side="right")) - 1
        return max(self.first, min(self.last, found))

    @property
    def on_disk(self) -> int:
        return allocated_nbytes(self.path) + allocated_nbytes(flags_of(self.path))


def cached_readers(
    dataset: Dataset, directory: str | os.PathLike[str], max_disk: int | str | None, transform: Transforms, version: Any
) -> dict[str, Reader]:
    """Return the readers of the fields, those that decode with a cache before them; see `Dataset.cache`."""
    limit = None if max_disk is None else parse_bytes(max_disk, "max_disk")
    readers = dataset.readers
    transforms = _by_field(transform, readers, version)
    folder = os.path.abspath(os.fspath(directory))
    with explaining_write_errors(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
    fields = {
        field: _field(dataset, field, transforms.get(field), folder, version)
        for field, reader in readers.items()
        if field in transforms or needs_cache(reader)
    }
    allowed = {field: one.last for field, one in fields.items()}
    if limit is not None:
        whole = sum(one.nbytes(one.last) for one in fields.values())
        allowed = {field: one.most_blocks(limit * min(1, one.nbytes(one.last) / whole)) for field, one in fields.items()}
        _require_a_block(fields, allowed, limit)
    _require_room(fields, allowed, folder, dataset.name)
    for field, one in fields.items():
        made = Cached(one.reader, one.path, one.spec, Blocks(one.ends, one.first, one.last, allowed[field]), one.transform)
        readers[field] = made.settled()
    return readers


def needs_cache(reader: Reader) -> bool:
    """Return False where the bytes are read as they lie, or are cached already: there is nothing to decode."""
    return not isinstance(reader, Cached) and not reader.gathers


def _by_field(transform: Transforms, readers: Mapping[str, Reader], version: Any) -> dict[str, SampleTransform]:
    if transform is None:
        return {}
    if callable(transform):
        if len(readers) > 1:
            raise InvalidTypeError(
                f"transform is one function, but there are {len(readers)} fields; give a dict, such as "
                f"transform={{{next(iter(readers))!r}: function}}."
            )
        transform = {next(iter(readers)): transform}
    found: dict[str, Any] = dict(transform) if isinstance(transform, Mapping) else {"": transform}
    for function in found.values():
        if not callable(function):
            raise InvalidTypeError(f"transform={function!r} cannot be called; expected a function of an array of samples.")
    if not set(found) <= set(readers):
        raise KeyNotFoundError(f"transform names {sorted(found)}, but the fields are {', '.join(map(repr, readers))}.")
    if version is None:
        raise InvalidValueError(
            "a transform needs version=, any text that names it: what it makes is kept, and used again as long as version is the "
            "same. Give another version whenever the function changes; leave random augmentation to batches(transform=...)."
        )
    return found


def _field(dataset: Dataset, field: str, transform: SampleTransform | None, folder: str, version: Any) -> _Field:
    reader = dataset.readers[field]
    ends = blocks_of(reader)
    start, stop = dataset._selection.bounds
    first = int(np.searchsorted(ends, start, side="right")) - 1
    last = int(np.searchsorted(ends, stop, side="left"))
    spec, begin = reader.spec, None
    if transform is not None:
        samples: Array = np.empty((int(ends[first + 1] - ends[first]), *spec.sample_shape), spec.dtype)
        reader.read(int(ends[first]), int(ends[first + 1]), samples)
        begin = transformed(transform, samples)
        spec = _transformed_spec(reader.spec, begin)
    digest = hashlib.blake2b(digest_size=16)
    digest.update(
        repr((_FORMAT, dataset._whole(field).fingerprint(), reader.spec, spec, None if version is None else str(version))).encode()
    )
    digest.update(repr(_source_files(reader)).encode())
    digest.update(ends.astype("<i8").tobytes())
    path = os.path.join(folder, f"{re.sub(r'[^A-Za-z0-9._-]', '_', field)}-{digest.hexdigest()}.npy")
    if begin is not None:
        _require_same(path, spec, ends, first, begin, version)
    return _Field(reader, transform, spec, ends, first, last, path)


def _transformed_spec(spec: ArraySpec, made: Array) -> ArraySpec:
    layout = spec.layout if made.ndim == len(spec.shape) else DEFAULT_LAYOUTS.get(made.ndim)
    if layout is None:
        raise InvalidValueError(f"transform made {made.shape}, {made.ndim} axes; expected at most {max(DEFAULT_LAYOUTS)}.")
    if not made.size:
        raise InvalidValueError(f"transform made {made.shape}, which holds nothing; expected samples of one value at least.")
    return ArraySpec((len(spec), *made.shape[1:]), made.dtype, layout)


def _require_same(path: str, spec: ArraySpec, ends: Numbers, first: int, begin: Array, version: Any) -> None:
    """Raise unless the function makes what the cache holds: it is deterministic, and has not changed under its version."""
    if not os.path.exists(path):
        return
    file = cache_file(path, spec, ends)
    if file.filled(first, first + 1).all():
        kept = np.empty_like(begin)
        file.read(int(ends[first]), int(ends[first + 1]), kept)
        if kept.tobytes() != begin.tobytes():
            raise InvalidValueError(
                f"transform makes other samples than those that {path} holds under version={version!r}: it has changed, or it is "
                "random. Give another version if it has changed; a random one belongs into batches(transform=...)."
            )


def _source_files(reader: Reader) -> list[tuple[int, int]]:
    """Return the (bytes, time of change) of the files that the samples come from, as far as they are known."""
    found = []
    for path in reader.files:
        inside = [*Path(path).glob("*.json"), *Path(path).glob(".z*")] if os.path.isdir(path) else []
        for one in (Path(path), *sorted(inside)):
            if one.exists():
                status = one.stat()
                found.append((status.st_size, status.st_mtime_ns))
    return found


def _require_a_block(fields: Mapping[str, _Field], allowed: Mapping[str, int], limit: int) -> None:
    if fields and all(allowed[field] == one.first for field, one in fields.items()):
        least = max(one.nbytes(one.first + 1) for one in fields.values()) * len(fields)
        raise InvalidValueError(
            f"max_disk={format_bytes(limit)} does not hold a single block of samples; expected {format_bytes(least)} or more, and "
            f"{format_bytes(sum(one.nbytes(one.last) for one in fields.values()))} hold all."
        )


def _require_room(fields: Mapping[str, _Field], allowed: Mapping[str, int], folder: str, name: str) -> None:
    there = sum(min(one.on_disk, one.nbytes(allowed[field])) for field, one in fields.items())
    missing = sum(one.nbytes(allowed[field]) for field, one in fields.items()) - there
    free = shutil.disk_usage(folder).free
    if fields and missing > free:
        fits = int((there + free) * _SPARE) // 10**6
        part = f", or keep a part of it: max_disk='{fits}MB' fits" if fits else ""
        raise WriteError(
            f"a cache of {name} takes {format_bytes(missing)} more in {folder}, whose disk has {format_bytes(free)} free. "
            f"Free space, choose a directory on another disk{part}."
        )
