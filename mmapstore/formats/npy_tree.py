"""A tree as a directory: groups are directories, arrays .npy files, and one file of JSON lines holds the rest.

out/tree.jsonl       a line for each group, array and link: kind, attributes, names of dimensions, fill value
out/run1/frames.npy  the array /run1/frames
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..files.durable_writes import sync_directory, write_text_atomically
from ..files.stored_files import lies_in
from ..files.system_errors import explaining_write_errors
from ..plain.chunk_grid import Box
from ..plain.errors import DamagedFileError, InvalidValueError, NotFoundError, UnsafeFileError
from ..plain.memory_budget import refuse_padding
from .contract import Array, NewArray
from .npy_file import NpyWriter, begin, header_of, list_arrays, matches, open_array, reopen
from .numpy_types import plain_values
from .tree_contract import Attribute, Container, InMemory, Kind, NewTreeArray, Node, TreeArray, TreeSource, TreeTarget
from .tree_names import place_below, why_no_file

NPY_TREE_SUFFIX = ".npy-tree"
TREE_FILE = "tree.jsonl"
_VERSION = 1
ENDING = ".npy"
_PLAIN_KINDS = "biufcS"


def is_npy_tree(path: str | os.PathLike[str]) -> bool:
    """Return True for a directory that holds a tree, as `NpyTreeWriter` leaves it."""
    try:
        with Path(path, TREE_FILE).open(encoding="utf-8") as file:
            return '"mmapstore_tree"' in file.readline(200)
    except (OSError, UnicodeDecodeError):
        return False


class NpyTreeWriter(TreeTarget):
    """A new directory tree of .npy files."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._unsynced: set[str] = set()
        with explaining_write_errors(path):
            os.makedirs(path, exist_ok=True)
            self._lines = _lines_of(path) if Path(path, TREE_FILE).exists() else {}
            self._log = Path(path, TREE_FILE).open("a", encoding="utf-8")  # noqa: SIM115
            # A kill may have cut the last line short: empty lines are skipped.
            self._log.write("\n" if self._log.tell() else json.dumps({"mmapstore_tree": _VERSION}) + "\n")
        if "/" not in self._lines:
            self.add_group("/", {})

    def _place(self, path: str) -> str:
        return place_below(self.path, path)

    def refusal(self, path: str, is_group: bool) -> str:
        return why_no_file(self.path, path, (TREE_FILE,), "" if is_group else ENDING)

    def is_taken(self, path: str, is_group: bool) -> bool:
        return os.path.lexists(self._place(path) + ("" if is_group else ENDING))

    def remove(self, path: str) -> None:
        if path == "/":
            return
        with explaining_write_errors(self.path):
            self._lines.pop(path, None)
            file = self._place(path) + ENDING
            if os.path.isfile(file):
                os.unlink(file)
            elif os.path.isdir(self._place(path)):
                shutil.rmtree(self._place(path))

    def note(self, path: str, kind: str, attributes: dict[str, Any], array: TreeArray | None = None, target: str = "") -> None:
        """Add the line of an object; the last line for a path counts."""
        line: dict[str, Any] = {"kind": kind, "target": target} if kind in Kind.LINKS else {"kind": kind, "attributes": attributes}
        if array is not None and array.dimensions:
            line["dimensions"] = list(array.dimensions)
        if array is not None and array.text:
            line["text"] = "utf-8"
        if array is not None and array.fill is not None:
            line["fill"] = _fill_as_json(array.fill)
        self._lines[path] = line
        self._log.write(json.dumps({"path": path, **line}, allow_nan=False) + "\n")

    def add_group(self, path: str, attributes: dict[str, Any]) -> None:
        with explaining_write_errors(self._place(path)):
            os.makedirs(self._place(path), exist_ok=True)
            self._unsynced.add(self._place(path))
            self.note(path, Kind.GROUP, attributes)

    def add_array(self, path: str, array: TreeArray, attributes: dict[str, Any]) -> NewTreeArray:
        file = self._place(path) + ENDING
        if array.text_nbytes:
            remedy = "Convert to .h5 or .zarr, or shorten the longest."
            refuse_padding("it", math.prod(array.shape), array.dtype.itemsize, array.text_nbytes, remedy)
        with explaining_write_errors(file):
            self.note(path, Kind.ARRAY, attributes, array)
            self._unsynced.add(os.path.dirname(file))
            changed = ("text as UTF-8 bytes of fixed width",) if array.text else ()
            again = functools.partial(_opened_again, file, array.shape, array.dtype)
            return replace(self._new(file, array), changed=changed, reopen=again)

    def _new(self, file: str, array: TreeArray) -> NewTreeArray:
        """Create a file."""
        return _written(begin(file, array.shape, array.dtype))

    def add_empty(self, path: str, attributes: dict[str, Any]) -> str:
        self.note(path, Kind.EMPTY, attributes)
        return f"a null dataspace as a line in {TREE_FILE}"

    def add_link(self, path: str, kind: str, target: str) -> str:
        self.note(path, kind, {}, target=target)
        return f"a directory of .npy files has no links: {target!r} is noted in {TREE_FILE}"

    def commit(self) -> None:
        with explaining_write_errors(self.path):
            self._log.flush()
            os.fsync(self._log.fileno())
            written = {directory for directory in self._unsynced if os.path.isdir(directory)}
            for directory in written | {os.path.dirname(each) for each in written}:
                sync_directory(directory)
        self._unsynced.clear()

    def close(self) -> None:
        """Also order the lines by path, so that interrupted runs leave the same file as others."""
        if self._log.closed:
            return
        self._log.close()
        lines = [json.dumps({"mmapstore_tree": _VERSION})]
        lines += [json.dumps({"path": path, **self._lines[path]}) for path in sorted(self._lines)]
        with explaining_write_errors(self.path):
            write_text_atomically(os.path.join(self.path, TREE_FILE), "\n".join(lines) + "\n")


