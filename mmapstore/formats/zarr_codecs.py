"""Codecs as Zarr metadata names them, put into the words of `plain/codecs.py`: both formats, numcodecs' own in either."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from ..plain.codecs import Chain, Codec

ByteOrder = Literal["<", ">", "|"]  # as NumPy writes it; "|": as it is already
Step = tuple[str, Mapping[str, Any]]  # a codec of format 3: its name and its configuration
_WRAPPED = "numcodecs."  # how format 3 names the codecs of numcodecs
_KNOWN = ("blosc", "lz4", "zstd", "zlib", "gzip", "bz2", "lzma", "shuffle", "crc32", "crc32c", "adler32", "fletcher32")
_BYTES_3 = {"blosc", "gzip", "zstd", "crc32c", *(_WRAPPED + name for name in _KNOWN)}
_RENAMED = {"bz2": "bzip2", "lz4": "numcodecs-lz4", "shuffle": "numcodecs-shuffle"}
_XZ, _RAW = 1, 3  # as the module lzma numbers its formats; not every Python has that module


class NotUnderstood(Exception):
    """Metadata that only zarr itself may interpret; the text is the reason, for `info`: "its chunks differ in size"."""


@dataclass(frozen=True)
class Encoding:
    """The way in which the elements of one chunk became bytes."""

    chain: Chain  # every step but the change of axes and of byte order, which are no codecs to undo but ways to look at the bytes
    # the order in which the bytes hold the axes of the chunk, slowest first; None where that is their own
    axes: tuple[int, ...] | None
    byte_order: ByteOrder  # of the decoded elements; "|" where the dtype of the array says it


def encoding_2(found: Mapping[str, Any], chunk: tuple[int, ...]) -> Encoding:
    """Return the encoding of an array of format 2. Raises NotUnderstood."""
    chain = tuple(_codec(str(codec["id"]), codec, 4) for codec in codecs_2(found))
    order = found.get("order", "C")
    if order not in ("C", "F"):
        raise NotUnderstood(f"its axes are stored in the unknown order {order!r}")
    return Encoding(chain, _axes(range(len(chunk))[::-1] if order == "F" else range(len(chunk)), chunk), "|")


def codecs_2(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the codecs of an array of format 2, in the order in which they were applied."""
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
    """Return codecs of arrays, the one that makes bytes of them, codecs of bytes. Raises NotUnderstood for an unknown codec."""
    steps = [named_3(codec) for codec in codecs]
    turning = {"bytes", "sharding_indexed"}
    for name, _ in steps:
        if name not in {"transpose"} | turning | _BYTES_3:
            raise NotUnderstood(f"its codec {name!r} is one that only zarr decodes")
    (at,) = [at for at, (name, _) in enumerate(steps) if name in turning]
    before, after = steps[:at], steps[at + 1 :]
    if {name for name, _ in before} - {"transpose"} or {name for name, _ in after} - _BYTES_3:
        raise NotUnderstood("its codecs stand in an order that mmapstore does not know")
    return before, steps[at], after


def encoding_3(
    before: Sequence[Step], settings: Mapping[str, Any], after: Sequence[Step], dtype: np.dtype[Any], chunk: tuple[int, ...]
) -> Encoding:
    """Return the encoding of an array of format 3, from the codecs before "bytes", its configuration, and the codecs after it.

    `dtype` is that of the array. Raises NotUnderstood.
    """
    axes = list(range(len(chunk)))
    for _, configuration in before:
        order = configuration["order"]
        if not isinstance(order, list) or sorted(order) != list(range(len(chunk))):
            raise NotUnderstood(f"its axes are transposed in the unknown order {order!r}")
        axes = [axes[axis] for axis in order]
    byte_order: ByteOrder = "|"
    if dtype.itemsize > 1 and dtype.kind != "S":
        order = settings.get("endian")
        if order not in ("little", "big"):
            raise NotUnderstood(f"its byte order is given as {order!r}")
        byte_order = "<" if order == "little" else ">"
    chain = tuple(_codec(name.removeprefix(_WRAPPED), configuration, dtype.itemsize) for name, configuration in after)
    return Encoding(chain, _axes(axes, chunk), byte_order)


def _codec(name: str, found: Mapping[str, Any], itemsize: int) -> Codec:
    """Return one codec by the name that numcodecs has for it, with the settings that matter for decoding."""
    if name not in _KNOWN:
        raise NotUnderstood(f"its codec {name!r} is one that only zarr decodes")
    settings: dict[str, Any] = {}
    if name == "shuffle":
        given = found.get("elementsize")
        settings["elementsize"] = itemsize if given is None else given
        if type(settings["elementsize"]) is not int or settings["elementsize"] < 1:
            raise NotUnderstood(f"its shuffle is of elements of {str(given)[:40]!r} bytes")
    elif name in ("crc32", "crc32c", "adler32"):
        settings["location"] = found.get("location") or ("end" if name == "crc32c" else "start")
        if settings["location"] not in ("start", "end"):
            raise NotUnderstood(f"its checksum is placed at {settings['location']!r}")
    elif name == "lzma":
        settings = {"format": found.get("format", _XZ), "filters": found.get("filters")}
        if settings["filters"] is not None and settings["format"] != _RAW:
            raise NotUnderstood("its lzma has filters that its format has no place for")
    return Codec(_RENAMED.get(name, name), settings, name)


def _axes(order: Sequence[int], chunk: tuple[int, ...]) -> tuple[int, ...] | None:
    """`order`, or None where it moves axes of length 1 only."""
    moved = [axis for axis in order if chunk[axis] != 1]
    return None if moved == sorted(moved) else tuple(order)
