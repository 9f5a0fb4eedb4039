"""`mmapstore.open`: from whatever a user has in hand to a dataset. Reads headers, never data."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..formats.contract import StoredArray
from ..formats.registry import PARTIAL, open_live, open_stored, split_inside
from ..plain.array_spec import StoredLayout, checked_dtype
from ..plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, KeyNotFoundError, NotFoundError
from ..plain.manifest import DIRECTORY_MANIFEST, SUFFIX, ArrayManifest, Manifest
from ..plain.windows import Episodes
from ..readers.choice import reader_for
from ..readers.contract import Reader
from ..readers.joined import join
from .dataset import Dataset

_Field = tuple[Reader, Episodes]
DEFAULT_FIELD = "data"


def open_dataset(
    source: Any,
    *,
    key: str | None = None,
    layout: str | Mapping[str, str] | None = None,
    episodes: Any = None,
    mapped: bool = True,
) -> Dataset:
    """Open array data where it lies. Nothing is read but headers.

    Parameters
    ----------
    source : a path to a .npy file, to an HDF5 file or Zarr store, or to an array inside one ("a.h5::/group/frames");
        a directory that mmapstore wrote; a glob or a list of paths, joined along the sample axis in natural order, one
        episode per file; a live np.memmap, h5py.Dataset, zarr.Array or np.ndarray; a dict of fields of any of these
    key : the array inside the file, instead of "::"
    layout : how the array is stored, one letter per axis out of N T C D H W; samples run along T where there is one,
        and each N is then an episode. None: N, NC, NHW, NCHW or NCDHW by the number of axes. For several fields, a
        dict by name
    episodes : where episodes begin, and the end, as sample numbers; or the length of each. None: as the files say
    mapped : False maps no file: everything is read with calls that fail with an error. A map is faster, but a file that is
        truncated, or a disk or network that fails, while a batch is being looked at kills the process without a word

    Raises
    ------
    NotFoundError, KeyNotFoundError, InvalidTypeError, InvalidValueError, DamagedFileError, UnsafeFileError,
    LockedFileError, MissingPackageError: each says what was found, what was expected, and what to do

    >>> import numpy as np, mmapstore
    >>> ds = mmapstore.open(np.zeros((100, 3, 8, 8), "f4"))
    >>> len(ds), ds.shape, ds.layout
    (100, (100, 3, 8, 8), 'NCHW')
    """
    if isinstance(source, Dataset):
        return source
    name = _name(source)
    if isinstance(source, Mapping):
        if key is not None:
            raise InvalidValueError(f"key={key!r} is for one array; for several fields write {{'name': 'a.h5::/{key}'}}.")
        fields = _open_fields(source, layout, mapped)
    elif key is None and (found := _written_directory(source, layout, mapped)) is not None:
        fields = found
    else:
        fields = {DEFAULT_FIELD: _open_field(source, key, _layout_of(layout, DEFAULT_FIELD), mapped)}
    if isinstance(layout, Mapping) and not set(layout) <= set(fields):
        raise KeyNotFoundError(
            f"layout names {sorted(set(layout) - set(fields))}, but the fields are {', '.join(map(repr, fields))}."
        )
    lengths = {field: len(reader.spec) for field, (reader, _) in fields.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidValueError(
            f"the fields of {name} are of unequal length ({', '.join(f'{field}: {n}' for field, n in lengths.items())} samples); "
            "expected one entry per sample in each."
        )
    samples = next(iter(lengths.values()))
    cut = Episodes.equal(samples, samples)
    for _, own in fields.values():
        cut = cut.common(own)
    if episodes is not None:
        cut = _given_episodes(episodes, samples)
    return Dataset({field: reader for field, (reader, _) in fields.items()}, cut, name)


def _name(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if isinstance(source, Mapping):
        return "{" + ", ".join(map(str, source)) + "}"
    if isinstance(source, (list, tuple)) and source and isinstance(source[0], (str, os.PathLike)):
        return f"{os.fspath(source[0])} and {len(source) - 1} more" if len(source) > 1 else os.fspath(source[0])
    return f"a live {type(source).__name__}"


def _layout_of(layout: Any, field: str) -> str | None:
    found = layout.get(field) if isinstance(layout, Mapping) else layout
    return found


def _given_episodes(episodes: Any, samples: int) -> Episodes:
    if isinstance(episodes, (int, np.integer)) and not isinstance(episodes, bool):
        if episodes < 1 or samples % episodes:
            raise InvalidValueError(f"episodes={episodes} samples each do not divide {samples} samples; give the offsets instead.")
        return Episodes.equal(samples, int(episodes))
    return Episodes.of(episodes, samples)


# --- several fields ------------------------------------------------------------------------------------------------------


def _open_fields(sources: Mapping[Any, Any], layout: str | Mapping[str, str] | None, mapped: bool) -> dict[str, _Field]:
    if not sources:
        raise InvalidValueError("a dict of fields was given, but it is empty; expected {'image': source, ...}.")
    if isinstance(layout, str) and len(sources) > 1:
        raise _layout_for_one(layout)
    fields = {}
    for field, source in sources.items():
        if not isinstance(field, str):
            raise InvalidTypeError(f"field names are text; found {field!r}.")
        if isinstance(source, Dataset):
            if len(source.readers) > 1 or len(source) != len(next(iter(source.readers.values())).spec):
                raise InvalidTypeError(f"the field {field!r} is a part, or has several fields; give the path it was opened from.")
            fields[field] = (next(iter(source.readers.values())), Episodes(source.episodes))
        else:
            fields[field] = _open_field(source, None, _layout_of(layout, field), mapped)
    return fields


def _layout_for_one(layout: str) -> InvalidValueError:
    return InvalidValueError(
        f"layout={layout!r} is for one array; for several fields give a dict, such as {{'image': {layout!r}}}."
    )


def _written_directory(source: Any, layout: str | Mapping[str, str] | None, mapped: bool) -> dict[str, _Field] | None:
    """The fields of a directory that mmapstore wrote; None if `source` is anything else."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    manifest_path = Path(source) / DIRECTORY_MANIFEST
    if not manifest_path.is_file():
        return None
    manifest = _read_manifest(manifest_path)
    if isinstance(layout, str) and len(manifest.fields) > 1:
        raise _layout_for_one(layout)
    fields = {}
    for field, entry in manifest.fields.items():
        path = manifest_path.parent / entry.file
        if manifest_path.parent.resolve() not in path.resolve().parents:
            raise DamagedFileError(f"{manifest_path} names the file {entry.file!r}, which is outside its directory.")
        stored = open_stored(str(path), entry.key or None)
        fields[field] = _with_manifest(stored, entry, _layout_of(layout, field), mapped, str(manifest_path))
    if not fields:
        raise DamagedFileError(f"{manifest_path} lists no field. Write the data again.")
    return fields


