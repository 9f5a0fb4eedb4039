"""With which chunks, filters and properties a new HDF5 dataset is created, and whether one that is there was created so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..plain.array_spec import checked_dtype
from ..plain.errors import InvalidValueError, MissingPackageError, StateMismatchError
from .contract import NewArray
from .hdf5_filters import BUILT_IN, COMPRESSIONS, FILTERS, SHUFFLE, filters_of
from .hdf5_library import filter_plugins, library

_MOST_CHUNK_NBYTES = 2**32 - 1  # HDF5 counts the bytes of a chunk in 32 bits


def creation_options(name: str, new: NewArray) -> dict[str, Any]:
    h5py = library()
    shape = tuple(int(n) for n in new.shape)
    if not shape or min(shape) < 0:
        raise InvalidValueError(f"{name} cannot have shape {new.shape}; expected (samples, ...).")
    dtype = checked_dtype(new.dtype, name)
    known = ", ".join(repr(known) for known in COMPRESSIONS)
    if new.compression is not None and new.compression not in COMPRESSIONS:
        raise InvalidValueError(f"compression={new.compression!r} is not known for HDF5 files; expected None or one of {known}.")
    if new.like is not None:
        plist = new.like.create_plist()  # type: ignore[attr-defined]
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_INCR)  # no chunk takes room before it is written
        chunks = tuple(plist.get_chunk())
        return {"shape": shape, "dtype": dtype, "dcpl": plist, "chunks": chunks, "maxshape": (None, *shape[1:])}
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    options: dict[str, Any] = {"shape": shape, "dtype": dtype, "dcpl": plist}
    if new.compression is None and new.chunks is not None:
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_INCR)
    elif new.compression is None:
        # Set aside at once, and not filled first: the place of every value is then on disk before the first is written.
        plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
        plist.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
        if not new.resizable:
            return options
    if new.compression is not None:
        options |= _compression_options(name, new.compression, dtype)
    chunks = _new_chunks(name, new, shape)
    nbytes = math.prod(chunks) * dtype.itemsize
    if nbytes > _MOST_CHUNK_NBYTES:
        raise InvalidValueError(
            f"{name} would have chunks of {nbytes} bytes ({chunks[0]} samples); HDF5 allows at most {_MOST_CHUNK_NBYTES}. "
            "Choose fewer samples in a chunk."
        )
    return options | {"chunks": chunks, "maxshape": (None, *shape[1:])}


def _new_chunks(name: str, new: NewArray, shape: tuple[int, ...]) -> tuple[int, ...]:
    if 0 in shape[1:] or new.chunk_samples < 1:
        raise InvalidValueError(
            f"{name} of shape {shape} cannot be cut into chunks of {new.chunk_samples} samples; expected samples that hold values."
        )
    if new.chunks is None:
        return (int(new.chunk_samples) if new.resizable else min(int(new.chunk_samples), max(shape[0], 1)), *shape[1:])
    if len(new.chunks) != len(shape) or min(new.chunks) < 1:
        raise InvalidValueError(f"{name} of shape {shape} cannot be cut into chunks of {new.chunks}; expected one length per axis.")
    return tuple(min(int(each), max(length, 1)) for each, length in zip(new.chunks, shape, strict=True))


def _compression_options(name: str, compression: str, dtype: np.dtype[Any]) -> dict[str, Any]:
    shuffle = dtype.itemsize > 1
    if compression in BUILT_IN:
        return {"compression": compression, "compression_opts": 4 if compression == "gzip" else None, "shuffle": shuffle}
    code, known = next((code, each) for code, each in FILTERS.items() if each.name == compression)
    plugins = filter_plugins()
    if plugins is None or not hasattr(plugins, known.plugin) or not library().h5z.filter_avail(code):
        raise MissingPackageError(
            f"{name}: compression={compression!r} needs the package hdf5plugin, here and wherever the file is read. Install it "
            "with: pip install hdf5plugin; or choose 'gzip' or 'lzf', which every h5py has."
        )
    chosen = dict(getattr(plugins, known.plugin)())
    # blosc and bitshuffle shuffle by themselves
    return chosen | {"shuffle": True} if compression in ("lz4", "zstd", "bzip2") and shuffle else chosen


def refuse_mismatch(dataset: Any, name: str, new: NewArray, options: dict[str, Any]) -> None:
    fixed = dataset.chunks is None
    names = {FILTERS[code].name if code in FILTERS else words for code, words in filters_of(dataset) if code != SHUFFLE}
    wanted = names if new.like is not None else {new.compression} - {None}
    same = (
        dataset.shape is not None
        and dataset.shape[1:] == options["shape"][1:]
        and (not fixed or dataset.shape == options["shape"])
        and np.dtype(dataset.dtype.str) == np.dtype(options["dtype"].str)
        and (tuple(dataset.chunks) if dataset.chunks else None) == options.get("chunks")
        and names == wanted
    )
    if not same:
        raise StateMismatchError(
            f"{name} holds {dataset.shape} {dataset.dtype}, chunks {dataset.chunks}, compression {dataset.compression}; but "
            f"{options['shape']} {options['dtype']}, chunks {options.get('chunks')}, compression {new.compression} is to be "
            "written. Delete it to start again."
        )
