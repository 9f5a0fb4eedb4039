"""The filters of numcodecs that store other numbers than they are given, undone by numcodecs itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from .codec import Bytes, NoDecoder, Step, decoded_by, installed

_WIDEST = 16  # bytes of an element of an intermediate result


class NumcodecsFilter(Step):
    """delta, fixedscaleoffset, astype, quantize, bitround or packbits, with the settings that numcodecs has for it."""

    fills = False

    def __init__(self, name: str, settings: Mapping[str, Any]) -> None:
        make = installed(name, "numcodecs", "get_codec")
        decoded = settings.get("dtype") or settings.get("decode_dtype") or "u1"
        stored = settings.get("astype") or settings.get("encode_dtype") or decoded
        self._name = name
        try:
            self._codec = make({"id": name, **settings})
            self._decoded, self._stored = np.dtype(decoded), np.dtype(stored)
        except (TypeError, ValueError, KeyError) as error:
            raise NoDecoder(f"{name} with settings that numcodecs does not take ({error})") from error
        if not {self._decoded.kind, self._stored.kind} <= set("biufc") or (self._stored.kind == "c" > self._decoded.kind):
            raise NoDecoder(f"{name} that stores {self._decoded} as {self._stored}")

    def encoded_nbytes(self, decoded: int) -> int | None:
        if self._name == "packbits":
            return 1 + -(-decoded // 8)
        count, rest = divmod(decoded, self._decoded.itemsize)
        if rest:
            raise NoDecoder(f"{self._name} of {self._decoded} elements cannot have encoded {decoded} bytes")
        return count * self._stored.itemsize

    def own_nbytes(self, decoded: int) -> int:
        return decoded + 2 * _WIDEST * (decoded // self._decoded.itemsize) + (1 << 17)

    def undo(self, source: Bytes, nbytes: int, out: Bytes) -> Bytes:
        # Values that do not fit are cast as numcodecs casts them, silently.
        with np.errstate(all="ignore"):
            found = np.asarray(decoded_by(self._codec.decode, self._name, source))
        return found.reshape(-1).view(np.uint8)
