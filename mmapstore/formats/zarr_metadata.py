"""The arrays and groups of a Zarr store, found by their metadata files, which are read as JSON. Needs no zarr package."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..files.descriptors import read_small_text
from ..plain.errors import DamagedFileError, KeyNotFoundError, NotFoundError, UnsafeFileError

METADATA_FILES = ("zarr.json", ".zarray", ".zgroup")
_NAMES = frozenset(METADATA_FILES)


@dataclass(frozen=True)
class Node:
    """An array or group of a store: its directory, format version 2 or 3, and what its metadata file holds.

    A group without a metadata file ("implicit") has none.
    """

    directory: str
    version: int
    is_array: bool
    metadata: dict[str, Any]

    @property
    def file(self) -> str:
        """Path of the metadata file."""
        return os.path.join(self.directory, "zarr.json" if self.version == 3 else ".zarray" if self.is_array else ".zgroup")


def read_node(directory: str) -> Node | None:
    """Return the array or group at a directory; None where there is no metadata file. Raises DamagedFileError for damaged ones."""
    for file_name in METADATA_FILES:
        path = os.path.join(directory, file_name)
        try:
            text = read_small_text(path)
        except NotFoundError:
            continue
        except DamagedFileError as error:
            if error.errno == errno.ENOTDIR:
                continue
            raise
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


def read_node_or_group(directory: str) -> Node | None:
    """As `read_node`; a directory that has no metadata, but arrays or groups below, is a group too.

    Early drafts of Zarr 3 let writers leave out the metadata of such groups, and some still do.
    """
    node = read_node(directory)
    if node is None and any(not _NAMES.isdisjoint(names) for _, _, names in os.walk(directory)):
        return Node(directory, 3, False, {})
    return node


def node_at(path: str, key: str) -> Node:
    """Return the array or group under `key` of the store at `path`; "" is the store itself.

    Raises NotFoundError, DamagedFileError (no store), KeyNotFoundError (nothing under the key), UnsafeFileError (a key or link
    that leads out of the store).
    """
    if not os.path.isdir(path):
        if os.path.exists(path):
            raise DamagedFileError(
                f"{path} is a file; expected the directory of a Zarr store. Unpack it first if it is an archive."
            )
        raise NotFoundError(f"{path} does not exist. Check the path.")
    node = (read_node_or_group if key else read_node)(directory_inside(path, key))
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
    """Return the directory of `key` in the store at `path`, once it is sure to lie in there."""
    parts = key.split("/") if key else []
    directory = os.path.join(path, *parts)
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part or os.path.isabs(part) for part in parts):
        raise UnsafeFileError(
            f"{path}: the key {key!r} is not a path inside the store. Give names joined by '/', as `mmapstore info` lists them."
        )
    root, found = os.path.realpath(path), os.path.realpath(directory)
    if os.path.commonpath([root, found]) != root:
        raise UnsafeFileError(
            f"{directory} is a link that leads out of the store {path}. Open the store that it leads to by its own path."
        )
    return directory


def arrays_below(path: str, key: str) -> Iterator[tuple[str, Node | None]]:
    """Yield all arrays at or below `key`, in order of their keys; None for metadata that is damaged.

    Links to directories are not followed, and arrays are not entered: they hold chunks, possibly 100,000 of them.
    """
    keys = [key]
    while keys:
        key = keys.pop()
        directory = directory_inside(path, key)
        try:
            node = read_node(directory)
        except DamagedFileError:
            yield key, None
            continue
        if node is not None and node.is_array:
            yield key, node
            continue
        keys += [f"{key}/{name}" if key else name for name in reversed(directories_in(directory, links=False))]


def directories_in(directory: str, links: bool = True) -> list[str]:
    """Return names of the directories in a directory, in order; `links` are those to directories."""
    try:
        with os.scandir(directory) as entries:
            return sorted(
                entry.name for entry in entries if entry.is_dir(follow_symlinks=False) or (links and os.path.isdir(entry.path))
            )
    except OSError as error:
        raise DamagedFileError(f"{directory} cannot be listed: {error.strerror or error}. Check its permissions.") from error


def listed(path: str, key: str, most: int = 20) -> str:
    """Return the arrays at or below `key`, for a message: "'a' (10, 3), 'b/c' (20,)"."""
    words: list[str] = []
    for found, node in arrays_below(path, key):
        if len(words) == most:
            words.append("...")
            break
        shape = node.metadata.get("shape") if node else None
        words.append(f"{found!r} {tuple(shape) if isinstance(shape, list) else '(damaged)'}")
    return ", ".join(words)
