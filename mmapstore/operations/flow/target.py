"""The target of a write: its format, its names, and whether something is there already."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...files.stored_manifest import read_manifest
from ...files.system_errors import explaining_write_errors
from ...formats.contract import Format, Writing
from ...formats.registry import PARTIAL, format_written, written_suffixes
from ...plain.errors import (
    InvalidTypeError,
    InvalidValueError,
    LockedFileError,
    MmapstoreError,
    TargetExistsError,
    UnsafeFileError,
    WriteError,
)
from ...plain.inside_names import split_name
from ...plain.manifest import DIRECTORY_MANIFEST, SUFFIX, ArrayManifest, is_beside

_ELSEWHERE = "Write to another name."


class Place(NamedTuple):
    """The place of one field: `path` until all is whole, then `file`, beside the manifest; `key` inside it, "" for none."""

    writing: Writing
    path: str
    file: str
    key: str


@dataclass(frozen=True)
class Output:
    """A file or directory to write, and the names used until it is whole. `path` appears when all is written."""

    path: str

    @property
    def partial(self) -> str:
        return self.path + PARTIAL

    @property
    def journal(self) -> str:
        return f"{self.partial}.json"

    @property
    def lock(self) -> str:
        return f"{self.partial}.lock"

    @property
    def receipts(self) -> str:
        """The directory of receipts, where several processes write it."""
        return f"{self.partial}.receipts"

    @property
    def has_receipts(self) -> bool:
        return os.path.isdir(self.receipts) and bool(os.listdir(self.receipts))

    @property
    def manifest(self) -> str | None:
        """The manifest beside the data; None where it lies inside, as it does in a directory of fields."""
        return self.path + SUFFIX

    @property
    def manifest_path(self) -> str:
        return self.manifest or os.path.join(self.path, DIRECTORY_MANIFEST)

    def require_directory(self) -> None:
        """Raise WriteError unless the directory that is to hold the output exists."""
        parent = os.path.dirname(os.path.abspath(self.path))
        if not os.path.isdir(parent):
            raise WriteError(f"{self.path} cannot be written: there is no directory {parent}. Create it first.")

    @contextlib.contextmanager
    def temporary_directory(self) -> Iterator[str]:
        """Make a directory beside the output, on the same disk, and delete it at the end. Raises WriteError."""
        above = os.path.dirname(os.path.abspath(self.path))
        with explaining_write_errors(above):
            folder = tempfile.mkdtemp(prefix=".mmapstore-dry-run-", dir=above)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def require_apart_from(self, paths: Iterable[str]) -> None:
        """Raise InvalidValueError if the output is one of these files, by whatever name, or a directory around one."""
        for path in paths:
            if _is_same(path, self.path):
                raise InvalidValueError(f"{self.path} is the target, and the same file as {path}, which is read. {_ELSEWHERE}")
            if any(_is_same(str(around), self.path) for around in Path(os.path.realpath(path)).parents):
                raise InvalidValueError(f"{self.path} is the target, and {path}, which is read, lies in it. {_ELSEWHERE}")


@dataclass(frozen=True)
class Target(Output):
    """The target of a write: a file, a store, or a directory of fields.

    Attributes
    ----------
    key : path inside it, "" for none: of the array, or of the group that holds the fields
    key_given : tells a key from the usual one
    format : of the file, the store, or the files in the directory
    named : fields are written under names of their own: arrays of one HDF5 file or Zarr group, or `.npy` files in a directory
    """

    key: str
    key_given: bool
    format: Format
    named: bool = False

    @classmethod
    def of(cls, out: str | os.PathLike[str], named: bool) -> Target:
        """Return the target that `out` names. Raises InvalidValueError for a suffix that no format has."""
        if not isinstance(out, (str, os.PathLike)):
            raise InvalidTypeError(
                f"out is a {type(out).__name__}; expected a path such as 'frames.npy', 'a.h5::/frames' or 'a.zarr'."
            )
        path, inside = split_name(os.fspath(out))
        path, key = path.rstrip("/" + os.sep) or path, (inside or "").strip("/")
        suffix = os.path.splitext(path)[1].lower()
        format = format_written(suffix)
        writing = format.writing if format is not None else None
        if named and writing is not None and not writing.holds_many:
            raise InvalidValueError(
                f"Several fields are written into a directory, one .npy file each, or into one .h5 or .zarr; {os.fspath(out)} "
                f"names a single array. Give a directory such as {os.path.splitext(path)[0]!r}, or ingest each field of its own."
            )
        if named and writing is None:
            if inside is not None:
                raise InvalidValueError(f"{os.fspath(out)} has a place inside; a directory of .npy files has none. Leave '::' out.")
            if not path:
                raise InvalidValueError("out is empty; expected the name of a new directory.")
            format = format_written(".npy")
            assert format is not None
            return cls(path, "", False, format, named)
        if format is None or writing is None:
            container = next((part for part in Path(path).parents if format_written(part.suffix.lower()) is not None), None)
            hint = f" Did you mean '{container}::/{Path(path).relative_to(container)}'?" if container else ""
            raise InvalidValueError(
                f"{path!r} has no suffix that says how to write it; expected one of {', '.join(written_suffixes())}.{hint}"
            )
        if not writing.holds_many and key:
            raise InvalidValueError(f"A .npy file holds one array without a name; leave '::/{key}' out, or write to .h5 or .zarr.")
        return cls(path, key or ("" if named else writing.default_key), bool(key), format, named)

    def place(self, field: str) -> Place:
        """Return the place of a field of the source."""
        if self.is_directory_of_fields:
            return Place(self.writing, os.path.join(self.partial, f"{field}.npy{PARTIAL}"), f"{field}.npy", "")
        return Place(
            self.writing, self.partial, os.path.basename(self.path), "/".join(filter(None, (self.key, field * self.named)))
        )

    def name_of(self, field: str) -> str:
        """Return the name of a field of the source in the manifest."""
        return field if self.named else "data"

    @property
    def opened_as(self) -> str:
        """The path that `mmapstore.open` takes."""
        return f"{self.path}::/{self.key}" if self.key_given else self.path

    @property
    def writing(self) -> Writing:
        assert self.format.writing is not None
        return self.format.writing

    @property
    def manifest(self) -> str | None:
        return None if self.is_directory_of_fields else self.path + SUFFIX

    @property
    def is_directory_of_fields(self) -> bool:
        return self.named and not self.writing.holds_many

    def require_parts(self, otherwise: str) -> None:
        """Raise InvalidValueError for a target that one process alone can write; `otherwise` says what to do but use another."""
        if not self.writing.takes_parts:
            raise InvalidValueError(
                f"{self.path} cannot be written in parts: {self.format.title} has one writer at a time. Write to .npy or .zarr, "
                f"or {otherwise}."
            )

    def require_free(self, overwrite: bool, fields: Iterable[str] = (), is_growing: bool = False) -> None:
        """Raise TargetExistsError if something is there that must not be replaced by these fields of a source.

        `is_growing`: what was written there is appended to, so that only what would get lost counts: a copy takes its place.
        """
        if not os.path.lexists(self.path) or (is_growing and self.writing.tail is not None):
            return
        if self.is_directory_of_fields and os.path.isdir(self.path) and not os.listdir(self.path):
            return
        if not overwrite and not is_growing:
            raise TargetExistsError(f"{self.path} exists. Pass overwrite=True (--overwrite) to replace it, or choose another name.")
        others = self._what_else_would_go(fields)
        if others:
            raise TargetExistsError(
                f"{self.path} holds more than would be replaced: {', '.join(sorted(others)[:10])}. "
                "Choose another name, or move it away first."
            )

    def _what_else_would_go(self, fields: Iterable[str]) -> list[str]:
        if self.is_directory_of_fields:
            if not os.path.isdir(self.path):
                return ["a file"]
            entries = self.written()
            files = {entry.file for entry in entries}
            return sorted(name for name in os.listdir(self.path) if name not in files and not (entries and is_beside(name)))
        if os.path.isdir(self.path) is not self.writing.is_directory:
            return ["a file" if self.writing.is_directory else "a directory"]
        if self.writing.is_directory and not self.format.matches(self.path):
            return os.listdir(self.path)
        if not self.writing.holds_many:
            return []
        try:
            keys = [listing.key for listing in self.format.list_arrays(self.path, "")]
        except (LockedFileError, UnsafeFileError):
            raise
        except MmapstoreError:
            return []  # not readable as what its name says: there is nothing in it to keep but the name
        if len(keys) <= 1 and not self.key_given:
            return []
        replaced = {self.place(field).key for field in fields} if self.named else {self.key}
        if self.named:  # what was written together may be replaced together
            replaced |= {entry.key for entry in self.written()}
        return [key or "an array at the root" for key in keys if key not in replaced]

    def written(self) -> list[ArrayManifest]:
        """Return the entries of the manifest at the target; no entries if the manifest cannot be read."""
        try:
            return list(read_manifest(self.manifest_path).fields.values())
        except MmapstoreError:
            return []


def name_fields(paths: Iterable[str], finished: bool) -> None:
    """Give the files of all fields the names by which they open; or, to go on writing, take those away again."""
    for path in paths:
        final = path.removesuffix(PARTIAL)
        source, name = (path, final) if finished else (final, path)
        if os.path.lexists(source):
            os.replace(source, name)


def require_field_names(names: Sequence[object]) -> None:
    """Raise InvalidValueError for a field that cannot be named after a file."""
    if not names:
        raise InvalidValueError(
            'The dict of fields is empty; expected sources by name, such as {"image": images, "label": labels}.'
        )
    for name in names:
        if not isinstance(name, str) or not name or name.startswith(".") or set(name) & set('/\\:*?"<>|\0'):
            raise InvalidValueError(f"The field {name!r} cannot be the name of a file; expected a plain word such as 'image'.")


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return os.path.realpath(path) == os.path.realpath(other)
