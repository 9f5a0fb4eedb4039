"""Directories, globs and lists of `.npy` and `.npz` files: one file after the other, each an episode."""

from __future__ import annotations

import contextlib
import glob
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from ...batches.opening import natural
from ...files.system_errors import explaining_read_errors
from ...formats.npz_member import damaged_archive
from ...formats.registry import PARTIAL
from ...plain.array_spec import ArraySpec, StoredLayout, checked_dtype
from ...plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, KeyNotFoundError, NotFoundError
from ...plain.guessed_axes import doubt_about
from ...plain.manifest import DIRECTORY_MANIFEST, is_beside
from .contract import ONLY, Array, DoubtsAxes, Piece, Position, Source
from .sources import content_mark, stamp

ARRAY_SUFFIXES = (".npy", ".npz")
STORE_FILES = (DIRECTORY_MANIFEST, "zarr.json", ".zarray", ".zgroup")  # a directory with one of them is one array, or a group


def matching(pattern: str) -> list[str]:
    """The files that a glob pattern names, in natural order. Raises NotFoundError if there are none."""
    found = [path for path in glob.glob(pattern, recursive=True) if not is_beside(path) and not path.endswith(PARTIAL)]
    if not found:
        raise NotFoundError(f"No file matches {pattern!r} (looked from {Path.cwd()}). Check the pattern, and quote it in a shell.")
    return sorted(found, key=natural)


def inside_directory(path: str, suffixes: Sequence[str]) -> list[str]:
    """The visible files of a directory with one of these suffixes, in natural order; links that lead nowhere are an error later."""
    names = [
        entry.name
        for entry in os.scandir(path)
        if not entry.name.startswith(".")
        and (entry.is_file(follow_symlinks=False) or (entry.is_symlink() and not os.path.isdir(entry)))
    ]
    return [os.path.join(path, name) for name in sorted(names, key=natural) if name.lower().endswith(tuple(suffixes))]


def files_of(source: Any, suffixes: Sequence[str], kind: str) -> list[str]:
    """Return the files of a path, a list of paths, a glob, or a directory (those with one of these suffixes), in natural order.

    Raises NotFoundError for a file that does not exist and a directory without any, InvalidTypeError for another source.
    """
    if isinstance(source, (list, tuple)) and source and all(isinstance(path, (str, os.PathLike)) for path in source):
        paths = [os.fspath(path) for path in source]
    elif not isinstance(source, (str, os.PathLike)):
        raise InvalidTypeError(f"{kind} are files; got {source!r:.80}. Give a path, a list of paths, a glob or a directory.")
    elif os.path.isdir(source):
        paths = inside_directory(os.fspath(source), suffixes)
        if not paths:
            raise NotFoundError(f"{os.fspath(source)} holds no file that ends with {', '.join(suffixes)}. Check the directory.")
    elif glob.has_magic(os.fspath(source)) and not os.path.exists(source):
        paths = matching(os.fspath(source))
    else:
        paths = [os.fspath(source)]
    missing = next((path for path in paths if not os.path.exists(path)), None)
    if missing is not None:
        raise NotFoundError(f"{missing} does not exist. Check the path.")
    return paths


class FilesSource:
    """Files joined along the sample axis. All are looked at first: one that does not fit is named before anything is written."""

    gives_from_any_sample = True
    notes: Mapping[str, Mapping[str, Any]] = MappingProxyType({})

    def __init__(self, paths: list[str], open_one: Callable[[str], Source]) -> None:
        self.paths = [os.path.abspath(path) for path in paths]
        self.name = paths[0] if len(paths) == 1 else f"{len(paths)} files, {paths[0]} to {paths[-1]}"
        self._open_one = open_one
        self._first_of = [0]
        self._memory: dict[str, int] = {}
        for path in paths:
            part = open_one(path)
            if len(self._first_of) == 1:
                expected = part.specs[ONLY]
                doubts = part.doubts if isinstance(part, DoubtsAxes) else ()
            found = part.specs[ONLY]
            alike = f"{expected.sample_shape} {expected.dtype} ({expected.layout})"
            if (found.sample_shape, found.dtype, found.layout) != (expected.sample_shape, expected.dtype, expected.layout):
                raise InvalidValueError(
                    f"{path} holds samples of shape {found.sample_shape} {found.dtype} ({found.layout}); "
                    f"{paths[0]} and the others {alike}. Files that are joined have to be alike: leave it out, or convert it."
                )
            self._first_of.append(self._first_of[-1] + len(found))
        self.samples: int | None = self._first_of[-1]
        self.guess = self._first_of[-1]
        self.specs = {ONLY: ArraySpec((self.guess, *expected.sample_shape), expected.dtype, expected.layout)}
        self._last = part
        self.doubts = doubts
        self.fingerprint: dict[str, Any] = {"kind": "files", "files": len(paths), "stamp": stamp(self.paths), "samples": self.guess}

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        for number, path in enumerate(self.paths):
            first, last = self._first_of[number : number + 2]
            if last > after.samples:
                yield from self._open_one(path).pieces(Position(max(0, after.samples - first)), at_most)

    def memory(self, at_most: int) -> dict[str, int]:
        return self._last.memory(at_most)


