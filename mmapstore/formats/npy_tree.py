"""A tree as a directory: groups are directories, arrays .npy files, and one file of JSON lines holds all that these cannot.

out/tree.jsonl       a line for each group, array and link: kind, attributes, names of dimensions, fill value
out/run1/frames.npy  what was /run1/frames
"""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..files.durable_writes import allocate, sync_data, sync_directory, write_text_atomically
from ..files.system_errors import explaining_write_errors
from ..plain.chunk_grid import Box
from ..plain.errors import DamagedFileError, NotFoundError, UnsafeFileError
from ..plain.text_padding import refuse_padding
from .contract import Array
from .npy_file import header_of, list_arrays, open_array
from .numpy_types import plain_values
from .tree_contract import ALIAS, ARRAY, EMPTY, GROUP, LINKS, SOFT_LINK, Attribute, NewTreeArray, Node, Values, as_json
from .tree_names import place_below, why_no_file

NPY_TREE_SUFFIX = ".npy-tree"
TREE_FILE = "tree.jsonl"
_VERSION = 1
ENDING = ".npy"
_PLAIN_KINDS = "biufcS"


def is_npy_tree(path: str | os.PathLike[str]) -> bool:
    """True for a directory that holds a tree, as `NpyTreeWriter` leaves it."""
    try:
        with Path(path, TREE_FILE).open(encoding="utf-8") as file:
            return '"mmapstore_tree"' in file.readline(200)
    except (OSError, UnicodeDecodeError):
        return False


class NpyTreeWriter:
    """A directory tree of .npy files, as a `tree_contract.TreeTarget`."""

    has_hard_links = False

    def __init__(self, path: str) -> None:
        self.path = path
        self._unsynced: set[str] = set()
        with explaining_write_errors(path):
            os.makedirs(path, exist_ok=True)
            self._lines = _lines_of(path) if os.path.exists(os.path.join(path, TREE_FILE)) else {}
            self._log = Path(path, TREE_FILE).open("a", encoding="utf-8")  # noqa: SIM115
            if not _ends_whole(Path(path, TREE_FILE)):
                self._log.write("\n")
            if not self._log.tell():
                self._log.write(json.dumps({"mmapstore_tree": _VERSION}) + "\n")
        if "/" not in self._lines:
            self.add_group("/", {})

    def _place(self, path: str) -> str:
        return place_below(self.path, path)

    def refusal(self, path: str, is_group: bool) -> str:
        ending = "" if is_group else ENDING
        return why_no_file(self.path, path, (TREE_FILE,), ending)

    def is_taken(self, path: str, is_group: bool) -> bool:
        return os.path.lexists(self._place(path) + ("" if is_group else ENDING))

    def fitted(self, attribute: Attribute, is_group: bool) -> Attribute:
        return as_json(attribute)

    def remove(self, path: str) -> None:
        with explaining_write_errors(self.path):
            if path == "/":
                return
            self._lines.pop(path, None)
            file = self._place(path) + ENDING
            if os.path.isfile(file):
                os.unlink(file)
            elif os.path.isdir(self._place(path)):
                shutil.rmtree(self._place(path))

    def note(self, path: str, **line: Any) -> None:
        self._lines[path] = line
        self._log.write(json.dumps({"path": path, **line}, allow_nan=False) + "\n")

    def add_group(self, path: str, attributes: dict[str, Any]) -> None:
        with explaining_write_errors(self._place(path)):
            os.makedirs(self._place(path), exist_ok=True)
            self._unsynced.add(self._place(path))
            self.note(path, kind=GROUP, attributes=attributes)

    def add_array(self, path: str, values: Values, attributes: dict[str, Any]) -> NewTreeArray:
        file = self._place(path) + ENDING
        if values.text_nbytes:
            remedy = "Convert to .h5 or .zarr, or shorten the longest."
            refuse_padding("it", math.prod(values.shape), values.dtype.itemsize, values.text_nbytes, remedy)
        with explaining_write_errors(file):
            line: dict[str, Any] = {"kind": ARRAY, "attributes": attributes}
            if values.dimensions:
                line["dimensions"] = list(values.dimensions)
            if values.text:
                line["text"] = "utf-8"
            if values.fill is not None:
                line["fill"] = _fill_as_json(values.fill)
            self.note(path, **line)
            self._unsynced.add(os.path.dirname(file))
            return _NewNpyArray(file, values)

    def add_empty(self, path: str, attributes: dict[str, Any]) -> str:
        self.note(path, kind=EMPTY, attributes=attributes)
        return f"a null dataspace as a line in {TREE_FILE}"

    def add_link(self, path: str, kind: str, target: str) -> str:
        self.note(path, kind=kind, target=target)
        return f"a directory of .npy files has no links: {target!r} is noted in {TREE_FILE}"

    def commit(self) -> None:
        with explaining_write_errors(self.path):
            self._log.flush()
            os.fsync(self._log.fileno())
            for directory in sorted(self._unsynced):
                if os.path.isdir(directory):
                    sync_directory(directory)
                    sync_directory(os.path.dirname(directory))
        self._unsynced.clear()

    def close(self) -> None:
        """Also orders the lines by path, so that runs that were interrupted leave the same file as those that were not."""
        if self._log.closed:
            return
        self._log.close()
        lines = [json.dumps({"mmapstore_tree": _VERSION})]
        lines += [json.dumps({"path": path, **self._lines[path]}) for path in sorted(self._lines)]
        with explaining_write_errors(self.path):
            write_text_atomically(os.path.join(self.path, TREE_FILE), "\n".join(lines) + "\n")


