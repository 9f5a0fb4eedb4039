"""Names and settings of the codecs of chunks, as a format's metadata has them and as decoders are chosen by. No code, no I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Codec:
    """One step of the chain that turned a chunk's elements into stored bytes."""

    # of the stored form, not of a library: "zlib", "gzip", "zstd", "blosc", "shuffle", "fletcher32", "crc32c". Where two formats
    # frame the same algorithm differently, each form has a name of its own: "hdf5-lz4", "numcodecs-lz4"
    name: str
    # what decoding needs to know beside the bytes: {"itemsize": 4} for "shuffle"
    settings: Mapping[str, Any] = field(default_factory=dict)
    words: str = ""  # for `info`: "gzip 4"

    def __str__(self) -> str:
        return self.words or self.name


Chain = tuple[Codec, ...]
"""Codecs in the order in which they were applied; decoding undoes the last first."""
