"""From the names of a chain's codecs to one decoder."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..plain.codecs import Chain, Codec
from .bitshuffle import Unbitshuffle
from .blosc import Unblosc
from .checksums import Checksum32, Fletcher32
from .codec import Bytes, CorruptChunk, NoDecoder, Step, check_size
from .deflate import Inflate
from .lz4 import Hdf5Lz4, Hdf5Lzf, NumcodecsLz4
from .shuffle import Unshuffle
from .streams import Streams, Unxz
from .szip import unszip
from .zstd import Unzstd

Settings = Mapping[str, Any]

_STEPS: dict[str, Callable[[Settings], Step]] = {
    "zlib": lambda settings: Inflate("zlib"),
    "gzip": lambda settings: Inflate("gzip"),
    "bzip2": lambda settings: Streams(),
    "zstd": lambda settings: Unzstd(),
    "blosc": lambda settings: Unblosc(),
    "numcodecs-lz4": lambda settings: NumcodecsLz4(),
    "lzma": Unxz,
    "hdf5-lz4": lambda settings: Hdf5Lz4(),
    "szip": unszip,
    "hdf5-bitshuffle": lambda settings: Unbitshuffle(
        _positive(settings, "itemsize"), settings.get("block_size", 0), settings.get("compression", "none")
    ),
    "lzf": lambda settings: Hdf5Lzf(),
    "shuffle": lambda settings: Unshuffle(_positive(settings, "itemsize")),
    "numcodecs-shuffle": lambda settings: Unshuffle(_positive(settings, "elementsize", 4)),
    "fletcher32": lambda settings: Fletcher32(),
    "crc32c": lambda settings: Checksum32("crc32c", settings.get("location") or "end"),
    "crc32": lambda settings: Checksum32("crc32", settings.get("location") or "start"),
    "adler32": lambda settings: Checksum32("adler32", settings.get("location") or "start"),
}


def decoder_for(chain: Chain, dtype: np.dtype[Any], chunk: tuple[int, ...]) -> tuple[ChainDecoder | None, str]:
    """Return a decoder for chunks of shape `chunk`, and ""; or None, and the reason, in words for `info`.

    `dtype` is that of the decoded elements. The decoder pickles.

    >>> chain = (Codec("shuffle", {"itemsize": 4}), Codec("zlib"))
    >>> decoder, why = decoder_for(chain, np.dtype("<f4"), (2, 3))
    >>> import zlib
    >>> values = np.arange(6, dtype="<f4").reshape(2, 3)
    >>> shuffled = values.view(np.uint8).reshape(6, 4).T.tobytes()
    >>> out = np.empty(24, np.uint8)
    >>> decoder.decode(np.frombuffer(zlib.compress(shuffled), np.uint8), out)
    >>> out.view("<f4").tolist()
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    >>> decoder_for((Codec("nbit"),), np.dtype("u2"), (8,))
    (None, "no decoder outside the format's own library for nbit")
    """
    if dtype.hasobject:
        return None, f"elements of {dtype} have no fixed size"
    try:
        return ChainDecoder(chain, math.prod(chunk) * dtype.itemsize), ""
    except NoDecoder as why:
        return None, str(why)


def _positive(settings: Settings, name: str, default: int | None = None) -> int:
    given = settings.get(name, default)
    if not isinstance(given, int) or given < 1:
        raise NoDecoder(f"a shuffle with {name}={given!r}, which is not a number of bytes")
    return given


def _step(codec: Codec) -> Step:
    make = _STEPS.get(codec.name)
    if make is None:
        raise NoDecoder(f"no decoder outside the format's own library for {codec.name}")
    return make(codec.settings)


class _Move(NamedTuple):
    """One step of a plan: how many bytes come out of it (-1: unknown), and which scratch buffer takes them (-1: `out` does)."""

    step: Step
    nbytes: int
    slot: int


class _Plan(NamedTuple):
    """`moves` in the order of decoding; `stored` is the number of bytes they start from, None where only the bytes tell."""

    moves: tuple[_Move, ...]
    stored: int | None


class ChainDecoder:
    """Undoes the codecs of a chain one after the other, the last one straight into the caller's buffer where it can.

    Any number of threads may call its methods at once. Intermediate bytes go to two buffers for each call under way, which are
    kept for later calls. `scratch_nbytes` bounds the memory that one call takes beside `stored` and `out`; `own_nbytes` of it are
    malloc's, which keeps them for the thread that called.
    """

    def __init__(self, chain: Chain, nbytes: int) -> None:
        self._chain, self._nbytes = chain, nbytes
        self._steps = [_step(codec) for codec in chain]
        self._scratch = deque[list[Bytes]]()  # of calls that have ended
        self._plans = {0: self._planned(0)}
        moves = self._plans[0].moves
        slots = [max([move.nbytes for move in moves if move.slot == slot and move.step.fills], default=0) for slot in (0, 1)]
        # The bytes that a step made stay while the next one reads them, so two count at once.
        own = [move.step.own_nbytes(move.nbytes) for move in moves]
        self.own_nbytes = max([sum(own[at : at + 2]) for at in range(len(own))], default=0)
        self.scratch_nbytes = sum(slots) + self.own_nbytes

    def __reduce__(self) -> tuple[Any, ...]:
        return ChainDecoder, (self._chain, self._nbytes)

    def _planned(self, skipped: int) -> _Plan:
        sized: list[tuple[Step, int]] = []
        size: int | None = self._nbytes
        for at, step in enumerate(self._steps):
            if skipped >> at & 1:
                continue
            if size is None and not step.takes_any_size:
                raise NoDecoder(f"{self._chain[at]} comes after a compressor, which leaves unknown how many bytes it was given")
            sized.append((step, -1 if size is None else size))
            size = None if size is None else step.encoded_nbytes(size)
        moves, slot = [], 0
        for step, nbytes in reversed(sized):
            moves.append(_Move(step, nbytes, slot))
            slot ^= step.fills
        if moves and moves[-1].step.fills:
            moves[-1] = moves[-1]._replace(slot=-1)
        return _Plan(tuple(moves), size)

    def _plan(self, skipped: int) -> _Plan:
        skipped &= (1 << len(self._steps)) - 1
        plan = self._plans.get(skipped)
        if plan is None:
            try:
                plan = self._planned(skipped)
            except NoDecoder as why:
                raise CorruptChunk(f"its filter mask {skipped:#b} leaves filters that cannot be undone ({why})") from why
            self._plans[skipped] = plan
        return plan

    @contextlib.contextmanager
    def _buffers(self) -> Iterator[list[Bytes]]:
        """Lend two buffers of intermediate bytes, and one of shuffled chunks: no more exist than calls were under way at once."""
        try:
            buffers = self._scratch.pop()
        except IndexError:
            buffers = [np.empty(0, np.uint8)] * 3
        try:
            yield buffers
        finally:
            self._scratch.append(buffers)

    def decode(self, stored: Bytes, out: Bytes, skipped: int = 0) -> None:
        """Fill `out`, which has exactly the bytes of one decoded chunk, from the `stored` bytes.

        `stored` may have slack behind the chunk's bytes only where the chain's last codec ends by itself. Bit i of `skipped`:
        codec i of the chain was not applied. Never writes past `out`, whatever the stored bytes claim.

        Raises CorruptChunk, in words that a message can go on with: "its checksum is 0x12, expected 0x34".
        """
        plan = self._plan(skipped)
        if plan.stored is not None and len(stored) != plan.stored:
            raise CorruptChunk(f"it has {len(stored)} stored bytes, expected {plan.stored}")
        if len(out) != self._nbytes:
            raise ValueError(f"a buffer of {len(out)} bytes for a chunk of {self._nbytes}")
        with self._buffers() as buffers:
            found = self._undone(stored, plan.moves, out, buffers)
            if found is not out:
                out[:] = found

    def _undone(self, stored: Bytes, moves: tuple[_Move, ...], out: Bytes, buffers: list[Bytes]) -> Bytes:
        found = stored
        for step, nbytes, slot in moves:
            if step.fills and slot >= 0 and len(buffers[slot]) < nbytes:
                buffers[slot] = np.empty(nbytes, np.uint8)
            target = buffers[slot][:nbytes] if step.fills and slot >= 0 else out
            found = step.undo(found, nbytes, target)
            if nbytes >= 0:
                check_size(len(found), nbytes)
        return found

    def decode_part(self, stored: Bytes, start: int, stop: int, out: Bytes, skipped: int = 0) -> bool:
        """Fill `out` with bytes [start, stop) of the decoded chunk; return False where all would cost about as much."""
        return not skipped and len(self._steps) == 1 and self._steps[0].undo_part(stored, self._nbytes, start, stop, out)

    @property
    def joins(self) -> bool:
        """True if `decode_joined` can do anything: frames of zstd are decoded by one call, or shuffled bytes are by one call."""
        first = self._steps[0] if len(self._steps) > 1 else None
        return self.joins_neighbours or (isinstance(first, Unshuffle) and self._nbytes % first.itemsize == 0)

    @property
    def joins_neighbours(self) -> bool:
        """True if pieces have to follow one another."""
        return len(self._steps) == 1 and isinstance(self._steps[0], Unzstd)

    def joined_nbytes(self, chunks: int) -> int:
        """Return the bytes of memory that `decode_joined` takes for so many chunks beside those of `scratch_nbytes`."""
        nbytes = chunks * self._nbytes
        return nbytes + self._steps[0].own_nbytes(nbytes) if self.joins and not self.joins_neighbours else 0

    def decode_joined(self, stored: Bytes, pieces: Sequence[tuple[int, int]], out: Bytes) -> bool:
        """Fill `out` with chunks, all of whose codecs were applied: chunk k is stored in [begin, end), the k-th piece.

        False where that cannot be done, or one of them is damaged: `decode` then says why. `out` may be changed all the same.
        """
        step = self._steps[0]
        if isinstance(step, Unzstd):
            return step.undo_joined(stored, pieces, self._nbytes, out)
        assert isinstance(step, Unshuffle)
        plan, nbytes = self._plans[0], len(pieces) * self._nbytes
        moves = (*plan.moves[:-2], plan.moves[-2]._replace(slot=-1))
        with self._buffers() as buffers:
            if len(buffers[2]) < nbytes:
                buffers[2] = np.empty(nbytes, np.uint8)
            rows = buffers[2][:nbytes].reshape(len(pieces), -1)
            try:
                for row, (begin, end) in zip(rows, pieces, strict=True):
                    if plan.stored not in (None, end - begin):
                        return False
                    found = self._undone(stored[begin:end], moves, row, buffers)
                    if found is not row:
                        row[:] = found
            except CorruptChunk:
                return False
            step.undo_rows(rows, out.reshape(len(pieces), -1))
        return True
