"""HDF5 files: arrays by name, in one piece or in chunks."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np

from . import hdf5_file, hdf5_writer
from .contract import Format, Writing
from .hdf5_filters import BUILT_IN, COMPRESSIONS


def _kept_attribute(value: Any) -> Any:
    """Numbers, text and lists of one of these, which h5py writes; None for others."""
    try:
        return value if np.asarray(value).dtype.kind in "biufcSU" else None
    except ValueError:
        return None


FORMAT = Format(
    title="HDF5",
    suffixes=(".h5", ".hdf5", ".he5", ".hdf", ".nc", ".mat"),
    matches=hdf5_file.matches,
    open_array=hdf5_file.open_array,
    list_arrays=hdf5_file.list_arrays,
    is_live=hdf5_file.is_live,
    from_live=hdf5_file.from_live,
    writing=Writing(
        create=hdf5_writer.create,
        reopen=hdf5_writer.reopen,
        suffixes=(".h5", ".hdf5"),
        default_key=hdf5_writer.DEFAULT_KEY,
        compressions=BUILT_IN if importlib.util.find_spec("hdf5plugin") is None else COMPRESSIONS,
        kept_attribute=_kept_attribute,
        takes_chunks_of=hdf5_file.takes_chunks_of,
        takes_skipped=True,
        takes_parts=False,
        writing_nbytes=hdf5_writer.writing_nbytes,
    ),
    container="hdf5_tree_writer.CONTAINER",
)
