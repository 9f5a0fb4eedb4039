"""Where the samples go: which format writes them, under which names, and whether something is there already."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ...formats.contract import Listing, NewArray, Writer
from ...formats.registry import PARTIAL
from ...plain import manifest
from ...plain.errors import (
    InvalidTypeError,
    InvalidValueError,
    LockedFileError,
    MmapstoreError,
    TargetExistsError,
    UnsafeFileError,
    WriteError,
)

_FORMATS = {".npy": "npy_file", ".h5": "hdf5_file", ".hdf5": "hdf5_file", ".zarr": "zarr_store"}
_DEFAULT_KEYS = {"hdf5_file": "data"}
_ZARR_ROOTS = ("zarr.json", ".zarray", ".zgroup")
_ELSEWHERE = "Write to another name."


class FormatModule(Protocol):
    """What a module of `formats/` gives to those who write."""

    def create(self, path: str, key: str | None, new: NewArray) -> Writer: ...

    def reopen(self, path: str, key: str | None, new: NewArray) -> Writer: ...

    def list_arrays(self, path: str, inside: str = "") -> list[Listing]: ...


@dataclass(frozen=True)
class Target:
    """One file, one store, or a directory of fields; and the names used until it is whole.

    Attributes
    ----------
    path : what appears when all is written
    key : path inside it, "" for none; `key_given` tells a key from the usual one
    format : the module of `formats/` that writes it; "" for a directory of fields
    """

    path: str
    key: str
    key_given: bool
    format: str

    @classmethod
    def of(cls, out: str | os.PathLike[str], fields: bool) -> Target:
        """Where `out` points. Raises InvalidValueError for a suffix that no format has."""
        if not isinstance(out, (str, os.PathLike)):
            raise InvalidTypeError(
                f"out is a {type(out).__name__}; expected a path such as 'frames.npy', 'a.h5::/frames' or 'a.zarr'."
            )
        path, separator, key = os.fspath(out).partition("::")
        path, key = path.rstrip("/" + os.sep) or path, key.strip("/")
        suffix = os.path.splitext(path)[1].lower()
        if fields:
            if suffix in _FORMATS or separator:
                raise InvalidValueError(
                    f"Several fields are written into a directory, one .npy file each; {os.fspath(out)} names a single array. "
                    f"Give a directory such as {os.path.splitext(path)[0]!r}, or ingest each field of its own."
                )
            if not path:
                raise InvalidValueError("out is empty; expected the name of a new directory.")
            return cls(path, "", False, "")
        if suffix not in _FORMATS:
            container = next((part for part in Path(path).parents if part.suffix.lower() in _FORMATS), None)
            hint = f" Did you mean '{container}::/{Path(path).relative_to(container)}'?" if container else ""
            raise InvalidValueError(
                f"{path!r} has no suffix that says how to write it; expected one of {', '.join(_FORMATS)}.{hint}"
            )
        if suffix == ".npy" and key:
            raise InvalidValueError(f"A .npy file holds one array without a name; leave '::/{key}' out, or write to .h5 or .zarr.")
        module = _FORMATS[suffix]
        return cls(path, key or _DEFAULT_KEYS.get(module, ""), bool(key), module)

    @property
    def opened_as(self) -> str:
        """What `mmapstore.open` takes."""
        return f"{self.path}::/{self.key}" if self.key_given else self.path

    @property
    def field(self) -> str:
        """The name of the field in the manifest of a single array."""
        return self.key or "data"

    @property
    def module(self) -> FormatModule:
        return _module(self.format)

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
    def manifest(self) -> str | None:
        """The manifest beside the data; None where it lies inside, as it does in a directory of fields."""
        return None if self.is_directory_of_fields else self.path + manifest.SUFFIX

    @property
    def is_directory_of_fields(self) -> bool:
        return not self.format

    def require_directory(self) -> None:
        """Raise WriteError unless the directory that is to hold the target is there."""
        parent = os.path.dirname(os.path.abspath(self.path))
        if not os.path.isdir(parent):
            raise WriteError(f"{self.path} cannot be written: there is no directory {parent}. Create it first.")

    def require_free(self, overwrite: bool) -> None:
        """Raise TargetExistsError if something is there that must not be replaced."""
        if not os.path.lexists(self.path):
            return
        if self.is_directory_of_fields and os.path.isdir(self.path) and not os.listdir(self.path):
            return
        if not overwrite:
            raise TargetExistsError(f"{self.path} exists. Pass overwrite=True (--overwrite) to replace it, or choose another name.")
        others = self._what_else_would_go()
        if others:
            raise TargetExistsError(
                f"{self.path} holds more than would be replaced: {', '.join(sorted(others)[:10])}. "
                "Choose another name, or move it away first."
            )

    def _what_else_would_go(self) -> list[str]:
        if self.is_directory_of_fields:
            if not os.path.isdir(self.path):
                return ["a file"]
            return sorted(set(os.listdir(self.path)) - self._written_names())
        if self.format == "zarr_store":
            if not os.path.isdir(self.path):
                return ["a file"]
            if not any(os.path.exists(os.path.join(self.path, name)) for name in _ZARR_ROOTS):
                return os.listdir(self.path)
        elif os.path.isdir(self.path):
            return ["a directory"]
        if self.format == "npy_file":
            return []
        try:
            keys = [listing.key for listing in self.module.list_arrays(self.path)]
        except (LockedFileError, UnsafeFileError):
            raise
        except MmapstoreError:
            return []  # not readable as what its name says: there is nothing in it to keep but the name
        return [] if len(keys) <= 1 and not self.key_given else [key or "an array at the root" for key in keys if key != self.key]

    def _written_names(self) -> set[str]:
        """What `ingest` itself put into a directory of fields: its manifest, and the files that this names."""
        path = Path(self.path, manifest.DIRECTORY_MANIFEST)
        try:
            entries = manifest.Manifest.from_json(path.read_text(encoding="utf-8"), str(path)).fields.values()
        except (OSError, UnicodeDecodeError, MmapstoreError):
            return set()
        return {manifest.DIRECTORY_MANIFEST, *(entry.file for entry in entries)}

    def require_apart_from(self, paths: Iterable[str]) -> None:
        """Raise InvalidValueError if the target is one of these files, by whatever name, or a directory around one."""
        for path in paths:
            if _is_same(path, self.path):
                raise InvalidValueError(f"{self.path} is the target, and the same file as {path}, which is read. {_ELSEWHERE}")
            if any(_is_same(str(around), self.path) for around in Path(path).resolve().parents):
                raise InvalidValueError(f"{self.path} is the target, and {path}, which is read, lies in it. {_ELSEWHERE}")


def _module(name: str) -> FormatModule:
    return importlib.import_module(f"...formats.{name}", __package__)


def field_target(directory: str, field: str) -> tuple[str, FormatModule]:
    """The file of one field in a directory, and what writes it. It does not open by that name: `name_fields` ends it."""
    return os.path.join(directory, f"{field}.npy{PARTIAL}"), _module("npy_file")


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
