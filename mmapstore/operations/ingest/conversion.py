"""From samples as they come to samples as they are written: axes permuted, values checked, copied once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...plain.array_spec import LETTERS, ArraySpec
from ...plain.errors import InvalidTypeError, InvalidValueError

Array = np.ndarray[Any, np.dtype[Any]]
_SLICE = 1 << 16  # elements checked together: half a megabyte as float64
_CANONICAL = "NCDHW"


def written_dtype(dtype: Any, where: str) -> np.dtype[Any]:
    """`dtype` in native byte order, if `ingest` converts to it: bool, (u)int8 to 64, float16, 32, 64."""
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise InvalidTypeError(f"{where} {dtype!r} is not a dtype; expected text such as 'uint8' or 'float32'.") from error
    if found.kind not in "biuf" or found.itemsize > 8:
        raise InvalidTypeError(
            f"{where} {found} cannot be ingested; expected bool, (u)int8 to (u)int64, float16, float32 or float64. "
            "Convert it to numbers first, one array for each quantity."
        )
    return found.newbyteorder("=")


def written_letters(letters: str, layout: str | None) -> str:
    """The axes of what is written, for samples that come as `letters` ("N" first). Letters that do not come are left out.

    >>> [written_letters(letters, "NCHW") for letters in ("NHWC", "NHW", "NDHWC")], written_letters("NHWC", None)
    (['NCHW', 'NHW', 'NCDHW'], 'NHWC')
    """
    if layout is None:
        return letters
    if not isinstance(layout, str):
        raise InvalidTypeError(
            f"layout={layout!r} is not text; expected one letter per axis, such as 'NCHW', or None to keep the axes."
        )
    wanted = layout.upper()
    if set(wanted) - set(LETTERS) or len(set(wanted)) != len(wanted) or not wanted.startswith("N") or "T" in wanted:
        raise InvalidValueError(
            f"layout={layout!r} cannot be written; expected N first and then letters of CDHW, each at most once, such as 'NCHW'. "
            "Samples are written one after the other, and the manifest says where episodes begin: there is no T."
        )
    if wanted == "NCHW":  # the default means "channels first" for volumes too
        wanted = _CANONICAL
    missing = set(letters) - set(wanted)
    if missing:
        raise InvalidValueError(
            f"layout={layout!r} does not say where {', '.join(sorted(missing))} of the source's {letters} go; name every axis."
        )
    return "".join(letter for letter in wanted if letter in letters)


@dataclass(frozen=True)
class Conversion:
    """How samples that come as `source` are written as `target`: same samples, other axes, maybe another dtype."""

    source: ArraySpec
    target: ArraySpec

    @classmethod
    def of(cls, source: ArraySpec, layout: str | None, dtype: Any) -> Conversion:
        letters = written_letters(source.layout, layout)
        kept = source.dtype if source.dtype.kind == "S" else written_dtype(source.dtype, "A source of dtype")
        if dtype is not None and kept.kind == "S":
            raise InvalidTypeError(f"dtype={dtype!r} is asked for, but the source is text ({kept}), which is written as it comes.")
        target = written_dtype(dtype, "dtype=") if dtype is not None else kept
        shape = tuple(source.shape[source.layout.index(letter)] for letter in letters)
        return cls(source, ArraySpec(shape, target, letters))

    @property
    def channel_axis(self) -> int | None:
        return self.target.layout.index("C") if "C" in self.target.layout else None

    def permuted(self, samples: Array) -> Array:
        """A view of samples as they come with the axes of those that are written."""
        return samples.transpose([self.source.layout.index(letter) for letter in self.target.layout])

    def is_written_as_it_comes(self, samples: Array) -> bool:
        return samples.dtype == self.target.dtype and self.source.layout == self.target.layout and samples.flags.c_contiguous

    def into(self, out: Array, samples: Array, first: int) -> None:
        """Convert `samples`, of which the first is number `first` of the source, into `out`.

        Raises InvalidValueError, naming the first sample and value that `out` cannot hold.
        """
        if samples.dtype != out.dtype and not np.can_cast(samples.dtype, out.dtype, "safe"):
            _require_fits(samples, out.dtype, first)
        with np.errstate(over="ignore"):  # float64 to float32: what overflows was refused, what underflows is rounding
            np.copyto(out, self.permuted(samples), casting="unsafe")


def _require_fits(samples: Array, dtype: np.dtype[Any], first: int) -> None:
    nbytes = max(1, samples[0].size)
    at_once = max(1, _SLICE // nbytes)
    for start in range(0, len(samples), at_once):
        group = samples[start : start + at_once]
        if group.size <= _SLICE:
            _require_part_fits(group, dtype, first + start, samples.shape[1:], 0)
            continue
        # One large sample: look at it in pieces along its outermost axes, without a copy of the whole.
        for number, piece in _pieces(group[0]):
            _require_part_fits(piece[None], dtype, first + start, samples.shape[1:], number)


def _pieces(sample: Array) -> Any:
    """(flat index of its first element, piece), the pieces in C order and each contiguous in that order."""
    if sample.size <= _SLICE or sample.ndim == 0:
        yield 0, sample
        return
    row = sample[0].size
    step = max(1, _SLICE // max(1, row))
    for start in range(0, len(sample), step):
        if step == 1 and row > _SLICE:
            for number, piece in _pieces(sample[start]):
                yield start * row + number, piece
        else:
            yield start * row, sample[start : start + step]


def _require_part_fits(part: Array, dtype: np.dtype[Any], first: int, sample_shape: tuple[int, ...], skipped: int) -> None:
    """`part` is (samples, ...), the elements of each sample beginning at flat index `skipped` of it."""
    misfits = _misfits(part, dtype)
    if not misfits.any():
        return
    flat = int(np.argmax(misfits.reshape(-1)))
    sample, within = divmod(flat, part[0].size)
    place = tuple(int(i) for i in np.unravel_index(within + skipped, sample_shape))
    value = part.reshape(-1)[flat]
    info = np.finfo(dtype) if dtype.kind == "f" else None
    if dtype.kind == "b":
        holds = "only 0 and 1"
    elif info is not None:
        holds = f"at most {info.max:g}"
    else:
        holds = f"whole numbers from {np.iinfo(dtype).min} to {np.iinfo(dtype).max}"
    at = f" at {place}" if sample_shape else ""
    raise InvalidValueError(
        f"Sample {first + sample} of the source holds {value.item()!r}{at}, and {dtype} holds {holds}. "
        "Choose a dtype= that holds it, or scale, round or mask the data first."
    )


def _misfits(part: Array, dtype: np.dtype[Any]) -> Array:
    found: Array = np.zeros(part.shape, np.bool_)
    if dtype.kind == "b":
        found = (part != 0) & (part != 1)
    elif part.dtype.kind == "b":
        return found
    elif dtype.kind == "f":
        with np.errstate(over="ignore"):
            found = np.isinf(part.astype(dtype)) & np.isfinite(part)
    elif part.dtype.kind == "f":
        info = np.iinfo(dtype)
        values = part.astype(np.float64)
        # As floats both ends are powers of two, hence exact: 2.0**63 is the first that int64 cannot hold.
        with np.errstate(invalid="ignore"):
            found = ~((values >= float(info.min)) & (values < float(info.max // 2 + 1) * 2) & (np.trunc(values) == values))
    else:
        info = np.iinfo(dtype)
        found = (part < info.min) | (part > info.max)  # NumPy compares Python integers exactly, also those beyond the dtype
    return found