# --- one field -----------------------------------------------------------------------------------------------------------


def _open_field(source: Any, key: str | None, layout: str | None, mapped: bool) -> _Field:
    paths = _several_paths(source)
    if paths is not None:
        return _open_joined(paths, key, layout, mapped)
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), key, layout, mapped)
    if key is not None:
        raise InvalidValueError(f"key={key!r} names an array inside a file, but a live {type(source).__name__} was given.")
    return _with_layout(open_live(source), layout, mapped)


def _open_path(path: str, key: str | None, layout: str | None, mapped: bool) -> _Field:
    outer, inside = split_inside(path)
    if key is not None and inside is not None:
        raise InvalidValueError(f"{path} already names an array inside the file; leave out key={key!r}.")
    inside = key if key is not None else inside
    if Path(outer).is_dir() and (Path(outer) / DIRECTORY_MANIFEST).is_file() and inside:
        fields = _written_directory(outer, {inside.strip("/"): layout} if layout else None, mapped)
        name = inside.strip("/")
        if fields is None or name not in fields:
            raise KeyNotFoundError(f"{outer} has no field {name!r}; it has {', '.join(fields or ())}.")
        return fields[name]
    stored = open_stored(outer, inside)
    manifest_path = Path(outer.rstrip("/") + SUFFIX)
    if manifest_path.is_file():
        for entry in _read_manifest(manifest_path).fields.values():
            if entry.file == Path(outer).name and entry.key.strip("/") == _key_of(stored).strip("/"):
                return _with_manifest(stored, entry, layout, mapped, str(manifest_path))
    return _with_layout(stored, layout, mapped)