def _written(writer: NpyWriter) -> NewTreeArray:
    def close() -> None:
        writer.flush()
        writer.close()

    return NewTreeArray((), writer.write_box, close)


def _opened_again(file: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NewTreeArray:
    return _written(reopen(file, None, NewArray(shape, dtype)))


class NpyInMemory(InMemory, NpyTreeWriter):
    """A directory of .npy files that would be at `path`."""

    def __init__(self, path: str) -> None:
        self._unsynced = set()
        InMemory.__init__(self, path)

    def is_taken(self, path: str, is_group: bool) -> bool:
        name = path if is_group else path + ENDING
        return self._has(name, Kind.GROUP) or (name.endswith(ENDING) and self._has(name[: -len(ENDING)], Kind.ARRAY))

    def _has(self, path: str, kind: str) -> bool:
        return path in self.entries and self.entries[path].kind == kind

    def _new(self, file: str, array: TreeArray) -> NewTreeArray:
        return NewTreeArray()


def _fill_as_json(fill: Any) -> Any:
    value: Any = np.asarray(fill)[()]
    if value.dtype.kind == "S":
        return bytes(value).decode("latin-1")
    return str(value) if value.dtype.kind == "c" or not np.isfinite(value) else value.item()


def _fill_from_json(fill: Any, dtype: np.dtype[Any]) -> Any:
    if fill is None or dtype.kind not in _PLAIN_KINDS:
        return None
    try:
        value = fill.encode("latin-1") if dtype.kind == "S" else complex(fill) if dtype.kind == "c" else fill
        return np.array(value).astype(dtype.newbyteorder("="))[()]
    except (ValueError, TypeError, AttributeError):
        return None  # a note that somebody changed: the values are all there


def _lines_of(path: str) -> dict[str, dict[str, Any]]:
    """Return the lines by path; later lines replace earlier ones, and one that was cut short is skipped."""
    found: dict[str, dict[str, Any]] = {}
    file = Path(path, TREE_FILE)
    try:
        for number, text in enumerate(file.read_text(encoding="utf-8").splitlines()):
            try:
                line = json.loads(text)
                if number:
                    found[str(line.pop("path"))] = line
                elif line.get("mmapstore_tree") != _VERSION:
                    raise DamagedFileError(f"{file} is of version {line.get('mmapstore_tree')!r}; expected {_VERSION}.")
            except (ValueError, AttributeError, KeyError):
                continue
    except FileNotFoundError as error:
        raise NotFoundError(f"{file} does not exist: {path} is no directory tree that mmapstore wrote.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DamagedFileError(f"{file} cannot be read: {error}. Convert again.") from error
    return found


class NpyTree(TreeSource):
    """A directory that `NpyTreeWriter` wrote."""

    def __init__(self, path: str | os.PathLike[str], inside: str = "", allow_links: bool = False) -> None:
        self.path = self.name = os.fspath(path)
        if inside := inside.strip("/"):
            raise InvalidValueError(f"{path} is converted as a whole; leave '::/{inside}' out, or name the .npy file in it.")
        self._lines = _lines_of(self.path)

    def walk(self) -> Iterator[Node]:
        """Yield further names of objects last, so that each follows the object."""
        is_alias = {
            path: line.get("kind") in Kind.LINKS and line.get("kind") != Kind.SOFT_LINK for path, line in self._lines.items()
        }
        for path in sorted(self._lines, key=lambda path: (is_alias[path], path.split("/") if path != "/" else [])):
            line = self._lines[path]
            kind = str(line.get("kind"))
            if kind in Kind.LINKS:
                yield Node(path, Kind.SOFT_LINK if kind == Kind.SOFT_LINK else Kind.ALIAS, str(line.get("target")))
            else:
                yield Node(path, Kind.ARRAY if kind == Kind.EMPTY else kind, attributes=tuple(line.get("attributes", {})))

    def attributes(self, path: str, as_stored: bool = False) -> list[Attribute]:
        return [Attribute(name, value) for name, value in self._lines[path].get("attributes", {}).items()]

    def dimensions(self, path: str) -> tuple[str | None, ...]:
        found = self._lines[path].get("dimensions") or ()
        return tuple(name if isinstance(name, str) else None for name in found) if isinstance(found, (list, tuple)) else ()

    def arrays(self, path: str) -> list[TreeArray]:
        line = self._lines[path]
        if line.get("kind") == Kind.EMPTY:
            return []
        file = self._file(path)
        array, dimensions = _mapped(file), self.dimensions(path)
        whole = TreeArray(
            member="",
            shape=array.shape,
            dtype=array.dtype,
            read=functools.partial(_read, array),
            stored=functools.partial(open_array, file) if array.dtype.kind in _PLAIN_KINDS else None,
            text="text" in line,
            fill=_fill_from_json(line.get("fill"), array.dtype),
            dimensions=dimensions if len(dimensions) == array.ndim else (),
        )
        return plain_values(whole, file)

    def _file(self, path: str) -> str:
        """Return the .npy file of an array. Raises UnsafeFileError for a name or a link that leads out of the directory."""
        for depth in range(2, path.count("/") + 2):
            if why := why_no_file(self.path, "/".join(path.split("/")[:depth])):
                raise UnsafeFileError(f"{self.path}: {TREE_FILE} lists {path!r}, and {why}. It was not written by mmapstore.")
        file = os.path.join(self.path, *path.strip("/").split("/")) + ENDING
        if not lies_in(file, self.path):
            raise UnsafeFileError(
                f"{file} is a link that leads out of {self.path}. Copy what it leads to into the directory first."
            )
        return file


class NpyFileTree(NpyTree):
    """A single .npy file, of any data type but Python objects, as a tree with an array at its root."""

    def __init__(self, path: str | os.PathLike[str], inside: str = "", allow_links: bool = False) -> None:
        self.path = self.name = os.fspath(path)
        self._lines = {"/": {"kind": Kind.ARRAY}}
        dtype = np.dtype(list_arrays(self.path)[0].dtype)
        if dtype.hasobject or dtype.kind in _PLAIN_KINDS:
            header_of(self.path)  # raises for objects, and where bytes are missing
        _mapped(self.path)

    def _file(self, path: str) -> str:
        return self.path


def _mapped(file: str) -> Array:
    try:
        shape = list_arrays(file)[0].shape  # a scalar and an array without elements cannot be mapped
        is_mapped = math.prod(shape) > 0 and bool(shape)
        return np.asarray(np.lib.format.open_memmap(file, mode="r") if is_mapped else np.load(file, allow_pickle=False))
    except FileNotFoundError as error:
        raise NotFoundError(f"{file} does not exist, but {TREE_FILE} lists it. Convert again.") from error
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{file} is not a whole .npy file ({error}). Copy or convert it again.") from error


def _read(array: Array, box: Box) -> Array:
    return np.array(array[box], array.dtype)  # of a scalar NumPy gives bytes without the zeros at their end


FILE = Container(".npy", (), matches, NpyFileTree)
CONTAINER = Container(
    title="directory of .npy",
    suffixes=(NPY_TREE_SUFFIX, ""),
    matches=is_npy_tree,
    open=NpyTree,
    create=lambda path, source: NpyTreeWriter(path),
    in_memory=NpyInMemory,
    keeps_manifest=False,  # the manifest of a directory would make it one of fields
)
