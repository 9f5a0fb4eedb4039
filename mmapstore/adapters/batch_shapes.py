"""The structure and shapes of batches, which TensorFlow is given beforehand and does not check."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..plain.errors import InvalidValueError
from ..plain.nests import leaves, pack

if TYPE_CHECKING:
    from ..batches.batch_source import BatchSource

Kind = tuple[Any, tuple["int | None", ...]]  # dtype and shape of an array; None for any length


class BatchShapes:
    """The structure, dtypes and shapes of a first batch, `made`, which all others must have.

    `length` is that of the first axis of all arrays, where every batch is full; None for any.
    """

    def __init__(self, batches: BatchSource, made: tuple[Any, ...], length: int | None = None) -> None:
        self._batches = batches
        self.structure = with_tuples(made)
        self._kinds = [(array.dtype, (length, *array.shape[1:])) for array in leaves(made)]

    def widen(self, made: tuple[Any, ...], epoch: int, batch: int) -> None:
        """Allow any length where a second batch has another one than the first, as Keras does."""
        arrays = leaves(made)
        for number, (array, (dtype, shape)) in enumerate(zip(arrays, self._kinds, strict=False)):
            if len(shape) == array.ndim:
                pairs = zip(shape, array.shape, strict=True)
                self._kinds[number] = dtype, tuple(had if had == has else None for had, has in pairs)
        self.require(made, epoch, batch)

    def require(self, made: tuple[Any, ...], epoch: int, batch: int) -> None:
        """Raise InvalidValueError, which names the batch, unless TensorFlow was given its shapes."""
        arrays = leaves(made)
        if with_tuples(made) == self.structure and all(map(_fits, arrays, self._kinds)):
            return
        name, transform = self._batches.named(epoch, batch), self._batches.transform_name
        found, expected = _in_words(made, [(array.dtype, array.shape) for array in arrays]), _in_words(self.structure, self._kinds)
        raise InvalidValueError(
            f"{name[0].upper()}{name[1:]} has arrays of {found}; expected, as in the first batch, {expected}. "
            f"Let transform={transform or ''} return the same structure, shapes and dtypes for each batch."
        )


def with_tuples(nest: Any) -> Any:
    """Return the structure of a nest, 0 for each leaf, with tuples for lists: tf.data takes a list for the values of one tensor."""
    if isinstance(nest, Mapping):
        return {name: with_tuples(part) for name, part in nest.items()}
    return tuple(map(with_tuples, nest)) if isinstance(nest, (tuple, list)) else 0


def _fits(array: Any, kind: Kind) -> bool:
    dtype, shape = kind
    return (
        (array.dtype == dtype or array.dtype.kind == dtype.kind == "S")  # text of any width is tf.string
        and array.ndim == len(shape)
        and all(want is None or have == want for have, want in zip(array.shape, shape, strict=True))
    )


class _Said(str):
    """Text that is printed as it is, also inside of tuples and dicts."""

    def __repr__(self) -> str:
        return str(self)


def _in_words(nest: Any, kinds: list[Kind]) -> str:
    said = pack(nest, [_Said(f"{dtype} {shape}".replace("None", "any")) for dtype, shape in kinds])
    return ", ".join(map(str, said))
