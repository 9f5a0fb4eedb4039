"""bzip2 streams, by Python's own library, which leaves the interpreter's lock."""

from __future__ import annotations

import bz2

import numpy as np

from .codec import refused, wrong_size
from .contract import Bytes, CorruptChunk


class Bunzip2:
    """One or more bzip2 streams, one behind the other."""

    fills = False
    takes_any_size = False

    def encoded_nbytes(self, decoded: int) -> int | None:
        return None

    def own_nbytes(self, decoded: int) -> int:
        return 2 * decoded + (4 << 20)  # what it returns, doubled as it grows, and bzip2's blocks of 900 kB

    def undo(self, source: Bytes, nbytes: int, out: Bytes | None) -> Bytes:
        parts, found, rest = [], 0, source.data
        while found <= nbytes:
            stream = bz2.BZ2Decompressor()
            try:
                part = stream.decompress(rest, nbytes + 1 - found)
            except (OSError, ValueError, EOFError) as error:
                raise CorruptChunk(refused("bzip2", source, error)) from error
            parts.append(part)
            found += len(part)
            rest = memoryview(stream.unused_data)
            if not stream.eof or bytes(rest[:3]) != b"BZh":
                break
        if found > nbytes:
            raise CorruptChunk(f"it decodes to more than {nbytes} bytes, expected exactly {nbytes}")
        if not stream.eof:
            raise CorruptChunk(f"its bzip2 stream stops short, after {found} decoded bytes; expected {nbytes}")
        if found != nbytes:
            raise CorruptChunk(wrong_size(found, nbytes))
        return np.frombuffer(parts[0] if len(parts) == 1 else b"".join(parts), np.uint8)
