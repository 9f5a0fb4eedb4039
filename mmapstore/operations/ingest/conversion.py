"""From samples as they come to samples as they are written: axes permuted, values checked, copied once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ...plain.array_spec import LETTERS, ArraySpec
from ...plain.errors import InvalidTypeError, InvalidValueError
from ..flow.casts import Cast, RefusedValue

Array = np.ndarray[Any, np.dtype[Any]]
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
    """The way from samples as they come, `source`, to samples as they are written, `target`: other axes, maybe another dtype."""

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
        try:
            Cast(samples.dtype.newbyteorder("="), out.dtype, "fit").into(out, self.permuted(samples))
        except RefusedValue as error:
            sample, *place = error.place
            letters = self.target.layout[1:]
            within = tuple(place[letters.index(letter)] for letter in self.source.layout if letter in letters)
            raise InvalidValueError(
                f"Sample {first + sample} of the source holds {error.value!r}{f' at {within}' if within else ''}, and {out.dtype} "
                f"holds {error.cast.limits}. Choose a dtype= that holds it, or scale, round or mask the data first."
            ) from None
