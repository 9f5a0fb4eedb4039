"""Shapes, dtypes and layouts: how stored axes become samples. Arithmetic only, no I/O."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .errors import DamagedFileError, InvalidTypeError, InvalidValueError

LETTERS = "NTCDHW"
MOST_SAMPLES = 2**63 - 1  # they are numbered in int64
DEFAULT_LAYOUTS = {1: "N", 2: "NC", 3: "NHW", 4: "NCHW", 5: "NCDHW", 6: "NTCDHW"}


def checked_dtype(dtype: Any, where: str) -> np.dtype[Any]:
    """Return `dtype` if it is a fixed-size bool, integer, float, complex or bytes type. Raises InvalidTypeError, naming `where`."""
    found: np.dtype[Any] = np.dtype(dtype)
    if found.kind in "biufcS" and found.itemsize > 0:
        return found
    kinds = {
        "O": (
            "an object dtype (Python objects or variable-length values)",
            "Make it numbers, with array.astype(dtype) or pandas' to_numpy(dtype, na_value=...) or codes of categories",
        ),
        "V": (
            f"a compound or opaque dtype ({found})",
            "Make each of its fields an array: array['name']" if found.names else "Make it numbers: array.astype('float32')",
        ),
        "U": (f"a unicode dtype ({found})", "Make it bytes: np.char.encode(array, 'utf-8')"),
        "M": (f"a date dtype ({found})", "Make it integers: array.astype('int64')"),
        "m": (f"a time-difference dtype ({found})", "Make it integers: array.astype('int64')"),
    }
    name, remedy = kinds.get(found.kind, (f"dtype {found}", "Convert it"))
    raise InvalidTypeError(
        f"{where} has {name}; expected fixed-size numbers (bool, integers, floats) or fixed-width bytes. "
        f"{remedy}, then give or open that."
    )


def checked_lengths(shape: tuple[int, ...], chunk: tuple[int, ...] | None, where: str) -> None:
    """Raise DamagedFileError, naming `where`, for lengths that no array has, and chunks that hold nothing."""
    if min(shape, default=0) < 0 or max(shape, default=0) > MOST_SAMPLES:
        raise DamagedFileError(
            f"{where} declares the shape {shape}; expected lengths from 0 to {MOST_SAMPLES}. It is damaged; copy or write it again."
        )
    if chunk is not None and (len(chunk) != len(shape) or min(chunk, default=1) < 1):
        raise DamagedFileError(
            f"{where} declares chunks of {chunk} for the shape {shape}; expected a length of at least 1 along each axis. It is "
            "damaged; copy or write it again."
        )


@dataclass(frozen=True)
class ArraySpec:
    """An array as its samples come out."""

    shape: tuple[int, ...]  # (samples, *sample shape)
    dtype: np.dtype[Any]  # of each element, in native byte order
    layout: str  # one letter per axis of `shape`; the first is "N"

    def __len__(self) -> int:
        return self.shape[0]

    @cached_property
    def sample_shape(self) -> tuple[int, ...]:
        return self.shape[1:]

    @cached_property
    def sample_nbytes(self) -> int:
        """Bytes of one sample."""
        return math.prod(self.sample_shape) * self.dtype.itemsize

    @cached_property
    def nbytes(self) -> int:
        """Bytes of all samples."""
        return len(self) * self.sample_nbytes


@dataclass(frozen=True)
class StoredLayout:
    """The cut of a stored array's axes into samples and episodes.

    Samples run along T where there is one, and each N is then an episode; otherwise samples run along N.

    >>> stored = StoredLayout("TNHW", (20, 1000, 64, 64))          # Moving MNIST
    >>> stored.samples, stored.episode_length, stored.sample_shape, stored.is_consecutive
    (20000, 20, (64, 64), False)
    """

    letters: str
    shape: tuple[int, ...]

    @classmethod
    def of(cls, layout: str | None, shape: tuple[int, ...], where: str) -> StoredLayout:
        """Check the layout given, or take the usual one for that many axes (N, NC, NHW, NCHW, NCDHW, NTCDHW)."""
        if len(shape) == 0:
            raise InvalidValueError(f"{where} is a scalar; expected an array of samples with at least one axis.")
        if layout is None:
            if len(shape) not in DEFAULT_LAYOUTS:
                raise InvalidValueError(
                    f"{where} has {len(shape)} axes {shape}; say what each is with layout=, one letter of {LETTERS} per axis."
                )
            layout = DEFAULT_LAYOUTS[len(shape)]
        if not isinstance(layout, str):
            raise InvalidTypeError(f"layout={layout!r} is not text; expected one letter of {LETTERS} per axis, such as 'NCHW'.")
        letters = layout.upper()
        unknown = sorted(set(letters) - set(LETTERS))
        if unknown or len(set(letters)) != len(letters) or not set(letters) & {"N", "T"}:
            raise InvalidValueError(
                f"layout={layout!r} is not understood; expected each letter of {LETTERS} at most once, with N or T among them, "
                "such as 'NCHW'."
            )
        if len(letters) != len(shape):
            raise InvalidValueError(f"layout={layout!r} names {len(letters)} axes but {where} has {len(shape)}: {shape}.")
        if math.prod(shape) == 0:
            raise InvalidValueError(
                f"{where} is empty: its shape is {shape}. There is nothing to train on; check how it was written."
            )
        found = cls(letters, tuple(int(n) for n in shape))
        if found.samples > MOST_SAMPLES:
            raise InvalidValueError(f"{where} has {found.samples} samples, more than can be numbered ({MOST_SAMPLES}).")
        return found

    def _length(self, letter: str) -> int:
        return self.shape[self.letters.index(letter)] if letter in self.letters else 1

    @cached_property
    def samples(self) -> int:
        return self._length("N") * self._length("T")

    @cached_property
    def episode_length(self) -> int:
        """Samples in each episode: T where there is one, else all of N."""
        return self._length("T") if "T" in self.letters else self._length("N")

    @cached_property
    def sample_letters(self) -> str:
        return "".join(letter for letter in self.letters if letter not in "NT")

    @cached_property
    def sample_shape(self) -> tuple[int, ...]:
        return tuple(n for letter, n in zip(self.letters, self.shape, strict=True) if letter not in "NT")

    @cached_property
    def has_rows(self) -> bool:
        """True if each sample lies in one piece: N and T come before every other axis."""
        return set(self.letters[: len(self.letters) - len(self.sample_letters)]) <= {"N", "T"}

    @cached_property
    def is_consecutive(self) -> bool:
        """True if consecutive samples also lie next to each other, so a batch is one read."""
        return self.has_rows and (self._length("T") == 1 or self._length("N") == 1 or not self.letters.startswith("TN"))

    def spec(self, dtype: np.dtype[Any]) -> ArraySpec:
        """Return the array as its samples come out, in native byte order."""
        return ArraySpec((self.samples, *self.sample_shape), dtype.newbyteorder("="), "N" + self.sample_letters)

    def samples_first(self, stored: np.ndarray) -> np.ndarray:
        """Return `stored` as (episodes, samples of an episode, *sample), which is always a view."""
        axes = [self.letters.index(letter) for letter in "NT" if letter in self.letters]
        rest = [axis for axis in range(stored.ndim) if axis not in axes]
        view = stored.transpose(axes + rest)
        return view if len(axes) == 2 else view[None]

    def boxes(self, start: int, stop: int) -> list[tuple[tuple[slice, ...], int, int]]:
        """Return the stored regions that hold samples [start, stop), one for each episode.

        Each is (slices into the stored array, first sample, one past the last), samples counted from `start`.
        """
        length = self.episode_length
        found = []
        at = start
        while at < stop:
            episode, first = divmod(at, length)
            last = min(length, first + stop - at)
            along = (
                {"T": slice(first, last), "N": slice(episode, episode + 1)} if "T" in self.letters else {"N": slice(first, last)}
            )
            selection = tuple(along.get(letter, slice(0, n)) for letter, n in zip(self.letters, self.shape, strict=True))
            found.append((selection, at - start, at - start + last - first))
            at += last - first
        return found

    def rows_of(self, samples: np.ndarray) -> np.ndarray:
        """Return the row of each sample number, where `has_rows`. Rows are counted in stored order."""
        if self.is_consecutive:
            return samples
        episode, step = np.divmod(samples, self.episode_length)
        return step * self._length("N") + episode
