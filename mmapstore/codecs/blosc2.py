"""HDF5's filter 32026: a contiguous frame of Blosc 2, mostly with one chunk, whose blocks may be boxes of the array ("b2nd").

The package blosc2 reads frames and keeps the interpreter's lock; imagecodecs leaves the lock and reads chunks only. So the frame is
taken apart here, by its published form: a header in msgpack, the chunks, and a chunk of their offsets.
"""

from __future__ import annotations

import itertools
import math
import struct
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from .codec import Compressor, NoDecoder, decoded_by, installed, wrong_size
from .contract import Bytes, CorruptChunk

# Behind the magic number: bytes of the header, of the frame; flags, kind, codec; bytes decoded, encoded; of an element, a block, a
# chunk.
_HEADER = struct.Struct(">x8sxixQx4sxqxqxixixi")
_MAGIC = b"b2frame\0"
_FILTERS = slice(0x47, 0x4D)
_FIXED = 0x57  # bytes of the header that every frame has
_MOST_HEAD = 1 << 16
_CODECS, _FILTER_CODES = {0, 1, 2, 4, 5}, {0, 1, 2, 3, 4}  # those that are no plug-ins
_CHUNK = struct.Struct("<BBBBiii")  # versions of format and compressor, flags, itemsize; bytes decoded, of a block, stored
_EXTENDED = 0b101  # of a chunk's flags: another 16 bytes of header follow, the last of which are flags too
_LAZY = 0b1000
_PLUG_IN = 6
_ZERO, _NAN, _UNSET = 1, 2, 4  # chunks that are not stored: their offsets have the sign bit, and this behind it
_USUAL_BLOCK = 2 << 20  # bytes at most, as the library chooses them
_WIDER = 4  # axes along which padding may double a chunk
_local = threading.local()


