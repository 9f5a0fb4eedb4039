"""The contract of formats: an array as it lies on disk, and a writer for a new one.

A format module is the only place that imports the format's own library, and translates its errors. It knows
nothing of samples beyond the axes: `readers/` turn a stored array into samples, `operations/ingest` feeds a writer.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..plain.chunk_grid import ChunkGrid
from ..plain.errors import InvalidTypeError, InvalidValueError
from .located import Located

Array = np.ndarray[Any, np.dtype[Any]]
Selection = tuple[slice, ...]


@dataclass(frozen=True)
class Format:
    """A format as it declares itself. Nothing outside `formats/` compares formats by name."""

    title: str  # the name that people use
    suffixes: tuple[str, ...]  # of files and directories that claim to be of the format
    # True if a path holds the format, by its first bytes or its metadata; False for a path that cannot be read
    matches: Callable[[str], bool]
    open_array: Callable[[str, str | None], StoredArray]  # (path, key or None) -> one array, opened and not read
    list_arrays: Callable[[str, str], list[Listing]]  # (path, key or "") -> every array at or below the key
    # is_live, from_live: an open array of the format's own library; both work without importing the library
    is_live: Callable[[Any], bool] | None = None
    from_live: Callable[[Any], StoredArray] | None = None
    writing: Writing | None = None  # None for a format that is read only
    # "module.NAME" of the form in which the format holds several arrays, groups and links; "" for a format without one
    container: str = ""


@dataclass(frozen=True)
class Writing:
    """A format's way to write new arrays."""

    create: Callable[[str, str | None, NewArray], Writer]  # (path, key or None, new) -> a writer of a new array
    reopen: Callable[[str, str | None, NewArray], Writer]  # the same for an array that `create` made and that was interrupted
    suffixes: tuple[str, ...]  # that name a new file or directory of the format
    holds_many: bool = True  # several arrays by name lie in one file or directory
    default_key: str = ""  # the name of an array that was given none
    is_directory: bool = False  # the target is a directory; else it is a file
    compressions: tuple[str, ...] = ()  # names that `create` takes here, the usual one first; empty for a format without chunks
    maps_uncompressed: bool = True  # an uncompressed array needs no chunks, and is mapped
    # the form in which an attribute's value is kept; None for a value that the format does not hold
    kept_attribute: Callable[[Any], Any] = lambda value: None
    # True for an array whose encoded chunks `write_encoded` takes; None where there is no `write_encoded`
    takes_chunks_of: Callable[[StoredArray], bool] | None = None
    takes_parts: bool = True  # several processes may write whole chunks, or ranges of bytes, of one array at once
    takes_skipped: bool = False  # `write_encoded` takes chunks to which some codecs were not applied
    # bytes of memory that writing a block of so many bytes into a new array takes beside the block, at most
    writing_nbytes: Callable[[NewArray, int], int] = lambda new, block_nbytes: 0
    flushes_beside: bool = False  # as of its `Writer`
    # writes behind the end of an array that others may be reading; None where appending works on a copy
    tail: Writing | None = None


@dataclass(frozen=True)
class Listing:
    """One array found in a container, for `info` and for messages. Nothing of it was read."""

    key: str  # its path inside, without a leading slash, as `open(path, key=...)` takes it; "" for the array at the root
    shape: tuple[int, ...]  # as stored
    dtype: np.dtype[Any] | str  # as stored, byte order included; words where NumPy has no fixed-size type for it
    storage: str  # a few words: "contiguous", "chunks of (64, 3, 50, 50), gzip 4 after shuffle"


class StoredArray(abc.ABC):
    """One array, opened and not read.

    It pickles by path and opens again; the file is opened anew in a forked child. Any thread may call `read_box`.
    """

    name: str  # the array's name in messages, as `open` would take it: "a.h5::/frames"
    # shape, dtype: as stored, byte order included
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[int, ...] | None = None  # shape of the pieces that are decoded as a whole; None where there are none
    storage: str = ""  # a few words for `info`: "contiguous", "chunks of (64, 3, 50, 50), gzip 4 after shuffle"
    path: str | None = None  # the file that `as_array` is a map of; None where it is in RAM
    cache_nbytes: int = 0  # bytes of decoded chunks that the library may keep for this array, private memory
    element_nbytes: int = 0  # bytes that the library takes for each element beside its value, such as a Python object
    is_being_written: bool = False  # a writer had the file open when the array was opened, so that growth is expected

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {self.shape} {self.dtype}>"

    @abc.abstractmethod
    def read_box(self, selection: Selection, out: Array) -> None:
        """Fill `out` with the selected region, through the format's own library. Casts to the dtype of `out`."""

    @property
    def located(self) -> Located | None:
        """The places and codecs of the chunks, or of all values in one run; None if only the format's library can read them."""
        return None

    @property
    def why_not(self) -> str:
        """The reason, for `info`, where `located` is None: "the file is being written". Else empty."""
        return ""

    def as_array(self) -> Array | None:
        """Return all of the array without reading it, read-only, shape and dtype as stored, in any strides; else None.

        A view of a memory map, or of the caller's own array.
        """
        return None

    def require_codecs(self) -> None:
        """Raise MissingPackageError, which names what to install, where `read_box` would for want of a codec."""

    def attributes(self, names: Iterable[str] | None = None) -> dict[str, Any]:
        """Return the attributes of these names, or all that can be read: NumPy scalars and arrays, text, or JSON values."""
        return {}

    def unwritten(self) -> float | None:
        """Return the number that NetCDF has for values of this dtype that were never written; None where it has none."""
        return None


