"""Arrays inside `.npz` archives that lie there as they are ("stored"): mapped in place. Deflated ones have to be ingested.

What the archive's directory says is not trusted: each array that is opened is looked up where the directory says it begins, and
has to be there under the same name, of the same size, not compressed, inside the file and apart from the next one.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..files.system_errors import explaining_read_errors, raised_in
from ..plain.errors import DamagedFileError, InvalidTypeError, KeyNotFoundError, UnsafeFileError
from .contract import Format, Listing
from .foreign_files import is_zipped_zarr
from .npy_file import MOST_BYTES, NpyHeader, checked_header, parsed_header
from .raw_file import PlainBytes

_MAGICS = (b"PK\x03\x04", b"PK\x05\x06")  # with members, and without
_ARRAY = ".npy"
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # before the name of each member: see 4.3.7 of PKWARE's APPNOTE
_ENCRYPTED = 0x2041  # bits 0, 6 and 13 of the flags: with a password, strongly, and the directory as well
_SIZES_FOLLOW = 0x0008  # bit 3: the sizes come after the data, and are 0 before it
_IN_ZIP64 = 0xFFFFFFFF  # in place of a size: it is in the zip64 part of the extra field


def matches(path: str | os.PathLike[str]) -> bool:
    """Return True if the file starts as a zip archive does, and is no Zarr store. False for anything that cannot be read."""
    try:
        with Path(path).open("rb") as file:
            return file.read(4) in _MAGICS and not is_zipped_zarr(path)
    except OSError:
        return False


def list_arrays(path: str | os.PathLike[str], inside: str = "") -> list[Listing]:
    """Return every array of the archive, under its name without ".npy". Reads the header of each, decompressing the first bytes."""
    name = os.fspath(path)
    with _archive(name) as (archive, _):
        found = _arrays(archive, name)
        key = _key(inside)
        if key:
            found = {key: _member(found, key, name)}
        return [_listing(archive, key, info, name) for key, info in found.items()]


def _listing(archive: zipfile.ZipFile, key: str, info: zipfile.ZipInfo, name: str) -> Listing:
    try:
        _refuse_encrypted(info, f"{name}::/{key}")
        with archive.open(info) as member:
            header = parsed_header(member.read(MOST_BYTES), f"{name}::/{key}")
    except (UnsafeFileError, DamagedFileError) as error:
        return Listing(key, (), str(error), "unknown")
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, ValueError, OSError, struct.error) as error:
        return Listing(key, (), f"unreadable ({error})", "unknown")
    how = "stored as it is, checksum not looked at" if info.compress_type == zipfile.ZIP_STORED else _compression(info)
    return Listing(key, header.shape, header.dtype, f"{how}{', Fortran order' * header.fortran_order}")


def open_array(path: str | os.PathLike[str], key: str | None = None) -> NpzMember:
    """Return an array of a .npz archive that was not compressed, its header read and its payload not.

    `key` is its name, as `numpy.load` has it; None if the archive holds one array.

    Raises NotFoundError, NotReadableError, KeyNotFoundError (the text lists the arrays), InvalidTypeError (compressed, or no
    fixed-size numbers), UnsafeFileError (encrypted), DamagedFileError (no zip archive, truncated, or contradicting itself).

    >>> import tempfile
    >>> import numpy as np
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(Path(folder, "a.npz"), frames=np.arange(6, dtype=np.uint8).reshape(3, 2), label=np.arange(3))
    ...     stored = open_array(Path(folder, "a.npz"), "frames")
    ...     stored.shape, stored.as_array()[1].tolist()
    ((3, 2), [2, 3])
    """
    name = os.fspath(path)
    with _archive(name) as (archive, file):
        arrays = _arrays(archive, name)
        wanted = _key(key or "")
        if not wanted:
            if len(arrays) != 1:
                raise KeyNotFoundError(
                    f"{name} holds {len(arrays)} arrays: {_listed(arrays)}. Name one, as in '{name}::/{next(iter(arrays))}'."
                )
            wanted = next(iter(arrays))
        info = _member(arrays, wanted, name)
        full = f"{name}::/{wanted}"
        _refuse_encrypted(info, full)
        if info.compress_type != zipfile.ZIP_STORED:
            raise InvalidTypeError(
                f"{full} is {_compression(info)}, so it cannot be mapped where it lies. Write it once as plain bytes: "
                f"mmapstore ingest {shlex.quote(full)} {shlex.quote(Path(wanted).name + '.npy')}"
            )
        start = _data_offset(archive, file, info, full)
        file.seek(start)
        header = parsed_header(file.read(min(MOST_BYTES, info.file_size)), full)
        return NpzMember(name, wanted, checked_header(header, full, info.file_size), start)


class NpzMember(PlainBytes):
    """An array of an archive as a StoredArray. Pickles by path and name."""

    def __init__(self, path: str, key: str, header: NpyHeader, start: int) -> None:
        super().__init__(f"{path}::/{key}", path, header.shape, header.dtype, start + header.offset, header.fortran_order)
        self.storage = f"{self.storage}, stored as it is in an archive, checksum not looked at"
        self._key = key

    def __reduce__(self) -> tuple[Any, ...]:
        return open_array, (self.path, self._key)


# --- the archive ---------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _archive(name: str) -> Iterator[tuple[zipfile.ZipFile, BinaryIO]]:
    with explaining_read_errors(name, damaged_archive), Path(name).open("rb") as file, zipfile.ZipFile(file) as archive:
        yield archive, file


def damaged_archive(error: Exception, name: str) -> DamagedFileError | None:
    """Translate what zipfile, zlib and struct raise for an archive that is not whole."""
    if isinstance(error, (EOFError, struct.error, OverflowError)) or (
        raised_in(error, "zipfile") and not getattr(error, "errno", None)
    ):
        return DamagedFileError(f"{name} is not a whole .npz archive ({error}). Copy or write it again.")
    return None


def _arrays(archive: zipfile.ZipFile, name: str) -> dict[str, zipfile.ZipInfo]:
    """Return the arrays by name; of two that are called alike, the later one, as for `numpy.load`."""
    infos = archive.infolist()
    found = {info.filename.removesuffix(_ARRAY): info for info in infos if info.filename.endswith(_ARRAY)}
    if not found:
        holds = ", ".join(info.filename for info in infos[:5]) or "nothing"
        raise DamagedFileError(f"{name} is a zip archive without arrays of NumPy: it holds {holds}. Unpack it, or check the path.")
    return found


def _member(arrays: dict[str, zipfile.ZipInfo], key: str, name: str) -> zipfile.ZipInfo:
    if key not in arrays:
        raise KeyNotFoundError(f"{name} holds no array {key!r}; it holds {_listed(arrays)}.")
    return arrays[key]


def _key(inside: str) -> str:
    return inside.strip("/").removesuffix(_ARRAY)


def _listed(arrays: dict[str, zipfile.ZipInfo]) -> str:
    return ", ".join([*list(arrays)[:20], *(["..."] if len(arrays) > 20 else [])])


def _compression(info: zipfile.ZipInfo) -> str:
    known = {zipfile.ZIP_DEFLATED: "deflated", zipfile.ZIP_BZIP2: "compressed with bzip2", zipfile.ZIP_LZMA: "compressed with lzma"}
    return known.get(info.compress_type, f"compressed by method {info.compress_type}")


def _refuse_encrypted(info: zipfile.ZipInfo, full: str) -> None:
    if info.flag_bits & _ENCRYPTED:
        raise UnsafeFileError(f"{full} is encrypted, and cannot be read without its password. Unpack the archive with it first.")


def _data_offset(archive: zipfile.ZipFile, file: BinaryIO, info: zipfile.ZipInfo, full: str) -> int:
    """Return the byte at which the data of a stored member begins, once both headers agree about the member."""
    file.seek(info.header_offset)
    head = file.read(_LOCAL_HEADER.size)
    if len(head) < _LOCAL_HEADER.size or not head.startswith(_MAGICS[0]):
        raise _damaged(full, f"the archive's directory says that it begins at byte {info.header_offset}, where none does")
    _, _, flags, method, _, _, _, compressed, size, name_length, extra_length = _LOCAL_HEADER.unpack(head)
    name, extra = file.read(name_length), file.read(extra_length)
    if _IN_ZIP64 in (compressed, size):
        size, compressed = _zip64_sizes(extra, size, compressed)
    expected = info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437", "replace")
    sizes = {(info.file_size, info.compress_size)} | ({(0, 0)} if flags & _SIZES_FOLLOW else set())
    for what, here, there in (
        ("its name", name, expected),
        ("its compression", method, info.compress_type),
        ("its encryption", flags & _ENCRYPTED, 0),
        ("its size", info.compress_size, info.file_size),
    ):
        if here != there:
            raise _damaged(full, f"{what} is {here!r} in one place and {there!r} in another")
    if (size, compressed) not in sizes:
        raise _damaged(full, f"its size is {size} bytes where it begins, and {info.file_size} in the archive's directory")
    start: int = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
    others = [other.header_offset for other in archive.infolist() if other.header_offset > info.header_offset]
    end: int = min([*others, archive.start_dir])
    if start + info.file_size > end:
        raise _damaged(full, f"it is said to end at byte {start + info.file_size}, but what follows it begins at byte {end}")
    return start


def _zip64_sizes(extra: bytes, size: int, compressed: int) -> tuple[int, int]:
    """Return the two sizes; one that is too large for its place stands in the extra field's zip64 part."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            values = [value for (value,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length // 8 * 8])]
            found = [values.pop(0) if given == _IN_ZIP64 and values else given for given in (size, compressed)]
            return found[0], found[1]
        at += 4 + length
    return size, compressed


def _damaged(full: str, what: str) -> DamagedFileError:
    return DamagedFileError(f"{full} is damaged: {what}. Copy or write the archive again.")


FORMAT = Format(title=".npz", suffixes=(".npz",), matches=matches, open_array=open_array, list_arrays=list_arrays)
