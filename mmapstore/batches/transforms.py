"""Calling the function given as `transform=`, and making a batch of what it returns."""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ..plain.errors import InvalidTypeError, InvalidValueError, TransformError
from ..plain.nests import leaves

Transform = Callable[..., Any]


def generator_of(seed: int, epoch: int, batch: int, shard: int = 0) -> np.random.Generator:
    """Return the generator that a transform with a parameter `rng` gets for a batch: always the same for the same numbers.

    Its PCG64 is seeded, by NumPy's SeedSequence, with the 16 bytes of BLAKE2b of the text "seed epoch batch shard" as a whole
    number, the lowest first.

    >>> generator_of(0, 3, 14).integers(100, size=3).tolist()
    [9, 46, 69]
    """
    key = hashlib.blake2b(f"{seed} {epoch} {batch} {shard}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(int.from_bytes(key, "little"))))


class BatchTransform:
    """A function given as `transform=`, of as many `parts` as batches have; errors of calls name it and the batch.

    Its parameter `rng`, if it has one, gets the generator of `seed`, epoch, batch and `shard`. Raises InvalidTypeError for a
    function that cannot be called so.
    """

    def __init__(self, function: Transform, parts: int, seed: int, shard: int) -> None:
        wanted = ", ".join("xyw"[:parts])
        if not callable(function):
            raise InvalidTypeError(f"transform={function!r} cannot be called; expected a function of ({wanted}).")
        self._function = function
        self._parts = parts
        self._seed = seed
        self._shard = shard
        self.name = _name_of(function)
        self.takes_rng = False
        try:
            signature = inspect.signature(function)
        except (TypeError, ValueError):
            return  # written in C, and says nothing of its parameters
        rng = signature.parameters.get("rng")
        self.takes_rng = rng is not None and rng.kind in (rng.POSITIONAL_OR_KEYWORD, rng.KEYWORD_ONLY)
        try:
            signature.bind(*"xyw"[:parts], **({"rng": None} if self.takes_rng else {}))
        except TypeError as error:
            raise InvalidTypeError(
                f"transform={self.name} has the parameters {signature}, but batches have the parts ({wanted}): {error}. Expected a "
                f"function of ({wanted}), or of ({wanted}, *, rng), which gives it a random generator."
            ) from error

    def __call__(self, parts: tuple[Any, ...], epoch: int, batch: int, which: Callable[[], str]) -> tuple[Any, ...]:
        """Return the parts that the function makes of those of a batch, which `which` names for errors.

        Raises TransformError where the function raises; InvalidTypeError or InvalidValueError where it returns no batch of as many
        samples.
        """
        keywords = {"rng": generator_of(self._seed, epoch, batch, self._shard)} if self.takes_rng else {}
        try:
            made = self._function(*parts, **keywords)
            found = made if self._parts > 1 and isinstance(made, tuple) else (made,)
            arrays = tuple(map(_as_arrays, found))
        except Exception as error:
            # StopIteration too: let through, it would end an epoch without a word.
            raise TransformError(
                f"transform={self.name} raised {type(error).__name__}: {error}, for {which()}. Expected it to work for every "
                "batch, in any order and from any thread; compute from what it is given alone."
            ) from error
        if made is None or (self._parts > 1 and not (isinstance(made, tuple) and len(made) in (2, 3))):
            expected = "x" if self._parts == 1 else "the tuple (x, y) or (x, y, w)"
            raise InvalidTypeError(f"transform={self.name} returned {_said(made)} for {which()}; expected {expected}.")
        samples = len(leaves(parts)[0])
        for array in leaves(arrays):
            if array.dtype.kind == "O":
                raise InvalidTypeError(
                    f"transform={self.name} returned Python objects (or arrays of different lengths in one list) for {which()}; "
                    "expected arrays of numbers or bytes, or tuples, lists and dicts of them."
                )
            if array.ndim == 0 or len(array) != samples:
                raise InvalidValueError(
                    f"transform={self.name} returned an array of shape {array.shape} for {which()}; expected {samples} samples "
                    "along its first axis, as it was given. Return one entry for each sample; leave samples out with ds.select."
                )
        return arrays


def _name_of(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", None)
    return name if isinstance(name, str) else type(function).__qualname__


def _said(made: Any) -> str:
    if made is None:
        return "None (is a return missing?)"
    return f"a {type(made).__name__} of {len(made)}" if isinstance(made, (tuple, list)) else type(made).__name__


def _as_arrays(nest: Any) -> Any:
    """Return the nest with NumPy arrays as leaves. A list of numbers, one for each sample, is one array."""
    if isinstance(nest, Mapping):
        return {str(name): _as_arrays(part) for name, part in nest.items()}
    if not isinstance(nest, (tuple, list)) or all(isinstance(part, (int, float, str, bytes, np.generic)) for part in nest):
        found = np.asarray(nest)
        return np.char.encode(found, "utf-8") if found.dtype.kind == "U" else found
    parts = [_as_arrays(part) for part in nest]
    return parts if isinstance(nest, list) else tuple(parts)
