"""The format of a path or a live object: by its first bytes, and never by trust in its suffix."""

from __future__ import annotations

import importlib
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files.descriptors import check_is_file
from ..plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, NotFoundError, NotReadableError
from ..plain.inside_names import split_name
from . import in_memory
from .contract import Format, Listing, StoredArray
from .foreign_files import foreign_format
from .raw_file import RawForm, open_raw

# each imported when it is asked for: a .npy file opens without the modules of HDF5
_FORMATS = ("npy_format", "hdf5_format", "zarr_format", "npz_member")
_INGESTED = re.compile(r"\.(png|jpe?g|bmp|gif|tiff?|webp|avif|heic|mp4|avi|mov|mkv|webm|m4v|csv|tsv|jsonl)")
_PICKLES = (".pkl", ".pickle", ".joblib")
PARTIAL = ".partial"  # what an ingest writes under, until it is whole


def _formats() -> Iterator[Format]:
    for name in _FORMATS:
        yield importlib.import_module(f".{name}", __package__).FORMAT


def format_written(suffix: str) -> Format | None:
    """Return the format of a new file or directory whose name has this suffix; None for a suffix of no format."""
    return next((format for format in _formats() if format.writing is not None and suffix in format.writing.suffixes), None)


def suffixes() -> set[str]:
    """Return the suffixes by which files and directories claim to be of some format."""
    return {suffix for format in _formats() for suffix in format.suffixes}


def written_suffixes() -> list[str]:
    """Return the suffixes of new files and directories."""
    return [suffix for format in _formats() if format.writing is not None for suffix in format.writing.suffixes]


def split_inside(path: str | os.PathLike[str]) -> tuple[str, str | None]:
    """Return the file, and the place inside it: "a.h5::/group/x", or "a.h5/group/x" as h5ls prints it.

    >>> split_inside("a.h5::/group/frames"), split_inside("frames.npy")
    (('a.h5', '/group/frames'), ('frames.npy', None))
    """
    text = os.fspath(path)
    outer, inside = split_name(text)
    if inside is not None:
        return outer, inside
    if not Path(text).exists():
        for parent in Path(text).parents:
            if parent.is_file() or (parent.is_dir() and parent.suffix == ".zarr"):
                return str(parent), "/" + Path(text).relative_to(parent).as_posix()
            if parent.exists():
                break
    return text, None


def identify(path: str) -> Format:
    """Return the format of a file or directory. Raises if there is none, or another than its suffix says."""
    require_exists(path)
    if not os.access(path, os.R_OK):
        raise NotReadableError(f"{path} may not be read by this user. Change its permissions, or ask its owner to.")
    if not Path(path).is_dir():
        check_is_file(path, os.stat(path))
    if Path(path).name.rstrip("/").endswith(PARTIAL):
        raise DamagedFileError(f"{path} was left by an ingest that did not finish. Run the same ingest again: it resumes.")
    suffix = Path(path).suffix.lower()
    expected = next((format.title for format in _formats() if suffix in format.suffixes), None)
    found = next((format for format in _formats() if format.matches(path)), None)
    if found is None and (foreign := foreign_format(path)) is not None:
        raise DamagedFileError(f"{path} is {foreign[0]}; expected .npy, HDF5, Zarr or .npz. {foreign[1]}")
    if found is None:
        if Path(path).is_dir():
            raise DamagedFileError(
                f"{path} is a directory without the metadata of a Zarr store and without a manifest of mmapstore. Ingest images or "
                f"videos first: mmapstore ingest {shlex.quote(path)} OUT. Name several arrays by a pattern, such as '*.npy' in it. "
                "Check how a store was written, or copied."
            )
        if _INGESTED.fullmatch(suffix):
            raise DamagedFileError(
                f"{path} is no array but an image, a video or a table by its name. Ingest it first: "
                f"mmapstore ingest {shlex.quote(path)} OUT."
            )
        if suffix in _PICKLES:
            raise DamagedFileError(
                f"{path} is a pickle by its name, which is not opened but ingested, if you trust it: "
                f"mmapstore ingest {shlex.quote(path)} OUT --allow-pickle, or mmapstore.Megabatches in Python."
            )
        looks = f"; its suffix says {expected}, its first bytes do not" if expected else ""
        raw = "" if expected else ", or open plain numbers without a header with dtype= and shape="
        raise DamagedFileError(
            f"{path} is a file of {Path(path).stat().st_size} bytes that is not .npy, HDF5, Zarr or .npz{looks}. Check how it was "
            f"written, or copied{raw}."
        )
    if expected is not None and expected != found.title:
        raise DamagedFileError(f"{path} is not {expected}, as its suffix says, but {found.title} by its first bytes. Rename it.")
    return found


def require_exists(path: str) -> None:
    """Raise NotFoundError, naming what is there instead."""
    if not os.path.exists(path):
        raise NotFoundError(f"{path} does not exist.{_alternatives(path)}")


def _alternatives(path: str) -> str:
    if os.path.islink(path):
        return f" It is a link to {os.readlink(path)}, where nothing is."
    folder = Path(path).parent
    if not folder.is_dir():
        return f" Nor does the directory {folder}."
    import difflib

    near = difflib.get_close_matches(Path(path).name, sorted(p.name for p in folder.iterdir())[:1000], n=3)
    return f" In that directory there is {', '.join(near)}." if near else " Check the path."


def open_stored(path: str, inside: str | None) -> StoredArray:
    """Return the array at that place, opened and not read."""
    return identify(path).open_array(path, inside)


def open_headerless(path: str, inside: str | None, form: RawForm) -> StoredArray:
    """Return a file of plain numbers. Raises InvalidValueError for one that says itself what it holds."""
    if inside is not None:
        raise InvalidValueError(
            f"{path}::{inside} is inside a file; dtype=, shape= and offset= are for files of plain numbers without a header."
        )
    require_exists(path)
    known = "a directory" if Path(path).is_dir() else next((each.title for each in _formats() if each.matches(path)), None)
    if known is not None:
        raise InvalidValueError(
            f"{path} is {known}, which says itself what it holds; dtype=, shape= and offset= are for files of plain numbers "
            "without a header. Leave them out."
        )
    return open_raw(path, form)


def list_stored(path: str, inside: str | None) -> list[Listing]:
    """Return every array in a file or store, or below a place inside it."""
    return identify(path).list_arrays(path, inside or "")


def open_live(source: Any) -> StoredArray:
    """Return a live np.ndarray, np.memmap, h5py.Dataset or zarr.Array, or what NumPy reads as one array in memory."""
    for format in _formats():
        if format.is_live is not None and format.from_live is not None and format.is_live(source):
            return format.from_live(source)
    if in_memory.is_live(source):
        return in_memory.from_live(source)
    raise InvalidTypeError(
        f"a {type(source).__module__}.{type(source).__qualname__} cannot be opened; expected a path, a list or glob of paths, "
        "a dict of fields, or a live np.ndarray, np.memmap, h5py.Dataset or zarr.Array."
    )
