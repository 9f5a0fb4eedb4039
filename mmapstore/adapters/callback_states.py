"""The other callbacks of a `fit`: their states, and the numbers of batches that they get."""

from __future__ import annotations

import os
import sys
import weakref
from collections.abc import Callable
from typing import Any

import keras

from ..plain.errors import TrainingWarning, warn_user

# The attributes that hold the state of Keras's callbacks, by class.
_KEPT = {
    "EarlyStopping": ("best", "best_epoch", "best_weights", "stopped_epoch", "wait"),
    "ReduceLROnPlateau": ("best", "cooldown_counter", "wait"),
    "ModelCheckpoint": ("best", "_batches_seen_since_last_saving", "_last_batch_seen"),
    "SwapEMAWeights": ("_ema_weights_in_model",),
    "History": ("epoch", "history"),
}


class OtherCallbacks:
    """The callbacks that run beside `callback` in one call of `fit`."""

    def __init__(self, callback: Any) -> None:
        self._own = callback
        self._list: Callable[[], Any] = lambda: None
        self._epochs: Callable[[], Any] = lambda: None
        self._appending: list[Any] = []
        # A callback does not know the others, nor the data. Each call of `fit` makes one list of callbacks, whose
        # `set_params` is the caller here, and before it, one iterator over epochs. Both end with their `fit`.
        frame: Any = sys._getframe(2)
        while frame is not None and self._epochs() is None:
            found = frame.f_locals.get("self")
            if self.list is not None:
                epochs = frame.f_locals.get("epoch_iterator")
                self._epochs = self._epochs if epochs is None else weakref.ref(epochs)
            elif isinstance(found, keras.callbacks.CallbackList) and any(one is callback for one in found.callbacks):
                self._list = weakref.ref(found)
                # Last: a checkpoint holds what the others made of the same batch or epoch. The list that is just walked stays.
                found.callbacks = [*(one for one in found.callbacks if one is not callback), callback]
            frame = frame.f_back

    @property
    def list(self) -> Any:
        """Keras's list of callbacks; None outside of `fit` and after it."""
        return self._list()

    @property
    def data_adapter(self) -> Any:
        """Keras's adapter of the data that `fit` is fed from; None if it is not known."""
        return getattr(self._epochs(), "data_adapter", None)

    def _named(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for one in self.list.callbacks if self.list is not None else ():
            if one is not self._own:
                kind = type(one).__name__
                found[f"{kind} {sum(name.startswith(f'{kind} ') for name in found)}"] = one
        return found

    def capture(self) -> dict[str, Any]:
        """Return the states of callbacks that have one; a user's own have `state_dict()`."""
        return {name: state for name, one in self._named().items() if (state := _state_of(one)) is not None}

    def restore(self, states: dict[str, Any]) -> None:
        """Give each callback its state; warns of a state whose callback `fit` was not given."""
        here = self._named()
        for name, state in states.items():
            if name in here:
                _set_state(here[name], state)
            else:
                warn_user(
                    f"The checkpoint has a state of the callback {name.rpartition(' ')[0]}, which fit() was not given; "
                    "training goes on without it. Pass the callbacks of the interrupted run to go on exactly.",
                    TrainingWarning,
                )

    def keep_logs(self) -> None:
        """Let each CSVLogger open its file without emptying it, when training begins."""
        for one in self._named().values():
            if isinstance(one, keras.callbacks.CSVLogger) and not one.append:
                one.append = True
                self._appending.append(one)

    def count_from(self, batch: int) -> None:
        """Tell all callbacks numbers of batches that begin with `batch` in this epoch, not with 0 as Keras counts."""
        for name in ("on_train_batch_begin", "on_train_batch_end"):
            self.intercept(name, lambda told, number, logs=None: told(number + batch, logs))
        for one in self._named().values():
            bar = getattr(one, "batch_bar", None)  # tqdm.keras.TqdmCallback counts the calls
            if bar is not None:
                bar.n = bar.last_print_n = bar.initial = batch

    def end_epoch_early(self) -> None:
        """Let Keras end the running epoch after this batch, and go on with validation and the next epoch as ever.

        Keras ends an epoch after its number of batches. Where the number is unknown, or given by `steps_per_epoch`, Keras leaves
        its loop for one flag alone, which is taken back before others look.
        """
        epochs, model = self._epochs(), self._own._model
        if epochs is None or model.stop_training:
            return
        if getattr(epochs, "_num_batches", None) and not epochs.steps_per_epoch:
            epochs._steps_seen = epochs._num_batches
            return
        model.stop_training = True

        def ended(told: Any, *arguments: Any) -> None:
            model.stop_training = False
            epochs.data_adapter.on_epoch_end()  # which Keras leaves out where training stops
            told(*arguments)

        self.intercept("on_epoch_end", ended)

    def intercept(self, name: str, function: Callable[..., Any]) -> None:
        """Call `function(told, ...)` where Keras calls this method of its list; `told(...)` tells all callbacks."""
        own = self._list  # weak: the list is to end with its `fit`
        if own() is not None:
            vars(own())[name] = lambda *told: function(getattr(type(own()), name).__get__(own()), *told)

    def as_ever(self) -> None:
        """Undo `keep_logs`, `count_from` and `intercept`."""
        while self._appending:
            self._appending.pop().append = False
        if self.list is not None:
            for name in ("on_train_batch_begin", "on_train_batch_end", "on_epoch_end"):
                vars(self.list).pop(name, None)


def _state_of(callback: Any) -> Any:
    if hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict"):
        return callback.state_dict()
    if isinstance(callback, keras.callbacks.CSVLogger):
        file = callback.csv_file
        if file is None or file.closed or not os.path.isfile(callback.filename):
            return None
        file.flush()
        os.fsync(file.fileno())
        return {"keys": callback.keys, "nbytes": os.path.getsize(callback.filename)}
    for kind, names in _KEPT.items():
        known = getattr(keras.callbacks, kind, None)
        if known is not None and isinstance(callback, known):
            return {name: getattr(callback, name) for name in names if hasattr(callback, name)}
    return None


def _set_state(callback: Any, state: Any) -> None:
    if hasattr(callback, "load_state_dict"):
        callback.load_state_dict(state)
    elif isinstance(callback, keras.callbacks.CSVLogger):
        have = os.path.getsize(callback.filename)
        if have < state["nbytes"]:
            warn_user(
                f"{callback.filename} has {have} bytes, and had {state['nbytes']} at the checkpoint: rows are missing. "
                "Training goes on, and rows are appended.",
                TrainingWarning,
            )
        else:
            os.truncate(callback.filename, state["nbytes"])  # rows of epochs after the checkpoint, which come again
        callback.keys, callback.append_header = state["keys"], state["nbytes"] == 0
    else:
        for name, value in state.items():
            setattr(callback, name, value)
