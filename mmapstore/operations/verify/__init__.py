"""`verify`: check data against its manifest, or compare it with other data, value by value."""

from __future__ import annotations

import contextlib
import glob
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from ...files.crashes import step
from ...plain.array_spec import StoredLayout
from ...plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    InvalidValueError,
    MemoryBudgetError,
    MissingPackageError,
    MmapstoreError,
)
from ...plain.inside_names import file_of
from ...plain.memory_budget import parse_bytes
from ..convert.tree_report import TreeRow
from ..flow.engines import THREADS, opened
from .comparison import Side, paired
from .expected import add_expected
from .manifest_check import Described, ReadThrough, described_arrays, inconsistencies
from .matching import attribute_words, matched
from .objects import TREE, Archive, Object, Objects, Trees, add_archive, archives_at, archives_converted, listing
from .regions import Perform, performed
from .rows import by_numpy
from .verdict import ArrayVerdict, BadBlock, Difference, Verdict

Compare = Callable[[Object, Object], ArrayVerdict]
__all__ = ["ArrayVerdict", "BadBlock", "Difference", "Verdict", "verify"]


def verify(
    path: str | os.PathLike[str],
    other: str | os.PathLike[str] | None = None,
    *,
    layout: str | None = None,
    other_layout: str | None = None,
    cast: bool = False,
    independent: bool = False,
    allow_links: bool = False,
    max_memory: int | str = "256MB",
    progress: Callable[[int, int | None], Any] | bool | None = None,
    engine: Any = THREADS,
) -> Verdict:
    """Check data against its manifest; or against other data, in whatever formats both are stored.

    Without `other`, each array is read to its end: every block is compared with its checksum, all values with the SHA-256 digest
    (its leaves name the damaged samples), shape, dtype, axes and size with the manifest. An array without a manifest is read as
    well, with the checksums of its format, and the verdict says that this proves less.

    With `other`, the values of both are compared, and missing and extra arrays named: a file, store or directory against any other.
    Values are equal if their bits are, if they compare equal (-0.0 and 0.0, which is noted), or if both are NaN. Byte order,
    chunks and compression make no difference, other dtypes do. Axes in another order are paired by their letters, where the
    manifests or `layout` and `other_layout` name them, and indices are given in the order of the first. In directories of archives,
    "x.h5::/frames" belongs to "x/frames.npy" and to "x.zarr::/frames", and to "x.npy" if it is the only array of "x.h5".

    Of two containers, the second is expected to be the result of `convert`: changes that `convert` reports are notes, objects
    that it drops are problems, in the words of its report.

    Parameters
    ----------
    path : an array, a container of several, or a directory, as `mmapstore.open` and `mmapstore info` take them
    other : the data to compare with; None compares with the manifest
    layout, other_layout : the axes of two single arrays, such as "NCHW" and "NHWC", where no manifest says them
    cast : compare arrays of different dtypes as well: the first's values as the second's dtype. Floats are rounded to the nearest;
        a fraction, or a number out of range, that an integer dtype cannot hold, differs
    independent : read through h5py, zarr and NumPy themselves, not through mmapstore's readers: slower, and a second opinion
    allow_links : of two containers, follow external links and read what lies in other files, as `convert_all` does with it
    max_memory : bound for private memory, in bytes or text
    progress : None shows a bar on a terminal, False nothing; a function is called with (samples done, samples), for each array
    engine : "threads" of this process; "processes", "dask", the address of a Dask scheduler, or any object with `map(fn, items)`,
        as in `convert`: arrays of more than 512 MB are read in regions, and `max_memory` is for each worker

    Raises
    ------
    NotFoundError, KeyNotFoundError, DamagedFileError (a manifest that is none), InvalidTypeError (no array of numbers),
    InvalidValueError, MemoryBudgetError, MissingPackageError. Damaged or different data is no error but a verdict

    >>> import os, tempfile
    >>> import numpy as np, mmapstore
    >>> frames = np.arange(24, dtype=np.float32).reshape(4, 2, 3)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = mmapstore.ingest(frames, os.path.join(folder, "frames.npy"))
    ...     whole = bool(mmapstore.verify(path))
    ...     frames[2, 1, 0] = -1
    ...     np.save(os.path.join(folder, "other.npy"), frames)
    ...     (pair,) = mmapstore.verify(path, os.path.join(folder, "other.npy")).arrays
    >>> whole, pair.ok, pair.difference.count, pair.difference.index, pair.difference.values
    (True, False, 1, (2, 1, 0), ('15.0', '-1.0'))
    """
    budget, name, began = parse_bytes(max_memory), _path(path), time.monotonic()
    layouts = layout, other_layout
    if other is None and (layouts != (None, None) or cast):
        raise InvalidValueError("layout=, other_layout= and cast= say how to compare two arrays; give the other one as well.")
    with opened(engine) as workers:
        perform = partial(performed, progress=progress, engine=workers, memory_nbytes=budget)
        if other is None:
            arrays = tuple(_alone(name, budget, independent, perform))
            found = Verdict(name, "", all(array.ok for array in arrays), arrays, nbytes=sum(array.nbytes for array in arrays))
        else:
            compare = partial(_pair, layouts=layouts, cast=cast, independent=independent, max_memory=budget, perform=perform)
            found = _against(name, _path(other), layouts != (None, None), allow_links, budget, compare)
    return replace(found, seconds=time.monotonic() - began)


