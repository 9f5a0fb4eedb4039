"""Virtual datasets of HDF5, which are put together from others: their sources are looked for before HDF5 reads them.

HDF5 follows any name, also into other files, and a dataset that is put together from itself until the process ends.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any

from ..plain.errors import MmapstoreError, UnsafeFileError
from .hdf5_library import library, open_to_read
from .hdf5_paths import address_of, find

SOURCES_CACHE_NBYTES = 64 << 20  # of decoded chunks that HDF5 may keep of all sources together
_OWN_FILE = "."
_PREFIX = "HDF5_VDS_PREFIX"  # directories in which HDF5 looks for sources first


def sources_of(dataset: Any, name: str) -> list[Any]:
    """Return every h5py.Dataset that a virtual one reads, directly or through others, each once; none for any other dataset.

    Sources that are missing are left out: HDF5 gives the fill value for them.

    Raises UnsafeFileError for sources in other files, for links to such, and for a dataset that is put together from itself.
    """
    return _walked(dataset, name, None) if dataset.is_virtual else []


def read_nbytes_anywhere(dataset: Any, name: str) -> int:
    """`read_nbytes` of a dataset whose sources may lie in other files too.

    Raises UnsafeFileError for a dataset that is put together from itself.
    """
    with contextlib.ExitStack() as opened:
        return read_nbytes(_walked(dataset, name, opened)) if dataset.is_virtual else 0


def _walked(dataset: Any, name: str, others: contextlib.ExitStack | None) -> list[Any]:
    """Return the sources; with `others`, which keeps other files open, those in other files too."""
    found: list[Any] = []
    is_done: dict[tuple[int, int], bool] = {}
    pending = [(dataset, False)]
    while pending:
        item, has_been_walked = pending.pop()
        address = address_of(item)
        if has_been_walked:
            is_done[address] = True
        elif address not in is_done:
            is_done[address] = False
            found.append(item)
            pending.append((item, True))
            if item.is_virtual:
                pending += [(source, False) for source in _direct_sources(item, name, others)]
        elif not is_done[address]:
            raise UnsafeFileError(
                f"{name} is a virtual dataset put together from itself, by way of {item.name!r}: it has no values. Write it again "
                "with other sources."
            )
    return found[1:]


def _direct_sources(dataset: Any, name: str, others: contextlib.ExitStack | None) -> Iterator[Any]:
    h5py, plist = library(), dataset.id.get_create_plist()
    numbers = range(plist.get_virtual_count())
    for file_name, key in sorted({(plist.get_virtual_filename(at), plist.get_virtual_dsetname(at)) for at in numbers}):
        file = _source_file(dataset.file, file_name, name, others)
        if file is None:
            continue
        for each in _names(key):
            source = find(file, file.filename, each) if others is None else file.get(each)
            if source is None:
                break
            if isinstance(source, h5py.Dataset):
                yield source


def _source_file(file: Any, file_name: str, name: str, others: contextlib.ExitStack | None) -> Any | None:
    beside = os.path.join(os.path.dirname(os.path.abspath(os.fsdecode(file.filename))), file_name)
    if file_name == _OWN_FILE or (_PREFIX not in os.environ and _is_file(beside, file)):
        return file
    if others is None:
        raise UnsafeFileError(
            f"{name} is a virtual dataset put together from others ({file_name!r}), which are not read, because a file from "
            "elsewhere could name any file of yours. If you trust it, open those files as a list, which joins them; or copy it "
            "with h5py into an ordinary dataset."
        )
    with contextlib.suppress(MmapstoreError):
        return others.enter_context(open_to_read(beside))
    return None


def _is_file(path: str, file: Any) -> bool:
    try:
        return os.path.samefile(path, file.filename)
    except OSError:
        return False


def _names(pattern: str) -> Iterator[str]:
    """Yield the names that HDF5 makes of one: "%b" stands for 0, 1, 2 ... as long as there are such, "%%" for "%".

    >>> list(itertools.islice(_names("part%b"), 2)), list(_names("100%%b"))
    (['part0', 'part1'], ['100%b'])
    """
    codes = re.compile("%([b%])")
    is_numbered = any(code[1] == "b" for code in codes.finditer(pattern))
    for number in map(str, itertools.count() if is_numbered else range(1)):
        yield codes.sub(lambda code, number=number: number if code[1] == "b" else "%", pattern)  # type: ignore[misc]


def read_nbytes(sources: Sequence[Any], cache_nbytes: int | None = None) -> int:
    """Return the bytes that HDF5 may hold while it reads through these sources: chunks of each, and the one that it decodes.

    `cache_nbytes` is what it may keep of each source, by default as much as of any dataset. A quarter more is what memory between
    chunks was seen to take.
    """
    kept = largest = 0
    for source in sources:
        if source.chunks and source.size:
            chunk = math.prod(source.chunks) * source.id.get_type().get_size()
            count = math.prod(-(-length // each) for length, each in zip(source.shape, source.chunks, strict=True))
            most = source.id.get_access_plist().get_chunk_cache()[1] if cache_nbytes is None else cache_nbytes
            kept += min(most, count * chunk)
            largest = max(largest, chunk)
    return kept + kept // 4 + 2 * largest
