"""HDF5 types and values by chance. Values are packed by `struct` and written as they are, so that h5py converts nothing."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from h5py import h5t

NUMBERS = [f"{order}{code}" for code in ("i1", "i2", "i4", "i8", "u2", "u8", "f2", "f4", "f8") for order in "<>"]
_CODES = {"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u2": "H", "u8": "Q", "f2": "e", "f4": "f", "f8": "d"}
Value = Callable[[list], tuple[bytes, Any]]
"""Packs a new value. Returns its bytes in memory, and what is to be read; appends to the list what the bytes lead to."""


@dataclass
class Kind:
    name: str
    stored: Any
    value: Value


def number(draw):
    code = draw.choice(NUMBERS)

    def value(kept):
        chosen = draw.randint(1, 100)
        return struct.pack(code[0] + _CODES[code[1:]], chosen), chosen

    return Kind(code, h5t.py_create(np.dtype(code)), value)


def enumeration(draw):
    order = draw.choice("<>")
    stored = h5t.enum_create(h5t.py_create(np.dtype(f"{order}i4")))
    stored.enum_insert(b"A", 1)
    stored.enum_insert(b"B", 7)

    def value(kept):
        chosen = draw.choice([1, 7])
        return struct.pack(f"{order}i", chosen), chosen

    return Kind(f"enum{order}", stored, value)


def bits(draw):
    stored, code = draw.choice([(h5t.STD_B16LE, "<H"), (h5t.STD_B16BE, ">H"), (h5t.STD_B32BE, ">I")])

    def value(kept):
        chosen = draw.randint(1, 100)
        return struct.pack(code, chosen), chosen

    return Kind(f"bits{code}", stored, value)


def complex_number(draw):
    order = draw.choice("<>")

    def value(kept):
        chosen = draw.randint(1, 100)
        return struct.pack(f"{order}ff", chosen, -chosen), complex(chosen, -chosen)

    return Kind(f"complex{order}", h5t.py_create(np.dtype(f"{order}c8")), value)


def fixed_text(draw):
    width, pad = draw.randint(1, 5), draw.choice([h5t.STR_NULLTERM, h5t.STR_NULLPAD, h5t.STR_SPACEPAD])
    stored = h5t.C_S1.copy()
    stored.set_size(width)
    stored.set_strpad(pad)
    stored.set_cset(draw.choice([h5t.CSET_ASCII, h5t.CSET_UTF8]))

    def value(kept):
        text = bytes(draw.choice(b"abc") for _ in range(draw.randint(0, width - (pad == h5t.STR_NULLTERM))))
        return text.ljust(width, b" " if pad == h5t.STR_SPACEPAD else b"\0"), text

    return Kind(f"text{width}/{pad}", stored, value)


def text(draw):
    stored = h5t.C_S1.copy()
    stored.set_size(h5t.VARIABLE)

    def value(kept):
        chosen = bytes(draw.choice(b"abc") for _ in range(draw.randint(0, 5)))
        kept.append(ctypes.create_string_buffer(chosen))
        return np.uintp(ctypes.addressof(kept[-1])).tobytes(), chosen

    return Kind("text", stored, value)


def opaque(draw):
    width = draw.randint(1, 5)
    stored = h5t.create(h5t.OPAQUE, width)
    stored.set_tag(draw.choice([b"", b"a tag"]))

    def value(kept):
        chosen = bytes(draw.randint(0, 255) for _ in range(width))
        return chosen, chosen

    return Kind("opaque", stored, value)


def compound(draw, depth, simple):
    members = [kind(draw, depth - 1, simple) for _ in range(draw.randint(1, 3))]
    gap = draw.choice([0, 0, 3])
    size = sum(member.stored.get_size() + gap for member in members)
    stored, offsets = h5t.create(h5t.COMPOUND, size), []
    for index, member in enumerate(members):
        offsets.append(sum(before.stored.get_size() + gap for before in members[:index]))
        stored.insert(b"m%d" % index, offsets[-1], member.stored)

    def value(kept):
        packed, chosen = bytearray(size), []
        for offset, member in zip(offsets, members, strict=True):
            part, read = member.value(kept)
            packed[offset : offset + len(part)] = part
            chosen.append(read)
        return bytes(packed), tuple(chosen)

    return Kind(f"{{{', '.join(member.name for member in members)}}}", stored, value)


def array(draw, depth, simple):
    element, count = kind(draw, depth - 1, simple), draw.randint(1, 3)

    def value(kept):
        parts = [element.value(kept) for _ in range(count)]
        return b"".join(part for part, _ in parts), [chosen for _, chosen in parts]

    return Kind(f"[{count}]{element.name}", h5t.array_create(element.stored, (count,)), value)


def runs(draw, depth, simple):
    element = kind(draw, depth - 1, simple)

    def value(kept):
        parts = [element.value(kept) for _ in range(draw.randint(0, 3))]
        data = b"".join(part for part, _ in parts)
        kept.append(ctypes.create_string_buffer(data, max(1, len(data))))
        where = np.array([len(parts), ctypes.addressof(kept[-1]) if parts else 0], np.uintp)
        return where.tobytes(), [chosen for _, chosen in parts]

    return Kind(f"runs of {element.name}", h5t.vlen_create(element.stored), value)


SIMPLE = (number, number, enumeration, bits, complex_number, text, fixed_text, opaque)


def kind(draw, depth, simple=SIMPLE):
    """A type that is at most `depth` deep. `draw` is a random.Random, hypothesis's or another."""
    if depth and draw.random() < 0.6:
        return draw.choice([compound, array, runs, runs])(draw, depth, simple)
    return draw.choice(simple)(draw)


def write(file, name, kind, count, attribute=False):
    """A dataset, or an attribute of the root. Returns the values that are to be read."""
    kept = []
    parts = [kind.value(kept) for _ in range(count)]
    data = np.frombuffer(b"".join(part for part, _ in parts), np.uint8).copy()
    space = h5py.h5s.create_simple((count,))
    if attribute:
        h5py.h5a.create(file.id, name.encode(), kind.stored, space).write(data, kind.stored)
    else:
        made = h5py.h5d.create(file.id, name.encode(), kind.stored, space)
        made.write(h5py.h5s.ALL, h5py.h5s.ALL, data, kind.stored)
    return [chosen for _, chosen in parts]


def plain(value):
    """What h5py read, in lists, tuples, numbers and bytes."""
    if isinstance(value, np.ndarray):
        return [plain(element) for element in value] if value.ndim else plain(value[()])
    if isinstance(value, np.void):
        return tuple(plain(value[name]) for name in value.dtype.names) if value.dtype.names else value.tobytes()
    return value.item() if isinstance(value, np.generic) else value