def _path(path: Any) -> str:
    if not isinstance(path, (str, os.PathLike)):
        raise InvalidTypeError(
            f"verify takes paths; got a {type(path).__name__}. Give the path that it was opened from, such as 'a.h5::/frames'."
        )
    text = os.fspath(path)
    if glob.has_magic(text) and not os.path.exists(file_of(text)):
        raise InvalidValueError(f"{text} is a pattern; verify takes one file, store or directory. Give the directory of the files.")
    return text


def _alone(path: str, budget: int, independent: bool, perform: Perform) -> list[ArrayVerdict]:
    described = {each.name: each for each in described_arrays(path)}
    items = {name: Object(name, name, each.path, each.open) for name, each in described.items()}
    there = Objects()
    with contextlib.closing(Trees()) as trees:
        for archive in archives_at(path):
            with listing(there, archive), step(f"listing {archive.path}"):
                add_archive(there, archive, trees)
        for item in there.arrays.values():
            items.setdefault(item.name, item)
        return [_checked(item, described.get(name), budget, independent, perform) for name, item in items.items()]


def _checked(item: Object, manifest: Described | None, max_memory: int, independent: bool, perform: Perform) -> ArrayVerdict:
    """Check one array against its manifest; without one, read it to its end."""
    name, entry = item.name, manifest.entry if manifest is not None else None
    shape, dtype = (entry.shape, entry.dtype) if entry is not None else ((), "")
    refused = partial(ArrayVerdict, name, ok=False, shape=shape, dtype=dtype)
    try:
        stored = item.open()
        found = tuple(int(n) for n in stored.shape), stored.dtype.str
        if manifest is not None and found != (shape, dtype):
            words = (
                f"found {found[0]} {stored.dtype}, expected {shape} {np.dtype(dtype)} as {manifest.where} says: "
                "the data was replaced. Write it again, or delete the manifest if this is the data you want"
            )
            summary = f"{name}: NOT WHAT WAS WRITTEN, another array is there"
            return ArrayVerdict(name, ok=False, summary=summary, problems=(words,), shape=found[0], dtype=found[1])
        if manifest is not None and (problems := inconsistencies(manifest)):
            return refused(summary=f"{name}: THE MANIFEST IS DAMAGED", problems=tuple(problems))
        check = ReadThrough.of(stored, name, item.path, manifest, max_memory, independent)
    except MemoryBudgetError:
        raise
    except MmapstoreError as error:
        if manifest is None and isinstance(error, (InvalidTypeError, MissingPackageError)):
            return ArrayVerdict(name, summary=f"{name}: NOT READ", notes=(str(error),))
        state = "NOT READ" if isinstance(error, MissingPackageError) else "DAMAGED, it cannot be opened"
        return refused(summary=f"{name}: {state}", problems=(str(error),))
    return perform(check)


def _against(path: str, other: str, are_single: bool, allow_links: bool, max_memory: int, compare: Compare) -> Verdict:
    trees = Trees(), Trees()
    try:
        firsts = archives_converted(path, other, allow_links) or archives_at(path, allow_links)
        a, b = _both(firsts, archives_at(other, allow_links), trees, max_memory)
        pairs, missing, extra = matched(a, b)
        is_tree = len(pairs) != 1 or bool(missing or extra)
        if is_tree and are_single:
            raise InvalidValueError(
                f"layout= and other_layout= are for one array each; {path} holds {len(a.arrays)} and {other} {len(b.arrays)}. "
                "Name one of each with '::'."
            )
        arrays = []
        for key, first, second in pairs:
            try:
                with step(f"comparing {first.name} with {second.name}"):
                    found = compare(first, second)
            except (DamagedFileError, MissingPackageError) as error:
                found = _not_compared(first, second, str(error))
            arrays.append(replace(_with_attributes(found, first, second, is_tree), key=key))
        others = _others(a, b, {first.key for _, first, _ in pairs}, is_tree)
        arrays += [each for each in others if is_tree or not each.ok]
    finally:
        for each in trees:
            each.close()
    notes = [f"{each.name}: {note}" for each in others for note in each.notes if each.ok and not is_tree]
    for files in (each.others for each in (a, b) if each.others):
        some = ", ".join(files[:3]) + (" ..." if len(files) > 3 else "")
        notes.append(f"{len(files)} file{'s' * (len(files) != 1)} without an array: not compared ({some})")
    unheld = 0 if b.has_attributes else sum(len(each.attributes or ()) for each in a.values())
    if unheld:
        notes.append(f"{other} holds no attributes: the {unheld} of {path} were not compared")
    nbytes = sum(array.nbytes for array in arrays)
    ok = not missing and not extra and all(array.ok for array in arrays)
    return Verdict(path, other, ok, tuple(arrays), tuple(missing), tuple(extra), tuple(notes), nbytes, is_tree=is_tree)


