"""The layout of a Zarr array, read from its metadata once: it locates the chunks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..plain.chunk_grid import ChunkGrid
from ..plain.errors import UnsafeFileError
from .located import Located
from .zarr_chunks import ChunkNames, ChunksInFiles
from .zarr_codecs import ByteOrder, Encoding, NotUnderstood, codecs_2, encoding_2, encoding_3, named_3, split_3
from .zarr_metadata import Node
from .zarr_shards import MOST_INDEX_NBYTES, ChunksInShards, ShardForm


@dataclass(frozen=True)
class Form:
    """The form of an array's chunks and of their names, where all of it is understood."""

    chunk: tuple[int, ...]
    encoding: Encoding
    names: ChunkNames
    shards: ShardForm | None = None


@dataclass(frozen=True)
class Layout:
    """The way in which the bytes of an array are stored."""

    codecs: str  # names, for `info`: "zstd", "uncompressed"
    form: Form | None  # None where only zarr can read the chunks
    why_not: str = ""  # the reason where `form` is None; else empty

    @property
    def words(self) -> str:
        """For `info`: "zstd", "in shards of (64, 3, 50, 50), zstd"."""
        shards = f"in shards of {self.form.shards.shape}" if self.form and self.form.shards else ""
        return ", ".join(filter(None, [shards, self.codecs]))

    def located(self, shape: tuple[int, ...], dtype: np.dtype[Any], fill: Any) -> Located | None:
        """Return the places of an array of stored `dtype`; None where only zarr can read the chunks."""
        form = self.form
        if form is None:
            return None
        known: dict[str, Any] = {
            "root": form.names.root,
            "names": form.names,
            "grid": ChunkGrid(shape, form.chunk),
            "dtype": dtype,
            "chain": form.encoding.chain,
            "axes": form.encoding.axes,
            "fill": fill,
        }
        return ChunksInFiles(**known) if form.shards is None else ChunksInShards(**known, form=form.shards)


def refuse_code(node: Node) -> None:
    """Raises UnsafeFileError for codecs that run code from the file. To be asked before zarr opens the array."""
    codecs = [*(found if isinstance(found := node.metadata.get("filters"), list) else []), node.metadata.get("compressor")]
    if any(isinstance(codec, dict) and codec.get("id") == "pickle" for codec in codecs):
        raise UnsafeFileError(
            f"{node.file} asks for the codec 'pickle', which runs code from the file. It is not opened; ask for plain numbers."
        )


def layout_of(node: Node, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Layout:
    """Return the layout of an array that zarr opened with this shape and dtype.

    Whatever is unknown means that zarr reads the array, never an error or a guess.
    """
    codecs = "unknown encoding"
    try:
        codecs = ", ".join(_codec_names(node)) or "uncompressed"
        form = _form_2(node, len(shape)) if node.version == 2 else _form_3(node, len(shape), dtype)
        if math.prod(form.chunk) * dtype.itemsize >= 2**63:
            raise NotUnderstood(f"its chunks of {form.chunk} are larger than any memory")
        if math.prod(ChunkGrid(shape, form.chunk).counts) >= 2**63:
            raise NotUnderstood(f"it declares more chunks of {form.chunk} than can be numbered")
    except NotUnderstood as why:
        return Layout(codecs, None, str(why))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError):
        return Layout(codecs, None, "its metadata says more than mmapstore understands")
    return Layout(codecs, form)


def _form_2(node: Node, rank: int) -> Form:
    found = node.metadata
    chunk = _lengths(found["chunks"], rank)
    return Form(chunk, encoding_2(found, chunk), _names_of(node, "v2", found.get("dimension_separator", "."), rank))


def _form_3(node: Node, rank: int, dtype: np.dtype[Any]) -> Form:
    found = node.metadata
    kind, grid = named_3(found["chunk_grid"])
    naming, settings = named_3(found["chunk_key_encoding"])
    if kind != "regular":
        raise NotUnderstood(f"the chunks lie on a grid of kind {kind!r}")
    if found.get("storage_transformers") or naming not in ("default", "v2"):
        raise NotUnderstood("the files of its chunks are named in a way that mmapstore does not know")
    names = _names_of(node, naming, settings.get("separator", "/" if naming == "default" else "."), rank)
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
    return Form(chunk, encoding_3(before, settings, after, dtype, chunk), names, shards)


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


def _names_of(node: Node, naming: str, separator: Any, rank: int) -> ChunkNames:
    if separator not in (".", "/"):
        raise NotUnderstood(f"the separator {separator!r} in chunk names is not known")
    return ChunkNames.of(node.directory, naming, separator, rank)


def _lengths(found: Any, rank: int) -> tuple[int, ...]:
    if not isinstance(found, list) or len(found) != rank or any(type(length) is not int or length < 1 for length in found):
        raise NotUnderstood(f"the lengths of its chunks are given as {str(found)[:80]}")
    return tuple(found)


def _codec_names(node: Node) -> list[str]:
    """Return the codecs of an array by name, those inside shards where it has them; without the one that means plain bytes."""
    if node.version == 2:
        return [str(codec["id"]) for codec in codecs_2(node.metadata)]
    steps = [named_3(codec) for codec in node.metadata["codecs"]]
    inner: list[Any] = next((settings["codecs"] for name, settings in steps if name == "sharding_indexed"), [])
    names = [name for name, _ in steps] + [named_3(codec)[0] for codec in inner]
    return [name.removeprefix("numcodecs.") for name in names if name not in ("bytes", "sharding_indexed")]
