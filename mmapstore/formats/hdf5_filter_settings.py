"""What a file says of HDF5's own filters, checked before HDF5 decodes with it: it believes every number, and divides by some."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..plain.errors import DamagedFileError
from .hdf5_chunk_list import ChunkList

_SZIP, _NBIT, _SCALE_OFFSET = 4, 5, 6
_ATOMIC, _COMPOUND, _NOT_PACKED = 1, 3, 4  # kinds of elements, as the filter nbit numbers them


def check_filter_settings(dataset: Any, name: str) -> None:
    """Raise DamagedFileError, naming the dataset and its filter, for settings that no program writes with such a dataset.

    With them HDF5 was seen to end the process (szip: a block of no pixels), and to give what lay in memory before (nbit).
    """
    if not dataset.chunks:
        return
    plist = dataset.id.get_create_plist()
    for place in range(plist.get_nfilters()):
        code, _, values, _ = plist.get_filter(place)
        if code in _CHECKS:
            words, is_right = _CHECKS[code]
            if not is_right(values, math.prod(dataset.chunks), dataset.id.get_type().get_size()):
                raise DamagedFileError(
                    f"{name}: its filter {words} is set to {tuple(values)[:20]}, which does not fit {math.prod(dataset.chunks)} "
                    f"elements of {dataset.dtype} in each chunk. The file is damaged; copy or write it again."
                )
            if code == _NBIT and place == plist.get_nfilters() - 1 and (values[1] == 1 or values[3] == _ATOMIC):
                bits = 8 * dataset.id.get_type().get_size() if values[1] == 1 else values[6]
                _check_packed_bytes(dataset, name, -(-values[2] * bits // 8), 1 << place)


def _check_packed_bytes(dataset: Any, name: str, least: int, skipped: int) -> None:
    """HDF5 unpacks a chunk without a look at how many bytes it has, and goes on in what lies behind them."""

    def look(chunk: Any) -> Any:
        return chunk if chunk.size < least and not chunk.filter_mask & skipped else None  # anything but None ends the walk

    listed = ChunkList(dataset)
    found = listed.walk(look)
    if found is not None:
        raise DamagedFileError(
            f"{name}: the chunk at {listed.true_offset(found)} has {found.size} stored bytes; packed as the filter nbit is set, it "
            f"has at least {least}. The file is damaged; copy or write it again."
        )


def _szip(values: Sequence[int], count: int, size: int) -> bool:
    """(options, pixels in a block, bits in a pixel, pixels in a line)"""
    if len(values) != 4:
        return False
    _, block, bits, line = values
    return 2 <= block <= 32 and block % 2 == 0 and (1 <= bits <= 32 or bits == 64) and block <= line <= 4096 and bits <= 8 * size


def _nbit(values: Sequence[int], count: int, size: int) -> bool:
    """(how many values, whether nothing is packed, elements in a chunk, and what packing needs to know of an element)"""
    if len(values) < 3 or values[0] != len(values) or values[1] not in (0, 1) or values[2] != count:
        return False
    return values[1] == 1 or _packed(values, 3, size) == len(values)


def _packed(values: Sequence[int], at: int, size: int) -> int:
    """Where the description of an element of `size` bytes ends that begins at `at`; 0 if it is none."""
    kind, nbytes, *rest = [*values[at : at + 5], 0, 0][: max(2, len(values[at : at + 5]))]
    if nbytes != size:
        return 0
    if kind == _NOT_PACKED:
        return at + 2
    if kind == _ATOMIC and len(rest) == 3:
        order, bits, first = rest
        return at + 5 if order in (0, 1) and bits >= 1 and bits + first <= 8 * size else 0
    if kind == _COMPOUND and rest and 1 <= rest[0] <= size:
        end = at + 3
        for _ in range(rest[0]):
            if end + 2 >= len(values) or values[end] + values[end + 2] > size:
                return 0
            end = _packed(values, end + 1, values[end + 2])
            if not end:
                return 0
        return end
    return 0


def _scale_offset(values: Sequence[int], count: int, size: int) -> bool:
    """(kind of scale, scale, elements, kind of elements, bytes, sign, order, whether there is a fill value, and its bytes)"""
    if len(values) != 20:
        return False
    scale, _, elements, kind, nbytes, sign, order, fills = values[:8]
    has_sign = kind == 0  # of floats HDF5 writes whatever lay in memory, and looks at it never
    return scale in (0, 1, 2) and elements == count and nbytes == size and {kind, sign * has_sign, order, fills} <= {0, 1}


_CHECKS: dict[int, tuple[str, Callable[[Sequence[int], int, int], bool]]] = {
    _SZIP: ("szip", _szip),
    _NBIT: ("nbit", _nbit),
    _SCALE_OFFSET: ("scale-offset", _scale_offset),
}
