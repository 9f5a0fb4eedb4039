"""Attributes of HDF5 objects: convert them to JSON and back, and copy them as they are into another HDF5 file."""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import json
import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from ..plain.errors import WriteError
from .contract import Array
from .hdf5_boxes import memory_type
from .hdf5_dimensions import LABELS
from .hdf5_library import library
from .hdf5_paths import decoded, encoded
from .hdf5_runs import has_references, holds_runs, in_stored_order, is_flat, refusal, region_words, stored_elements
from .tree_contract import FILL, Attribute

PathOf = Callable[[Any], str]
SCALE_LISTS = ("DIMENSION_LIST", "REFERENCE_LIST")
UNLISTED = "*"  # opening it raises the error of HDF5
_MOST_NBYTES = 16 << 20
_READ_ERRORS = (OSError, RuntimeError, ValueError, KeyError, TypeError, NotImplementedError, OverflowError)


class _Refused(Exception):
    """A value has no counterpart in JSON."""


class _Converted:
    """Converts values of h5py to JSON, and notes the changes."""

    def __init__(self, path_of: PathOf, region_of: PathOf | None) -> None:
        self.changed: dict[str, None] = {}
        self._path_of = path_of
        self._region_of = region_of

    def json(self, value: Any, dtype: np.dtype[Any] | None = None) -> Any:
        h5py = library()
        if isinstance(value, h5py.Empty):
            return self._noted(None, "an empty attribute as null")
        if dtype is not None and h5py.check_enum_dtype(dtype) is not None:
            self._noted(None, "an enumeration as its numbers")
        if isinstance(value, np.ndarray):
            return self._array(value)
        if isinstance(value, np.void):
            if value.dtype.names is None:
                return self._noted(_base64(value.tobytes()), "opaque bytes as base64")
            found = {name: self.json(value[name], value.dtype[name]) for name in value.dtype.names}
            return self._noted(found, "a compound as an object of its members")
        if isinstance(value, (bool, np.bool_)):
            return bool(value)
        if isinstance(value, (np.datetime64, np.timedelta64)):
            return self._noted(str(value), "dates as text")
        if isinstance(value, (int, np.integer)):
            return int(value)
        if isinstance(value, (float, np.floating)):
            if np.isfinite(value) and float(value) != value:
                raise _Refused(f"{value!r} has more digits than JSON numbers hold")
            return float(value)
        if isinstance(value, (complex, np.complexfloating)):
            return self._noted([self.json(value.real), self.json(value.imag)], "complex numbers as [real, imaginary]")
        if isinstance(value, (bytes, str)):
            return self._text(value)
        if isinstance(value, h5py.RegionReference):
            if self._region_of is None:
                raise _Refused("region references have no counterpart outside HDF5")
            return self._region_of(value)
        if isinstance(value, h5py.Reference):
            return self._noted(self._path_of(value), "object references as the paths they lead to")
        raise _Refused(f"a {type(value).__name__} has no counterpart in JSON")

    def _array(self, value: Array) -> Any:
        if value.ndim and value.size == 0 and value.shape != (0,):
            self._noted(None, f"an array of shape {value.shape}, which holds nothing, as an empty list")
        if value.ndim == 0:
            return self.json(value[()])
        if value.dtype.kind in "iub" or (value.dtype.kind == "f" and value.dtype.itemsize <= 8):
            return value.tolist()
        return [self.json(element) for element in value]

    def _text(self, value: bytes | str) -> Any:
        raw = encoded(value) if isinstance(value, str) else bytes(value)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError:
            return self._noted(_base64(raw), "bytes that are not UTF-8 as base64")

    def _noted(self, value: Any, words: str) -> Any:
        self.changed[words] = None
        return value


def _base64(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode("ascii")}


def attribute_names(item: Any) -> tuple[str, ...]:
    """Return the names in the order of the file; `UNLISTED` if HDF5 does not know the type of one."""
    try:
        return tuple(name if isinstance(name, str) else decoded(name) for name in item.attrs)
    except RuntimeError:
        return (UNLISTED,)


def plain_attributes(item: Any, names: Iterable[str] | None = None) -> dict[str, Any]:
    """Return the attributes that are numbers or text, all or those of these names; not those of dimension scales."""
    found = {}
    for name in item.attrs if names is None else names:
        try:
            if names is not None and name not in item.attrs:
                continue
            stored = library().h5a.open(item.id, encoded(name))
            if name in ("CLASS", "NAME", *SCALE_LISTS) or stored.get_storage_size() > _MOST_NBYTES:
                continue
            value = item.attrs[name]
        except _READ_ERRORS:
            continue
        if isinstance(value, (str, bytes)) or np.asarray(value).dtype.kind in "biufcSU":
            found[name] = value
        elif isinstance(value, np.ndarray) and value.size and all(isinstance(each, str) for each in value.flat):
            found[name] = value.tolist()  # text of variable length, which NumPy holds as objects
    return found


