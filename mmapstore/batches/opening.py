"""`mmapstore.open`: a dataset of paths, live arrays or fields. Reads headers, never data."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..files.stored_files import lies_in
from ..files.stored_manifest import read_manifest
from ..formats.contract import StoredArray
from ..formats.raw_file import RawForm
from ..formats.registry import PARTIAL, open_headerless, open_live, open_stored, split_inside
from ..plain.array_likes import is_fields
from ..plain.array_spec import StoredLayout, checked_dtype
from ..plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, KeyNotFoundError, NotFoundError
from ..plain.guessed_axes import doubt_about, warn_of_doubts
from ..plain.inside_names import split_name
from ..plain.manifest import DIRECTORY_MANIFEST, SUFFIX, ArrayManifest, is_beside
from ..plain.windows import Episodes
from ..readers.contract import Reader
from ..readers.joined import join
from ..readers.select_reader import reader_for
from .dataset import Dataset
from .notes import FieldNotes, joined_notes, packed_of, warn_of_packed

DEFAULT_FIELD = "data"


class _Field(NamedTuple):
    reader: Reader
    episodes: Episodes
    notes: FieldNotes = FieldNotes()


def open_dataset(
    source: Any,
    *,
    key: str | None = None,
    layout: str | Mapping[str, str] | None = None,
    episodes: Any = None,
    mapped: bool = True,
    dtype: Any = None,
    shape: Any = None,
    offset: int | None = None,
) -> Dataset:
    """Open array data where it lies. Nothing is read but headers.

    Values that are packed by the CF conventions of NetCDF, or have numbers for "no value", come as they are stored, with one
    PackedValuesWarning that has the command to write what they stand for.

    Parameters
    ----------
    source : a path to a .npy file, to an HDF5 file, Zarr store or uncompressed .npz archive, or to an array inside one
        ("a.h5::/group/frames"); to a file of plain numbers without a header, with `dtype` and `shape`;
        a directory that mmapstore wrote; a glob or a list of paths, joined along the sample axis in natural order, one
        episode per file; a live np.memmap, h5py.Dataset, zarr.Array or np.ndarray; a table, series or tensor in memory that
        NumPy reads as one array; a dict of fields of any of these
    key : the array inside the file, instead of "::"
    layout : how the array is stored, one letter per axis out of N T C D H W; samples run along T where there is one,
        and each N is then an episode. None: N, NC, NHW, NCHW or NCDHW by the number of axes. For several fields, a
        dict by name
    episodes : where episodes begin, and the end, as sample numbers; or the length of each. None: as the files say
    mapped : False maps no file: everything is read with calls that fail with an error. A map is faster, but a file that is
        truncated, or a disk or network that fails, while a batch is being looked at kills the process without a word
    dtype, shape, offset : what a file without a header holds: the elements, byte order included (">f4"); the lengths of the
        axes in C order, one of which may be -1 (as many as the file has bytes for); the bytes before the first element.
        For files of every other kind they are an error

    Raises
    ------
    NotFoundError, KeyNotFoundError, InvalidTypeError, InvalidValueError, DamagedFileError, UnsafeFileError,
    LockedFileError, MissingPackageError: each says what was found, what was expected, and what to do

    >>> import numpy as np, mmapstore
    >>> ds = mmapstore.open(np.zeros((100, 3, 8, 8), "f4"))
    >>> len(ds), ds.shape, ds.layout
    (100, (100, 3, 8, 8), 'NCHW')
    """
    dataset = open_quietly(source, key, layout, episodes, mapped, RawForm.of(dtype, shape, offset))
    if dataset is not source:
        warn_of_packed(each for field in dataset.packed.values() for each in field)
        warn_of_doubts(dataset.doubts.values(), "layout")
    return dataset


def open_quietly(
    source: Any, key: str | None = None, layout: Any = None, episodes: Any = None, mapped: bool = True, form: RawForm | None = None
) -> Dataset:
    """Open as `open_dataset`, for callers that report packed values and guessed axes (`Dataset.packed`, `doubts`) themselves."""
    if form is not None and not isinstance(source, (str, os.PathLike, list, tuple)):
        raise InvalidValueError(
            f"dtype=, shape= and offset= are for paths of files without a header; got {_name(source)}. "
            'In a dict of fields, open such a file of its own: {"x": mmapstore.open("x.bin", dtype=..., shape=...)}.'
        )
    if isinstance(source, Dataset):
        return source
    name = _name(source)
    if is_fields(source):
        if key is not None:
            raise InvalidValueError(f"key={key!r} is for one array; for several fields write {{'name': 'a.h5::/{key}'}}.")
        fields = _open_fields(source, layout, mapped)
    elif form is None and (found := _written_together(source, key, layout, mapped)) is not None:
        fields = found
    else:
        fields = {DEFAULT_FIELD: _open_field(source, key, _layout_of(layout, DEFAULT_FIELD), mapped, form)}
    if isinstance(layout, Mapping) and not set(layout) <= set(fields):
        raise KeyNotFoundError(
            f"layout names {sorted(set(layout) - set(fields))}, but the fields are {', '.join(map(repr, fields))}."
        )
    readers, notes = {}, {}
    for field, each in fields.items():
        readers[field], notes[field] = each.reader, each.notes
    lengths = {field: len(reader.spec) for field, reader in readers.items()}
    if len(set(lengths.values())) > 1:
        raise InvalidValueError(
            f"the fields of {name} are of unequal length ({', '.join(f'{field}: {n}' for field, n in lengths.items())} samples); "
            "expected one entry per sample in each."
        )
    samples = next(iter(lengths.values()))
    cut = Episodes.equal(samples, samples)
    for each in fields.values():
        cut = cut.common(each.episodes)
    if episodes is not None:
        cut = _given_episodes(episodes, samples)
    return Dataset(readers, cut, name, notes=notes)


def _name(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fspath(source)
    if is_fields(source):
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
    _require_one(layout, sources)
    fields = {}
    for field, source in sources.items():
        if not isinstance(field, str):
            raise InvalidTypeError(f"field names are text; found {field!r}.")
        if isinstance(source, Dataset):
            if len(source.readers) > 1 or len(source) != len(next(iter(source.readers.values())).spec):
                raise InvalidTypeError(
                    f"the field {field!r} is a part, or has several fields; give the path it was opened from. Fields are added to "
                    "a whole dataset, with an entry for each of its samples, and split or selected after that."
                )
            ((name, reader),) = source.readers.items()
            fields[field] = _Field(reader, Episodes(source.episodes), replace(source._notes[name], doubt=None))
        else:
            fields[field] = _open_field(source, None, _layout_of(layout, field), mapped)
    return fields


def _require_one(layout: Any, fields: Collection[Any]) -> None:
    if isinstance(layout, str) and len(fields) > 1:
        raise InvalidValueError(
            f"layout={layout!r} is for one array; for several fields give a dict, such as {{'image': {layout!r}}}."
        )


def _written_together(
    source: Any, key: str | None, layout: str | Mapping[str, str] | None, mapped: bool
) -> dict[str, _Field] | None:
    """Open the fields that a manifest names, of a directory, an HDF5 file or a Zarr store; None where one array is meant."""
    if not isinstance(source, (str, os.PathLike)):
        return None
    outer, inside = split_inside(source)
    if (Path(outer) / DIRECTORY_MANIFEST).is_file():
        return _written_directory(outer, layout, mapped) if key is None and inside is None else None
    group = (key if key is not None else inside or "").strip("/")
    entries = entries_beside(outer)
    if group:  # the array of that name, or all that are named below it
        is_array = group in (entry.key for entry in entries.values())
        entries = {field: entry for field, entry in entries.items() if entry.key.startswith(f"{group}/") and not is_array}
    if not entries or list(entries) == [DEFAULT_FIELD]:
        return None
    _require_one(layout, entries)
    fields, missing = {}, []
    for field, entry in entries.items():
        try:
            stored = open_stored(outer, entry.key or None)
        except KeyNotFoundError:
            missing.append(entry.key)
            continue
        fields[field] = _with_manifest(stored, entry, _layout_of(layout, field), mapped, _beside(outer))
    if fields and missing:
        raise DamagedFileError(
            f"{_beside(outer)} names {', '.join(missing)}, which {outer} does not hold (any more). "
            "Delete the manifest to open the data as it is, or ingest again."
        )
    return fields or None


def _beside(path: str) -> str:
    """Return the path of the manifest of a file or store."""
    return path.rstrip("/") + SUFFIX


def entries_beside(path: str) -> dict[str, ArrayManifest]:
    """Return the manifest's entries of the arrays in a file or store, by field; none where there is no manifest."""
    if not Path(_beside(path)).is_file():
        return {}
    fields = read_manifest(Path(_beside(path))).fields
    return {field: entry for field, entry in fields.items() if entry.file == Path(path).name}