def _both(firsts: list[Archive], seconds: list[Archive], trees: tuple[Trees, Trees], max_memory: int) -> tuple[Objects, Objects]:
    """List all objects at both paths; those of a container in the form that a conversion to its counterpart gives them."""
    a, b = Objects(), Objects()
    mine, theirs = ({archive.prefix: archive for archive in archives} for archives in (firsts, seconds))
    for archive in firsts:
        like = theirs.get(archive.prefix)
        with listing(a, archive), step(f"listing {archive.path}"):
            if like is not None and like.kind == TREE and archive.container is not None:
                add_expected(a, archive, like, *trees, max_memory)
            else:
                add_archive(a, archive, trees[0])
    for archive in seconds:
        like = mine.get(archive.prefix)
        with listing(b, archive), step(f"listing {archive.path}"):
            add_archive(b, archive, trees[1], as_stored=like is not None and like.container is archive.container)
    return a, b


def _pair(
    first: Object, second: Object, layouts: Sequence[str | None], cast: bool, independent: bool, max_memory: int, perform: Perform
) -> ArrayVerdict:
    sides, refused = [], []
    for item, layout in zip((first, second), layouts, strict=True):
        try:
            stored = item.open()
        except MmapstoreError as error:
            refused.append(str(error))
            continue
        if layout is not None:
            StoredLayout.of(layout, tuple(stored.shape), item.name)
        if independent and item.path.endswith(".npy"):
            stored = by_numpy(item.name, item.path)
        sides.append(Side(stored, (layout or item.layout or "").upper() or None, item.name))
    if refused:
        return _not_compared(first, second, *refused)
    return perform(paired(sides[0], sides[1], max_memory, cast, independent))


def _not_compared(first: Object, second: Object, *problems: str) -> ArrayVerdict:
    summary = f"{first.name} and {second.name}: NOT COMPARED"
    return ArrayVerdict(first.name, second.name, False, summary, problems=problems)


def _with_attributes(found: ArrayVerdict, first: Object, second: Object | None, is_tree: bool) -> ArrayVerdict:
    """Return the verdict of an object with the problems and notes of its attributes; for two single arrays, all as notes."""
    lost, told = _row_words(first.rows)
    wrong: list[str] = []
    notes: list[str] = []
    if second is not None and first.attributes is not None and second.attributes is not None:
        wrong, notes = attribute_words(first.attributes, second.attributes)
    if second is not None and first.dimensions and second.dimensions and first.dimensions != second.dimensions:
        wrong.append(f"the axes are named {first.dimensions} against {second.dimensions}")
    if not is_tree:
        wrong, notes = [], [*wrong, *notes]
    found = replace(found, notes=(*found.notes, *told, *notes))
    if not wrong and not lost:
        return found
    both = f"{found.name} and {found.other}"
    summary = f"{both}: equal values, other attributes" if found.ok and found.dtype else found.summary
    return replace(found, ok=False, summary=summary, problems=(*found.problems, *lost, *wrong))


def _row_words(rows: dict[str, TreeRow]) -> tuple[list[str], list[str]]:
    """Return (problems, notes): the parts of an object that a conversion drops, and those that it changes."""
    lost, told = [], []
    names: dict[str, list[str]] = {}
    for name, row in rows.items():
        about = f"attribute {name!r}: " if name else ""
        if row.is_lost:
            lost.append(f"{about}{row.outcome} by convert: {row.how}")
        elif name:
            names.setdefault(row.how, []).append(repr(name))
        else:
            told.append(row.how)
    return lost, [*told, *(f"attribute{'s' * (len(each) > 1)} {', '.join(each)}: {how}" for how, each in names.items())]


def _others(a: Objects, b: Objects, compared: set[str], is_tree: bool) -> list[ArrayVerdict]:
    """Return the verdicts of objects without values: groups with other attributes, and objects that are changed or dropped."""
    found = []
    for key, first in a.items():
        if key in compared or (first.is_array and not first.rows):
            continue
        name, second = f"/{key}", b.get(key)
        verdict = _with_attributes(ArrayVerdict(name, name, key=name), first, second, is_tree)
        links = first.link, second.link if second is not None else None
        if None not in links and links[0] != links[1] and a.led_to(key) != b.led_to(key):
            words = f"it leads to {links[0]!r} against {links[1]!r}"
            verdict = replace(verdict, ok=False, problems=(*verdict.problems, words))
        if not verdict.ok:
            summary = f"{name}: {'NOT THERE' if a.is_lost(key) else 'other attributes'}"
            found.append(replace(verdict, summary=summary))
        elif first.rows and (b.has(key) or not first.is_there):  # one that is missing is named as such, and changed into nothing
            found.append(verdict)
    return found