class NpzSource:
    """A source: one array of a `.npz` archive, decompressed as it is read, never as a whole."""

    gives_from_any_sample = True
    notes: Mapping[str, Mapping[str, Any]] = MappingProxyType({})

    def __init__(self, path: str, member: str | None, source_layout: str | None) -> None:
        self.paths = [os.path.abspath(path)]
        self.name = path if member is None else f"{path}::/{member}"
        with self._explaining():
            with zipfile.ZipFile(path) as archive:
                self._member = self._choose(path, archive.namelist(), member)
            with self._stream() as (_, header):
                shape, fortran_order, dtype = header
        checked_dtype(dtype, self.name)
        if fortran_order and sum(n != 1 for n in shape) > 1:
            raise InvalidTypeError(
                f"{self.name} is in Fortran order, so its samples are spread over the whole archive. "
                "Save it again with numpy.savez(path, numpy.ascontiguousarray(array))."
            )
        stored = StoredLayout.of(source_layout, shape, self.name)
        doubt = doubt_about(self.name, shape, source_layout)
        self.doubts = [doubt] if doubt else []
        if not stored.is_consecutive:
            raise InvalidValueError(
                f"{self.name} with source_layout={source_layout!r} cannot be read in order from an archive; save it as .npy first."
            )
        self._length = stored.episode_length if "T" in stored.letters else stored.samples
        self._stored_dtype = dtype
        self._spec = stored.spec(dtype)
        self.specs = {ONLY: self._spec}
        self.samples: int | None = stored.samples
        self.guess = stored.samples
        first = next(self.pieces(Position(), 1)).fields[ONLY]
        self.fingerprint: dict[str, Any] = {
            "kind": "npz",
            "stamp": stamp(self.paths),
            "member": self._member,
            "content": content_mark(first),
        }

    @staticmethod
    def _choose(path: str, names: list[str], wanted: str | None) -> str:
        arrays = [name for name in names if name.endswith(".npy")]
        listed = ", ".join(name.removesuffix(".npy") for name in arrays[:20]) or "no arrays"
        if wanted is not None:
            if f"{wanted}.npy" not in arrays:
                raise KeyNotFoundError(f"{path} holds no array {wanted!r}; it holds {listed}.")
            return f"{wanted}.npy"
        if len(arrays) != 1:
            example = (
                f' Name one, as in "{path}::{arrays[0].removesuffix(".npy")}", or take them as fields: mmapstore.Megabatches '
                "(--fields)."
                if arrays
                else ""
            )
            raise KeyNotFoundError(f"{path} holds {len(arrays)} arrays ({listed}); expected one.{example}")
        return arrays[0]

    def _explaining(self) -> contextlib.AbstractContextManager[None]:
        return explaining_read_errors(self.paths[0], damaged_archive)

    @contextlib.contextmanager
    def _stream(self) -> Iterator[tuple[Any, tuple[tuple[int, ...], bool, np.dtype[Any]]]]:
        """The member behind its header, and the header."""
        with zipfile.ZipFile(self.paths[0]) as archive, archive.open(self._member) as stream:
            try:
                version = np.lib.format.read_magic(stream)
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                header = read(stream)
            except ValueError as error:
                raise DamagedFileError(
                    f"{self.name}: {self._member} has no .npy header ({error}). Copy or write the archive again."
                ) from error
            yield stream, header

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        nbytes = self._spec.sample_nbytes
        with self._explaining(), self._stream() as (stream, _):
            skip = after.samples * nbytes
            while skip:
                passed = len(stream.read(min(skip, 1 << 20)))
                if passed == 0:
                    raise EOFError(f"it ends before sample {after.samples}")
                skip -= passed
            for at in range(after.samples, len(self._spec), at_most):
                count = min(at_most, len(self._spec) - at)
                data = stream.read(count * nbytes)
                if len(data) != count * nbytes:
                    raise EOFError(f"it ends before sample {at + count}")
                read: Array = np.frombuffer(data, self._stored_dtype).reshape(count, *self._spec.sample_shape)
                yield Piece({ONLY: read}, range(-at % self._length, count, self._length))

    def memory(self, at_most: int) -> dict[str, int]:
        # zipfile collects what it inflates in pieces and joins them: twice the size for a moment, beside what was read before.
        return {"samples being read": 3 * at_most * self._spec.sample_nbytes}
