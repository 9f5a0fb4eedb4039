"""Plain bytes at an offset of a file, as an array: headerless binaries, and what lies as plainly inside other files."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..files.descriptors import Descriptors
from ..files.system_errors import explaining_read_errors
from ..plain.array_spec import checked_dtype
from ..plain.errors import InvalidTypeError, InvalidValueError
from .contract import Array, Selection, StoredArray
from .located import Located, one_run


@dataclass(frozen=True)
class RawForm:
    """The facts that a file without a header lacks. `RawForm.of` checks them."""

    dtype: np.dtype[Any]  # of the elements as they lie, byte order included
    shape: tuple[int, ...]  # in C order; one length may be -1: as many as the file has bytes for
    offset: int = 0  # bytes before the first element

    @classmethod
    def of(cls, dtype: Any, shape: Any, offset: Any = None) -> RawForm | None:
        """Check the facts; None if none is given. Raises InvalidValueError, InvalidTypeError for missing or impossible ones.

        >>> RawForm.of(">f4", (-1, 3, 50, 50), 64)
        RawForm(dtype=dtype('>f4'), shape=(-1, 3, 50, 50), offset=64)
        """
        given = {name: value for name, value in (("dtype", dtype), ("shape", shape), ("offset", offset)) if value is not None}
        if not given:
            return None
        if "dtype" not in given or "shape" not in given:
            missing = [name for name in ("dtype", "shape") if name not in given]
            raise InvalidValueError(
                f"{', '.join(given)} {'is' if len(given) == 1 else 'are'} given for a file without a header, but not "
                f"{' and '.join(missing)}; expected both, such as dtype='uint8', shape=(-1, 3, 50, 50)."
            )
        try:
            found = np.dtype(dtype)
        except TypeError as error:
            raise InvalidTypeError(f"dtype={dtype!r} is not a dtype of NumPy; expected one such as 'uint8' or '>f4'.") from error
        return cls(checked_dtype(found, "dtype="), _checked_shape(shape), _checked_offset(offset))


def _checked_shape(shape: Any) -> tuple[int, ...]:
    lengths = shape if isinstance(shape, Sequence) and not isinstance(shape, (str, bytes)) else [shape]
    if not all(hasattr(n, "__index__") and not isinstance(n, bool) for n in lengths):
        raise InvalidTypeError(f"shape={shape!r} is not a shape; expected whole numbers, such as (1000, 3, 50, 50).")
    found = tuple(int(n) for n in lengths)
    if not found or found.count(-1) > 1 or any(n < 1 and n != -1 for n in found):
        raise InvalidValueError(
            f"shape={shape!r} cannot be that of an array; expected lengths of at least 1, of which one may be -1 "
            "(as many as the file has bytes for), such as (-1, 3, 50, 50)."
        )
    return found


def _checked_offset(offset: Any) -> int:
    if offset is None:
        return 0
    if not hasattr(offset, "__index__") or isinstance(offset, bool):
        raise InvalidTypeError(f"offset={offset!r} is not a number of bytes; expected an int.")
    if int(offset) < 0:
        raise InvalidValueError(f"offset={offset} is before the file begins; expected the bytes before the first element.")
    return int(offset)


def open_raw(path: str | os.PathLike[str], form: RawForm) -> RawFile:
    """Open a file without a header as an array; its bytes from `offset` on have to be those of `shape`, no more and no less.

    Raises NotFoundError, NotReadableError, InvalidValueError (the file has another size; the text says which shape fits).

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "raw.bin")
    ...     _ = path.write_bytes(bytes(4) + np.arange(6, dtype=">i2").tobytes())
    ...     stored = open_raw(path, RawForm(np.dtype(">i2"), (-1, 2), offset=4))
    ...     stored.shape, stored.as_array()[1].tolist()
    ((3, 2), [2, 3])
    """
    name = os.fspath(path)
    with explaining_read_errors(name), Path(name).open("rb") as file:
        nbytes = os.fstat(file.fileno()).st_size
    return RawFile(name, form, _fitting_shape(name, form, nbytes))


def _fitting_shape(name: str, form: RawForm, nbytes: int) -> tuple[int, ...]:
    """Return the shape with the length found that was given as -1."""
    held = nbytes - form.offset
    behind = f" behind the first {form.offset}" if form.offset else ""
    if held <= 0:
        raise InvalidValueError(f"{name} has {nbytes} bytes, none{behind or ' at all'}. Check the path, and offset=.")
    step = math.prod(n for n in form.shape if n != -1) * form.dtype.itemsize
    needed = step if -1 not in form.shape else held // step * step
    if needed == held:
        return tuple(held // step if n == -1 else n for n in form.shape)
    free = form.shape.index(-1) if -1 in form.shape else 0
    others = form.shape[:free] + form.shape[free + 1 :]
    one = math.prod(others) * form.dtype.itemsize
    count, rest = divmod(held, one)
    if count and not rest:
        fits = (*form.shape[:free], count, *form.shape[free + 1 :])
        remedy = f"shape={fits} fits."
    elif count:
        fits = (*form.shape[:free], count, *form.shape[free + 1 :])
        remedy = (
            f"shape={fits} leaves {rest} bytes over: if they are a header, offset={form.offset + rest} skips it; "
            "else dtype or shape are others."
        )
    else:
        remedy = f"One entry of shape {others} alone takes {one} bytes: dtype or shape are others, or the file is cut short."
    wanted = f"shape {form.shape} of {form.dtype} takes {'a multiple of ' if -1 in form.shape else ''}{step} bytes"
    raise InvalidValueError(f"{name} has {held} bytes{behind}, but {wanted}. {remedy}")


class PlainBytes(StoredArray):
    """An array at a byte of a file, in C or Fortran order; `as_array` shows all of it as one read-only memory map."""

    path: str
    located: Located | None = None
    why_not = ""

    def __init__(
        self, name: str, path: str, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int, fortran_order: bool = False
    ) -> None:
        self.name, self.shape, self.dtype = name, shape, dtype
        self.fortran_order = fortran_order
        self.storage = "contiguous, Fortran order" if fortran_order else "contiguous"
        self.path = os.path.abspath(path)
        self._offset = offset
        self._files = Descriptors(self.path)  # few at a time in a process, however many arrays are joined
        if fortran_order:
            self.why_not = "Fortran order: the values of a row lie far apart"
        else:
            self.located = one_run(self.path, offset, shape, dtype)

    def as_array(self) -> Array:
        """Return all of it as a read-only view of one memory map, in stored byte order; nothing is read before it is looked at.

        The map lives as long as a view of it. A file that shrinks under a map kills the process that looks there.
        """
        if math.prod(self.shape) == 0:
            array: Array = np.empty(self.shape, self.dtype)
            array.flags.writeable = False
            return array
        mapped = self._files.get(self.path).map(self._offset, math.prod(self.shape) * self.dtype.itemsize)
        return np.ndarray(self.shape, self.dtype, mapped, self._offset, order="F" if self.fortran_order else "C")

    def read_box(self, selection: Selection, out: Array) -> None:
        out[...] = self.as_array()[selection]


class RawFile(PlainBytes):
    """A file without a header. Pickles as path and form."""

    def __init__(self, name: str, form: RawForm, shape: tuple[int, ...]) -> None:
        super().__init__(name, name, shape, form.dtype, form.offset)
        self.storage = f"headerless, {f'from byte {form.offset} on, ' if form.offset else ''}contiguous"

    def __reduce__(self) -> tuple[Any, ...]:
        return open_raw, (self.path, RawForm(self.dtype, self.shape, self._offset))
