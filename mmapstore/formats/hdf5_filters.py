"""HDF5's filters: one record for each, the chain that a dataset has of them, and the checks before HDF5 decodes with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ..plain.codecs import Chain, Codec
from ..plain.errors import DamagedFileError, MissingPackageError
from .hdf5_chunk_list import ChunkList
from .hdf5_library import filter_plugins, library

SHUFFLE, FLETCHER32, _NBIT = 2, 3, 5
_ATOMIC, _COMPOUND, _NOT_PACKED = 1, 3, 4  # kinds of elements, as the filter nbit numbers them
_BITSHUFFLE_COMPRESSIONS = {0: "none", 2: "lz4", 3: "zstd"}
_Values = Sequence[int]


class Filter(NamedTuple):
    """A filter that is known."""

    name: str  # for `info`, and what `compression` calls it
    codec: str = ""  # its name in `plain/codecs.py`; "" where HDF5 alone decodes it
    # of the codec, from the values of the filter. Raises LookupError for values of another kind.
    settings: Callable[[_Values], dict[str, Any]] = lambda values: {}
    plugin: str = ""  # the class of hdf5plugin that writes it, lossless ones only
    # (values, elements in a chunk, bytes of an element) -> False for values that no program sets for such a dataset
    fits: Callable[[_Values, int, int], bool] | None = None


def filters_of(dataset: Any) -> list[tuple[int, str]]:
    """Return (number, words) of each filter of an h5py.Dataset, in the order in which they were applied."""
    plist = dataset.id.get_create_plist()
    found = []
    for index in range(plist.get_nfilters()):
        code, _, values, name = plist.get_filter(index)
        known = FILTERS.get(code)
        words = known.name if known else f"filter {code} ({name.decode('utf-8', 'replace') or 'without a name'})"
        found.append((code, f"{words} {values[0]}" if words == "gzip" and values else words))
    return found


def chain_of(dataset: Any) -> tuple[Chain | None, str]:
    """Return the codecs of a dataset's chunks; None and the reason where HDF5 alone decodes them."""
    plist = dataset.id.get_create_plist()
    chain = []
    for at, (code, words) in enumerate(filters_of(dataset)):
        known, values = FILTERS.get(code), tuple(plist.get_filter(at)[2])
        if known is None or not known.codec:
            return None, f"only HDF5 decodes {words}"
        try:
            chain.append(Codec(known.codec, known.settings(values), words))
        except LookupError:
            return None, f"{words} has settings of another kind than are known: {values}"
    return tuple(chain), ""


def missing_filters(dataset: Any, if_empty: bool = False) -> list[str]:
    """Return words for the filters that HDF5 cannot undo here; of an h5py.Dataset that stores nothing only `if_empty`."""
    if dataset.shape is None or not dataset.chunks or not (if_empty or dataset.id.get_storage_size()):
        return []
    available, found = library().h5z.filter_avail, filters_of(dataset)
    if not all(available(code) for code, _ in found):
        filter_plugins()  # importing it registers its filters
    return [f"{words} (HDF5 filter {code})" for code, words in found if not available(code)]


def need_filters(dataset: Any, name: str) -> None:
    """Raise MissingPackageError where h5py lacks a filter of the dataset, and hdf5plugin is not there to bring it.

    Called before HDF5 itself decodes, not when the dataset is opened: our own decoders need neither.
    """
    for words in missing_filters(dataset, if_empty=True):
        remedy = (
            "Install it with: pip install hdf5plugin"
            if not words.startswith("filter ") and filter_plugins() is None
            else "Its maker has a plug-in for HDF5 (https://github.com/HDFGroup/hdf5_plugins lists them): install it, set "
            "HDF5_PLUGIN_PATH to its directory, and start Python again"
        )
        raise MissingPackageError(f"{name} is compressed with {words}, which h5py lacks here. {remedy}.")


# --- settings ------------------------------------------------------------------------------------------------------------