def _written_directory(directory: str, layout: str | Mapping[str, str] | None, mapped: bool) -> dict[str, _Field]:
    """Open the fields of a directory that mmapstore wrote."""
    manifest_path = Path(directory) / DIRECTORY_MANIFEST
    if Path(directory).name.endswith(PARTIAL):  # whole, maybe, but without its name yet
        raise DamagedFileError(f"{directory} was left by an ingest that did not finish. Run the same ingest again: it resumes.")
    manifest = read_manifest(manifest_path)
    _require_one(layout, manifest.fields)
    fields = {}
    for field, entry in manifest.fields.items():
        path = manifest_path.parent / entry.file
        try:
            is_inside = lies_in(path, manifest_path.parent)
            path.exists()
        except (OSError, ValueError) as error:  # too long, or with a zero in it
            raise DamagedFileError(f"{manifest_path} names the file {entry.file[:80]!r}, which no file can be called.") from error
        if not is_inside:
            raise DamagedFileError(f"{manifest_path} names the file {entry.file!r}, which is outside its directory.")
        stored = open_stored(str(path), entry.key or None)
        fields[field] = _with_manifest(stored, entry, _layout_of(layout, field), mapped, str(manifest_path))
    if not fields:
        raise DamagedFileError(f"{manifest_path} lists no field. Write the data again.")
    return fields


