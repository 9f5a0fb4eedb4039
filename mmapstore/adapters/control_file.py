"""`mmapstore.ControlFile`: a small JSON file by which a person, or another program, steers a run of `fit` while it trains."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..plain.errors import InvalidTypeError, InvalidValueError, MissingPackageError, TrainingWarning, warn_user

try:
    import keras
except ImportError as error:
    raise MissingPackageError(
        f"ControlFile needs Keras and one of its backends, and importing keras failed: {error}. "
        'Install both with: pip install "mmapstore[tensorflow]"'
    ) from error

_LARGEST = 2**16  # bytes of a control file
_OWN = ("stop", "learning_rate")


class ControlFile(keras.callbacks.Callback):  # type: ignore[misc]
    """A callback that follows a JSON file: stop training, set the learning rate, set attributes; at the end of a batch.

    The file holds one object, such as `{"stop": true}` or `{"learning_rate": 1e-4, "noise": 0.2}`. It is read when it has changed,
    parsed as data, checked, and followed as a whole or not at all: a broken one is reported once, with the reason, and ignored.
    Without the file nothing happens. A value is set once for each change of the file, so that schedules go on from it.

    A compiled training step reads a plain Python attribute when it is traced, and never again. So an attribute of a layer must be a
    `keras.Variable` (or a variable of TensorFlow), unless the model trains with `run_eagerly=True`, or on torch without
    `jit_compile`. Attributes of other objects, such as a transform, are for whoever reads them at each batch.

    Parameters
    ----------
    path : the JSON file; it need not exist yet. Write another file and rename it over this one, so that no half of it is read
        A file that stays there steers the next run as well: delete it after `"stop": true`
    attributes : objects by the name of the attribute that the file may set: `{"noise": layer}` is for `layer.noise`. Numbers,
        booleans and strings are set as they are; for a variable a number, or nested lists of its shape

    Raises
    ------
    InvalidValueError, InvalidTypeError : there is no such attribute, or none that setting would have an effect on

    Example
    -------
        class Noisy(keras.layers.Layer):
            def __init__(self):
                super().__init__()
                self.noise = self.add_weight(shape=(), initializer="zeros", trainable=False)

        model.fit(b.to_keras(), shuffle=False, callbacks=[mm.ControlFile("control.json", attributes={"noise": layer})])
    """

    def __init__(self, path: Any, attributes: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self._path = Path(path)
        self._attributes = dict(attributes or {})
        for name, owner in self._attributes.items():
            if name in _OWN:
                raise InvalidValueError(f"attributes={{{name!r}: ...}}: a control file has {name!r} already. Rename the attribute.")
            if not hasattr(owner, name):
                raise InvalidValueError(f"attributes={{{name!r}: ...}}: {type(owner).__name__} has no attribute {name!r} to set.")
            value = getattr(owner, name)
            if not _is_variable(value) and not isinstance(value, (bool, int, float, str)):
                raise InvalidTypeError(
                    f"attributes={{{name!r}: ...}}: {type(owner).__name__}.{name} is a {type(value).__name__}; "
                    "expected a variable, a number, a boolean or a string."
                )
        self._followed = ""  # the text that was followed last
        self._seen: tuple[int, ...] | None = None

    def on_train_begin(self, logs: Any = None) -> None:
        self._seen = None
        compiled = not self._model.run_eagerly and (keras.backend.backend() != "torch" or bool(self._model.jit_compile))
        for name, owner in self._attributes.items():
            if compiled and isinstance(owner, keras.layers.Layer) and not _is_variable(getattr(owner, name)):
                raise InvalidTypeError(
                    f"{type(owner).__name__}.{name} is a plain {type(getattr(owner, name)).__name__}, which a compiled training "
                    f"step reads once. Make it a variable, self.{name} = self.add_weight(shape=(), trainable=False), "
                    "or compile the model with run_eagerly=True."
                )

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        try:
            found = os.stat(self._path)
        except OSError:
            return  # no file, or none just now
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen == self._seen:
            return
        self._seen = seen
        try:
            text = self._read(found.st_size)
            if text != self._followed:
                self._follow(_parsed(text))
                self._followed = text
        except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
            warn_user(
                f"The control file {self._path} is ignored: {error} Training goes on as before; correct the file.", TrainingWarning
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the text that was followed last: a resumed run does not follow it again."""
        return {"followed": self._followed}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self._followed = state["followed"]

    def _read(self, nbytes: int) -> str:
        if nbytes > _LARGEST:
            raise ValueError(f"it has {nbytes} bytes; expected {_LARGEST} at most.")
        return self._path.read_bytes()[: _LARGEST + 1].decode("utf-8")

    def _follow(self, values: dict[str, Any]) -> None:
        """Check everything, then set everything."""
        unknown = sorted(set(values) - set(_OWN) - set(self._attributes))
        if unknown:
            known = ", ".join(map(repr, [*_OWN, *self._attributes]))
            raise ValueError(f"it sets {', '.join(map(repr, unknown))}; expected some of {known}.")
        stop = values.pop("stop", False)
        if not isinstance(stop, bool):
            raise ValueError(f'"stop" is {stop!r}; expected true or false.')
        rate, optimizer = values.pop("learning_rate", None), self._model.optimizer
        if rate is not None:
            rate = _number("learning_rate", rate)
            if rate < 0:
                raise ValueError(f'"learning_rate" is {rate}; expected 0 or more.')
            schedule = getattr(getattr(optimizer, "inner_optimizer", optimizer), "_learning_rate", None)
            if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule):
                raise ValueError(f'"learning_rate" is given by the {type(schedule).__name__} of the optimizer.')
        made = {name: _value_for(name, getattr(self._attributes[name], name), value) for name, value in values.items()}
        model = self.model if rate is not None or made else self._model  # on JAX, brings variables up to date
        if rate is not None:
            model.optimizer.learning_rate = rate
        for name, value in made.items():
            have = getattr(self._attributes[name], name)
            if _is_variable(have):
                have.assign(value)
            else:
                setattr(self._attributes[name], name, value)
        if stop:
            model.stop_training = True


def _is_variable(value: Any) -> bool:
    return isinstance(value, keras.Variable) or (hasattr(value, "assign") and hasattr(value, "shape") and hasattr(value, "dtype"))


def _parsed(text: str) -> dict[str, Any]:
    def refused(word: str) -> Any:
        raise ValueError(f"it has {word}, which is no number of JSON.")

    try:
        values = json.loads(text, parse_constant=refused)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f'it holds {type(values).__name__}; expected an object, such as {{"stop": true}}.')
    return values


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError(f'"{name}" is {value!r}; expected a finite number.')
    return float(value)


def _value_for(name: str, have: Any, value: Any) -> Any:
    """Return `value` as it is set in place of `have`. Raises ValueError if it is of another kind."""
    if not _is_variable(have):
        if isinstance(have, float):
            return _number(name, value)
        if type(value) is not type(have):
            raise ValueError(f'"{name}" is {value!r}; expected a {type(have).__name__}, as {have!r} is.')
        return value
    dtype = np.dtype(keras.backend.standardize_dtype(have.dtype))
    array = np.asarray(value)
    if array.shape != tuple(have.shape) or array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(f'"{name}" is {value!r}; expected finite numbers of shape {tuple(have.shape)}.')
    with np.errstate(over="ignore", invalid="ignore"):
        made = array.astype(dtype)
    if (dtype.kind in "biu" and not (made == array).all()) or not np.isfinite(made.astype(np.float64)).all():
        raise ValueError(f'"{name}" is {value!r}, which {dtype} cannot hold.')
    return made