def changes_in_npy(values: Values) -> tuple[str, ...]:
    """Return the differences between values and a .npy file, in words."""
    return ("text as UTF-8 bytes of fixed width",) if values.text else ()


class _NewNpyArray:
    def __init__(self, file: str, values: Values) -> None:
        self.changed = changes_in_npy(values)
        header = {"descr": np.lib.format.dtype_to_descr(values.dtype), "fortran_order": False, "shape": values.shape}
        with explaining_write_errors(file):
            self._file = Path(file).open("x+b")  # noqa: SIM115
            np.lib.format.write_array_header_1_0(self._file, header)
            self._file.flush()
            self._offset = self._file.tell()
            allocate(self._file.fileno(), self._offset + values.nbytes)
        self._name = file
        self._values = values

    def write(self, box: Box, block: Array) -> None:
        """Boxes that lie in one piece, as those in C order do."""
        values = self._values
        at = 0
        for axis, part in enumerate(box):
            at += part.start * math.prod(values.shape[axis + 1 :])
        data = np.ascontiguousarray(block, values.dtype)
        with explaining_write_errors(self._name):
            self._file.seek(self._offset + at * values.dtype.itemsize)
            self._file.write(data.reshape(-1).view(np.uint8).data)

    def close(self) -> None:
        with explaining_write_errors(self._name):
            self._file.flush()
            sync_data(self._file.fileno())
            self._file.close()


def _ends_whole(file: Path) -> bool:
    """False where a line was cut short."""
    with file.open("rb") as opened:
        if not opened.seek(0, os.SEEK_END):
            return True
        opened.seek(-1, os.SEEK_END)
        return opened.read() == b"\n"


def _fill_as_json(fill: Any) -> Any:
    value: Any = np.asarray(fill)[()]
    if value.dtype.kind == "S":
        return bytes(value).decode("latin-1")
    return str(value) if value.dtype.kind == "c" or not np.isfinite(value) else value.item()


def _fill_from_json(fill: Any, dtype: np.dtype[Any]) -> Any:
    if fill is None or dtype.kind not in "biufcS":
        return None
    try:
        value = fill.encode("latin-1") if dtype.kind == "S" else complex(fill) if dtype.kind == "c" else fill
        return np.array(value).astype(dtype.newbyteorder("="))[()]
    except (ValueError, TypeError, AttributeError):
        return None  # a note that somebody changed: the values are all there


def _lines_of(path: str) -> dict[str, dict[str, Any]]:
    """By path; later lines replace earlier ones, and one that was cut short is left out. Cuts it off the file as well."""
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


