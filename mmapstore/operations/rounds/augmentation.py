"""Calls of the augmenting function: each sample a pure function of (seed, round, original, repeat), whichever process makes it."""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...plain.array_spec import DEFAULT_LAYOUTS, ArraySpec, checked_dtype
from ...plain.errors import InvalidTypeError, InvalidValueError, TransformError

Array = np.ndarray[Any, np.dtype[Any]]
Function = Callable[[Array, np.random.Generator], Any]
ATTEMPTS = 8  # to make a sample that differs from the others of its original


class Job(NamedTuple):
    """Repeats [first, stop) of one original in a round, to be made."""

    sample: int  # number of the original
    original: Array
    first: int
    stop: int
    is_repeated: bool  # the round holds more than one sample of this original
    known: Sequence[bytes]  # digests of the repeats before `first`, as far as they are known


class Made(NamedTuple):
    """The result of a job."""

    samples: Array  # (stop - first, *sample shape)
    duplicates: list[bool]  # True for each that equals an earlier one
    digests: list[bytes]  # of all repeats from 0 on


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

    def make(self, number: int, job: Job) -> Made:
        """Make the samples of a job for round `number`; those of one original differ, if `ATTEMPTS` calls can make them so."""
        digests = list(job.known)
        samples = np.empty((job.stop - job.first, *self.spec.sample_shape), self.spec.dtype)
        duplicates = []
        # After a resumed write the digests of earlier repeats are not known: these are made once more.
        for repeat in range(len(digests) if job.is_repeated else job.first, job.stop):
            out = samples[max(0, repeat - job.first)]
            digest = self._make_one(number, job, repeat, digests, out)
            if repeat >= job.first:
                duplicates.append(digest in digests)
            if job.is_repeated:
                digests.append(digest)
        return Made(samples, duplicates, digests)

    def _make_one(self, number: int, job: Job, repeat: int, others: Sequence[bytes], out: Array) -> bytes:
        """Fill `out`, and return a digest of it; of an original that the round holds once, nothing."""
        if self.keeps_originals and repeat == 0:
            out[...] = job.original
            return _digest(out) if job.is_repeated else b""
        where = f"sample {job.sample} (repeat {repeat} in round {number})"
        for attempt in range(ATTEMPTS if job.is_repeated else 1):
            made = _called(self.function, job.original, _generator(self.seed, number, job.sample, repeat, attempt), where)
            if made.shape != self.spec.sample_shape or made.dtype.newbyteorder("=") != self.spec.dtype:
                raise InvalidValueError(
                    f"fn returned {made.shape} {made.dtype} for {where}; expected {self.spec.sample_shape} {self.spec.dtype}, as "
                    "for the first sample. Let it return one shape and dtype, whatever it draws from rng."
                )
            out[...] = made
            digest = _digest(out) if job.is_repeated else b""
            if not job.is_repeated or digest not in others:
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
