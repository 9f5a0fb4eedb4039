"""The choice of an array's reader: made once, when it is opened, with the reason in words."""

from __future__ import annotations

import math
import shlex
from pathlib import Path

from ..files.worker_threads import usable_cpus
from ..formats.contract import StoredArray
from ..formats.located import Located
from ..formats.raw_file import PlainBytes
from ..plain.array_spec import DEFAULT_LAYOUTS, ArraySpec, StoredLayout
from ..plain.inside_names import file_of
from ..plain.memory_budget import format_bytes
from .array_view import ArrayView
from .chunk_runs import batch_cost
from .contract import Reader
from .decoded import decoded_reader
from .library_reader import LibraryReader
from .raw_reader import StoredRaw

BATCH = 32  # samples, where the cost of chunks is told in numbers
_MUCH = 4  # times what is wanted, or what a block of a shuffled epoch holds anyway
_BLOCK_BYTES = 2 * 2**20


def reader_for(stored: StoredArray, layout: StoredLayout, mapped: bool = True) -> Reader:
    """Return the fastest reader that is right for this array and layout; not `mapped`: one that maps no file, if there is one."""
    located = stored.located
    if located is not None and located.has_rows and layout.has_rows:
        return StoredRaw(located, layout, _raw_words(located, layout, mapped), mapped)
    offset = None if located is None else located.offset
    if offset is not None and not mapped:
        reader, _ = decoded_reader(stored, layout, _unmapped_words(layout))
        assert reader is not None, "bytes without codecs need no decoder"
        return reader
    if stored.as_array() is not None:
        return ArrayView(stored, layout, _view_words(stored, layout, mapped))
    if located is not None and offset is not None:
        in_file = PlainBytes(stored.name, located.root, stored.shape, stored.dtype, offset)
        return ArrayView(in_file, layout, _view_words(in_file, layout, mapped))
    reader, reason = decoded_reader(stored, layout, "" if located is None else _decoded_words(stored.name, located, layout))
    if reader is not None:
        return reader
    return LibraryReader(stored, layout, f"through the format's own library, because {reason}")


def _raw_words(located: Located, layout: StoredLayout, mapped: bool) -> str:
    if located.offset is None:
        ways = ["read with preadv where the bytes lie, no library in between"]
    elif mapped:
        ways = [
            "memory-mapped where the bytes lie",
            "batches in order are views of it, shuffled ones copies; read with preadv where memory is short",
        ]
    else:
        ways = ["read with preadv where the bytes lie, nothing is mapped (mapped=False)"]
    if not layout.is_consecutive:
        ways.append(
            f"stored as {layout.letters}, consecutive samples lie {layout.samples // layout.episode_length} samples apart: "
            "each costs a read of its own"
        )
    if not located.dtype.isnative:
        ways.append("its byte order is not this machine's: every batch is copied and swapped")
    return "; ".join(ways)


def _unmapped_words(layout: StoredLayout) -> str:
    return (
        "read with preadv where the bytes lie, nothing is mapped (mapped=False); "
        f"stored as {layout.letters}: the values of a sample are scattered, and collected piece by piece"
    )


def _view_words(stored: StoredArray, layout: StoredLayout, mapped: bool) -> str:
    in_ram = stored.path is None
    ways = ["an array in RAM, nothing is read from disk" if in_ram else "memory-mapped where the bytes lie"]
    if not mapped and not in_ram:
        ways.append("mapped=False cannot be had for it")
    if not layout.has_rows or (stored.why_not and not in_ram):
        ways.append(
            f"{stored.why_not or f'stored as {layout.letters}'}: the values of a sample are scattered, and collected with strides"
        )
    return "; ".join(ways)


def _decoded_words(name: str, chunks: Located, layout: StoredLayout) -> str:
    threads = usable_cpus()
    how = f"in {threads} threads by our own reader" if threads > 1 else "by our own reader"
    if chunks.chain:
        ways = [f"{' after '.join(str(codec) for codec in reversed(chunks.chain))}, decoded {how}"]
    else:
        ways = [f"uncompressed, read with preadv {how} and put together from chunks of {chunks.grid.chunk}"]
    ways += _cost_words(name, chunks, layout)
    return "; ".join(ways)


def _cost_words(name: str, chunks: Located, layout: StoredLayout) -> list[str]:
    """Return the cost of chunks whose shape fights the order in which samples are read, and the line that mends it."""
    spec, chunk = layout.spec(chunks.dtype), chunks.grid.chunk
    samples = min(BATCH, layout.episode_length)
    count, elements = batch_cost(layout, chunk, samples)
    together, _ = batch_cost(layout, chunk, 1)
    decoded, wanted = elements * chunks.dtype.itemsize, samples * spec.sample_nbytes
    ways = []
    costly = decoded > _MUCH * max(wanted, _BLOCK_BYTES)
    if costly:
        ways.append(
            f"its chunks of {chunk} fight the order of reading: {samples} consecutive samples ({format_bytes(wanted)}) lie "
            f"in {count} chunk{'s' * (count != 1)}, {format_bytes(decoded)} to decode"
        )
    if together > 1:
        each = math.prod(chunk) * chunks.dtype.itemsize
        ways.append(f"each sample is put together from {together} chunks of {format_bytes(each)}, one more copy")
    if costly or together > 1:
        ways.append(f"this writes it once as it is read: {_rewrite_line(name, spec, layout)}")
    return ways


def _rewrite_line(name: str, spec: ArraySpec, layout: StoredLayout) -> str:
    path = Path(file_of(name))
    target = str(path.with_name(f"{path.stem}-chunked{path.suffix}"))
    samples = max(1, min(len(spec), layout.episode_length, _BLOCK_BYTES // 2 // max(1, spec.sample_nbytes)))
    words = ["mmapstore", "convert", name, target, "--chunk-samples", str(samples)]
    if layout.letters != DEFAULT_LAYOUTS.get(len(layout.letters)):
        words += ["--source-layout", layout.letters]
    ordered = "".join(letter for letter in "NT" if letter in layout.letters) + layout.sample_letters
    if layout.letters != ordered:
        words += ["--layout", ordered]
    return shlex.join(words)
