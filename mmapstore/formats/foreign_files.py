"""Sound files that mmapstore does not open, recognised by their first bytes, and the command that converts them."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path

_HEAD_NBYTES = 1 << 12
_ZIP = b"PK\x03\x04"
_ZARR_METADATA = ("zarr.json", ".zgroup", ".zarray")
_MATLAB = (
    "Save it again in MATLAB with save(FILE, '-v7.3'), which writes HDF5; or read it with scipy.io.loadmat and give its arrays to "
    "mmapstore.ingest."
)
_NCCOPY = "Convert it to NetCDF-4, which is HDF5: `nccopy -k nc4 IN OUT`."
_BY_FIRST_BYTES = (
    (b"CDF\x01", "a NetCDF file in the classic format", _NCCOPY),
    (b"CDF\x02", "a NetCDF file in the classic format with 64-bit offsets", _NCCOPY),
    (b"CDF\x05", "a NetCDF file in the classic format with 64-bit data", _NCCOPY),
    (b"\x0e\x03\x13\x01", "an HDF4 file", "Convert it to HDF5: `h4toh5 IN OUT`."),
    (b"\x1f\x8b", "a file compressed as a whole by gzip", "Unpack it first: `gunzip FILE`."),
)
_DRIVERS = {
    b"NCSAfami": ("family", "their common name with %d for the number, as in 'data%d.h5'"),
    b"NCSAmult": ("multi or split", "their common name, as in data.h5 for data.h5-m.h5 and data.h5-r.h5"),
}


def foreign_format(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """(what the file is, what to do), for a sound file of another format; None for any other."""
    head = _head(path)
    for magic, words, remedy in _BY_FIRST_BYTES:
        if head.startswith(magic):
            return words, remedy
    if head[124:128] in (b"\x00\x01IM", b"\x01\x00MI"):
        return "a MATLAB file of version 5 to 7", _MATLAB
    if Path(path).suffix.lower() == ".mat" and _is_matlab_4(head):
        return "a MATLAB file of version 4", _MATLAB
    if is_zipped_zarr(path):
        return "a Zarr store packed into a zip archive", "Unpack it, and open the directory: `unzip FILE -d STORE.zarr`."
    return None


def is_zipped_zarr(path: str | os.PathLike[str]) -> bool:
    """Return True for a zip archive with the metadata of a Zarr store in it. Reads the directory of the archive."""
    if not _head(path).startswith(_ZIP):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.rsplit("/", 1)[-1] in _ZARR_METADATA for name in archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return False


def hdf5_driver(path: str | os.PathLike[str]) -> tuple[str, str] | None:
    """(the driver of HDF5, the name that it takes) where an HDF5 file is one of several parts, and opens with the others only."""
    head = _head(path)
    return next((words for magic, words in _DRIVERS.items() if magic in head), None)


def _is_matlab_4(head: bytes) -> bool:
    """Look for a type of four digits (byte order, 0, precision, kind of matrix), and a mark for an imaginary part."""
    for order in ("little", "big"):
        kind, _, _, imaginary, name_nbytes = (int.from_bytes(head[at : at + 4], order) for at in range(0, 20, 4))
        if kind < 5000 and kind // 100 % 10 == 0 and kind // 10 % 10 <= 5 and kind % 10 <= 2 and imaginary <= 1:
            return len(head) > 20 and 0 < name_nbytes <= 64
    return False


def _head(path: str | os.PathLike[str]) -> bytes:
    try:
        with Path(path).open("rb") as file:
            return file.read(_HEAD_NBYTES)
    except OSError:
        return b""
