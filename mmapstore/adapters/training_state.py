"""All that the next training step follows from, except its batch: variables of model, optimizers and metrics, and random states."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras.src.backend.common import global_state
from keras.src.random.seed_generator import global_seed_generator

from ..plain.errors import StateMismatchError
from ..plain.nests import leaves, pack
from .batch_shapes import with_tuples

_GENERATOR = "global_seed_generator"  # under which Keras keeps the one that layers without a seed share


def capture(model: Any, *, metrics: bool) -> dict[str, Any]:
    """Return the state of a model between two batches, as nested dicts and lists of arrays and numbers, to be written at once.

    metrics : True in mid-epoch; at an epoch's begin Keras resets them
    """
    return {
        "model": _values(model.variables),
        "optimizers": {name: _values(optimizer.variables) for name, optimizer in _optimizers(model).items()},
        "metrics": _values(model.metrics_variables) if metrics else None,
        "random": _random_states(),
    }


def restore(model: Any, state: dict[str, Any], batch: Callable[[], tuple[Any, ...]]) -> None:
    """Set a model, built and compiled as it was, to a captured state.

    `batch` reads (x,), (x, y) or (x, y, w), from which variables are made that Keras would make in the first step.
    Raises StateMismatchError, and changes nothing, if the variables are others.
    """
    wants_metrics = state["metrics"] is not None and len(model.metrics_variables) != len(state["metrics"])
    if wants_metrics or not model.built:
        made = batch()
        tensors = [keras.ops.convert_to_tensor(one) if one.dtype.kind == "S" else one for one in leaves(made)]
        model._symbolic_build(data_batch=pack(with_tuples(made), tensors))
    pairs = _paired("the model", model.variables, state["model"])
    optimizers = _optimizers(model)
    for name, values in state["optimizers"].items():
        optimizer = optimizers.get(name)
        if optimizer is None:
            raise _mismatch(f"an optimizer model.{name}", "none")
        if not optimizer.built and name == "optimizer":
            optimizer.build(model.trainable_variables)
        pairs += _paired(f"model.{name}", optimizer.variables, values)
    if state["metrics"] is not None:
        pairs += _paired("the metrics", model.metrics_variables, state["metrics"])
    for variable, value in pairs:
        variable.assign(value)
    _restore_random_states(state["random"])


def _values(variables: Sequence[Any]) -> list[Any]:
    return [np.asarray(variable) for variable in variables]


def _optimizers(model: Any) -> dict[str, Any]:
    """Return the optimizers of a model by attribute: one, or several where `train_step` is the user's own."""
    return {name: value for name, value in sorted(vars(model).items()) if isinstance(value, keras.optimizers.Optimizer)}


def _paired(whose: str, variables: Sequence[Any], values: Sequence[Any]) -> list[tuple[Any, Any]]:
    if len(variables) != len(values):
        raise _mismatch(f"{len(values)} variables of {whose}", f"{len(variables)}")
    for variable, value in zip(variables, values, strict=True):
        here = (tuple(variable.shape), keras.backend.standardize_dtype(variable.dtype))
        if here != (value.shape, value.dtype.name):
            raise _mismatch(f"{value.dtype.name} {value.shape} in {whose}", f"{here[1]} {here[0]} ({variable.path})")
    return list(zip(variables, values, strict=True))


def _mismatch(saved: str, now: str) -> StateMismatchError:
    return StateMismatchError(
        f"the checkpoint is of another model: it has {saved}, and this model {now}. Build and compile the model as it was, "
        "or give this run a directory of its own."
    )


# --- randomness ---------------------------------------------------------------------------------------------------------


def _random_states() -> dict[str, Any]:
    """Return the states of the generators of Python, NumPy, Keras and torch. Layers hold their own as variables."""
    python = random.getstate()
    found: dict[str, Any] = {"python": [python[0], list(python[1]), python[2]], "numpy": np.random.get_state(legacy=False)}
    generator = global_state.get_global_attribute(_GENERATOR)  # made when first used, from a number of Python's
    found["keras"] = None if generator is None else _values([generator.state])
    if keras.backend.backend() == "torch":
        import torch

        found["torch"] = torch.get_rng_state().numpy().copy()
        found["cuda"] = [state.cpu().numpy() for state in torch.cuda.get_rng_state_all()] if torch.cuda.is_available() else []
    return found


def _restore_random_states(states: dict[str, Any]) -> None:
    if states["keras"] is None:
        global_state.set_global_attribute(_GENERATOR, None)
    else:
        global_seed_generator().state.assign(states["keras"][0])
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))
    np.random.set_state(states["numpy"])
    if keras.backend.backend() == "torch" and "torch" in states:
        import torch

        torch.set_rng_state(torch.from_numpy(states["torch"]))
        if states["cuda"] and torch.cuda.device_count() == len(states["cuda"]):
            torch.cuda.set_rng_state_all([torch.from_numpy(state) for state in states["cuda"]])
