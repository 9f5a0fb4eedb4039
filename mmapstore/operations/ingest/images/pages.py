"""The pictures of a file that are samples: pages of a TIFF stack, frames of an animation."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

from ....plain.errors import InvalidValueError

# Formats whose pictures follow each other. Others hold one picture in several sizes (ICO), in layers (PSD), with a preview (MPO).
_ANIMATIONS = ("GIF", "WEBP", "PNG", "AVIF", "FLI")
_SUBFILE_TYPE, _DESCRIPTION, _BITS, _SAMPLES, _SAMPLE_FORMAT = 254, 270, 258, 277, 339
_MOST_BOXES, _DEPTH_AT = 1 << 16, 38  # bytes before the codestream of JPEG 2000; where a SIZ segment has the bits of a value
_REDUCED_OR_MASK = 1 | 4  # bits of the subfile type: the picture of another page once more, smaller; its transparency


def pages_of(image: Any, path: str, header_of: Callable[[], Any]) -> tuple[Any, Sequence[int], str]:
    """The header of an opened file's pictures, the numbers of those that are samples, and in words what is left out of it.

    Pages of a TIFF are samples if they are like its first one in size and kind; `header_of` tells that of the page that `image` is
    at. Thumbnails, and the levels of a pyramid, are marked as such and passed over.

    Raises InvalidValueError for a stack that is written behind its first page, where only tifffile finds it.
    """
    header = header_of()
    if image.format != "TIFF":
        count = getattr(image, "n_frames", 1) if image.format in _ANIMATIONS else 1
        # Frames behind the first may have colours that the first has not; to know, one would decode all.
        return (header._replace(colour=header.dtype == "uint8") if count > 1 else header), range(max(1, count)), ""
    _require_tiff_values(image, path)
    left_out = ""
    values, bands = int(image.tag_v2.get(_SAMPLES, 1)), len(image.getbands())
    if values > bands and image.mode not in ("P", "1"):
        left_out = f"of {values} values per pixel Pillow reads {bands}"
    found: dict[int, Any] = {}
    count = 0
    with contextlib.suppress(EOFError):  # not n_frames, which fails at a page of a kind that Pillow does not know
        for count in itertools.count():
            try:
                image.seek(count)
            except (SyntaxError, ValueError, KeyError, TypeError):
                found[count] = None
                continue
            if not int(image.tag_v2.get(_SUBFILE_TYPE, 0)) & _REDUCED_OR_MASK:
                found[count] = header_of()
    image.seek(0)
    _require_all_pages(image, path, count)
    known = [each for each in found.values() if each is not None]
    header = known[0] if known else header
    pages = [page for page, each in found.items() if each == header] or [0]
    if len(pages) < len(found):
        left_out = f"{len(found) - len(pages)} of its {len(found)} pages differ from the first in size or kind"
    return header, range(count) if len(pages) == count else tuple(pages), left_out


def _require_tiff_values(image: Any, path: str) -> None:
    """Raise InvalidValueError for what Pillow gives other values of than those that are stored (13.0; the judge is tifffile)."""
    bits = image.tag_v2.get(_BITS, (1,))
    if 8 in bits and 2 in image.tag_v2.get(_SAMPLE_FORMAT, (1,)):
        what = "signed integers of 8 bits, which Pillow takes for unsigned ones"
    elif image.tag_v2.prefix == b"MM" and image.mode in ("I", "F") and any(tile[0] == "libtiff" for tile in image.tile):
        what = "compressed big-endian numbers, whose bytes Pillow swaps twice"
    else:
        return
    raise InvalidValueError(f"{path} holds {what}. Read it with tifffile: mmapstore.ingest(tifffile.imread({path!r}), ...).")


def is_unsigned_of_32_bits(image: Any) -> bool:
    """True if a TIFF holds unsigned integers of 32 bits, which Pillow reads as signed integers."""
    tags = image.tag_v2 if image.format == "TIFF" else {}
    return image.mode == "I" and 32 in tags.get(_BITS, ()) and 2 not in tags.get(_SAMPLE_FORMAT, (1,))


def is_deep(image: Any) -> bool:
    """True if a file holds more than 8 bits per value, in a format where Pillow's decoder does not tell."""
    if image.format != "JPEG2000":
        return any(tile[0] == "SGI16" for tile in image.tile)
    at = image.fp.tell()
    image.fp.seek(0)
    _, marker, size = image.fp.read(_MOST_BOXES).partition(b"\xff\x4f\xff\x51")  # where the codestream and its SIZ segment begin
    image.fp.seek(at)
    return bool(marker) and len(size) > _DEPTH_AT and (size[_DEPTH_AT] & 0x7F) >= 8  # stored less one, the first bit for a sign


def _require_all_pages(image: Any, path: str, count: int) -> None:
    """ImageJ beyond 4 GB, and tifffile on request, write one page, and the others as bare numbers behind it."""
    text = str(image.tag_v2.get(_DESCRIPTION, ""))
    told = re.search(r"^images=(\d+)", text, re.MULTILINE) if text.startswith("ImageJ=") else None
    planes = int(told[1]) if told else 1
    if text.startswith("{") and '"truncated"' in text:
        page = image.width * image.height * int(image.tag_v2.get(_SAMPLES, 1))
        planes = math.prod(json.loads(text).get("shape", [page])) // page
    if count == 1 and planes > 1:
        raise InvalidValueError(
            f"{path} says that it holds {planes} pictures, and has one page: the others are bare numbers behind it. "
            f"Read it with tifffile: mmapstore.ingest(tifffile.memmap({path!r}), ...)."
        )
