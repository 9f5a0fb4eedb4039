"""`Batches` as JAX arrays, on one device or sharded over many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ..plain.errors import InvalidTypeError, InvalidValueError, MissingPackageError
from ..plain.nests import map_leaves

if TYPE_CHECKING:
    from ..batches.batch_epochs import BatchEpochs


class JaxArrays:
    """Batches of `jax.Array`. Made by `Batches.to_jax()`; each iteration is a pass, as a loop over the batches is.

    Elements are x, (x, y) or (x, y, w) of the batches. JAX makes 32-bit numbers of 64-bit ones unless `jax_enable_x64` is set.

    Parameters
    ----------
    sharding : None for the default device; a `jax.sharding.Sharding`; or a `jax.sharding.Mesh`, over whose first axis the samples
        of each batch are divided. With several processes each gives its own batches (`shard=`), and arrays are those of all

    Raises
    ------
    InvalidTypeError : another `sharding`; while iterating, text: JAX has no arrays of it
    InvalidValueError : a batch size, or a last batch, that does not divide among the devices
    MissingPackageError : JAX is not installed
    """

    def __init__(self, batches: BatchEpochs, sharding: Any = None) -> None:
        try:
            import jax
        except ImportError as error:
            raise MissingPackageError(f"to_jax() needs JAX, and importing it failed: {error}. Install jax.") from error
        if isinstance(sharding, jax.sharding.Mesh):
            sharding = jax.sharding.NamedSharding(sharding, jax.sharding.PartitionSpec(sharding.axis_names[0]))
        if sharding is not None and not isinstance(sharding, jax.sharding.Sharding):
            raise InvalidTypeError(
                f"sharding={sharding!r} is not understood; expected a jax.sharding.Mesh, a jax.sharding.Sharding, or None."
            )
        self.batches, self.sharding, self._jax = batches, sharding, jax
        if sharding is not None:
            self._require_divisible(sharding)

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Any]:
        return map(self._put, iter(self.batches))

    def _put(self, batch: Any) -> Any:
        return map_leaves(self._array, batch)

    def _array(self, array: Any) -> Any:
        if array.dtype.kind == "S":
            raise InvalidTypeError(
                "batches hold text, and JAX has no arrays of text. Make numbers of it in transform=, with a tokeniser; or leave "
                "the field out of inputs= and target=."
            )
        if self.sharding is None or self.sharding.is_fully_addressable:
            return self._jax.device_put(array, self.sharding)
        return self._jax.make_array_from_process_local_data(self.sharding, array)

    def _require_divisible(self, sharding: Any) -> None:
        here = self.batches.batch_size
        processes = len({device.process_index for device in sharding.device_set})
        for length in sorted(self.batches.batch_sizes, reverse=True):
            cure = "Choose another batch_size." if length == here else "Leave the last batch out with drop_last=True."
            # Of the shape of a sample nothing is known here: a sharding of further axes is left to JAX.
            if isinstance(sharding, self._jax.sharding.NamedSharding) and len(sharding.spec) == 1:
                try:
                    sharding.shard_shape((length * processes,))
                except ValueError as error:
                    raise InvalidValueError(
                        f"a batch of {length * processes} samples does not divide among the {sharding.num_devices} devices of "
                        f"{sharding}. {cure}"
                    ) from error