def _key_of(stored: StoredArray) -> str:
    return stored.name.split("::", 1)[1] if "::" in stored.name else ""


def _with_layout(stored: StoredArray, layout: str | None, mapped: bool) -> _Field:
    checked_dtype(stored.dtype, stored.name)
    how = StoredLayout.of(layout, tuple(stored.shape), stored.name)
    return reader_for(stored, how, mapped), Episodes.equal(how.samples, how.episode_length)


def _with_manifest(stored: StoredArray, entry: ArrayManifest, layout: str | None, mapped: bool, where: str) -> _Field:
    if tuple(stored.shape) != entry.shape or stored.dtype != entry.dtype:
        raise DamagedFileError(
            f"{where} describes {entry.shape} {entry.dtype}, but {stored.name} holds {tuple(stored.shape)} {stored.dtype.str}: "
            "the data was replaced. Delete the manifest to open the data as it is, or ingest again."
        )
    reader, own = _with_layout(stored, layout or entry.layout, mapped)
    if layout is not None and layout != entry.layout:
        return reader, own
    return reader, Episodes.of(list(entry.episodes), len(reader.spec), f"the episodes in {where}")


def _read_manifest(path: Path) -> Manifest:
    try:
        return Manifest.from_json(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} is not text. Delete it to open the data without episodes and checksums.") from error


# --- several files as one ------------------------------------------------------------------------------------------------


def natural(path: str) -> list[tuple[int, int, str]]:
    """Sort key that counts: "run2" comes before "run10"."""
    return [(0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"(\d+)", path)]


def _several_paths(source: Any) -> list[str] | None:
    """The files of a list or a glob, in natural order; None if `source` is one thing."""
    if isinstance(source, (list, tuple)):
        if not source:
            raise InvalidValueError("a list of files was given, but it is empty.")
        if not all(isinstance(path, (str, os.PathLike)) for path in source):
            raise InvalidTypeError(
                "a list must hold paths; for arrays, write them to files first or pass np.stack(...) (which copies)."
            )
        return [os.fspath(path) for path in source]
    if isinstance(source, (str, os.PathLike)):
        outer, inside = split_inside(source)
        if glob.has_magic(outer) and not Path(outer).exists():
            found = [path for path in glob.glob(outer, recursive=True) if not path.endswith((SUFFIX, PARTIAL))]
            if not found:
                raise NotFoundError(f"no file matches {outer}. Check the pattern and the directory.")
            return [path if inside is None else f"{path}::{inside}" for path in sorted(found, key=natural)]
    return None


def _open_joined(paths: Sequence[str], key: str | None, layout: str | None, mapped: bool) -> _Field:
    fields = [_open_path(path, key, layout, mapped) for path in paths]
    first = fields[0][0].spec
    for path, (reader, _) in zip(paths, fields, strict=True):
        spec = reader.spec
        if (spec.sample_shape, spec.dtype, spec.layout) != (first.sample_shape, first.dtype, first.layout):
            raise InvalidValueError(
                f"{path} holds samples of {spec.sample_shape} {spec.dtype} ({spec.layout}), but {paths[0]} of {first.sample_shape} "
                f"{first.dtype} ({first.layout}). Files are joined only if all agree: leave this one out, or ingest it anew."
            )
    offsets, at = [0], 0
    for _, own in fields:
        offsets.extend((own.offsets[1:] + at).tolist())
        at = offsets[-1]
    return join([reader for reader, _ in fields]), Episodes.of(offsets)