# --- one field -----------------------------------------------------------------------------------------------------------


def _open_field(source: Any, key: str | None, layout: str | None, mapped: bool, form: RawForm | None = None) -> _Field:
    paths = several_paths(source)
    if paths is not None:
        return _open_joined(paths, key, layout, mapped, form)
    if isinstance(source, (str, os.PathLike)):
        return _open_path(os.fspath(source), key, layout, mapped, form)
    if key is not None:
        raise InvalidValueError(f"key={key!r} names an array inside a file, but a live {type(source).__name__} was given.")
    return _with_layout(open_live(source), layout, mapped)


def _open_path(path: str, key: str | None, layout: str | None, mapped: bool, form: RawForm | None) -> _Field:
    outer, inside = split_inside(path)
    if key is not None and inside is not None:
        raise InvalidValueError(f"{path} already names an array inside the file; leave out key={key!r}.")
    inside = key if key is not None else inside
    if form is not None:
        return _with_layout(open_headerless(outer, inside, form), layout, mapped)
    if Path(outer).is_dir() and (Path(outer) / DIRECTORY_MANIFEST).is_file() and inside:
        fields = _written_directory(outer, {inside.strip("/"): layout} if layout else None, mapped)
        name = inside.strip("/")
        if name not in fields:
            raise KeyNotFoundError(f"{outer} has no field {name!r}; it has {', '.join(fields)}.")
        return fields[name]
    entries = list(entries_beside(outer).values())
    stored = None
    if not inside and len(entries) == 1:
        with suppress(KeyNotFoundError):  # the array that the manifest names, among any others
            stored = open_stored(outer, entries[0].key or None)
    stored = stored or open_stored(outer, inside)
    name = (split_name(stored.name)[1] or "").strip("/")
    for entry in entries:
        if entry.key.strip("/") == name:
            return _with_manifest(stored, entry, layout, mapped, _beside(outer))
    return _with_layout(stored, layout, mapped)


def dataset_of(stored: StoredArray, layout: str | None) -> Dataset:
    """Return the dataset of one array."""
    found = _with_layout(stored, layout, True)
    return Dataset({DEFAULT_FIELD: found.reader}, found.episodes, stored.name, notes={DEFAULT_FIELD: found.notes})