class Boxes(NamedTuple):
    """Of an array in a frame: its shape, that of a chunk, and that of a block of a chunk, all in elements."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...]
    block: tuple[int, ...]

    @property
    def padded(self) -> tuple[int, ...]:
        """The shape of a stored chunk: whole blocks."""
        return tuple(-(-length // each) * each for length, each in zip(self.chunk, self.block, strict=True))


class Frame(NamedTuple):
    """The header of a frame. `boxes` is None where the decoded bytes are stored one after the other."""

    head: int  # bytes, as are all but the last
    total: int
    nbytes: int
    encoded: int
    itemsize: int
    block: int
    chunk: int
    boxes: Boxes | None


def frame_at(head: Bytes) -> Frame:
    """The header of the frame that begins with these bytes, which are all of the header at least.

    Raises NoDecoder where a plug-in is needed to decode it, CorruptChunk where it is no frame.
    """
    given = head[: min(len(head), _MOST_HEAD)].tobytes()
    if len(given) < _FIXED or given[2:10] != _MAGIC:
        raise CorruptChunk(f"its {len(head)} bytes do not begin with the header of a blosc2 frame")
    _, length, total, flags, nbytes, encoded, itemsize, block, chunk = _HEADER.unpack_from(given, 1)
    codec, filters = flags[2] & 15, given[_FILTERS]
    if codec not in _CODECS or not set(filters) <= _FILTER_CODES:
        raise NoDecoder(f"blosc2 with a plug-in (codec {codec}, filters {sorted(set(filters) - {0})})")
    if not (_FIXED <= length <= len(given) and length + encoded <= total and min(nbytes, encoded) >= 0 < itemsize and chunk >= 0):
        raise CorruptChunk(f"the header of its blosc2 frame claims {length} bytes of a frame of {total}, decoded {nbytes}")
    return Frame(length, total, nbytes, encoded, itemsize, block, chunk, _boxes(given[:length], nbytes))


def settings_of(head: Bytes) -> dict[str, int]:
    """Return the facts of a first frame by which a decoder of many predicts its memory. Raises as `frame_at`."""
    frame = frame_at(head)
    return {"padded": frame.chunk, "block": frame.block}


def _boxes(head: bytes, nbytes: int) -> Boxes | None:
    """Read the layer "b2nd" (or "caterva", its first name) of a header, where there is one."""
    for name in (b"b2nd", b"caterva"):
        entry = bytes([0xA0 | len(name)]) + name + b"\xd2"
        at = head.find(entry, _FIXED)
        if at >= 0:
            break
    else:
        return None
    try:
        (start,) = struct.unpack_from(">i", head, at + len(entry))
        if start < _FIXED or head[start] != 0xC6:
            raise CorruptChunk("the layers of its blosc2 frame are not where its header says")
        at = start + 5
        axes, at = head[at + 2], at + 3
        found = []
        for width, letter in ((9, "q"), (5, "i"), (5, "i")):
            if head[at] != 0x90 | axes:
                raise CorruptChunk("the shapes in its blosc2 frame are not as long as it has axes")
            lengths = [struct.unpack_from(f">{letter}", head, at + 2 + width * axis)[0] for axis in range(axes)]
            found.append(tuple(lengths))
            at += 1 + width * axes
    except (IndexError, struct.error) as error:
        raise CorruptChunk("the shapes in its blosc2 frame are cut short") from error
    boxes = Boxes(*found)
    sizes = zip(*boxes, strict=True)
    if not axes or any(not (length > 0 and 0 < block <= chunk) for length, chunk, block in sizes):
        raise CorruptChunk(f"the shapes in its blosc2 frame cannot be: {boxes}")
    return boxes


class Unblosc2(Compressor):
    """`padded` and `block` are the bytes of a chunk as it comes out of the library, and of a block, where they are known."""

    def __init__(self, padded: int = 0, block: int = 0) -> None:
        self._decode = installed("blosc2", "imagecodecs", "blosc2_decode")
        self._padded, self._block = padded, block

    def own_nbytes(self, decoded: int) -> int:
        padded = max(self._padded, decoded)
        return padded + 4 * min(self._block or _USUAL_BLOCK, padded) + (1 << 18)

    def undo(self, source: Bytes, nbytes: int, out: Bytes | None) -> Bytes:
        assert out is not None
        try:
            frame = frame_at(source)
        except NoDecoder as why:
            raise CorruptChunk(f"it is {why}, the first chunk is not") from why
        if frame.total > len(source):
            raise CorruptChunk(f"its blosc2 frame claims {frame.total} bytes, stored are {len(source)}")
        boxes = frame.boxes
        size = math.prod(boxes.shape) * frame.itemsize if boxes else frame.nbytes
        if size != nbytes:
            raise CorruptChunk(wrong_size(size, nbytes))
        if boxes is None:
            if frame.chunk <= 0:
                raise CorruptChunk(f"its blosc2 frame has chunks of {frame.chunk} bytes")
            for number, at in enumerate(self._offsets(source, frame, -(-nbytes // frame.chunk))):
                self._chunk(source, frame, at, out[number * frame.chunk : (number + 1) * frame.chunk])
            return out
        padded, most = math.prod(boxes.padded) * frame.itemsize, max(self._padded, nbytes << _WIDER)
        if padded != frame.chunk or padded > most:
            raise CorruptChunk(f"a chunk of its blosc2 frame has {frame.chunk} bytes, expected {padded}, and at most {most}")
        along = [range(0, length, chunk) for length, chunk in zip(boxes.shape, boxes.chunk, strict=True)]
        in_order = boxes.chunk == boxes.shape and _blocks_in_order(boxes)
        whole = out if in_order else _spare(padded)
        kind = _element(frame.itemsize)
        target = out.view(kind).reshape(boxes.shape)
        offsets = self._offsets(source, frame, math.prod(len(starts) for starts in along))
        for at, corner in zip(offsets, itertools.product(*along), strict=True):
            self._chunk(source, frame, at, whole)
            if not in_order:
                region = tuple(slice(first, first + chunk) for first, chunk in zip(corner, boxes.chunk, strict=True))
                _put_blocks(whole.view(kind), boxes, target[region])
        return out

    def _offsets(self, source: Bytes, frame: Frame, count: int) -> list[int]:
        """Return the first byte of each chunk, counted from the end of the header."""
        if 8 * count > max(len(source) * 256, 8):
            raise CorruptChunk(f"its blosc2 frame has {count} chunks in {len(source)} bytes")
        found = np.empty(8 * count, np.uint8)
        self._decoded(source, frame.head + frame.encoded, found)
        return found.view("<i8").tolist()

    def _chunk(self, source: Bytes, frame: Frame, offset: int, out: Bytes) -> None:
        if offset >= 0:
            self._decoded(source, frame.head + offset, out)
            return
        special = offset >> 56 & 0x7F
        if special in (_ZERO, _UNSET):
            out[:] = 0
        elif special == _NAN and frame.itemsize in (4, 8) and len(out) % frame.itemsize == 0:
            out.view(f"f{frame.itemsize}")[:] = np.nan
        else:
            raise CorruptChunk(f"its blosc2 frame has a chunk of special values of the unknown kind {special}")

    def _decoded(self, source: Bytes, at: int, out: Bytes) -> None:
        """The chunk at byte `at` of the frame: its header is checked for what the library would believe."""
        head = source[at : at + 32].tobytes()
        if len(head) < _CHUNK.size:
            raise CorruptChunk(f"its blosc2 chunk at byte {at} has {len(head)} bytes, fewer than a header")
        _, _, flags, _, nbytes, _, stored = _CHUNK.unpack_from(head)
        if nbytes != len(out):
            raise CorruptChunk(wrong_size(nbytes, len(out)))
        extended = flags & _EXTENDED == _EXTENDED
        if not (32 if extended else _CHUNK.size) <= stored <= len(source) - at:
            raise CorruptChunk(f"its blosc2 chunk at byte {at} claims {stored} bytes, {len(source) - at} follow")
        plugged = flags >> 5 >= _PLUG_IN or (extended and not set(head[16:22]) <= _FILTER_CODES)
        if plugged or (extended and head[31] & _LAZY):
            raise CorruptChunk(f"its blosc2 chunk at byte {at} is lazy, or needs a plug-in, as the first chunk does not")
        found = decoded_by(self._decode, "blosc2", source[at : at + stored], numthreads=1, out=out)
        if len(found) != len(out):
            raise CorruptChunk(wrong_size(len(found), len(out)))


def unblosc2(settings: Mapping[str, Any]) -> Unblosc2:
    return Unblosc2(settings.get("padded", 0), settings.get("block", 0))


def _element(itemsize: int) -> np.dtype[Any]:
    return np.dtype(f"u{itemsize}") if itemsize in (1, 2, 4, 8) else np.dtype((np.void, itemsize))


def _blocks_in_order(boxes: Boxes) -> bool:
    """True if blocks one after the other are the array itself: all axes before some one are cut to 1, all behind it are whole."""
    cut = [axis for axis, (chunk, block) in enumerate(zip(boxes.chunk, boxes.block, strict=True)) if block != chunk]
    return boxes.padded == boxes.chunk and (not cut or all(block == 1 for block in boxes.block[: cut[-1]]))


def _put_blocks(stored: np.ndarray[Any, Any], boxes: Boxes, target: np.ndarray[Any, Any]) -> None:
    """Copy a chunk's blocks, stored one after the other, to their places in `target`, which is what of the chunk is wanted.

    Along each axis there are whole blocks and perhaps a part of one: each combination is one strided copy.

    >>> target = np.zeros((3, 3), "u1")
    >>> _put_blocks(np.arange(16, dtype="u1"), Boxes((3, 3), (3, 3), (2, 2)), target)
    >>> target.tolist()
    [[0, 1, 4], [2, 3, 6], [8, 9, 12]]
    """
    axes = len(boxes.block)
    grid = tuple(length // each for length, each in zip(boxes.padded, boxes.block, strict=True))
    by_block = stored.reshape(*grid, *boxes.block)
    kinds: list[list[tuple[slice, slice, slice, tuple[int, int]]]] = []  # (blocks, part of each, part of target, its shape)
    for length, each in zip(target.shape, boxes.block, strict=True):
        whole, rest = divmod(length, each)
        kind = [(slice(0, whole), slice(None), slice(0, whole * each), (whole, each))] if whole else []
        if rest:
            kind.append((slice(whole, whole + 1), slice(0, rest), slice(whole * each, length), (1, rest)))
        kinds.append(kind)
    # Axes of a block behind the axis of the grid that counts it.
    order = [place for axis in range(axes) for place in (axis, axes + axis)]
    for chosen in itertools.product(*kinds):
        blocks, parts, region, shapes = zip(*chosen, strict=True)
        # Splitting an axis makes a view, whatever the strides are.
        split = target[region].reshape(*itertools.chain.from_iterable(shapes))
        split[...] = by_block[(*blocks, *parts)].transpose(order)


def _spare(nbytes: int) -> Bytes:
    """Memory of this thread, kept for the next chunk."""
    spare: Bytes | None = getattr(_local, "spare", None)
    if spare is None or len(spare) < nbytes:
        _local.spare = None  # the old one goes before the new one comes
        spare = _local.spare = np.empty(nbytes, np.uint8)
    return spare[:nbytes]
