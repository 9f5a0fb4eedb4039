"""What the JSON of a Zarr store says about where bytes lie. Reads metadata files only, and needs no zarr package."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..plain.errors import DamagedFileError, KeyNotFoundError, NotFoundError, UnsafeFileError
from ..plain.extents import Extents

METADATA_FILES = ("zarr.json", ".zarray", ".zgroup")


@dataclass(frozen=True)
class Node:
    """An array or group of a store: its directory, format version 2 or 3, and what its metadata file holds."""

    directory: str
    version: int
    is_array: bool
    metadata: dict[str, Any]

    @property
    def file(self) -> str:
        """Path of the metadata file."""
        return os.path.join(self.directory, "zarr.json" if self.version == 3 else ".zarray" if self.is_array else ".zgroup")


def read_node(directory: str) -> Node | None:
    """The array or group at a directory; None where there is no metadata file. Raises DamagedFileError for damaged ones."""
    for file_name in METADATA_FILES:
        path = os.path.join(directory, file_name)
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (FileNotFoundError, NotADirectoryError):
            continue
        except (OSError, UnicodeDecodeError) as error:
            raise DamagedFileError(f"{path} cannot be read: {error}. Check its permissions, or copy the store again.") from error
        try:
            metadata = json.loads(text)
            if not isinstance(metadata, dict):
                raise ValueError(f"expected an object, found {type(metadata).__name__}")
            version, is_array = 2, file_name == ".zarray"
            if file_name == "zarr.json":
                version, is_array = 3, metadata.get("node_type") == "array"
                if metadata.get("node_type") not in ("array", "group"):
                    raise ValueError(f"node_type is {metadata.get('node_type')!r}; expected 'array' or 'group'")
            if metadata.get("zarr_format") != version:
                raise ValueError(f"zarr_format is {metadata.get('zarr_format')!r}; expected {version}")
        except (ValueError, RecursionError) as error:
            raise DamagedFileError(f"{path} is not Zarr metadata: {error}. Copy or write the store again.") from error
        return Node(directory, version, is_array, metadata)
    return None


def node_at(path: str, key: str) -> Node:
    """The array or group under `key` of the store at `path`; "" is the store itself.

    Raises NotFoundError, DamagedFileError (no store), KeyNotFoundError (nothing under the key), UnsafeFileError (a key or link
    that leads out of the store).
    """
    if not os.path.isdir(path):
        if os.path.exists(path):
            raise DamagedFileError(
                f"{path} is a file; expected the directory of a Zarr store. Unpack it first if it is an archive."
            )
        raise NotFoundError(f"{path} does not exist. Check the path.")
    node = read_node(directory_inside(path, key))
    if node is None and key:
        raise KeyNotFoundError(
            f"{path} has nothing under {key!r}. It holds: {listed(path, '') or 'no arrays'}. Give one of these keys."
        )
    if node is None:
        names = sorted(os.listdir(path))
        found = f"found {', '.join(names[:3])}{' ...' * (len(names) > 3)}" if names else "it is empty"
        raise DamagedFileError(
            f"{path} is not a Zarr store: expected one of {', '.join(METADATA_FILES)} in it, {found}. Check the path."
        )
    return node


def directory_inside(path: str, key: str) -> str:
    """The directory of `key` in the store at `path`, once it is sure to lie in there."""
    parts = key.split("/") if key else []
    directory = os.path.join(path, *parts)
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part or os.path.isabs(part) for part in parts):
        raise UnsafeFileError(
            f"{path}: the key {key!r} is not a path inside the store. Give names joined by '/', as `mmapstore info` lists them."
        )
    root = os.path.realpath(path)
    if os.path.commonpath([root, os.path.realpath(directory)]) != root:
        raise UnsafeFileError(
            f"{directory} is a link that leads out of the store {path}. Open the store that it leads to by its own path."
        )
    return directory


def arrays_below(path: str, key: str) -> Iterator[tuple[str, Node | None]]:
    """All arrays at or below `key`, in order of their keys; None for metadata that is damaged.

    Links to directories are not followed, and arrays are not entered: they hold chunks, possibly 100,000 of them.
    """
    directory = directory_inside(path, key)
    try:
        node = read_node(directory)
    except DamagedFileError:
        yield key, None
        return
    if node is not None and node.is_array:
        yield key, node
        return
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    except OSError as error:
        raise DamagedFileError(f"{directory} cannot be listed: {error.strerror or error}. Check its permissions.") from error
    for name in names:
        if any(os.path.isfile(os.path.join(directory, name, file_name)) for file_name in METADATA_FILES):
            yield from arrays_below(path, f"{key}/{name}" if key else name)


def listed(path: str, key: str, most: int = 20) -> str:
    """The arrays at or below `key`, for a message: "'a' (10, 3), 'b/c' (20,)"."""
    words: list[str] = []
    for found, node in arrays_below(path, key):
        if len(words) == most:
            words.append("...")
            break
        shape = node.metadata.get("shape") if node else None
        words.append(f"{found!r} {tuple(shape) if isinstance(shape, list) else '(damaged)'}")
    return ", ".join(words)


@dataclass(frozen=True)
class RawLayout:
    """How the bytes of an array are stored.

    Attributes
    ----------
    byte_order : "<" or ">"
    encoding : in words, "uncompressed" or the names of the codecs
    template : path of a chunk file with "{}" for the number of the chunk along the first axis; None unless bytes are plain
    why_not_raw : why there is no template; empty where there is one
    """

    byte_order: str
    encoding: str
    template: str | None
    why_not_raw: str

    def extents(self, shape: tuple[int, ...], chunk_samples: int, dtype: np.dtype[Any], fill: Any) -> Extents | None:
        if self.template is None:
            return None
        row_nbytes = math.prod(shape[1:]) * dtype.itemsize
        offset = np.zeros(1, np.int64)
        return Extents(self.template, shape[0], row_nbytes, chunk_samples, offset, dtype, fill, one_file_each=True)


def raw_layout(node: Node) -> RawLayout:
    """Reads an array's metadata for plain bytes: whole rows in each chunk file, in C order, without codecs.

    Anything unknown means "not raw", never an error: the array is then read through zarr-python.
    """
    try:
        return _raw_layout_2(node) if node.version == 2 else _raw_layout_3(node)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError):
        return RawLayout("<", "unknown encoding", None, "its metadata says more than mmapstore understands")


def _raw_layout_2(node: Node) -> RawLayout:
    found = node.metadata
    codecs = [*(found.get("filters") or []), *([found["compressor"]] if found.get("compressor") else [])]
    names = [str(codec["id"]) for codec in codecs]
    order = ">" if isinstance(found["dtype"], str) and found["dtype"].startswith(">") else "<"
    if "pickle" in names:
        raise UnsafeFileError(
            f"{node.file} asks for the codec 'pickle', which runs code from the file. It is not opened; ask for plain numbers."
        )
    shape, chunk = list(found["shape"]), list(found["chunks"])
    encoding = _words(names)
    why = f"the chunks are encoded ({encoding})" if names else _why_not_rows(shape, chunk)
    if not why and found.get("order", "C") != "C" and sum(n != 1 for n in chunk) > 1:
        why = "Fortran order: the values of a row lie far apart"
    separator = found.get("dimension_separator", ".")
    return _with_template(node, order, encoding, why, separator.join(["{}"] + ["0"] * (len(shape) - 1)), separator)


def _raw_layout_3(node: Node) -> RawLayout:
    found = node.metadata
    codecs = [
        (codec, {}) if isinstance(codec, str) else (codec["name"], codec.get("configuration") or {}) for codec in found["codecs"]
    ]
    names = [str(name) for name, _ in codecs]
    order = next((">" for name, configuration in codecs if name == "bytes" and configuration.get("endian") == "big"), "<")
    encoding = _words([name for name in names if name != "bytes"])
    keys, grid = found["chunk_key_encoding"], found["chunk_grid"]
    settings = keys.get("configuration") or {}
    shape = list(found["shape"])
    if "sharding_indexed" in names:
        why = "the chunks lie in shards"
    elif names != ["bytes"]:
        why = f"the chunks are encoded ({encoding})"
    elif grid["name"] != "regular":
        why = f"the chunks lie on a grid of kind {grid['name']!r}"
    elif found.get("storage_transformers") or keys["name"] not in ("default", "v2"):
        why = "the files of its chunks are named in a way that mmapstore does not know"
    else:
        why = _why_not_rows(shape, list(grid["configuration"]["chunk_shape"]))
    default = keys["name"] == "default"
    separator = settings.get("separator", "/" if default else ".")
    return _with_template(
        node, order, encoding, why, separator.join(["c"] * default + ["{}"] + ["0"] * (len(shape) - 1)), separator
    )


def _with_template(node: Node, order: str, encoding: str, why: str, name: str, separator: str) -> RawLayout:
    if not why and separator not in (".", "/"):
        why = f"the separator {separator!r} in chunk names is not known"
    directory = os.path.abspath(node.directory)
    if not why and "{}" in directory:
        why = "its path contains '{}'"
    template = None if why else os.path.join(directory, *name.split("/"))
    return RawLayout(order, encoding, template, why)


def _why_not_rows(shape: list[int], chunk: list[int]) -> str:
    if not shape:
        return "a scalar has no rows"
    if chunk[1:] != shape[1:] or chunk[0] < 1:
        return f"the chunks of {tuple(chunk)} cut through rows of {tuple(shape[1:])}"
    return ""


def _words(names: list[str]) -> str:
    return ", ".join(names) or "uncompressed"