def _with_layout(stored: StoredArray, layout: str | None, mapped: bool) -> _Field:
    checked_dtype(stored.dtype, stored.name)
    how = StoredLayout.of(layout, tuple(stored.shape), stored.name)
    is_matlab = layout is None and bool(stored.attributes(("MATLAB_class",)))
    notes = FieldNotes(packed=packed_of(stored), doubt=doubt_about(stored.name, tuple(stored.shape), layout, is_matlab))
    return _Field(reader_for(stored, how, mapped), Episodes.equal(how.samples, how.episode_length), notes)


def _with_manifest(stored: StoredArray, entry: ArrayManifest, layout: str | None, mapped: bool, where: str) -> _Field:
    if tuple(stored.shape) != entry.shape or stored.dtype != entry.dtype:
        if Path(where.removesuffix(SUFFIX).removesuffix(f"/{DIRECTORY_MANIFEST}") + PARTIAL + ".json").is_file():
            raise DamagedFileError(
                f"{stored.name} was being appended to, and the last step is missing: it holds {tuple(stored.shape)}, {where} says "
                f"{entry.shape}. Run the same ingest again: it goes on."
            )
        raise DamagedFileError(
            f"{where} describes {entry.shape} {entry.dtype}, but {stored.name} holds {tuple(stored.shape)} {stored.dtype.str}: "
            "the data was replaced. Delete the manifest to open the data as it is, or ingest again."
        )
    if layout is None:
        try:
            StoredLayout.of(entry.layout, entry.shape, stored.name)
        except InvalidValueError as error:
            raise DamagedFileError(f"{where}: {error} The manifest is damaged; delete it, or ingest again.") from error
    reader, cut, opened = _with_layout(stored, layout or entry.layout, mapped)
    if layout is None or layout == entry.layout:
        cut = Episodes.of(list(entry.episodes), len(reader.spec), f"the episodes in {where}")
    return _Field(reader, cut, replace(FieldNotes.of(entry.notes), packed=opened.packed, doubt=opened.doubt))


# --- several files as one ------------------------------------------------------------------------------------------------


def natural(path: str) -> list[tuple[int, int, str]]:
    """Return a sort key that counts: "run2" comes before "run10"; "1" and "01" have one order on every machine."""
    name = path.replace(os.sep, "/")
    parts = [(0, int(part), "") if part.isdecimal() else (1, 0, part) for part in re.split(r"(\d+)", name)]
    return [*parts, (-1, 0, name)]


def several_paths(source: Any) -> list[str] | None:
    """Return the files of a list or a glob, in natural order; None if `source` is one thing."""
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
            found = [path for path in glob.glob(outer, recursive=True) if not is_beside(path) and not path.endswith(PARTIAL)]
            if not found:
                raise NotFoundError(f"no file matches {outer}. Check the pattern and the directory.")
            return [path if inside is None else f"{path}::{inside}" for path in sorted(found, key=natural)]
    return None


def _open_joined(paths: Sequence[str], key: str | None, layout: str | None, mapped: bool, form: RawForm | None) -> _Field:
    fields = [_open_path(path, key, layout, mapped, form) for path in paths]
    first = fields[0].reader.spec
    for path, (reader, *_) in zip(paths, fields, strict=True):
        spec = reader.spec
        if (spec.sample_shape, spec.dtype, spec.layout) != (first.sample_shape, first.dtype, first.layout):
            raise InvalidValueError(
                f"{path} holds samples of {spec.sample_shape} {spec.dtype} ({spec.layout}), but {paths[0]} of {first.sample_shape} "
                f"{first.dtype} ({first.layout}). Files are joined only if all agree: leave this one out, or ingest it anew."
            )
    offsets, at = [0], 0
    for each in fields:
        offsets.extend((each.episodes.offsets[1:] + at).tolist())
        at = offsets[-1]
    notes = joined_notes([field.notes for field in fields], paths)
    return _Field(join([field.reader for field in fields]), Episodes.of(offsets), notes)
