"""Codecs as Zarr metadata names them, put into the words of `plain/codecs.py`: both formats, numcodecs' own in either."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..plain.codecs import Chain, Codec

ByteOrder = Literal["<", ">", "|"]  # as NumPy writes it; "|": as it is already
Step = tuple[str, Mapping[str, Any]]  # a codec of format 3: its name and its configuration
_WRAPPED = "numcodecs."  # how format 3 names the codecs of numcodecs
_FILTERS = ("delta", "fixedscaleoffset", "astype", "quantize", "bitround", "packbits")
_COMPRESSORS = ("blosc", "lz4", "zstd", "zlib", "gzip", "bz2", "lzma", "shuffle", "crc32", "crc32c", "adler32", "fletcher32")
_RENAMED = {"bz2": "bzip2", "lz4": "numcodecs-lz4", "shuffle": "numcodecs-shuffle"}
_XZ, _RAW = 1, 3  # as the module lzma numbers its formats; not every Python has that module
_DTYPE = re.compile(r"[<>|=]?[biufc]\d{1,2}|bool|u?int\d{1,2}|float\d{2}|complex\d{2,3}")


class NotUnderstood(Exception):
    """Metadata that only zarr itself may interpret; the text is the reason, for `info`: "its chunks differ in size"."""


@dataclass(frozen=True)
class Encoding:
    """The way in which the elements of one chunk became bytes.

    Attributes
    ----------
    chain : every step but the change of axes and of byte order, which are no codecs to undo but ways to look at the bytes
    axes : the order in which the bytes hold the axes of the chunk, slowest first; None where that is their own
    byte_order : of the decoded elements; "|" where the dtype of the array says it
    """

    chain: Chain
    axes: tuple[int, ...] | None
    byte_order: ByteOrder


def encoding_2(found: Mapping[str, Any], chunk: tuple[int, ...]) -> Encoding:
    """Of an array of format 2. Raises NotUnderstood."""
    chain = tuple(_codec(str(codec["id"]), codec) for codec in codecs_2(found))
    order = found.get("order", "C")
    if order not in ("C", "F"):
        raise NotUnderstood(f"its axes are stored in the unknown order {order!r}")
    return Encoding(chain, _axes(range(len(chunk))[::-1] if order == "F" else range(len(chunk)), chunk), "|")


def codecs_2(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The codecs of an array of format 2, in the order in which they were applied."""
    return [*(found.get("filters") or []), *([found["compressor"]] if found.get("compressor") else [])]


def named_3(found: Any) -> Step:
    """Name and configuration of a part of format 3 that has both. A name alone may stand for itself."""
    if isinstance(found, str):
        return found, {}
    settings = found.get("configuration") or {}
    if not isinstance(found["name"], str) or not isinstance(settings, dict) or set(found) - {"name", "configuration"}:
        raise NotUnderstood(f"its metadata says more than mmapstore understands: {str(found)[:80]}")
    return found["name"], settings


def split_3(codecs: Sequence[Any]) -> tuple[list[Step], Step, list[Step]]:
    """Codecs of arrays, the one that makes bytes of them, codecs of bytes. Raises NotUnderstood where one is unknown."""
    steps = [named_3(codec) for codec in codecs]
    arrays = {"transpose", *(_WRAPPED + name for name in _FILTERS)}
    turning = {"bytes", "sharding_indexed"}
    inner = {"blosc", "gzip", "zstd", "crc32c", *(_WRAPPED + name for name in _COMPRESSORS)}
    for name, _ in steps:
        if name not in arrays | turning | inner:
            raise NotUnderstood(f"its codec {name!r} is one that only zarr decodes")
    (at,) = [at for at, (name, _) in enumerate(steps) if name in turning]
    before, after = steps[:at], steps[at + 1 :]
    if {name for name, _ in before} - arrays or {name for name, _ in after} - inner:
        raise NotUnderstood("its codecs stand in an order that mmapstore does not know")
    return before, steps[at], after


def encoding_3(
    before: Sequence[Step], settings: Mapping[str, Any], after: Sequence[Step], dtype: np.dtype[Any], chunk: tuple[int, ...]
) -> Encoding:
    """Of an array of format 3: codecs before the one called "bytes", its configuration, and codecs after it.

    `dtype` is that of the array. Raises NotUnderstood.
    """
    axes, declared = list(range(len(chunk))), dtype
    filters: list[Codec] = []
    for name, configuration in before:
        if name == "transpose":
            order = configuration["order"]
            if filters or not isinstance(order, list) or sorted(order) != list(range(len(chunk))):
                raise NotUnderstood(f"its axes are transposed after filters, or in the unknown order {order!r}")
            axes = [axes[axis] for axis in order]
        else:
            codec, dtype = _filter_3(name.removeprefix(_WRAPPED), configuration, dtype, declared)
            filters.append(codec)
    order = settings.get("endian")
    byte_order: ByteOrder = "|"
    if dtype.itemsize > 1 and dtype.kind != "S":
        if order not in ("little", "big"):
            raise NotUnderstood(f"its byte order is given as {order!r}")
        byte_order = "<" if order == "little" else ">"
        if filters and not dtype.newbyteorder(byte_order).isnative:
            # zarr 3.1 hands the swapped values to numcodecs, which looks at their bytes as if they were native; 3.4 does not.
            raise NotUnderstood("its filters work on swapped bytes, which not every version of zarr reads alike")
    codecs = [_compressor_3(name.removeprefix(_WRAPPED), configuration, dtype, declared) for name, configuration in after]
    return Encoding((*filters, *codecs), _axes(axes, chunk), "|" if filters else byte_order)


