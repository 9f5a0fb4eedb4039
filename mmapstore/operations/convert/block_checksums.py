"""The checksums that a manifest keeps: of equal blocks of samples, whatever pieces the values came in."""

from __future__ import annotations

from collections.abc import Mapping

from ...codecs.crc32 import crc32
from ..flow.copying import Block
from .plan import Plan

_BLOCK_NBYTES = 8 << 20


class BlockChecksums:
    """CRC-32 of every `samples` samples in C order.

    Where pieces are whole samples, and all but the last of one size, they are the blocks; else values are cut into blocks anew.
    Where samples do not follow each other in C order there are none.
    """

    def __init__(self, plan: Plan) -> None:
        each = plan.sample_values
        self.checksums: list[str] = []
        self.is_kept = plan.is_in_sample_order
        self.are_pieces = plan.slabs.is_uniform and plan.slabs.most_values % each == 0
        nbytes = each * plan.new.dtype.itemsize
        self.samples = plan.slabs.most_values // each if self.are_pieces else max(1, _BLOCK_NBYTES // max(1, nbytes))
        if not self.is_kept:
            self.samples = plan.samples
        self._values = self.samples * each
        self._crc, self._filled = 0, 0

    def take(self, block: Block, checksums: Mapping[str, str]) -> None:
        """Take the next values, C-contiguous, of which the checksum is known."""
        ((name, checksum),) = checksums.items()
        if not self.is_kept:
            return
        if self.are_pieces:
            self.checksums.append(checksum)
            return
        flat = block.values[name].reshape(-1)
        while len(flat):
            part, flat = flat[: self._values - self._filled], flat[self._values - self._filled :]
            self._crc = crc32(part, self._crc)
            self._filled += len(part)
            if self._filled == self._values:
                self._finish_block()

    def finish(self) -> tuple[str, ...]:
        """Return all checksums, the last of the samples that are left."""
        if self._filled:
            self._finish_block()
        return tuple(self.checksums)

    def _finish_block(self) -> None:
        self.checksums.append(f"{self._crc:08x}")
        self._crc, self._filled = 0, 0
