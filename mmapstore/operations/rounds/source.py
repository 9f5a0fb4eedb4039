"""A round as a source that `ingest` writes: drawn originals with one field augmented, the others copied."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from ...batches.dataset import Dataset
from ...plain.array_spec import DEFAULT_LAYOUTS, ArraySpec, checked_dtype
from ...plain.draws import Balance
from ...plain.errors import InvalidTypeError, InvalidValueError, TransformError
from ...plain.sample_order import SampleOrder, Shuffling
from ..ingest.contract import Piece, Position
from ..ingest.sources import stamp

Array = np.ndarray[Any, np.dtype[Any]]
Function = Callable[[Array, np.random.Generator], Any]
WINDOW_BYTES = 32 * 2**20  # of samples that are mixed, and held in memory, at a time
ATTEMPTS = 8  # to make a sample that differs from the others of its original
ORIGINAL, DUPLICATE = "original", "duplicate"
_DIGEST_NBYTES = 200  # of one digest in a list of Python's


class Round(NamedTuple):
    """The samples of one round, in order."""

    samples: Array  # the number of each one's original
    repeats: Array  # the number of samples of the same original before each
    ends: list[int]  # one past the last position of each window; originals of one window lie in a few runs of the source


class RoundOrder:
    """Draws `samples_per_class` samples of each class for each round.

    Within a class, uses differ by at most one in a round and over all rounds: a class with enough originals has each at most
    once in a round. With `validation`, each original is drawn at least once, so a class with more than `samples_per_class`
    originals has them all.

    Parameters
    ----------
    codes : the class of each original, small unsigned integers; each class has at least one
    sample_nbytes : of an original or of what is made of it, the larger
    """

    def __init__(
        self, codes: np.ndarray[Any, Any], samples_per_class: int, seed: int, sample_nbytes: int, validation: bool = False
    ) -> None:
        members = np.bincount(codes).tolist()
        self.counts = [max(samples_per_class, count) if validation else samples_per_class for count in members]
        self._rule = Balance(codes, self.counts, seed)
        shuffling = Shuffling.of(max(2, WINDOW_BYTES // max(1, sample_nbytes)), sample_nbytes)
        digest = hashlib.blake2b(f"mmapstore rounds 1: seed {seed}".encode(), digest_size=8).digest()
        self._order = SampleOrder(len(self), shuffling, int.from_bytes(digest, "little"))

    def __len__(self) -> int:
        """Samples in a round."""
        return sum(self.counts)

    @property
    def most_repeats(self) -> float:
        """The samples of a round that are made of one original of the rarest class, on average."""
        return max(self._rule.repeats)

    @property
    def window(self) -> int:
        """The most samples in a window."""
        return self._order.largest_window()[0]

    @property
    def nbytes(self) -> int:
        """Bytes of memory: the classes of all originals, and a round's numbers while they are worked out and kept."""
        return self._rule.nbytes + 8 * len(self._rule) + 48 * len(self)

    def draw(self, number: int) -> Round:
        """Return round `number`. Takes time linear in the originals and in the samples of a round."""
        uses = np.concatenate([np.asarray(piece, np.int64) for piece in self._rule.uses(number)])
        drawn = np.repeat(np.arange(len(uses)), uses)  # in stored order, as the numbers of the order stand for them
        samples = drawn[self._order.anchors_at(number, 0, len(self))]
        by_sample = np.argsort(samples, kind="stable")
        repeats = np.empty_like(samples)
        repeats[by_sample] = np.arange(len(samples)) - np.repeat(np.cumsum(uses) - uses, uses)
        ends = [0]
        while ends[-1] < len(self):
            ends.append(self._order.window_at(number, ends[-1]).stop)
        return Round(samples, repeats, ends[1:])


