"""A new Zarr 3 store that receives a tree: file by file from another store, as values from other formats."""

from __future__ import annotations

import functools
import json
import math
import os
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from ..files.durable_writes import remove, sync_directory, sync_tree, write_text_atomically
from ..files.system_errors import explaining_write_errors
from ..plain.chunk_grid import Box
from ..plain.errors import InvalidTypeError, UnsafeFileError
from . import zarr_fill_attribute
from .contract import Array
from .registry import PARTIAL
from .tree_contract import (
    FILL,
    MOST_TIMES_STORED,
    MOST_UNSTORED_NBYTES,
    OBJECT_NBYTES,
    Attribute,
    Container,
    InMemory,
    Kind,
    NewTreeArray,
    Node,
    TreeArray,
    TreeTarget,
    as_json,
    as_texts,
    finite,
)
from .tree_names import place_below, why_no_file
from .zarr_library import library
from .zarr_metadata import METADATA_FILES, read_node
from .zarr_store import matches
from .zarr_tree import ZarrTree

LINKS_ATTRIBUTE = "mmapstore_links"
_RESERVED = (*METADATA_FILES, ".zattrs", ".zmetadata")
_CHUNK_NBYTES, _SMALL_CHUNK_NBYTES, _LARGE_CHUNK_NBYTES = 1 << 20, 64 << 10, 64 << 20
_MANY_CHUNKS = 64
_SYNCED_AT_ONCE = 8


class ZarrTreeWriter(TreeTarget):
    """A new Zarr 3 store in a directory."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._unsynced: dict[str, bool] = {}
        """Directories that are not durable yet; True for an array, with all that is below it."""
        self._links: dict[str, dict[str, str]] = {}
        if not os.path.isdir(path):
            with explaining_write_errors(path):
                os.mkdir(path)
            self.add_group("/", {})

    def _directory(self, path: str) -> str:
        return place_below(self.path, path)

    def refusal(self, path: str, is_group: bool) -> str:
        return why_no_file(self.path, path, _RESERVED)

    def is_taken(self, path: str, is_group: bool) -> bool:
        return os.path.lexists(self._directory(path))

    def fitted(self, attribute: Attribute, is_group: bool) -> Attribute:
        if attribute.name == FILL and isinstance(attribute.value, (int, float)):
            return attribute  # written as xarray reads it, where the data type is known, also where it is not finite
        return as_json(attribute)

    def remove(self, path: str) -> None:
        with explaining_write_errors(self.path):
            if path != "/" and os.path.isdir(self._directory(path)):
                shutil.rmtree(self._directory(path))

    def add_group(self, path: str, attributes: dict[str, Any]) -> None:
        directory = self._directory(path)
        file = Path(directory, "zarr.json")
        metadata = {"zarr_format": 3, "node_type": "group", "attributes": finite(attributes)}
        text = json.dumps(metadata, indent=2, allow_nan=False)
        with explaining_write_errors(directory):
            os.makedirs(directory, exist_ok=True)
            if file.exists():
                write_text_atomically(file, text)
            else:  # `commit` makes it durable; after a kill before that, `remove` deletes it
                file.write_text(text, encoding="utf-8")
        self._unsynced[directory] = False

    def add_array(self, path: str, array: TreeArray, attributes: dict[str, Any]) -> NewTreeArray:
        directory = self._directory(path)
        self._unsynced[directory] = True
        self.note(path, Kind.ARRAY, attributes, array)
        return _new_array(self._store(directory), directory, array, attributes)

    def _store(self, directory: str) -> Any:
        return library().storage.LocalStore(directory)

    def add_empty(self, path: str, attributes: dict[str, Any]) -> str:
        self.add_group(path, attributes)
        return "a null dataspace as a group without members"

    def add_link(self, path: str, kind: str, target: str) -> str:
        """Note the link among the attributes of its group: Zarr has no links."""
        parent, _, name = path.rpartition("/")
        self._links.setdefault(parent or "/", {})[name] = target
        return f"Zarr has no links: {target!r} is noted in the attribute {LINKS_ATTRIBUTE} of its group"

    def note_links(self) -> None:
        """Write the links added since the last call, once for each group: all attributes of a group are written together."""
        for path, links in self._links.items():
            attributes = self.group_attributes(path)
            self.add_group(path, {**attributes, LINKS_ATTRIBUTE: {**attributes.get(LINKS_ATTRIBUTE, {}), **links}})
        self._links.clear()

    def group_attributes(self, path: str) -> dict[str, Any]:
        stored = read_node(self._directory(path))
        assert stored is not None, "a group is written before what is in it"
        return dict(stored.metadata.get("attributes", {}))

    def copy_node(self, source: ZarrTree, node: Node) -> str:
        """Copy a group's metadata, or all files of an array. Returns in words the parts that are skipped, "" for none."""
        origin, target = source.directory(node.path), self._directory(node.path)
        left_out = left_out_of_copy(source, node)
        with explaining_write_errors(target):
            if node.path == "/":  # a new store begins as a group; a run that goes on finds what was copied
                remove(os.path.join(target, "zarr.json"))
            if node.kind == Kind.ARRAY:
                shutil.copytree(origin, target, dirs_exist_ok=node.path == "/")
            else:
                os.makedirs(target, exist_ok=True)
                self._copy_metadata(node.path, origin, target)
        self._unsynced[target] = node.kind == Kind.ARRAY
        return left_out

    def _copy_metadata(self, path: str, origin: str, target: str) -> None:
        stored = read_node(origin)
        if stored is None:  # an implicit group
            around = read_node(os.path.dirname(target))
            if around is not None and around.version == 2:
                write_text_atomically(os.path.join(target, ".zgroup"), json.dumps({"zarr_format": 2}))
            else:
                self.add_group(path, {})
            return
        if stored.version == 2:
            for name in (".zgroup", ".zattrs"):
                if os.path.isfile(os.path.join(origin, name)):
                    shutil.copyfile(os.path.join(origin, name), os.path.join(target, name))
            return
        metadata = {name: value for name, value in stored.metadata.items() if name != "consolidated_metadata"}
        write_text_atomically(os.path.join(target, "zarr.json"), json.dumps(metadata, indent=2))

    def commit(self) -> None:
        with explaining_write_errors(self.path):
            self.note_links()
            written = {self.path: False} | {each: is_array for each, is_array in self._unsynced.items() if os.path.isdir(each)}
            around = {os.path.dirname(directory) for directory in written} - written.keys()
            with ThreadPoolExecutor(_SYNCED_AT_ONCE, "ThreadPoolExecutor-mmapstore-sync") as threads:  # disks take many at once
                list(threads.map(_sync_node, written, written.values()))
                list(threads.map(sync_directory, around))
        self._unsynced.clear()


