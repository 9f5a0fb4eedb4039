"""Names inside an HDF5 file: looked up link by link, so that none leads out of the file, and listed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from typing import Any

import numpy as np

from ..plain.display import text_table
from ..plain.errors import KeyNotFoundError, UnsafeFileError
from .contract import Listing
from .hdf5_layout import storage_words
from .hdf5_library import library

_MOST_SOFT_LINKS = 16  # as HDF5 itself allows; more is a loop
_MOST_SHOWN = 20


def name_of(path: str, key: str) -> str:
    """Return the name for messages, as `open` takes it: "a.h5::/group/frames"."""
    return f"{path}::/{key.strip('/')}"


def parts_of(key: str) -> list[str]:
    return [part for part in key.split("/") if part not in ("", ".")]


def find(file: Any, path: str, key: str) -> Any | None:
    """Return the group or dataset `key` of an open file; None where there is none.

    h5py follows a link to another file without a word, also in the middle of a path, so each component is looked
    at before it is followed. Raises UnsafeFileError for links that leave the file.
    """
    h5py = library()
    current = file["/"]
    pending = parts_of(key)
    followed = 0
    while pending:
        part = pending.pop(0)
        encoded = part.encode("utf-8", "surrogateescape")
        if not isinstance(current, h5py.Group) or not current.id.links.exists(encoded):
            return None
        kind = current.id.links.get_info(encoded).type
        if kind == h5py.h5l.TYPE_HARD:
            current = current[encoded]
        elif kind == h5py.h5l.TYPE_SOFT:
            followed += 1
            if followed > _MOST_SOFT_LINKS:
                raise UnsafeFileError(
                    f"{name_of(path, key)}: its soft links go round in a circle at {part!r}. Repair the links, or name the dataset "
                    "itself."
                )
            target = current.id.links.get_val(encoded).decode("utf-8", "surrogateescape")
            if target.startswith("/"):
                current = file["/"]
            pending = parts_of(target) + pending
        elif kind == h5py.h5l.TYPE_EXTERNAL:
            other, inside = (text.decode("utf-8", "replace") for text in current.id.links.get_val(encoded))
            raise UnsafeFileError(
                f"{name_of(path, key)}: {part!r} is a link to another file ({other!r}, {inside!r}), which is not followed, because "
                "a file from elsewhere could name any file of yours. If you trust it, open that file itself: "
                f"{name_of(other, inside)}"
            )
        else:
            raise UnsafeFileError(
                f"{name_of(path, key)}: {part!r} is a link of a kind only its own program knows. Name a dataset that lies in this "
                "file."
            )
    return current


def listings(item: Any) -> list[Listing]:
    """Return every dataset at or below a group or dataset. Soft and external links are not followed."""
    h5py = library()
    if isinstance(item, h5py.Dataset):
        return [_listing(item, item.name)]
    found = [_listing(dataset, key) for key, dataset in _datasets_below(item)]
    return sorted(found, key=lambda listing: listing.key)


def _datasets_below(group: Any) -> Iterator[tuple[str, Any]]:
    """(key, dataset) of every dataset below a group, each once.

    h5py's own walk looks each object up by its whole path, which takes hours where groups lie ten thousand deep in each other.
    """
    h5py = library()
    base = group.name.strip("/")
    pending = [(f"{base}/" if base else "", group)]
    seen = {address_of(group)}
    while pending:
        before, current = pending.pop()
        below = []
        for name, member in _members(current):
            address = address_of(member)
            if address in seen:
                continue
            seen.add(address)
            if isinstance(member, h5py.Dataset):
                yield before + name, member
            else:
                below.append((f"{before}{name}/", member))
        pending.extend(reversed(below))


def _members(group: Any) -> Iterator[tuple[str, Any]]:
    """Groups and datasets that hard links of a group lead to, by name."""
    h5py = library()
    for encoded in sorted(group.id):
        if group.id.links.get_info(encoded).type == h5py.h5l.TYPE_HARD:
            found = h5py.h5o.open(group.id, encoded)
            kind = {h5py.h5g.GroupID: h5py.Group, h5py.h5d.DatasetID: h5py.Dataset}.get(type(found))
            if kind is not None:
                yield encoded.decode("utf-8", "surrogateescape"), kind(found)


def address_of(item: Any) -> tuple[int, int]:
    """(number of the file, place in it) of a group or dataset: the same under all its names."""
    info = library().h5o.get_info(item.id)
    return info.fileno, info.addr


def _listing(dataset: Any, name: str) -> Listing:
    return Listing(name.strip("/"), tuple(dataset.shape or ()), _dtype_or_words(dataset), storage_words(dataset))


def _dtype_or_words(dataset: Any) -> np.dtype[Any] | str:
    h5py = library()
    try:
        dtype = dataset.dtype
    except (TypeError, ValueError) as error:  # a type of HDF5 that NumPy has no word for
        return f"a type NumPy lacks ({error})"
    if h5py.check_string_dtype(dtype) is not None and dtype.kind == "O":
        return "variable-length text"
    element = h5py.check_vlen_dtype(dtype)
    if element is not None:
        return f"variable-length runs of {element}"
    if dtype.kind == "O":
        return "object references"
    if dtype.kind == "V":
        return f"compound {dtype}" if dtype.names else f"opaque or array type {dtype}"
    plain: np.dtype[Any] = np.dtype(dtype.str)
    return plain


def the_only_one(file: Any, path: str, group: Any) -> str:
    """Return the key of the one dataset in `group`. Raises KeyNotFoundError that lists them where there are several or none."""
    found = listings(group)
    inside = "" if group.name == "/" else f" in the group {group.name}"
    if len(found) == 1:
        return found[0].key
    if not found:
        elsewhere = listings(file) if inside else []
        rest = (
            f" The file holds:\n{_table(path, elsewhere)}"
            if elsewhere
            else " Check that it was written to the end, and that this is the right file."
        )
        raise KeyNotFoundError(f"{path} holds no dataset{inside}; expected at least one.{rest}")
    raise KeyNotFoundError(
        f"{path} holds {len(found)} datasets{inside}; say which one, as in "
        f'open("{name_of(path, found[0].key)}"):\n{_table(path, found)}'
    )


def no_such_key(file: Any, path: str, key: str) -> KeyNotFoundError:
    """Return an error that lists what is there, the names most like `key` first."""
    found = listings(file)
    if not found:
        return KeyNotFoundError(f"{path} holds no dataset {key!r}, and no other either. Check that it was written to the end.")
    wanted = "/".join(parts_of(key))
    by_name: dict[str, list[Listing]] = {}
    for listing in found:
        by_name.setdefault(listing.key.rsplit("/", 1)[-1], []).append(listing)
    near = difflib.get_close_matches(wanted, [listing.key for listing in found], n=_MOST_SHOWN, cutoff=0.5)
    near += [
        listing.key
        for name in difflib.get_close_matches(wanted.rsplit("/", 1)[-1], by_name, cutoff=0.6)
        for listing in by_name[name]
    ]
    found.sort(key=lambda listing: near.index(listing.key) if listing.key in near else len(near))
    return KeyNotFoundError(
        f"{path} holds no dataset or group {key!r}; expected one of these, as in "
        f'open("{name_of(path, found[0].key)}"):\n{_table(path, found)}'
    )


def _table(path: str, found: list[Listing]) -> str:
    shown = found[:_MOST_SHOWN]
    lines = text_table([(f"/{listing.key}", f"{listing.shape}", f"{listing.dtype}") for listing in shown], "<<<")
    if len(found) > len(shown):
        lines.append(f"  ... and {len(found) - len(shown)} more; `mmapstore info {path}` shows all")
    return "\n".join(lines)


def encoded(name: str) -> bytes:
    """Return a name as HDF5 takes it; `decoded` gives it back, also if it is not UTF-8 in the file."""
    return name.encode("utf-8", "surrogateescape")


def decoded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