@dataclass
class RoundSource:
    """The samples of one round. Keeps the contract of ingest's sources.

    Beside the fields of the dataset a round has `original`, the number of the sample that each was made of, and `duplicate`, true
    for a sample that equals an earlier one of the same original.
    """

    dataset: Dataset
    augmented: str  # name of the field that is augmented
    augmentation: Augmentation
    order: RoundOrder
    number: int
    description: Mapping[str, Any]  # small JSON that all rounds of one directory have in common
    notes: Mapping[str, Mapping[str, Any]]
    gives_from_any_sample: bool = field(default=True, init=False)

    @property
    def name(self) -> str:
        return f"round {self.number} of {self.dataset.name}"

    @property
    def specs(self) -> dict[str, ArraySpec]:
        found = {name: reader.spec for name, reader in self.dataset.readers.items()}
        found[self.augmented] = self.augmentation.spec
        found.setdefault(ORIGINAL, ArraySpec((0,), np.dtype(np.int64), "N"))
        found.setdefault(DUPLICATE, ArraySpec((0,), np.dtype(np.bool_), "N"))
        return {name: replace(spec, shape=(self.guess, *spec.sample_shape)) for name, spec in found.items()}

    @property
    def samples(self) -> int:
        return len(self.order)

    @property
    def guess(self) -> int:
        return len(self.order)

    @property
    def paths(self) -> list[str]:
        readers = list(self.dataset.readers.values())
        return [path for reader in readers for path in reader.files]

    @property
    def fingerprint(self) -> dict[str, Any]:
        return {"kind": "round", "round": self.number, **self.description, "files": stamp(self.paths)}

    def memory(self, at_most: int) -> dict[str, int]:
        window = self.order.window
        readers = self.dataset.readers
        made = self.augmentation.spec.sample_nbytes
        read = sum(reader.spec.sample_nbytes for reader in readers.values())
        copied = read - readers[self.augmented].spec.sample_nbytes
        return {
            "originals of a window": window * read,
            "augmented samples of a window": window * (made + copied),
            "sample under way": 2 * (made + read),
            "decoder": sum(reader.scratch_nbytes for reader in self.dataset.readers.values()),
            "order of the round": self.order.nbytes + _DIGEST_NBYTES * len(self.order),
        }

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        drawn, augmentation = self.order.draw(self.number), self.augmentation
        repeated = np.bincount(drawn.samples, minlength=len(self.dataset)) > 1
        known: dict[int, list[bytes]] = {}  # digests of the repeats of originals that the round holds more than once
        at = after.samples
        for end in drawn.ends:
            if end <= at:
                continue
            samples, repeats = drawn.samples[at:end], drawn.repeats[at:end]
            originals, place = np.unique(samples, return_inverse=True)
            fields: dict[str, Array] = self.dataset[originals]
            positions = np.split(np.argsort(place, kind="stable"), np.cumsum(np.bincount(place))[:-1])
            window = np.empty((end - at, *augmentation.spec.sample_shape), augmentation.spec.dtype)
            duplicates = np.zeros(end - at, np.bool_)
            for original, array, where in zip(originals.tolist(), fields[self.augmented], positions, strict=True):
                make = partial(augmentation.make, self.number, original, array)
                if not repeated[original]:
                    make(int(repeats[where[0]]), None, window[where[0]])
                    continue
                digests = known.setdefault(original, [])
                # After a resumed write the digests of earlier repeats are not known: these are made once more.
                for repeat in range(len(digests), int(repeats[where[0]])):
                    digests.append(make(repeat, digests, np.empty_like(window[0])))
                for position, repeat in zip(where.tolist(), repeats[where].tolist(), strict=True):
                    digest = make(repeat, digests, window[position])
                    duplicates[position] = digest in digests
                    digests.append(digest)
            copied = {name: array[place] for name, array in fields.items() if name != self.augmented}
            made: dict[str, Array] = {ORIGINAL: samples, DUPLICATE: duplicates, **copied, self.augmented: window}
            for start in range(0, end - at, at_most):
                part = {name: made[name][start : start + at_most] for name in self.specs}
                yield Piece(part, (0,) if at + start == 0 else ())
            at = end


