"""Packed arrays, recognised by their attributes when they are opened, and the one warning about them."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from ..formats.contract import StoredArray
from ..plain.cf_packing import ATTRIBUTES, Packed, Packing, packed_words
from ..plain.errors import PackedValuesWarning


def packed_of(stored: StoredArray) -> tuple[Packed, ...]:
    """Return the packing that the attributes of an array declare, as a tuple of one; an empty tuple where they declare none."""
    attributes = stored.attributes(ATTRIBUTES)
    if not attributes:
        return ()
    packing = Packing.of(attributes, stored.dtype, stored.unwritten())
    return () if packing is None else (Packed(stored.name, packing),)


def warn_of_packed(packed: Iterable[Packed], stacklevel: int = 2) -> None:
    """Warn, with one PackedValuesWarning, if some of the arrays mislead. `stacklevel` as `warnings.warn` takes it."""
    words = packed_words(packed)
    if words:
        warnings.warn(words, PackedValuesWarning, stacklevel=stacklevel + 1)
