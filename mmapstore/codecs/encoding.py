"""Chunks encoded in threads of ours, as HDF5's own filters would: what decoders undo, done, for the codecs that writers choose.

HDF5 encodes behind one lock, and gzip there takes longer than everything else on the way to a file.
"""

from __future__ import annotations

import contextlib
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .checksums import fletcher32
from .codec import Bytes, NoDecoder, installed

CODEC_NBYTES = 2 << 20  # of tables, windows and blocks that a compressor takes in each thread, at most
_MOST = 2**31 - 1  # libdeflate's Python package takes the size as a C int


class FilterEncoder:
    """A pipeline of HDF5 filters, (name of the codec, values) each, in the order in which they are applied.

    Any number of threads may call `encode` at once. A call takes at most `scratch_nbytes(nbytes)` beside what it is given.

    >>> encoder = FilterEncoder.of([("shuffle", (4,)), ("zlib", (4,))])
    >>> stored, skipped = encoder.encode(np.arange(1000, dtype="<i4").view(np.uint8))
    >>> unshuffled = np.frombuffer(zlib.decompress(stored), np.uint8).reshape(4, 1000).T
    >>> skipped, unshuffled.copy().view("<i4")[999].item()
    (0, 999)
    """

    def __init__(self, steps: Sequence[Callable[[Any], Any]]) -> None:
        self._steps = tuple(steps)

    @classmethod
    def of(cls, filters: Sequence[tuple[str, tuple[int, ...]]]) -> FilterEncoder | None:
        """Return an encoder for filters; None if HDF5 alone can apply one of them."""
        steps = []
        for name, values in filters:
            step = _step(name, values)
            if step is None:
                return None
            steps.append(step)
        return cls(steps)

    @staticmethod
    def scratch_nbytes(nbytes: int) -> int:
        """Return the bytes of memory that encoding a chunk of `nbytes` takes at most, its result included."""
        return 2 * nbytes + nbytes // 8 + (512 << 10)

    def encode(self, chunk: Bytes) -> tuple[Any, int]:
        """Return the stored bytes, and the filters that were left out because they made the chunk no smaller, as a mask of bits."""
        found: Any = chunk
        skipped = 0
        for number, step in enumerate(self._steps):
            made = step(found)
            if made is None:
                skipped |= 1 << number
            else:
                found = made
        return found, skipped


def chunk_encoder(compression: str | None, itemsize: int) -> Callable[[Any], Any]:
    """Return the function that encodes a chunk for Zarr: as it is, or by zstd, gzip, or blosc (of zstd or lz4) after a shuffle."""
    if compression is None:
        return lambda chunk: chunk
    if compression == "gzip":
        import deflate

        return lambda chunk: deflate.gzip_compress(chunk, 5)
    if compression == "zstd":
        zstd = installed("zstd", "numcodecs.zstd", "compress")
        return lambda chunk: zstd(chunk, 3)
    blosc, by = installed("blosc", "numcodecs.blosc", "compress"), b"zstd" if compression == "blosc" else b"lz4"
    return lambda chunk: blosc(chunk, by, 5, int(itemsize > 1))


def _step(name: str, values: tuple[int, ...]) -> Callable[[Any], Any] | None:
    if name == "shuffle" and values and values[0] > 0:
        return lambda source: _shuffled(source, values[0])
    if name == "zlib" and values:
        return lambda source: _smaller(_deflated(source, values[0]), source)
    with contextlib.suppress(NoDecoder):  # HDF5 itself encodes then
        if name == "fletcher32":
            checksum = fletcher32()
            return lambda source: _with_checksum(source, checksum)
        if name == "zstd":
            compress = installed("zstd", "numcodecs.zstd", "compress")
            return lambda source: _smaller(compress(source, values[0] if values else 3), source)
    return None


def _deflated(source: Any, level: int) -> Any:
    import deflate

    return deflate.zlib_compress(source, level) if memoryview(source).nbytes <= _MOST else zlib.compress(source, level)


def _smaller(made: Any, source: Any) -> Any:
    """Return None if nothing is gained, which HDF5's filters take for a refusal."""
    return made if len(made) < memoryview(source).nbytes else None


def _shuffled(source: Any, itemsize: int) -> Bytes:
    flat: Bytes = np.frombuffer(source, np.uint8)
    whole = len(flat) // itemsize * itemsize
    out = np.empty_like(flat)
    out[:whole].reshape(itemsize, -1)[...] = flat[:whole].reshape(-1, itemsize).T
    out[whole:] = flat[whole:]
    return out


def _with_checksum(source: Any, checksum: Callable[[Any], int]) -> Bytes:
    flat: Bytes = np.frombuffer(source, np.uint8)
    return np.concatenate([flat, np.frombuffer(checksum(flat).to_bytes(4, "little"), np.uint8)])