# --- calls of the function --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Augmentation:
    """An augmenting function and the spec of its samples."""

    function: Function
    seed: int
    spec: ArraySpec
    keeps_originals: bool  # repeat 0 is the original as it is

    @classmethod
    def of(cls, function: Function, seed: int, first: Array, source: ArraySpec, keeps_originals: bool) -> Augmentation:
        """Call the function with the first original. Raises InvalidTypeError or InvalidValueError for an unfit result."""
        where = f"fn({source.sample_shape} {source.dtype}, rng)"
        made = _called(function, first, _generator(seed, 0, 0, 0, 0), "sample 0")
        if made.dtype.kind == "O":
            what = "None (is a return missing?)" if made.shape == () and made[()] is None else "no array of numbers"
            raise InvalidTypeError(f"{where} returned {what}; expected the augmented sample, an array of numbers.")
        dtype = checked_dtype(made.dtype, f"what {where} returned").newbyteorder("=")
        if keeps_originals and (made.shape != source.sample_shape or dtype != source.dtype):
            raise InvalidValueError(
                f"{where} returned {made.shape} {dtype}; validation=True stores originals as they are beside it, so expected the "
                "same shape and dtype. Crop, scale and cast in the model or with transform=."
            )
        layout = source.layout if made.ndim == len(source.sample_shape) else DEFAULT_LAYOUTS.get(made.ndim + 1)
        if layout is None or not made.ndim or not made.size:
            raise InvalidValueError(f"{where} returned an array of shape {made.shape}; expected 1 to 4 axes, none of length 0.")
        return cls(function, seed, ArraySpec((0, *made.shape), dtype, layout), keeps_originals)

    def make(self, number: int, sample: int, original: Array, repeat: int, others: Sequence[bytes] | None, out: Array) -> bytes:
        """Make a repeat of an original for round `number` in `out`, and return a digest of it.

        `others` are the digests of earlier repeats, from which up to `ATTEMPTS` calls try to make it differ; None for an original
        that the round holds once, which needs no digest.
        """
        if self.keeps_originals and repeat == 0:
            out[...] = original
            return b"" if others is None else _digest(out)
        where = f"sample {sample} (repeat {repeat} in round {number})"
        digest = b""
        for attempt in range(1 if others is None else ATTEMPTS):
            made = _called(self.function, original, _generator(self.seed, number, sample, repeat, attempt), where)
            if made.shape != self.spec.sample_shape or made.dtype.newbyteorder("=") != self.spec.dtype:
                raise InvalidValueError(
                    f"fn returned {made.shape} {made.dtype} for {where}; expected {self.spec.sample_shape} {self.spec.dtype}, as "
                    "for the first sample. Let it return one shape and dtype, whatever it draws from rng."
                )
            out[...] = made
            if others is None or (digest := _digest(out)) not in others:
                break
        return digest


def _called(function: Function, original: Array, rng: np.random.Generator, where: str) -> Array:
    try:
        return np.asarray(function(np.array(original), rng))  # its own copy, which it may change
    except Exception as error:
        found = TransformError(
            f"fn raised {type(error).__name__} for {where}: {error}. Correct fn, then run again: the round resumes there."
        )
        found.add_note("".join(traceback.format_exception(error)[-3:]).rstrip())
        raise found from error


def _digest(sample: Array) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(sample).reshape(-1).view(np.uint8).data, digest_size=16).digest()


def _generator(seed: int, number: int, sample: int, repeat: int, attempt: int) -> np.random.Generator:
    text = f"mmapstore rounds 1: seed {seed} round {number} sample {sample} repeat {repeat} attempt {attempt}"
    entropy = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=16).digest(), "little")
    return np.random.Generator(np.random.PCG64(entropy))