class ZarrInMemory(InMemory, ZarrTreeWriter):
    """A Zarr store that would be at `path`."""

    def __init__(self, path: str) -> None:
        self._links, self._unsynced = {}, {}
        super().__init__(path)

    def group_attributes(self, path: str) -> dict[str, Any]:
        return dict(self.entries[path].attributes)

    def _store(self, directory: str) -> Any:
        return library().storage.MemoryStore()

    def copy_node(self, source: ZarrTree, node: Node) -> str:
        words = left_out_of_copy(source, node)
        self.note(node.path, node.kind, {attribute.name: attribute.value for attribute in source.attributes(node.path)})
        return words

    def commit(self) -> None:
        self.note_links()


def left_out_of_copy(source: ZarrTree, node: Node) -> str:
    """Return in words the parts that a copy of the files lacks, "" for none. Raises UnsafeFileError for an array with links."""
    origin = source.directory(node.path)
    if node.kind == Kind.ARRAY:
        if any(os.path.islink(os.path.join(folder, name)) for folder, below, names in os.walk(origin) for name in below + names):
            raise UnsafeFileError(
                f"{origin} holds symbolic links, which are not followed: a store from elsewhere could name any file of "
                "yours. Copy what they lead to into the store first."
            )
        return ""
    stored = read_node(origin)
    if stored is None:
        return "a directory without metadata, which has that of a group now"
    version_2 = stored.version == 2 and os.path.isfile(os.path.join(origin, ".zmetadata"))
    consolidated = version_2 or (stored.version == 3 and stored.metadata.get("consolidated_metadata"))
    return "without its consolidated metadata, which zarr.consolidate_metadata makes anew" if consolidated else ""


def _sync_node(directory: str, is_array: bool) -> None:
    if is_array:
        sync_tree(directory)
        return
    for name in _RESERVED:
        if os.path.isfile(os.path.join(directory, name)):
            sync_tree(os.path.join(directory, name))
    sync_directory(directory)


