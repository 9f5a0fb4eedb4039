"""Which stored numbers stand for others: told from the attributes beside them, and said once."""

from __future__ import annotations

import warnings
from collections.abc import Iterable

from ..formats.contract import HasAttributes, MarksUnwritten, StoredArray
from ..plain.cf_packing import ATTRIBUTES, Packed, Packing, packed_words
from ..plain.errors import PackedValuesWarning


def packed_of(stored: StoredArray) -> tuple[Packed, ...]:
    """How the numbers of an array become values, as its attributes say; empty where they are the values."""
    attributes = stored.attributes(ATTRIBUTES) if isinstance(stored, HasAttributes) else {}
    if not attributes:
        return ()
    packing = Packing.of(attributes, stored.dtype, stored.unwritten() if isinstance(stored, MarksUnwritten) else None)
    return () if packing is None else (Packed(stored.name, packing),)


def warn_of_packed(packed: Iterable[Packed], stacklevel: int = 2) -> None:
    """Warn, with one PackedValuesWarning, if some of the arrays mislead. `stacklevel` as `warnings.warn` takes it."""
    words = packed_words(packed)
    if words:
        warnings.warn(words, PackedValuesWarning, stacklevel=stacklevel + 1)
