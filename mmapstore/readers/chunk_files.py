"""The stored bytes of encoded chunks: opened, read, and checked, with errors that name chunk, byte and file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

from ..files.descriptors import Descriptor, Descriptors, read_exactly, read_small_file
from ..formats.located import ChunkPlace, Located
from ..plain.errors import DamagedFileError, NotFoundError, NotReadableError
from .contract import Array

_SPARE = 64 * 2**10  # beside an eighth: what encoders add to bytes that they cannot make smaller


class ChunkFiles:
    """The files that hold the chunks of one array, called `name` in errors.

    Attributes
    ----------
    chunk_nbytes : bytes of a decoded chunk
    most_stored : bytes that a chunk may take in its file; one that claims more is damaged
    never_encoded : True if chunks are stored as they are
    """

    def __init__(self, name: str, chunks: Located) -> None:
        self._name = name
        self._chunks = chunks
        self._all_skipped = (1 << len(chunks.chain)) - 1
        self.never_encoded = not chunks.chain
        self.chunk_nbytes = math.prod(chunks.grid.chunk) * chunks.dtype.itemsize
        self.most_stored = self.chunk_nbytes * 9 // 8 + _SPARE
        self._files = Descriptors(chunks.root)

    def check(self) -> None:
        """Raise DamagedFileError if the file, or the store's directory, is no longer the one that was opened."""
        self._files.check()

    def is_plain(self, place: ChunkPlace) -> bool:
        """Return True where no codec was applied: the bytes are read as they are."""
        return place.skipped & self._all_skipped == self._all_skipped

    def open(self, number: int, place: ChunkPlace) -> Descriptor | None:
        """Return the file of a chunk; None where the chunk has a file of its own that was never written."""
        try:
            return self.descriptor(place)
        except NotFoundError as error:
            if place.nbytes < 0:
                return None
            raise DamagedFileError(f"{self.where(number, place)} cannot be read: {error}") from error
        except NotReadableError as error:
            raise NotReadableError(
                f"{self.where(number, place)} cannot be read: permission is denied. Have its owner let you read it."
            ) from error
        except DamagedFileError as error:
            raise DamagedFileError(f"{self.where(number, place)} cannot be read: {error}") from error

    def descriptor(self, place: ChunkPlace) -> Descriptor:
        """Like `open`, with the errors of opening as they are."""
        # A file of its own is read once: keeping it open would only push out those that are read again.
        return Descriptor(place.path) if place.nbytes < 0 else self._files.get(place.path)

    def read(self, number: int, place: ChunkPlace, descriptor: Descriptor, offset: int, out: Array) -> None:
        """Fill `out` from the bytes at `offset`. Raises DamagedFileError, which keeps the system's `errno`."""
        try:
            read_exactly(descriptor, offset, [out])
        except DamagedFileError as error:
            found = DamagedFileError(f"{self.where(number, place)} cannot be read: {error}")
            found.errno = error.errno
            raise found from error

    def read_together(self, numbers: Sequence[int], places: Sequence[ChunkPlace], out: Array) -> list[tuple[int, int]] | None:
        """Read neighbours in one file, or small files of their own, into `out`: where in there each begins and ends.

        None where all cannot be read at once, or do not fit.
        """
        number, first = numbers[0], places[0]
        if first.nbytes >= 0 and (descriptor := self.open(number, first)) is not None:
            pieces = [(place.offset - first.offset, place.offset - first.offset + place.nbytes) for place in places]
            try:
                self.read(number, first, descriptor, first.offset, out[: pieces[-1][1]])
            except DamagedFileError:
                return None
            return pieces
        ends = [0]
        for place in places:
            nbytes = read_small_file(place.path, out[ends[-1] :])
            if not 0 < nbytes < len(out) - ends[-1]:
                return None
            ends.append(ends[-1] + nbytes)
        return list(itertools.pairwise(ends))

    def check_size(self, number: int, place: ChunkPlace, nbytes: int) -> None:
        """Raise DamagedFileError for a number of stored bytes that a chunk cannot have."""
        if self.is_plain(place):
            if nbytes != self.chunk_nbytes:
                raise DamagedFileError(
                    f"{self.where(number, place)} is damaged: it has {nbytes} stored bytes, expected {self.chunk_nbytes}. "
                    "Copy or write the data again."
                )
        elif not 0 < nbytes <= self.most_stored:
            raise DamagedFileError(
                f"{self.where(number, place)} is damaged: it is said to have {nbytes} stored bytes, but decodes to "
                f"{self.chunk_nbytes}; expected 1 to {self.most_stored}. Copy or write the data again."
            )

    def where(self, number: int, place: ChunkPlace | None) -> str:
        """ "frames: the chunk that begins at (64, 0), at byte 4096 of a.h5," """
        grid = self._chunks.grid
        at = tuple(k * each for k, each in zip(grid.place(number), grid.chunk, strict=True))
        file = f", at byte {place.offset} of {place.path}," if place is not None else ""
        return f"{self._name}: the chunk that begins at {at}{file}"