def _new_array(store: Any, where: str, array: TreeArray, attributes: dict[str, Any]) -> NewTreeArray:
    """Create an array in a store of zarr-python's."""
    changed: tuple[str, ...] = ()
    dtype = array.dtype.newbyteorder("=")
    if dtype.kind == "f" and dtype.itemsize > 8:
        raise InvalidTypeError(f"Zarr has no data type for {dtype}; convert to .h5, or cast it to float64 first.")
    if array.dtype.kind in "iufc" and not array.dtype.isnative and array.dtype.itemsize > 1:
        changed += ("byte order: little-endian",)
    # Zarr decodes a chunk of text into an object for each element.
    chunks = chunks_for(array.shape, array.dtype.itemsize + OBJECT_NBYTES * array.text, array.chunks)
    if array.chunks is not None and chunks != array.chunks:
        changed += (f"chunks of {chunks} instead of {array.chunks}",)
    zarr = library()
    attributes, fill = zarr_fill_attribute.placed(attributes, dtype, array.text, array.fill)
    form: dict[str, Any] = {"dtype": str}
    if not array.text:
        little = zarr.codecs.BytesCodec(endian="little" if dtype.itemsize > 1 and dtype.kind != "S" else None)
        compressors = zarr.codecs.ZstdCodec(level=3) if array.compressed else None
        form = {"dtype": dtype, "filters": None, "serializer": little, "compressors": compressors}
    with explaining_write_errors(where), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fixed-width bytes: a data type that zarr-python has and the specification lacks
        try:
            made = zarr.create_array(
                store=store,
                shape=array.shape,
                chunks=chunks,
                zarr_format=3,
                attributes=finite(attributes),
                fill_value=fill,
                dimension_names=list(array.dimensions) or None,
                **form,
            )
        except (ValueError, TypeError) as error:
            raise InvalidTypeError(f"zarr has no data type for {dtype} here ({error}). Convert it to .h5 or .npy.") from error
    # zarr skips chunks that hold only fill values. Twice the part that `refuse_unstored` asks for is stored all the same: a
    # large array of mostly fill values is then accepted again when it is read back.
    first, whole = 0, made
    if math.prod(array.shape) * made.dtype.itemsize > MOST_UNSTORED_NBYTES:
        first = -(-2 * array.shape[0] // (MOST_TIMES_STORED * chunks[0])) * chunks[0]
        whole = _opened(store, writes_empty=True)
    write = _writing(where, made, whole, first, array.text)
    reopen = functools.partial(_opened_again, where, first)
    return NewTreeArray(changed, write, reopen=reopen, rows=chunks[0] if chunks else 1, tidy=functools.partial(_tidy, where))


def _opened(store: Any, writes_empty: bool) -> Any:
    # `open_array` ignores its `config` (zarr 3.1.6)
    with library().config.set({"array.write_empty_chunks": writes_empty}):
        return library().open_array(store, mode="r+", zarr_format=3)


def _opened_again(where: str, first: int) -> NewTreeArray:
    """Open an array that `_new_array` made, in another process."""
    store = library().storage.LocalStore(where)
    made = _opened(store, writes_empty=False)
    write, rows = _writing(where, made, _opened(store, writes_empty=True) if first else made, first, False), set[int]()

    def write_noted(box: Box, block: Array) -> None:
        write(box, block)
        rows.update(range(box[0].start // made.chunks[0], -(-box[0].stop // made.chunks[0])))

    def close() -> None:
        with explaining_write_errors(where):
            for row in rows:  # a file, or a directory; none for chunks of the fill value
                if os.path.exists(path := os.path.join(where, "c", str(row))):
                    sync_tree(path)

    return NewTreeArray((), write_noted, close)


def _tidy(where: str) -> None:
    """Remove chunks that zarr-python began beside their files."""
    for folder, _, names in os.walk(where):
        for name in names:
            if name.endswith(PARTIAL):
                remove(os.path.join(folder, name))


def _writing(where: str, made: Any, whole: Any, first: int, is_text: bool) -> Callable[[Box, Array], None]:
    """Return the function that writes a box; chunks of fill values before row `first` are written as well, by `whole`."""

    def write(box: Box, block: Array) -> None:
        if block.size == 0:
            return
        with explaining_write_errors(where), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            target = whole if box and box[0].start < first else made
            target[box] = as_texts(block) if is_text else block.astype(block.dtype.newbyteorder("="), copy=False)

    return write


def chunks_for(shape: tuple[int, ...], itemsize: int, stored: tuple[int, ...] | None) -> tuple[int, ...]:
    """Return chunks of a new array: those of the source unless they are too large, or so small that files would be too many.

    >>> chunks_for((1000, 100, 100), 4, None), chunks_for((1000, 100, 100), 4, (10, 50, 100)), chunks_for((1000, 8), 4, (1, 8))
    ((26, 100, 100), (10, 50, 100), (1000, 8))
    """
    if not shape:
        return ()
    lengths = tuple(max(1, length) for length in shape)
    chunk = list(stored or (1,) * len(shape))
    counts = [-(-length // each) for length, each in zip(lengths, chunk, strict=True)]
    if stored is None or (math.prod(chunk) * itemsize < _SMALL_CHUNK_NBYTES and math.prod(counts) > _MANY_CHUNKS):
        for axis in reversed(range(len(shape))):  # the last axes first, so that rows stay together
            room = _CHUNK_NBYTES // (math.prod(chunk) * itemsize)
            chunk[axis] = min(lengths[axis], chunk[axis] * max(1, room))
    for axis in range(len(shape)):
        excess = -(-math.prod(chunk) * itemsize // _LARGE_CHUNK_NBYTES)
        chunk[axis] = max(1, chunk[axis] // max(1, excess))
    return tuple(chunk)


CONTAINER = Container(
    title="Zarr",
    suffixes=(".zarr",),
    matches=matches,
    open=ZarrTree,
    create=lambda path, source: ZarrTreeWriter(path),
    in_memory=ZarrInMemory,
    is_native=True,
)
