"""The contract of decoding a chunk, whatever its codecs are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

Bytes = np.ndarray[Any, np.dtype[np.uint8]]


class ChunkDecoder(Protocol):
    """Undoes one chain of codecs for chunks of one size. Any number of threads may call `decode` at once.

    Found by `codecs.chain.decoder_for(chain, dtype, chunk)`, which says why where there is none.
    """

    @property
    def scratch_nbytes(self) -> int:
        """Bytes of memory that one call takes at most beside `stored` and `out`."""
        ...

    def decode(self, stored: Bytes, out: Bytes, skipped: int = 0) -> None:
        """Fill `out`, which has exactly the bytes of one decoded chunk, from the `stored` bytes.

        `stored` may have slack behind the chunk's bytes only where the chain's last codec ends by itself. Bit i of `skipped`:
        codec i of the chain was not applied. Never writes past `out`, whatever the stored bytes claim.

        Raises CorruptChunk, in words that a message can go on with: "its checksum is 0x12, expected 0x34".
        """
        ...

    def decode_part(self, stored: Bytes, start: int, stop: int, out: Bytes, skipped: int = 0) -> bool:
        """Fill `out`, of stop - start bytes, with bytes [start, stop) of the decoded chunk; or return False, with nothing done,
        where that would cost about as much as all of it.

        Checksums over the stored bytes are verified; one that a stream carries behind its own decoded bytes is not reached.
        """
        ...

    @property
    def joins(self) -> bool:
        """True if `decode_joined` can do anything."""
        ...

    def decode_joined(self, stored: Bytes, pieces: Sequence[tuple[int, int]], out: Bytes) -> bool:
        """Fill `out` with chunks, all of whose codecs were applied, by one call: chunk k is stored in [begin, end), the k-th piece.

        False where that cannot be done, or one of them is damaged: `decode` then says why. `out` may be changed all the same.
        """
        ...


class CorruptChunk(Exception):
    """The stored bytes of a chunk cannot be what was written. The reader adds file, chunk and offset."""
