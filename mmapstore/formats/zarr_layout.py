"""The layout of a Zarr array, read from its metadata once: it locates both raw rows and encoded chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..plain.chunk_grid import ChunkGrid
from ..plain.errors import UnsafeFileError
from ..plain.extents import Extents
from .contract import EncodedChunks
from .zarr_chunks import ChunkFiles, ChunksInFiles
from .zarr_codecs import ByteOrder, Encoding, NotUnderstood, codecs_2, encoding_2, encoding_3, named_3, split_3
from .zarr_metadata import Node
from .zarr_shards import MOST_INDEX_NBYTES, ChunksInShards, ShardForm


@dataclass(frozen=True)
class Located:
    """Where chunks lie and how they are encoded, where all of it is understood."""

    chunk: tuple[int, ...]
    encoding: Encoding
    files: ChunkFiles
    shards: ShardForm | None = None


@dataclass(frozen=True)
class Layout:
    """The way in which the bytes of an array are stored.

    Attributes
    ----------
    codecs : names, for `info`: "zstd", "uncompressed"
    located : None where only zarr can read the chunks
    why_not_raw : the reason why rows do not lie as plain bytes, also where `located` is None; else empty
    """

    codecs: str
    located: Located | None
    why_not_raw: str

    @property
    def why_not_encoded(self) -> str:
        return "" if self.located else self.why_not_raw

    @property
    def words(self) -> str:
        """For `info`: "zstd", "in shards of (64, 3, 50, 50), zstd"."""
        shards = f"in shards of {self.located.shards.shape}" if self.located and self.located.shards else ""
        return ", ".join(filter(None, [shards, self.codecs]))

    def extents(self, shape: tuple[int, ...], dtype: np.dtype[Any], fill: Any) -> Extents | None:
        """Of an array of stored `dtype`; None unless rows lie as plain bytes."""
        if self.why_not_raw or self.located is None:
            return None
        template = self.located.files.path(["{}", *[0] * (len(shape) - 1)])
        row_nbytes = math.prod(shape[1:]) * dtype.itemsize
        return Extents(
            template, shape[0], row_nbytes, self.located.chunk[0], np.zeros(1, np.int64), dtype, fill, one_file_each=True
        )

    def encoded(self, shape: tuple[int, ...], dtype: np.dtype[Any], fill: Any) -> EncodedChunks | None:
        """Of an array of stored `dtype`; None where only zarr can read the chunks."""
        found = self.located
        if found is None:
            return None
        grid, encoding = ChunkGrid(shape, found.chunk), found.encoding
        if found.shards is None:
            return ChunksInFiles(found.files, grid, encoding.chain, dtype, encoding.axes, fill)
        return ChunksInShards(found.files, found.shards, grid, encoding.chain, dtype, encoding.axes, fill)


def refuse_code(node: Node) -> None:
    """Raises UnsafeFileError for codecs that run code from the file. To be asked before zarr opens the array."""
    codecs = [*(found if isinstance(found := node.metadata.get("filters"), list) else []), node.metadata.get("compressor")]
    if any(isinstance(codec, dict) and codec.get("id") == "pickle" for codec in codecs):
        raise UnsafeFileError(
            f"{node.file} asks for the codec 'pickle', which runs code from the file. It is not opened; ask for plain numbers."
        )


def layout_of(node: Node, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Layout:
    """The layout of an array that zarr opened with this shape and dtype.

    Whatever is unknown means that zarr reads the array, never an error or a guess.
    """
    codecs = "unknown encoding"
    try:
        codecs = ", ".join(_names(node)) or "uncompressed"
        located = _located_2(node, len(shape)) if node.version == 2 else _located_3(node, len(shape), dtype)
        if math.prod(located.chunk) * dtype.itemsize >= 2**63:
            raise NotUnderstood(f"its chunks of {located.chunk} are larger than any memory")
        if math.prod(ChunkGrid(shape, located.chunk).counts) >= 2**63:
            raise NotUnderstood(f"it declares more chunks of {located.chunk} than can be numbered")
    except NotUnderstood as why:
        return Layout(codecs, None, str(why))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
        return Layout(codecs, None, "its metadata says more than mmapstore understands")
    return Layout(codecs, located, _why_not_raw(located, shape, codecs))


def _located_2(node: Node, rank: int) -> Located:
    found = node.metadata
    chunk = _lengths(found["chunks"], rank)
    return Located(chunk, encoding_2(found, chunk), _files(node, "v2", found.get("dimension_separator", "."), rank))


def _located_3(node: Node, rank: int, dtype: np.dtype[Any]) -> Located:
    found = node.metadata
    kind, grid = named_3(found["chunk_grid"])
    naming, settings = named_3(found["chunk_key_encoding"])
    if kind != "regular":
        raise NotUnderstood(f"the chunks lie on a grid of kind {kind!r}")
    if found.get("storage_transformers") or naming not in ("default", "v2"):
        raise NotUnderstood("the files of its chunks are named in a way that mmapstore does not know")
    files = _files(node, naming, settings.get("separator", "/" if naming == "default" else "."), rank)
    chunk, shards = _lengths(grid["chunk_shape"], rank), None
    before, (name, settings), after = split_3(found["codecs"])
    if name == "sharding_indexed":
        if before or after:
            raise NotUnderstood("the shards are themselves encoded, and can only be read whole")
        inner = _lengths(settings["chunk_shape"], rank)
        shards, chunk = _shards(settings, chunk, inner), inner
        before, (name, settings), after = split_3(settings["codecs"])
        if name == "sharding_indexed":
            raise NotUnderstood("the shards hold shards")
    return Located(chunk, encoding_3(before, settings, after, dtype, chunk), files, shards)


def _shards(settings: Mapping[str, Any], shape: tuple[int, ...], inner: tuple[int, ...]) -> ShardForm:
    if any(length % each for length, each in zip(shape, inner, strict=True)):
        raise NotUnderstood(f"the shards of {shape} are not whole numbers of chunks of {inner}")
    (name, order), *rest = [named_3(codec) for codec in settings["index_codecs"]]
    byte_orders: dict[Any, ByteOrder] = {"little": "<", "big": ">"}
    byte_order = byte_orders.get(order.get("endian"))
    location = settings.get("index_location", "end")
    if name != "bytes" or byte_order is None or [name for name, _ in rest] not in ([], ["crc32c"]):
        raise NotUnderstood("the indexes of its shards are encoded in a way that mmapstore does not know")
    if location not in ("start", "end"):
        raise NotUnderstood(f"the indexes of its shards stand at {location!r}")
    form = ShardForm(shape, location == "start", byte_order, bool(rest))
    if form.index_nbytes(inner) > MOST_INDEX_NBYTES:
        raise NotUnderstood(f"the index of each shard takes {form.index_nbytes(inner)} bytes, more than are kept")
    return form


def _files(node: Node, naming: str, separator: Any, rank: int) -> ChunkFiles:
    if separator not in (".", "/"):
        raise NotUnderstood(f"the separator {separator!r} in chunk names is not known")
    return ChunkFiles.of(node.directory, naming, separator, rank)


def _lengths(found: Any, rank: int) -> tuple[int, ...]:
    if not isinstance(found, list) or len(found) != rank or any(type(length) is not int or length < 1 for length in found):
        raise NotUnderstood(f"the lengths of its chunks are given as {str(found)[:80]}")
    return tuple(found)


def _names(node: Node) -> list[str]:
    """The codecs of an array by name, those inside shards where it has them; without the one that means plain bytes."""
    if node.version == 2:
        return [str(codec["id"]) for codec in codecs_2(node.metadata)]
    steps = [named_3(codec) for codec in node.metadata["codecs"]]
    inner: list[Any] = next((settings["codecs"] for name, settings in steps if name == "sharding_indexed"), [])
    names = [name for name, _ in steps] + [named_3(codec)[0] for codec in inner]
    return [name.removeprefix("numcodecs.") for name in names if name not in ("bytes", "sharding_indexed")]


def _why_not_raw(found: Located, shape: tuple[int, ...], codecs: str) -> str:
    if found.shards is not None:
        return "the chunks lie in shards"
    if found.encoding.chain or (found.encoding.axes and "transpose" in codecs):
        return f"the chunks are encoded ({codecs})"
    if not shape:
        return "a scalar has no rows"
    if found.chunk[1:] != shape[1:]:
        return f"the chunks of {found.chunk} cut through rows of {shape[1:]}"
    if found.encoding.axes:
        return "Fortran order: the values of a row lie far apart"
    return "its path contains '{}'" if "{}" in found.files.before else ""
