"""The result of `verify`, as numbers for programs and as lines for readers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np

from ...plain.memory_budget import format_bytes

_WORTH_A_RATE = 1_000_000  # bytes
LISTED = 10  # bad blocks, and objects, that are named one by one
_INDENT = "  "


@dataclass(frozen=True)
class BadBlock:
    """A block that was changed since it was written, or that cannot be read.

    Attributes
    ----------
    number : of the block, counted from 0
    samples : [first, last + 1)
    file : where it lies
    bytes : [first, last + 1) of that file, where the values are plain bytes in one piece; else None
    problem : "checksum 0a1b2c3d, expected 11223344", or why it cannot be read
    """

    number: int
    samples: tuple[int, int]
    file: str
    bytes: tuple[int, int] | None
    problem: str

    def __str__(self) -> str:
        place = f", bytes [{self.bytes[0]}, {self.bytes[1]}) of {self.file}" if self.bytes else f" in {self.file}"
        return f"block {self.number}, samples [{self.samples[0]}, {self.samples[1]}){place}: {self.problem}"


@dataclass(frozen=True)
class Difference:
    """The differences of the values of two arrays.

    Attributes
    ----------
    count, compared : values that differ, of how many
    index : of the first of them, in the first array
    other_index : the same in the other array, where its axes have another order; else None
    values : both values there, as text that is exact
    largest : the largest distance of two values; None where none is finite
    """

    count: int
    compared: int
    index: tuple[int, ...]
    other_index: tuple[int, ...] | None
    values: tuple[str, str]
    largest: float | None


@dataclass(frozen=True)
class ArrayVerdict:
    """The result for one array, one pair of arrays, or the attributes of one object.

    Attributes
    ----------
    name, other : the array, and the one it was compared with; "" where that was a manifest, or nothing
    ok : there is no problem
    summary : one line
    key : its name in a comparison of two trees
    problems, checked, notes : lines on what is wrong, on what is known to be right, and other remarks
    sha256 : content digest of dtype, shape and values; "" where it was not computed
    """

    name: str
    other: str = ""
    ok: bool = True
    summary: str = ""
    key: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    problems: tuple[str, ...] = ()
    checked: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    sha256: str = ""
    bad_blocks: tuple[BadBlock, ...] = ()
    bad_block_count: int = 0
    difference: Difference | None = None
    nbytes: int = 0

    def lines(self) -> list[str]:
        listed = [str(block) for block in self.bad_blocks[:LISTED]]
        if self.bad_block_count > len(listed):
            listed.append(f"and {self.bad_block_count - len(listed)} more bad blocks")
        found = [self.summary]
        found += [_INDENT + line for line in (*self.problems, *listed)]
        found += [f"{_INDENT}checked: {line}" for line in self.checked]
        found += [f"{_INDENT}note: {line}" for line in self.notes]
        if self.sha256:
            found.append(f"{_INDENT}sha256 {self.sha256}")
        return found


@dataclass(frozen=True)
class Verdict:
    """The result of `verify`; true in an `if` where everything is right.

    Attributes
    ----------
    ok : no array has a problem, and none is missing or extra
    arrays : one result for each array, in the order in which they were read
    missing, extra : names of objects that only the first, or only the second, of two trees has
    nbytes, seconds : bytes of values read from each side, and the duration
    """

    path: str
    other: str
    ok: bool
    arrays: tuple[ArrayVerdict, ...]
    missing: tuple[str, ...] = ()
    extra: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    nbytes: int = 0
    seconds: float = 0.0
    is_tree: bool = field(default=False, repr=False)

    def __bool__(self) -> bool:
        return self.ok

    def to_json(self) -> dict[str, Any]:
        """Plain lists, dicts, texts and numbers."""
        return asdict(self)

    def to_text(self) -> str:
        """Return lines for readers: a summary first where there are several arrays, then the result of each."""
        lines = self._tree_lines() if self.is_tree else self._lines()
        lines += [f"note: {note}" for note in self.notes]
        if self.nbytes:
            each = " from each side" if self.other else ""
            rate = f" ({format_bytes(self.nbytes / self.seconds)}/s)" if self.nbytes >= _WORTH_A_RATE and self.seconds else ""
            lines.append(f"{format_bytes(self.nbytes)} read{each} in {self.seconds:.2f} s{rate}")
        return "\n".join(lines)

    def _tree_lines(self) -> list[str]:
        lines = [
            self._summary(),
            *_names("only in the first", self.path, self.missing),
            *_names("only in the second", self.other, self.extra),
        ]
        for array in self.arrays:
            first = f"{'ok' if array.ok else 'DIFFERENT':<10} {array.key or array.name}"
            if array.ok and not array.dtype:
                lines += [first, *(_INDENT + note for note in array.notes)]
            elif array.ok:
                lines += [f"{first}: {array.shape} {dtype_words(np.dtype(array.dtype))}", *(_INDENT + note for note in array.notes)]
            else:
                lines += [first, *array.lines()[1:]]
        return lines

    def _lines(self) -> list[str]:
        if len(self.arrays) == 1:
            return self.arrays[0].lines()
        lines: list[str] = []
        for array in self.arrays:
            brief = replace(array, checked=(), notes=()) if array.ok and array.sha256 else array
            lines += brief.lines()
        alike = [array for array in self.arrays if array.ok and array.sha256]
        for what, texts in (("checked", [array.checked for array in alike]), ("note", [array.notes for array in alike])):
            for text, count in Counter(line for found in texts for line in dict.fromkeys(found)).items():
                lines.append(f"{what}: {text}{f' ({count} of {len(self.arrays)} arrays)' if count < len(self.arrays) else ''}")
        return lines

    def _summary(self) -> str:
        wrong = sum(not array.ok for array in self.arrays)
        if self.ok and not self.arrays:
            return f"{self.path} and {self.other}: EQUAL, and without any values"
        if self.ok:
            return f"{self.path} and {self.other}: EQUAL, all {len(self.arrays)} objects"
        parts = [f"{wrong} of {len(self.arrays)} objects differ"] if wrong else []
        parts += [f"{len(self.missing)} missing"] if self.missing else []
        parts += [f"{len(self.extra)} more than expected"] if self.extra else []
        return f"{self.path} and {self.other}: DIFFERENT, {', '.join(parts)}"


def _names(what: str, where: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return [f"{_INDENT}{what} ({where}): {', '.join(names[:LISTED])}{more}"]


def dtype_words(dtype: np.dtype[Any]) -> str:
    """
    >>> dtype_words(np.dtype(">f4")), dtype_words(np.dtype("S7"))
    ('float32', 'S7')
    """
    return f"S{dtype.itemsize}" if dtype.kind == "S" else dtype.name
