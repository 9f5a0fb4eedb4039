"""The limits of this machine: copying memory, reading files, decoding chunks. The time above them is ours.

    python -m benchmarks.floor
    python -m benchmarks.floor --json floor.json --samples 5000

On one thread and on all cores; GB/s of 10**9 decoded bytes. The decoders are those that mmapstore decodes with.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mmapstore.codecs.chain import decoder_for
from mmapstore.files.page_cache import drop, warm
from mmapstore.files.stored_files import files_of
from mmapstore.formats.registry import open_stored

from .measure import machine
from .peers.contract import Array
from .stored_data import FORMS, KEY, KINDS, make_array, make_form, row_sums

_CHUNKS = 200  # decoded at most, of each form
_READ = 2**21  # bytes of a read: a block of ours


def rate(work: Callable[[Any], object], items: Sequence[Any], nbytes: int, threads: int, rounds: int) -> list[float]:
    """GB/s of doing `work` on every item, `nbytes` in all, in that many threads; one figure a round."""
    found = []
    with ThreadPoolExecutor(threads) as pool:
        shares = [items[i::threads] for i in range(threads)]

        def run(share: Sequence[Any]) -> None:
            for item in share:
                work(item)

        for _ in range(rounds):
            start = time.perf_counter()
            list(pool.map(run, shares))
            found.append(nbytes / (time.perf_counter() - start) / 1e9)
    return found


def copying(threads: int, rounds: int) -> list[float]:
    """memcpy of 8 MiB pieces, in memory that has been touched before."""
    source, target = (np.full((threads * 8, 2**20), value, np.uint64) for value in (1, 2))
    return rate(lambda i: np.copyto(target[i], source[i]), range(len(source)), source.nbytes, threads, rounds)


def summing(threads: int, rounds: int) -> list[float]:
    """Time the suite's work on every batch: the sum of the 64-bit words of each sample."""
    source = np.ones((threads * 8 * 280, 7500), np.float32)
    parts = np.array_split(source, threads * 8)
    return rate(row_sums, parts, source.nbytes, threads, rounds)


def reading(path: Path, threads: int, rounds: int, cold: bool) -> list[float]:
    """preadv of 2 MiB pieces into one buffer a thread, in order; from the page cache, or from the disk."""
    size = path.stat().st_size
    buffers: dict[int, Array] = {}
    descriptor = os.open(path, os.O_RDONLY)

    def read(offset: int) -> None:
        buffer = buffers.setdefault(threading.get_ident(), np.zeros(_READ, np.uint8))
        os.preadv(descriptor, [buffer], offset)

    found = []
    try:
        for _ in range(rounds):
            if cold:
                drop([path])
            else:
                warm([path])
            found += rate(read, range(0, size, _READ), size, threads, 1)
    finally:
        os.close(descriptor)
    return found


class Chunks(NamedTuple):
    """The first chunks of a store, their bytes in RAM. `decode(chunk, out)` is None where we do not decode; `words` say why."""

    decode: Callable[[tuple[Array, int], Array], object] | None
    nbytes: int  # of each, decoded
    stored: list[tuple[Array, int]]
    words: str


def chunks_of(path: Path, most: int) -> Chunks:
    stored = open_stored(str(path), KEY)
    encoded = stored.located
    if encoded is None or stored.chunks is None:
        return Chunks(None, 0, [], stored.why_not or "plain bytes")
    decoder, why = decoder_for(encoded.chain, encoded.dtype, encoded.grid.chunk)
    if decoder is None:
        return Chunks(None, 0, [], why)
    places = encoded.places(range(min(most, len(encoded.grid))))
    return Chunks(
        lambda chunk, out: decoder.decode(chunk[0], out, chunk[1]),
        int(np.prod(encoded.grid.chunk)) * encoded.dtype.itemsize,
        [_stored_chunk(place) for place in places if place is not None],
        " > ".join(map(str, encoded.chain)) or "raw",
    )


def decoding(path: Path, threads: int, rounds: int) -> tuple[list[float], str]:
    """The decoder alone, on stored bytes that lie in RAM; or why there is none."""
    chunks, outs = chunks_of(path, _CHUNKS), dict[int, Array]()
    decode = chunks.decode
    if decode is None:
        return [], chunks.words

    def work(chunk: tuple[Array, int]) -> None:
        decode(chunk, outs.setdefault(threading.get_ident(), np.zeros(chunks.nbytes, np.uint8)))

    return rate(work, chunks.stored, chunks.nbytes * len(chunks.stored), threads, rounds), chunks.words


def _stored_chunk(place: Any) -> tuple[Array, int]:
    with Path(place.path).open("rb") as file:
        file.seek(place.offset)
        return np.frombuffer(file.read(place.nbytes), np.uint8), place.skipped  # -1: all of the rest


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, help="frames of the data, instead of the usual")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(FORMS), choices=FORMS, help="forms to decode")
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "mmapstore-benchmarks" / "suite")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(given)
    kind = KINDS["frames"].of(options.samples)
    directory = options.data / f"{kind.name}-{kind.samples}-seed{options.seed}"
    array = make_array(kind, directory, options.seed)
    cores = len(os.sched_getaffinity(0))
    result: dict[str, Any] = {"machine": machine(), "cores used": cores, "seed": options.seed, "rows": {}}
    print(f"{'GB/s, median (min..max)':44}{'one thread':>24}{f'{cores} threads':>24}")

    def row(name: str, measure: Callable[[int], tuple[list[float], str]]) -> None:
        cells, note, figures = [], "", {}
        for threads in (1, cores):
            rates, note = measure(threads)
            figures[str(threads)] = rates
            cells.append(f"{statistics.median(rates):.2f} ({min(rates):.2f}..{max(rates):.2f})" if rates else "-")
        result["rows"][name] = {"rates": figures, "note": note}
        print(f"{name:44}{cells[0]:>24}{cells[1]:>24}  {note}", flush=True)

    row("memcpy", lambda threads: (copying(threads, options.rounds), ""))
    row("adding up the words, as the suite does", lambda threads: (summing(threads, options.rounds), ""))
    row("preadv from the page cache", lambda threads: (reading(array, threads, options.rounds, False), ""))
    row("preadv from the disk, in order", lambda threads: (reading(array, threads, min(3, options.rounds), True), ""))
    for name in options.only:
        if name in ("npy", "h5-contiguous"):
            continue
        try:
            path = make_form(kind, name, directory)
            warm(files_of(path))
        except ImportError as error:
            print(f"{name:44}not measured: {error}")
            continue
        row(f"decoding {name}", lambda threads, path=path: decoding(path, threads, options.rounds))  # type: ignore[misc]
    if options.json:
        options.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
