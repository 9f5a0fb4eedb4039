"""Zarr stores in directories: arrays by name, in chunks."""

from __future__ import annotations

from ..plain.json_values import as_json
from . import zarr_store, zarr_writer
from .contract import Format, Writing

FORMAT = Format(
    title="Zarr",
    suffixes=(".zarr",),
    matches=zarr_store.matches,
    open_array=zarr_store.open_array,
    list_arrays=zarr_store.list_arrays,
    is_live=zarr_store.is_live,
    from_live=zarr_store.from_live,
    writing=Writing(
        create=zarr_writer.create,
        reopen=zarr_writer.reopen,
        suffixes=(".zarr",),
        is_directory=True,
        compressions=zarr_writer.COMPRESSIONS,
        maps_uncompressed=False,
        kept_attribute=as_json,
        takes_chunks_of=zarr_writer.takes_chunks_of,
        writing_nbytes=zarr_writer.writing_nbytes,
    ),
    container="zarr_tree_writer.CONTAINER",
)
