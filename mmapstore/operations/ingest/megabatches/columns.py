"""One megabatch as columns: an array for each field, one entry per sample. Texts become fixed-width bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....plain.array_likes import exact_array
from ....plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError
from ....plain.memory_budget import refuse_padding
from ..contract import Array
from .unpickling import held_by, load_whole

_MOST_PADDED_NBYTES = 1 << 30  # of one file, which is loaded whole
_HOW = "Save a dict of arrays or lists, one entry per sample in each, or a list of dicts, one for each sample."


@dataclass(frozen=True)
class Columns:
    """The fields of one file."""

    arrays: dict[str, Array]  # (samples, ...) in native byte order; dtype "S" for texts, as wide as the longest
    coded: frozenset[str] = frozenset()  # fields whose texts were given as bytes, in an unknown encoding
    held: int = 0  # bytes of the file as it was loaded
    made: int = 0  # bytes of the arrays that were not loaded as arrays, but made of other objects


def read_columns(path: str, fields: Mapping[str, str] | None, allow_pickle: bool) -> Columns:
    """Load a file and arrange its fields, each of which has to have an entry per sample.

    `fields` are the names to take: by the name in `Columns` the name in the file. None takes all.

    Raises the errors of `load_whole`; InvalidTypeError and InvalidValueError, naming the field, for a file that is no megabatch.
    """
    values = _by_field(load_whole(path, allow_pickle), path)
    try:
        held = held_by(values)
    except RecursionError as error:
        raise InvalidTypeError(f"{path} holds lists in lists without end; expected arrays. {_HOW}") from error
    arrays: dict[str, Array] = {}
    lengths: dict[str, int] = {}
    coded, made = set(), 0
    for name, stored in (fields if fields is not None else {name: name for name in values}).items():
        if stored not in values:
            raise InvalidValueError(
                f"{path} has no field {stored!r}; it has {', '.join(values)}. Leave the file out, or name others."
            )
        value = values.pop(stored)
        arrays[name], is_coded = _column(value, f"{path}: the field {stored!r}")
        lengths[stored] = len(arrays[name])
        made += arrays[name].nbytes * (arrays[name] is not value)
        del value
        coded |= {name} if is_coded else set()
    if len(set(lengths.values())) > 1:
        raise InvalidValueError(
            f"{path} holds fields of different lengths: {', '.join(f'{name} {length}' for name, length in lengths.items())}. "
            f"Name those that have one entry per sample, as in fields={list(lengths)[:2]} (--fields {','.join(list(lengths)[:2])})."
        )
    if not lengths or not next(iter(lengths.values())):
        raise DamagedFileError(f"{path} holds no samples. Leave it out, or write it again.")
    return Columns(arrays, frozenset(coded), held, made)


def _by_field(loaded: Any, path: str) -> dict[str, Any]:
    """Return the values of each field: as they were saved, or gathered from the samples."""
    if isinstance(loaded, Mapping):
        return {_name(key, path): value for key, value in loaded.items()}
    if not isinstance(loaded, (list, tuple)) or not loaded or not all(isinstance(sample, Mapping) for sample in loaded):
        what = f"a {type(loaded).__name__}"
        if isinstance(loaded, (list, tuple)):
            kinds = sorted({type(each).__name__ for each in loaded})
            what += f" of {', '.join(kinds[:3])}" if kinds else " of nothing"
        raise InvalidTypeError(f"{path} holds {what}; expected a megabatch. {_HOW}")
    keys = loaded[0].keys()
    for number, sample in enumerate(loaded):
        if sample.keys() != keys:
            raise InvalidValueError(
                f"{path}: sample {number} has the fields {', '.join(map(str, sample))}, sample 0 {', '.join(map(str, keys))}. "
                "All samples need the same ones."
            )
    return {_name(key, path): [sample[key] for sample in loaded] for key in keys}


def _name(key: Any, path: str) -> str:
    if isinstance(key, bytes):  # written by Python 2
        return key.decode("utf-8", "backslashreplace")
    if not isinstance(key, str):
        raise InvalidTypeError(f"{path} has a field called {key!r}; expected text. {_HOW}")
    return key


def _column(value: Any, where: str) -> tuple[Array, bool]:
    """Return an array with an entry for each sample, and True if it holds texts that came as bytes."""
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__") or (isinstance(value, np.ndarray) and value.ndim == 0):
        raise InvalidTypeError(
            f"{where} holds one {type(value).__name__} for all samples; expected an entry for each. "
            "Name the fields to take with fields= (--fields)."
        )
    if isinstance(value, np.ndarray) and value.dtype.kind in "OSU" and value.ndim == 1:
        if value.dtype.kind == "S":
            return value.astype(f"S{max(1, int(np.char.str_len(value).max(initial=0)))}"), True
        value = value.tolist()
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], (str, bytes)):
        return _texts(value, where)
    try:
        array = exact_array(value, where)
        if array.dtype == object:
            array = exact_array(list(value), where)
    except InvalidTypeError as error:
        raise (_ragged(value, where) or error) from error
    if array.dtype.kind not in "biuf":
        raise InvalidTypeError(
            f"{where} holds {'objects such as ' + _example(value) if array.dtype.kind == 'O' else array.dtype}; "
            "expected numbers, or one text for each sample. Leave it out with fields= (--fields), or save it as numbers."
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("=")), False


def _example(value: Any) -> str:
    found = value
    while isinstance(found, (list, tuple, np.ndarray)) and len(found):
        found = next((each for each in found if not isinstance(each, (int, float))), found[0])
    return repr(found)[:60]


def _ragged(value: Any, where: str) -> InvalidValueError | None:
    """Return the error for samples of different shapes; None if all have the same."""
    shapes: dict[tuple[int, ...], int] = {}
    for number, each in enumerate(value):
        try:
            shapes.setdefault(np.shape(each), number)
        except ValueError:
            return InvalidValueError(f"{where}: sample {number} is ragged; expected an array of one shape. Pad or crop it first.")
    if len(shapes) < 2:
        return None
    found = [f"{shape} in sample {number}" for shape, number in shapes.items()]
    return InvalidValueError(
        f"{where} holds samples of different shapes: {', '.join(found[:3])}. All samples have to be alike: pad, crop or scale them."
    )


def _texts(values: Sequence[Any], where: str) -> tuple[Array, bool]:
    encoded: list[bytes] = []
    for number, value in enumerate(values):
        if isinstance(value, str):
            try:
                value = value.encode("utf-8")
            except UnicodeEncodeError as error:
                raise InvalidValueError(f"{where}: the text of sample {number} cannot be written as UTF-8 ({error}).") from error
        elif not isinstance(value, bytes):
            raise InvalidTypeError(
                f"{where} holds texts, but sample {number} is a {type(value).__name__}; expected only texts, also empty ones."
            )
        if value.endswith(b"\0"):
            raise InvalidValueError(
                f"{where}: the text of sample {number} ends with a zero byte, which is what texts are padded with. Cut it off."
            )
        encoded.append(value)
    width = max(map(len, encoded))
    remedy = f"Shorten the text of sample {max(range(len(encoded)), key=lambda k: len(encoded[k]))}, or leave the file out."
    refuse_padding(where, len(encoded), width, sum(map(len, encoded)), remedy, _MOST_PADDED_NBYTES)
    return np.array(encoded, f"S{max(1, width)}"), any(isinstance(value, bytes) for value in values)