def attribute_as_json(item: Any, name: str, path_of: PathOf, is_netcdf: bool = False, regions: bool = False) -> Attribute:
    """Return one attribute of an h5py object; one that cannot be read says why in `refused`.

    An array of one element is a number or text in a netCDF file, which has no others, and a list elsewhere, as AnnData's list of
    one column. A `_FillValue` is always one value. `regions`: region references are text that names their selection, to compare.
    """
    try:
        stored = library().h5a.open(item.id, encoded(name))
        is_null = stored.get_space().get_simple_extent_type() == library().h5s.NULL
        nbytes = 0 if is_null else math.prod(stored.shape) * stored.get_type().get_size()
        if nbytes > _MOST_NBYTES:
            return Attribute(name, refused=f"it has {nbytes} bytes; at most {_MOST_NBYTES} are carried over as JSON")
        converted = _Converted(path_of, functools.partial(region_words, item, path_of=path_of) if regions else None)
        value = converted.json(library().Empty("f4") if is_null else read_attribute(stored)[()], None if is_null else stored.dtype)
        if (is_netcdf or name == FILL) and not is_null and stored.shape == (1,) and not isinstance(value[0], (list, dict)):
            (value,) = value
        if name in ("scale_factor", "add_offset") and isinstance(value, float) and stored.dtype.itemsize < 8:
            converted.changed[f"a {stored.dtype} without its type: who reads it as a float64 unpacks values to that"] = None
        return Attribute(name, value, "; ".join(converted.changed))
    except _Refused as error:
        return Attribute(name, refused=str(error))
    except _READ_ERRORS as error:
        return Attribute(name, refused=f"h5py cannot read it ({error})")


def copy_attribute(source: Any, target: Any, name: str, remapped: Callable[[Any], Any], named_type: Callable[[Any], Any]) -> None:
    """Copy an attribute from one h5py object to another, in place of the attribute of that name.

    `remapped` gives a reference into the other file for one into this, `named_type` the type there for one here. Raises what h5py
    raises, and then the target has no such attribute.
    """
    h5a, raw = library().h5a, encoded(name)
    stored = h5a.open(source.id, raw)
    if h5a.exists(target.id, raw):
        h5a.delete(target.id, raw)
    kind, space = named_type(stored.get_type()), stored.get_space()
    made = h5a.create(target.id, raw, kind, space)
    try:
        if space.get_simple_extent_type() == library().h5s.NULL:
            return
        if is_flat(kind) or (holds_runs(kind) and not has_references(kind)):
            made.write(raw_attribute(stored), kind)  # h5py would cut null-terminated text in runs by a character
            return
        values = read_attribute(stored)
        values = with_references(values, remapped) if has_references(kind) else values
        made.write(values, memory_type(stored.dtype, kind))
    except BaseException:
        h5a.delete(target.id, raw)
        raise


def raw_attribute(stored: Any) -> Array:
    """Return the bytes of an attribute in its own type in memory: runs and text of variable length are addresses."""
    data: Array = np.zeros(max(1, math.prod(stored.shape)) * stored.get_type().get_size(), np.uint8)
    if math.prod(stored.shape):
        stored.read(data, stored.get_type())
    return data


def read_attribute(stored: Any) -> Array:
    """Return the values of an h5py.h5a.AttrID, axes of array types last. Raises TypeError for a type that would end the process."""
    if why := refusal(stored.get_type()):
        raise TypeError(why)
    dtype = stored.dtype
    base, dims = dtype.subdtype if dtype.subdtype is not None else (dtype, ())
    values: Array = np.zeros((*stored.shape, *dims), base)
    if values.size:
        stored.read(values, memory_type(dtype, stored.get_type()))
    return in_stored_order(values, base)


def with_references(values: Array, remapped: Callable[[Any], Any]) -> Array:
    """Return a copy of `values` with `remapped` of each h5py reference."""
    h5py = library()
    out = np.zeros(values.shape, values.dtype)
    if values.dtype.names is not None:
        for name in values.dtype.names:
            field, part = values.dtype[name], values[name]
            out[name] = with_references(np.asarray(part, field.base), remapped) if field.hasobject else part
        return out
    element = h5py.check_vlen_dtype(values.dtype)
    flat, found = out.reshape(-1), values.reshape(-1)
    for index in range(flat.size):
        value = found[index]
        if element is not None and isinstance(value, np.ndarray):
            flat[index] = with_references(value.astype(element, copy=False), remapped) if value.dtype.hasobject else value
        else:
            flat[index] = remapped(value) if isinstance(value, (h5py.Reference, h5py.RegionReference)) else value
    return flat.reshape(values.shape)