@dataclass(frozen=True)
class NewArray:
    """The array that a writer creates. `shape[0]` is the number of samples."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    compression: str | None = None  # a name the format knows ("gzip", "lzf", "zstd", "blosc" ...), or None
    chunk_samples: int = 1  # samples in each chunk, for formats that have chunks
    # small values to leave beside the data, where the format has a place for them
    attributes: Mapping[str, Any] = field(default_factory=dict)
    # the number of samples is not known yet: `shape[0]` is a guess, `write` may go past it, and `truncate` comes at the end.
    # Formats that fix the length when they create an array then choose a form that can change it.
    resizable: bool = False
    # the shape of each chunk, where chunks are to be cut along other axes too; `chunk_samples` then does not count
    chunks: tuple[int, ...] | None = None
    # an array of the same format whose codecs and fill value are taken; `compression` then does not count
    like: StoredArray | None = None
    is_shared: bool = False  # `reopen` meets other processes that write other regions; nothing that they left half done is removed

    @property
    def grid(self) -> ChunkGrid:
        """The chunks, for formats that have some."""
        return ChunkGrid(self.shape, self.chunks or (self.chunk_samples, *self.shape[1:])[: len(self.shape)])

    @property
    def chunk_nbytes(self) -> int:
        return math.prod(self.grid.chunk) * self.dtype.itemsize


class Writer(abc.ABC):
    """Writes a new array in blocks of samples, in order, at a path that nobody reads yet.

    `create` makes it, `reopen` goes on with one that was interrupted. Blocks written before the last `flush` survive a kill.
    """

    name: str  # the array's name in messages
    dtype: np.dtype[Any]  # of the elements as they are stored
    resizable: bool = False  # `write` may go past the end
    flushes_beside: bool = False  # one thread may `flush` and `read_box` written regions while another writes

    @property
    @abc.abstractmethod
    def shape(self) -> tuple[int, ...]:
        """The shape as it is now."""

    def write(self, start: int, block: Array) -> None:
        """Write samples [start, start + len(block)), of a dtype that casts without loss.

        Raises InvalidValueError for another sample shape, and past the end of an array that is not resizable; InvalidTypeError.
        """
        block, shape = np.asarray(block), self.shape
        if block.ndim == 0 or block.shape[1:] != shape[1:] or start < 0:
            raise InvalidValueError(
                f"{self.name} takes samples of shape {shape[1:]}; got a block of shape {block.shape} at {start}."
            )
        if not np.can_cast(block.dtype, self.dtype, "safe"):
            raise InvalidTypeError(
                f"{self.name} holds {self.dtype}; got a block of {block.dtype}, which does not fit without loss. Cast it first."
            )
        stop = start + len(block)
        if stop > shape[0] and not self.resizable:
            raise InvalidValueError(
                f"{self.name} has {shape[0]} samples; got samples [{start}, {stop}). Create it with resizable=True if the number "
                "is not known."
            )
        if not len(block):
            return
        if stop > shape[0]:
            self.resize(stop)
        self._write_samples(start, np.ascontiguousarray(block, self.dtype))

    def read(self, start: int, stop: int) -> Array:
        """Return samples [start, stop) as they are now: to check, on resuming, that a block recorded as complete is."""
        if not 0 <= start <= stop <= self.shape[0]:
            raise InvalidValueError(f"{self.name} has {self.shape[0]} samples; asked for [{start}, {stop}).")
        return self._read_samples(start, stop)

    def truncate(self, samples: int) -> None:
        """Keep the first `samples` only: the source turned out shorter than announced, or its length was not known."""
        if not 0 <= samples <= self.shape[0]:
            raise InvalidValueError(f"{self.name} has {self.shape[0]} samples; cannot keep the first {samples}.")
        if samples != self.shape[0]:
            self.resize(samples)

    def _write_samples(self, start: int, block: Array) -> None:
        self.write_box((slice(start, start + len(block)), *(slice(0, length) for length in self.shape[1:])), block)

    def _read_samples(self, start: int, stop: int) -> Array:
        return self.read_box((slice(start, stop), *(slice(0, length) for length in self.shape[1:])))

    @abc.abstractmethod
    def resize(self, samples: int) -> None:
        """Make it that many samples long."""

    @abc.abstractmethod
    def write_box(self, box: Selection, block: Array) -> None:
        """Write the region `box`, which has a slice with start and stop on each axis. `block` has the dtype of the array.

        A box that is one run of bytes, or whole chunks, costs least.
        """

    @abc.abstractmethod
    def read_box(self, box: Selection) -> Array:
        """Return a region as it is now, in a new array."""

    @abc.abstractmethod
    def flush(self) -> None:
        """Return when the disk has all that was written, so that a block may be recorded as complete."""

    @abc.abstractmethod
    def close(self) -> None: ...

    def memory_offset(self, box: Selection) -> int:
        """Return how far from a page's beginning the block of a region best lies in memory; 0 where it does not matter."""
        return 0

    def write_encoded(self, number: int, stored: bytes | bytearray, skipped: int) -> None:
        """Write chunk `number` of the grid, which was not written yet, as an array like this one stores it.

        `skipped` as in `ChunkPlace`.
        """
        raise NotImplementedError
