"""Zstandard frames, decoded straight into the caller's buffer."""

from __future__ import annotations

from collections.abc import Sequence

from .codec import Bytes, CorruptChunk, Step, check_size, decoded_by, installed

_MAGIC = b"\x28\xb5\x2f\xfd"


def frame_header(head: bytes) -> tuple[int, int | None]:
    """Return the length of a frame's header, and of the decoded frame: None if the header does not say, or is of no frame.

    >>> frame_header(bytes.fromhex("28b52ffd2003190000616263"))
    (6, 3)
    """
    if len(head) < 6 or not head.startswith(_MAGIC):
        return 0, None
    flags = head[4]
    single, width = flags >> 5 & 1, flags >> 6
    length = (single, 2, 4, 8)[width]
    start = 5 + (0 if single else 1) + (0, 1, 2, 4)[flags & 3]
    if not length or len(head) < start + length:
        return 0, None
    return start + length, int.from_bytes(head[start : start + length], "little") + (256 if length == 2 else 0)


def _is_one_frame(stored: memoryview, begin: int, end: int, head: bytes) -> bool:
    """Return True if [begin, end) is one frame, no more and no less, that begins with the header `head`."""
    at = begin + len(head)
    if stored[begin:at] != head:
        return False
    block = 0
    while not block & 1 and at < end:
        block = int.from_bytes(
            stored[at : at + 3], "little"
        )  # bit 0: the last; bits 1 and 2: its kind, of which 1 is a byte repeated
        at += 3 + (1 if block & 6 == 2 else block >> 3)
    return block & 1 == 1 and at + (head[4] & 4) == end


class Unzstd(Step):
    """One or more zstd frames; their checksums are verified where they have one."""

    def __init__(self) -> None:
        self._decode = installed("zstd", "numcodecs.zstd", "decompress")

    def own_nbytes(self, decoded: int) -> int:
        return 1 << 18

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        _, declared = frame_header(source[:18].tobytes())
        if declared is not None and declared > nbytes:
            check_size(declared, nbytes)
        if declared is not None and declared < nbytes and self._fits(source, out[:-1]):
            # numcodecs does not say how much of `out` it filled. Several frames may fill it together, so ask: less than all?
            raise CorruptChunk(f"it decodes to fewer than {nbytes} bytes; its first frame has {declared}")
        self.fill(source, out)
        return out

    def undo_joined(self, source: Bytes, pieces: Sequence[tuple[int, int]], nbytes: int, out: Bytes) -> bool:
        """Decode frames of `nbytes` each that follow one another, as one stream. False where they are anything else, or damaged."""
        stored, (begin, _) = source.data, pieces[0]
        length, declared = frame_header(bytes(stored[begin : begin + 18]))
        head, at = bytes(stored[begin : begin + length]), begin
        for first, end in pieces:
            if declared != nbytes or first != at or not _is_one_frame(stored, first, end, head):
                return False
            at = end
        try:
            self.fill(source[begin:at], out)
        except CorruptChunk:
            return False
        return True

    def fill(self, source: Bytes, out: Bytes) -> None:
        decoded_by(self._decode, "zstd", source, out)

    def _fits(self, source: Bytes, out: Bytes) -> bool:
        try:
            self.fill(source, out)
        except CorruptChunk:
            return False
        return True