def _filter_3(name: str, found: Mapping[str, Any], dtype: np.dtype[Any], declared: np.dtype[Any]) -> tuple[Codec, np.dtype[Any]]:
    """A filter of arrays of `dtype`, and the dtype of what it makes of them; `declared` is that of the whole array."""
    own = {"astype": "decode_dtype", "bitround": None, "packbits": None}.get(name, "dtype")
    made = {"astype": "encode_dtype", "delta": "astype", "fixedscaleoffset": "astype"}.get(name)
    if own is not None:
        if name != "delta":  # which may leave out nothing
            found = {**found, own: found.get(own) or _own(name, dtype, declared).str}
        # zarr converts values where they differ, or looks at their bytes anew: it depends on the codec.
        if _dtype(found[own]) != dtype or (name == "quantize" and _dtype(found.get("astype") or dtype.str) != dtype):
            raise NotUnderstood(f"its filter {name!r} is meant for {found[own]}, but is given {dtype}")
    if name == "packbits":
        if dtype != np.dtype(bool):
            raise NotUnderstood(f"its filter 'packbits' is meant for bool, but is given {dtype}")
        return _codec(name, found), np.dtype("u1")
    codec = _codec(name, found)
    return codec, _dtype(codec.settings[made]) if made else dtype


def _compressor_3(name: str, found: Mapping[str, Any], dtype: np.dtype[Any], declared: np.dtype[Any]) -> Codec:
    if name == "shuffle" and found.get("elementsize") is None:
        found = {**found, "elementsize": _own(name, dtype, declared).itemsize}
    return _codec(name, found)


def _own(name: str, dtype: np.dtype[Any], declared: np.dtype[Any]) -> np.dtype[Any]:
    """The dtype that a codec is meant for where its settings leave it out."""
    if dtype != declared:
        # The array's in zarr 3.1, what the filters before it make in 3.4.
        raise NotUnderstood(f"its codec {name!r} follows a filter, and does not say what dtype it is meant for")
    return dtype


def _codec(name: str, found: Mapping[str, Any]) -> Codec:
    """One codec by the name that numcodecs has for it; only the settings that matter for decoding."""
    if name not in _FILTERS + _COMPRESSORS:
        raise NotUnderstood(f"its codec {name!r} is one that only zarr decodes")
    settings: dict[str, Any] = {}
    if name in ("delta", "fixedscaleoffset", "quantize"):
        settings["dtype"] = _dtype(found["dtype"]).str
        settings["astype"] = _dtype(found.get("astype") or settings["dtype"]).str
    if name == "fixedscaleoffset":
        settings["offset"], settings["scale"] = _number(found["offset"]), _number(found["scale"])
    elif name == "quantize":
        settings["digits"] = _number(found["digits"])
    elif name == "bitround":
        settings["keepbits"] = _number(found["keepbits"])
    elif name == "astype":
        settings = {key: _dtype(found[key]).str for key in ("encode_dtype", "decode_dtype")}
    elif name == "shuffle":
        settings["elementsize"] = _number(found.get("elementsize", 4))
        if not isinstance(settings["elementsize"], int) or settings["elementsize"] < 1:
            raise NotUnderstood(f"its shuffle is of elements of {settings['elementsize']} bytes")
    elif name in ("crc32", "crc32c", "adler32"):
        settings["location"] = found.get("location") or ("end" if name == "crc32c" else "start")
        if settings["location"] not in ("start", "end"):
            raise NotUnderstood(f"its checksum is placed at {settings['location']!r}")
    elif name == "lzma":
        settings = {"format": found.get("format", _XZ), "filters": found.get("filters")}
        if settings["filters"] is not None and settings["format"] != _RAW:
            raise NotUnderstood("its lzma has filters that its format has no place for")
    return Codec(_RENAMED.get(name, name), settings, name)


def _dtype(found: Any) -> np.dtype[Any]:
    if not isinstance(found, str) or not _DTYPE.fullmatch(found):
        raise NotUnderstood(f"a filter is meant for the unknown dtype {str(found)[:40]!r}")
    return np.dtype(found)


def _number(found: Any) -> int | float:
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise NotUnderstood(f"a codec is set to {str(found)[:40]!r}, which is not a number")
    return found


def _axes(order: Sequence[int], chunk: tuple[int, ...]) -> tuple[int, ...] | None:
    """`order`, or None where it moves axes of length 1 only."""
    moved = [axis for axis in order if chunk[axis] != 1]
    return None if moved == sorted(moved) else tuple(order)