def attribute_identity(item: Any, name: str, path_of: PathOf) -> Any:
    """Return a value that is equal for equal attributes: shape, size of the type, and bytes or JSON."""
    stored = library().h5a.open(item.id, encoded(name))
    kind, space = stored.get_type(), stored.get_space()
    if space.get_simple_extent_type() == library().h5s.NULL:
        return "null", kind.get_class()
    if has_references(kind):
        value: Any = repr(attribute_as_json(item, name, path_of, regions=True))
    else:
        size, data = kind.get_size(), raw_attribute(stored).tobytes()
        value = [stored_elements(kind, data[at : at + size]) for at in range(0, math.prod(stored.shape) * size, size)]
    return tuple(stored.shape), kind.get_class(), kind.get_size(), value


def told_by_bytes(item: Any, attribute: Attribute, path_of: PathOf) -> Attribute:
    """Return an attribute without a value in JSON with text that is equal for equal attributes, if HDF5 can read it."""
    with contextlib.suppress(*_READ_ERRORS):
        return Attribute(attribute.name, repr(attribute_identity(item, attribute.name, path_of)))
    return attribute


def set_attributes(item: Any, attributes: dict[str, Any]) -> None:
    is_scale = attributes.get("CLASS") == "DIMENSION_SCALE" and isinstance(attributes.get("NAME", ""), str)
    if is_scale and isinstance(item, library().Dataset):
        item.make_scale(attributes.get("NAME", ""))
        attributes = {name: value for name, value in attributes.items() if name not in ("CLASS", "NAME")}
    for name, value in attributes.items():
        if isinstance(item, library().Dataset) and (name in SCALE_LISTS or (name == LABELS and len(value) != item.ndim)):
            continue  # see `attach_scales`; HDF5 would read as many labels as there are axes, and end the process
        try:
            item.attrs[name] = _typed(name, as_attribute(value), item)
        except (OSError, RuntimeError, ValueError, TypeError) as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise
            raise WriteError(f"{name!r} cannot be an attribute in HDF5: {error}.") from error


def _typed(name: str, value: Any, item: Any) -> Any:
    """Return an attribute in the type that it has by convention: `_FillValue` and `missing_value` in that of the values.

    A CLASS is text of fixed length, which HDF5 takes for granted when it looks for dimension scales: see `attach_scales`.
    """
    if name == "CLASS" and isinstance(value, str):
        return np.bytes_(encoded(value))
    if name in (FILL, "missing_value") and isinstance(item, library().Dataset):
        kind = item.dtype.kind
        if kind == "f" and isinstance(value, str) and value in ("NaN", "Infinity", "-Infinity"):
            value = np.float64(value)  # as JSON has it, see `tree_contract.as_json`
        if kind == "S" and isinstance(value, str):
            return np.bytes_(encoded(value))
        if kind in "iuf" and isinstance(value, (np.integer, np.floating)):
            with contextlib.suppress(OverflowError), np.errstate(all="ignore"):
                fitted = np.asarray(value).astype(item.dtype.newbyteorder("="))[()]
                return fitted if fitted == value or fitted != fitted else value
    return value


def as_attribute(value: Any) -> Any:
    """Return the value to give to h5py for a value of JSON. Objects, and lists of several types, become JSON text."""
    if value is None:
        return library().Empty("f4")
    if isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return np.int64(value) if -(2**63) <= value < 2**63 else np.uint64(value) if 0 <= value < 2**64 else str(value)
    if isinstance(value, float):
        return np.float64(value)
    if isinstance(value, list) and value:
        with contextlib.suppress(ValueError, OverflowError):
            kinds = {type(element) for element in _elements(value)}
            array = np.array(value)
            if kinds == {int} and array.dtype.kind not in "iu":  # NumPy makes floats of large integers beside small ones
                array = np.array(value, np.uint64)
            if kinds == {str} and array.dtype.kind == "U" and all(map(is_text, _elements(value))):
                return array.astype(object)
            if kinds in ({bool}, {int}, {float}) and array.dtype.kind in "biuf":
                return array
    return [] if value == [] else json.dumps(value)


def is_text(value: str) -> bool:
    """Return False for text that HDF5 changes: halves of characters, which JSON can hold, and NUL, which ends a text."""
    try:
        return b"\0" not in value.encode("utf-8")
    except UnicodeEncodeError:
        return False


def _elements(value: Any) -> Any:
    for element in value:
        if isinstance(element, list):
            yield from _elements(element)
        else:
            yield element
