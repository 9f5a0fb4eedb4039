"""The field "source": the path of the file that each sample came from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ....plain.array_spec import ArraySpec
from ..contract import Array

_WIDTH = 32  # bytes, of which the width of the field is a multiple: files with somewhat longer names can be appended


class SourceNames:
    """Paths as UTF-8 in as many bytes as the longest takes, with "/" between folders; names that are no text as their bytes.

    Attributes
    ----------
    spec : of the field, text of a fixed width
    notes : for the manifest

    >>> names = SourceNames(["photos/cat/1.jpg", "photos/dog/2.jpg"], "photos", 2)
    >>> names.of(["photos/dog/2.jpg"]), names.spec.dtype
    (array([b'dog/2.jpg'], dtype='|S32'), dtype('S32'))
    """

    notes: Mapping[str, Any] = {"encoding": "utf-8", "padding": 0}

    def __init__(self, paths: Sequence[str], root: str, samples: int) -> None:
        """`root` is the folder to which paths are relative; a path outside stays as it was given, and so do all for ""."""
        self._root = os.path.join(root, "") if root else ""
        longest = max(len(self._bytes(path)) for path in paths)
        self.spec = ArraySpec((samples,), np.dtype(f"S{-(-longest // _WIDTH) * _WIDTH}"), "N")

    def _bytes(self, path: str) -> bytes:
        return os.fsencode(path.removeprefix(self._root).replace(os.sep, "/"))

    def of(self, paths: Iterable[str]) -> Array:
        return np.array([self._bytes(path) for path in paths], self.spec.dtype)