def check_filter_settings(dataset: Any, name: str) -> None:
    """Raise DamagedFileError, naming the dataset and its filter, for settings that no program writes with such a dataset.

    With them HDF5 was seen to end the process (szip: a block of no pixels), and to give what lay in memory before (nbit).
    """
    if not dataset.chunks:
        return
    plist = dataset.id.get_create_plist()
    for place in range(plist.get_nfilters()):
        code, _, values, _ = plist.get_filter(place)
        known, size = FILTERS.get(code), dataset.id.get_type().get_size()
        if known is None or known.fits is None:
            continue
        if not known.fits(values, math.prod(dataset.chunks), size):
            raise DamagedFileError(
                f"{name}: its filter {known.name} is set to {tuple(values)[:20]}, which does not fit {math.prod(dataset.chunks)} "
                f"elements of {dataset.dtype} in each chunk. The file is damaged; copy or write it again."
            )
        if code == _NBIT and place == plist.get_nfilters() - 1 and (values[1] == 1 or values[3] == _ATOMIC):
            bits = 8 * size if values[1] == 1 else values[6]
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


def _shuffle(values: _Values) -> dict[str, Any]:
    if values[0] < 1:
        raise LookupError("elements without a byte")
    return {"itemsize": values[0]}


def _bitshuffle(values: _Values) -> dict[str, Any]:
    """(major, minor, itemsize, block size or 0, compression, level); the first files end before the compression."""
    padded = (*values, 0, 0)
    return _shuffle(values[2:]) | {"block_size": padded[3], "compression": _BITSHUFFLE_COMPRESSIONS[padded[4]]}


def _szip_settings(values: _Values) -> dict[str, Any]:
    if len(values) != 4:
        raise LookupError("other values than HDF5 sets")
    return dict(zip(("options", "block", "bits", "scanline"), values, strict=True))


def _szip(values: _Values, count: int, size: int) -> bool:
    """(options, pixels in a block, bits in a pixel, pixels in a line)"""
    if len(values) != 4:
        return False
    _, block, bits, line = values
    return 2 <= block <= 32 and block % 2 == 0 and (1 <= bits <= 32 or bits == 64) and block <= line <= 4096 and bits <= 8 * size


def _nbit(values: _Values, count: int, size: int) -> bool:
    """(how many values, whether nothing is packed, elements in a chunk, and what packing needs to know of an element)"""
    if len(values) < 3 or values[0] != len(values) or values[1] not in (0, 1) or values[2] != count:
        return False
    return values[1] == 1 or _packed(values, 3, size) == len(values)


def _packed(values: _Values, at: int, size: int) -> int:
    """Return the end of the description of an element of `size` bytes that begins at `at`; 0 if no description begins there."""
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


def _scale_offset(values: _Values, count: int, size: int) -> bool:
    """(kind of scale, scale, elements, kind of elements, bytes, sign, order, whether there is a fill value, and its bytes)"""
    if len(values) != 20:
        return False
    scale, _, elements, kind, nbytes, sign, order, fills = values[:8]
    has_sign = kind == 0  # of floats HDF5 writes whatever lay in memory, and looks at it never
    return scale in (0, 1, 2) and elements == count and nbytes == size and {kind, sign * has_sign, order, fills} <= {0, 1}


FILTERS = {
    1: Filter("gzip", "zlib"),
    32000: Filter("lzf", "lzf"),
    32015: Filter("zstd", "zstd", plugin="Zstd"),
    32001: Filter("blosc", "blosc", plugin="Blosc"),
    32026: Filter("blosc2", plugin="Blosc2"),
    32008: Filter("bitshuffle", "hdf5-bitshuffle", _bitshuffle, "Bitshuffle"),
    307: Filter("bzip2", "bzip2", plugin="BZip2"),
    32004: Filter("lz4", "hdf5-lz4", plugin="LZ4"),
    SHUFFLE: Filter("shuffle", "shuffle", _shuffle),
    FLETCHER32: Filter("checksum", "fletcher32"),
    4: Filter("szip", "szip", _szip_settings, fits=_szip),
    _NBIT: Filter("nbit", fits=_nbit),
    6: Filter("scale-offset", fits=_scale_offset),
    32013: Filter("zfp"),
}
"""By HDF5's number."""
BUILT_IN = ("gzip", "lzf")
COMPRESSIONS = (*BUILT_IN, *(each.name for each in FILTERS.values() if each.plugin))
"""Names that a new dataset takes; those that are not built in need hdf5plugin."""