class NpyTree:
    """A directory that `NpyTreeWriter` wrote, as a `tree_contract.TreeSource`."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = self.name = os.fspath(path)
        self._lines = _lines_of(self.path)

    def close(self) -> None:
        pass

    def walk(self) -> Iterator[Node]:
        """Further names of objects last, so that each comes behind the object."""
        is_alias = {path: line.get("kind") in LINKS and line.get("kind") != SOFT_LINK for path, line in self._lines.items()}
        for path in sorted(self._lines, key=lambda path: (is_alias[path], path.split("/") if path != "/" else [])):
            line = self._lines[path]
            kind = str(line.get("kind"))
            if kind in LINKS:
                yield Node(path, SOFT_LINK if kind == SOFT_LINK else ALIAS, str(line.get("target")))
            else:
                yield Node(path, ARRAY if kind == EMPTY else kind, attributes=tuple(line.get("attributes", {})))

    def attributes(self, path: str) -> list[Attribute]:
        return [Attribute(name, value) for name, value in self._lines[path].get("attributes", {}).items()]

    def dimensions(self, path: str) -> tuple[str | None, ...]:
        found = self._lines[path].get("dimensions") or ()
        return tuple(name if isinstance(name, str) else None for name in found) if isinstance(found, (list, tuple)) else ()

    def values(self, path: str) -> list[Values]:
        line = self._lines[path]
        if line.get("kind") == EMPTY:
            return []
        why = next(
            (why for depth in range(2, path.count("/") + 2) if (why := why_no_file(self.path, "/".join(path.split("/")[:depth])))),
            "",
        )
        if why:
            raise UnsafeFileError(f"{self.path}: {TREE_FILE} lists {path!r}, and {why}. It was not written by mmapstore.")
        file = os.path.join(self.path, *path.strip("/").split("/")) + ENDING
        root = os.path.realpath(self.path)
        if os.path.commonpath([root, os.path.realpath(file)]) != root:
            raise UnsafeFileError(
                f"{file} is a link that leads out of {self.path}. Copy what it leads to into the directory first."
            )
        dimensions = self.dimensions(path)
        array = _mapped(file)
        return [
            Values(
                member="",
                shape=array.shape,
                dtype=array.dtype,
                read=functools.partial(_read, array),
                stored=functools.partial(open_array, file) if array.dtype.kind in _PLAIN_KINDS else None,
                text="text" in line,
                fill=_fill_from_json(line.get("fill"), array.dtype),
                dimensions=dimensions if len(dimensions) == array.ndim else (),
            )
        ]


def _mapped(file: str) -> Array:
    try:
        return np.asarray(np.lib.format.open_memmap(file, mode="r") if _holds_values(file) else np.load(file, allow_pickle=False))
    except FileNotFoundError as error:
        raise NotFoundError(f"{file} does not exist, but {TREE_FILE} lists it. Convert again.") from error
    except (OSError, ValueError) as error:
        raise DamagedFileError(f"{file} is not a whole .npy file ({error}). Copy or convert it again.") from error


def _read(array: Array, box: Box) -> Array:
    return np.array(array[box], array.dtype)  # of a scalar NumPy gives bytes without the zeros at their end


def _holds_values(file: str) -> bool:
    """False for a scalar and for an array without elements, which cannot be mapped."""
    with Path(file).open("rb") as opened:
        version = np.lib.format.read_magic(opened)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, _ = read(opened)
    return math.prod(shape) > 0 and bool(shape)


class NpyFileTree:
    """A single .npy file, of any data type but Python objects, as a tree with an array at its root."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = self.name = os.fspath(path)
        dtype = np.dtype(list_arrays(self.path)[0].dtype)
        if dtype.hasobject or dtype.kind in _PLAIN_KINDS:
            header_of(self.path)  # raises for objects, and where bytes are missing
        self._array = _mapped(self.path)

    def close(self) -> None:
        pass

    def walk(self) -> Iterator[Node]:
        yield Node("/", ARRAY)

    def attributes(self, path: str) -> list[Attribute]:
        return []

    def dimensions(self, path: str) -> tuple[str | None, ...]:
        return ()

    def values(self, path: str) -> list[Values]:
        array = self._array
        is_plain = array.dtype.kind in _PLAIN_KINDS and array.ndim and array.size
        whole = Values(
            member="",
            shape=array.shape,
            dtype=array.dtype,
            read=functools.partial(_read, array),
            stored=functools.partial(open_array, self.path) if is_plain else None,
        )
        return plain_values(whole, self.name)
