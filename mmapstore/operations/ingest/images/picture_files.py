"""The files of one field of pictures: headers looked at first, pixels decoded one by one or page by page."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Generator, Sequence

from ....plain.errors import DamagedFileError, MmapstoreError, NotFoundError, NotReadableError, UnsafeFileError
from ..contract import Array
from ..ordered_map import in_order
from .decoding import ImageDecoder, ImageHeader, read_header

BROKEN = (DamagedFileError, UnsafeFileError, NotFoundError, NotReadableError)  # what skip_broken leaves out
_HEADERS_AT_ONCE = 4  # they wait for the disk, or else for each other


class PictureFiles:
    """Files, and how they are decoded.

    Attributes
    ----------
    paths : of all
    headers : of each, None for one that is left out
    decoder : of all, (height, width, channels) from each
    sample_shape : of what it makes of them
    """

    decoder: ImageDecoder
    sample_shape: tuple[int, int, int]

    def __init__(self, paths: Sequence[str], left_out: Container[int], skip_broken: bool) -> None:
        self.paths = paths
        self.headers = _headers(paths, left_out, skip_broken)

    def reorder(self, places: Sequence[int]) -> None:
        """Put file `places[i]` at place i."""
        self.paths = [self.paths[number] for number in places]
        self.headers = [self.headers[number] for number in places]

    def usable(self) -> list[tuple[str, ImageHeader]]:
        return [(path, header) for path, header in zip(self.paths, self.headers, strict=True) if header is not None]

    def decode_by(self, decoder_of: Callable[[Sequence[tuple[str, ImageHeader]]], ImageDecoder]) -> None:
        """Decide how they are decoded: at least one has to be usable."""
        usable = self.usable()
        self.decoder = decoder_of(usable)
        height, width = self.decoder.size or usable[0][1].size
        self.sample_shape = (height, width, self.decoder.channels)
        self._working = {header: self.decoder.working_nbytes(header) for header in {header for _, header in usable}}

    def decode(self, number: int) -> Array:
        """The first picture of a file."""
        header = self.headers[number]
        assert header is not None
        return self._checked(self.decoder.decode(self.paths[number], header), number)

    def pages(self, number: int, first: int) -> Generator[Array]:
        """The pictures of a file that are samples, without the `first` of them."""
        header = self.headers[number]
        assert header is not None
        with contextlib.closing(self.decoder.pages(self.paths[number], header, header.pages[first:])) as pages:
            for page in pages:
                yield self._checked(page, number)

    def _checked(self, image: Array, number: int) -> Array:
        if image.shape != self.sample_shape:
            raise MmapstoreError(f"{self.paths[number]} gave {image.shape}, where {self.sample_shape} was planned.")
        return image

    def working_nbytes(self, number: int) -> int:
        """Bytes that decoding a file takes."""
        header = self.headers[number]
        return 0 if header is None else self._working[header]

    @property
    def most_working_nbytes(self) -> int:
        return max(self._working.values())


def _headers(paths: Sequence[str], left_out: Container[int], skip_broken: bool) -> list[ImageHeader | None]:
    """Return the header of each file, None for those that are left out. Equal headers are one object: there may be millions."""
    once: dict[ImageHeader, ImageHeader] = {}

    def look(number: int) -> ImageHeader | None:
        if number in left_out:
            return None
        try:
            return read_header(paths[number])
        except BROKEN:
            if skip_broken:
                return None
            raise

    looked = in_order(range(len(paths)), look, workers=_HEADERS_AT_ONCE, ahead=64)
    with contextlib.closing(looked):
        return [once.setdefault(header, header) if header is not None else None for header in looked]
