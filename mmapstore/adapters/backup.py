"""`mmapstore.BackupAndRestore`: a run of `fit` that may end anywhere, and goes on in a new process as if it had not."""

from __future__ import annotations

import math
import os
import re
import signal
import time
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..plain.errors import InvalidTypeError, InvalidValueError, MissingPackageError, StateMismatchError, TrainingWarning, warn_user

try:
    import keras
except ImportError as error:
    raise MissingPackageError(
        f"BackupAndRestore needs Keras and one of its backends, and importing keras failed: {error}. "
        'Install both with: pip install "mmapstore[tensorflow]"'
    ) from error

from . import training_state
from .callback_states import OtherCallbacks
from .checkpoint_files import CheckpointFiles
from .stop_signals import StopSignals

if TYPE_CHECKING:
    from ..batches.batch_source import BatchSource

_SECONDS = {"s": 1.0, "min": 60.0, "h": 3600.0}


class BackupAndRestore(keras.callbacks.Callback):  # type: ignore[misc]
    """A `keras.callbacks.BackupAndRestore` that restores the position in the data too: a resumed run is the uninterrupted one.

    A checkpoint holds the variables of the model, of its optimizers and metrics, the states of the generators of random numbers
    (Python's, NumPy's, Keras's, torch's), the position in the batches, and the states of the other callbacks: EarlyStopping,
    ReduceLROnPlateau, ModelCheckpoint, SwapEMAWeights, CSVLogger, History, and each that has `state_dict()` and
    `load_state_dict(state)`. `fit` with the same callback in a new process goes on with the next batch: the epoch ends, validation
    runs and schedules step where they would have. On CPU the two runs are equal bit for bit, on TensorFlow after
    `tf.config.experimental.enable_op_determinism()`.

    SIGTERM and SIGUSR1 are answered with a checkpoint after the batch that is being trained on; then `fit` returns, without
    validation and end of epoch, and handlers that were there before are put back and called. `stopped_by` is the signal's name
    then, None otherwise.

    Checkpoints are files `checkpoint-00000001.npz` and so on, written beside, synced and renamed; the last two are kept. A damaged
    one is reported, and the one before it used. One that cannot be written (full disk) is reported, and training goes on.

    Pass `shuffle=False` to `fit` with `to_keras()`, so that Keras trains in the order of the batches, and validation data that are
    the same in each epoch: batches without `shuffle`, `balance` and `sampling_weight`. Randomness that no generator above holds
    (`tf.random` in a layer, a generator of your own) is not restored; a transform's `rng` follows from the position. All callbacks
    are told the numbers of batches in the epoch, in a resumed epoch too: Keras's progress bar and `tqdm.keras.TqdmCallback` go on
    where they were.

    Parameters
    ----------
    backup_dir : directory of the checkpoints of this run, made when first needed
    save_freq : "epoch" for each epoch's end; a number of batches; a time such as "30s", "10min" or "2h"; False for signals alone
    double_checkpoint : keep the last two checkpoints, not one
    delete_checkpoint : delete the checkpoints when `fit` has trained all it was asked for
    batches : the batches that `fit` is fed from, through `to_keras()` or `to_tf()`

    Raises
    ------
    StateMismatchError : `fit` is fed from other batches, or the checkpoint is of other data, another order or another model
    DamagedFileError : none of the checkpoints can be read

    Example
    -------
        b = train.batches(32, target="label", shuffle=True, seed=0)
        backup = mm.BackupAndRestore("run/", batches=b, save_freq="10min")
        model.fit(b.to_keras(), epochs=20, shuffle=False, callbacks=[backup])
        if backup.stopped_by:
            raise SystemExit(f"stopped by {backup.stopped_by}; the same command goes on")
    """

    def __init__(
        self,
        backup_dir: Any,
        save_freq: Any = "epoch",
        double_checkpoint: bool = True,
        delete_checkpoint: bool = True,
        *,
        batches: BatchSource,
    ) -> None:
        super().__init__()
        if not backup_dir:
            raise InvalidValueError(
                f"Empty `backup_dir` argument passed: {backup_dir!r}. Expected a directory for the checkpoints."
            )
        if not all(hasattr(batches, name) for name in ("cursor", "begin", "state_at", "load_state_dict")):
            raise InvalidTypeError(
                f"batches={type(batches).__name__} has no position to save; expected the Batches that Dataset.batches() returned, "
                "and fit() fed from their to_keras() or to_tf()."
            )
        self._every, self._seconds = _frequency(save_freq)
        self._batches, self._delete = batches, bool(delete_checkpoint)
        self._files = CheckpointFiles(Path(backup_dir), keep=2 if double_checkpoint else 1)
        self._signals = StopSignals()
        self.stopped_by: str | None = None

    # --- what Keras calls ---------------------------------------------------------------------------------------------

    def set_params(self, params: dict[str, Any]) -> None:
        """Look for the other callbacks; `fit` calls this when it has made its list of callbacks."""
        super().set_params(params)
        self._others = OtherCallbacks(self)
        if self._files.numbered():
            self._others.keep_logs()

    def on_train_begin(self, logs: Any = None) -> None:
        self.stopped_by = None
        self._resumed: dict[str, Any] | None = None  # in mid-epoch, until its next batch
        self._since = 0  # batches trained on since the last checkpoint
        self._written_at = time.monotonic()
        self._cut = False  # an epoch was broken off
        found = self._files.newest()
        if found is not None:
            self._restore(*found)
        self._require_own_batches()
        cursor = self._batches.cursor
        cursor.move_to(*cursor.next)  # Keras may have looked at a batch, to build the model: no batch was handed out yet
        first = self._place_of(cursor.next)
        self._step = self._first = first % self._steps  # batches of this Keras epoch that were trained on, now and before it began
        self._place = first - self._step  # of the first batch of this Keras epoch
        self._signals.start()
        if self._others.list is not None:
            # A `fit` that raises calls no callback any more. Its list of callbacks ends with it.
            weakref.finalize(self._others.list, self._signals.end).atexit = False

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._model._initial_epoch = None  # Keras has read it, and would begin the next `fit` there too
        self._epoch = epoch
        if self._first:
            self._others.count_from(self._step)

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._resumed is not None:
            # Other callbacks, and torch's DataLoader by a random number, changed states when this epoch began, as they had
            # done before the checkpoint.
            self._restore_state(self._resumed)
            self._resumed = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # Of several steps in one execution Keras tells the number of the last, which may be past the end, or (3.8) of the first.
        execution = int(self._model.steps_per_execution)
        done = self._first + ((batch - self._first) // execution + 1) * execution
        trained = min(done, self._steps) - self._step
        self._step += trained
        self._since += trained
        if self._step - trained == self._first:
            self._require_pass()
        if self._step == self._steps:
            # The end of the epoch is about to be saved, with what validation and the others make of it.
            if self._first:
                # Keras would ask for a batch more, which there is not: with a warning, and on TensorFlow with half a training step.
                self._others.end_epoch_early()
                self._batches.cursor.move_to(*divmod(self._place + self._steps, len(self._batches)))
        elif self._signals.received is not None:
            self._save()
            self._stop()
            self._others.intercept("on_epoch_end", lambda *told: None)  # the epoch has not ended: a resumed run ends it
        elif self._model.stop_training:
            self._cut = True
            if all(math.isfinite(value) for value in (logs or {}).values() if isinstance(value, float)):
                self._save()  # not where TerminateOnNaN stopped
        elif self._is_due():
            self._save()

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        if self.stopped_by:
            self._model.stop_evaluating = True

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._others.as_ever()
        if self._step < self._steps:
            return
        self._place += self._steps
        self._epoch, self._step, self._first = epoch + 1, 0, 0
        if self._every == "epoch" or self._signals.received is not None or self._is_due():
            self._save()
        if self._signals.received is not None:
            self._stop()

    def on_train_end(self, logs: Any = None) -> None:
        self._others.as_ever()
        self._model._initial_epoch = None
        if self._delete and not self._cut and not self.stopped_by:
            self._files.delete()
        handler = self._signals.end()
        if self._signals.received is not None:
            if not self.stopped_by:  # it came when there was nothing left to stop
                os.kill(os.getpid(), self._signals.received)
            elif handler is not None:
                handler(self._signals.received, None)

    # --- position -----------------------------------------------------------------------------------------------------

    @property
    def _steps(self) -> int:
        """Batches in a Keras epoch."""
        return int(self.params.get("steps") or len(self._batches))

    def _place_of(self, position: tuple[int, int]) -> int:
        """Return the number of a batch in the row of all epochs."""
        return position[0] * len(self._batches) + position[1]

    def _require_own_batches(self) -> None:
        """Raise StateMismatchError where `fit` is fed from another source than these batches, as far as its iterator tells."""
        sequence = getattr(self._others.data_adapter, "py_dataset", None)
        if sequence is not None and getattr(sequence, "batches", None) is not self._batches:
            raise StateMismatchError(
                f"fit() is fed from {sequence!r}, and the checkpoints are to be of {self._batches!r}. "
                "Give BackupAndRestore the batches whose to_keras() or to_tf() fit() gets."
            )
        if sequence is not None and self._others.data_adapter.shuffle:
            raise StateMismatchError(
                "fit() permutes the batches, and a position in their order would not tell which of them were trained on. "
                "Pass shuffle=False to fit(); the batches themselves may be shuffled."
            )

    def _require_pass(self) -> None:
        """Raise StateMismatchError unless the first batch of this epoch is of a pass over these batches, from the right place."""
        cursor, first = self._batches.cursor, self._place + self._first
        if self._place_of(cursor.position) <= first or self._place_of(cursor.latest) != first:
            places = (divmod(first, len(self._batches)), cursor.latest, cursor.position)
            expected, began, reached = (f"epoch {epoch}, batch {batch}" for epoch, batch in places)
            raise StateMismatchError(
                f"fit() was to train from {expected} of {self._batches!r}. Their latest pass began with {began}, and has come to "
                f"{reached}: fit() is fed from other batches, or something else iterates over these. Give BackupAndRestore the "
                "batches whose to_keras() or to_tf() fit() gets, not to_tf(epochs=), and validation batches of its own."
            )

    # --- saving and restoring -----------------------------------------------------------------------------------------

    def _is_due(self) -> bool:
        if self._seconds is not None:
            return time.monotonic() - self._written_at >= self._seconds
        return isinstance(self._every, int) and self._since >= self._every

    def _save(self) -> None:
        place = divmod(self._place + self._step, len(self._batches))
        state = {
            "version": 1,
            "data": self._batches.state_at(*place),
            "epoch": self._epoch,
            "step": self._step,
            "steps": self._steps,
            "whole epochs": self._steps == len(self._batches),
            "training": training_state.capture(self.model, metrics=self._step > 0),
            "callbacks": self._others.capture(),
        }
        self._since, self._written_at = 0, time.monotonic()
        try:
            self._files.write(state)
        except OSError as error:
            warn_user(
                f"The checkpoint after {self._step} of {self._steps} batches of epoch {self._epoch + 1} cannot be written: "
                f"{error}. Training goes on, and the checkpoint before it is kept. Free space, or check the disk, before the next.",
                TrainingWarning,
            )

    def _restore(self, path: Path, saved: dict[str, Any]) -> None:
        are_whole = bool(saved.get("whole epochs")) and self._steps == len(self._batches)
        if saved["steps"] != self._steps and not are_whole:
            raise StateMismatchError(
                f"{path} is of a run with {saved['steps']} batches in a Keras epoch, and this one has {self._steps}. "
                "Pass the same steps= to to_keras(), or give this run a directory of its own."
            )
        self._batches.load_state_dict(saved["data"])
        if not are_whole and self._batches.cursor.next != divmod(self._place_of(_place_in(saved["data"])), len(self._batches)):
            raise StateMismatchError(
                f"{path} is of batches of another size, or of another number of workers, which go on where a Keras epoch is a "
                "whole epoch of the batches. Leave out steps= in both runs, or make the batches as they were."
            )
        self._epoch, self._step = saved["epoch"], saved["step"]
        self._restore_state(saved)
        if are_whole and self._step and self._batches.cursor.next[1] == 0:  # other workers left no sample for each of these
            self._epoch, self._step = self._epoch + 1, 0
        self._model._initial_epoch = self._epoch
        if self._step:
            self._resumed = saved

    def _restore_state(self, saved: dict[str, Any]) -> None:
        training_state.restore(self.model, saved["training"], self._batches.begin(*self._batches.cursor.next))
        self._others.restore(saved["callbacks"])

    def _stop(self) -> None:
        assert self._signals.received is not None
        self.stopped_by = signal.Signals(self._signals.received).name
        self._model.stop_training = True
        warn_user(
            f"Training was stopped by {self.stopped_by} after {self._step} of {self._steps} batches of epoch {self._epoch + 1}. "
            "The same call of fit() in a new process goes on from there.",
            TrainingWarning,
        )


def _place_in(state: dict[str, Any]) -> tuple[int, int]:
    return state["epoch"], state["batch"]


def _frequency(save_freq: Any) -> tuple[Any, float | None]:
    """Return "epoch", a number of batches or None; and the seconds between two checkpoints or None."""
    if save_freq == "epoch":
        return "epoch", None
    if save_freq is False:
        return None, None
    if isinstance(save_freq, int) and save_freq is not True and save_freq > 0:
        return save_freq, None
    time_given = re.fullmatch(r"(\d+(?:\.\d+)?) ?(s|min|h)", save_freq) if isinstance(save_freq, str) else None
    if time_given and float(time_given[1]) > 0:
        return None, float(time_given[1]) * _SECONDS[time_given[2]]
    raise InvalidValueError(
        f"Invalid value for argument `save_freq`: {save_freq!r}. Expected 'epoch', a number of batches, "
        "a time such as '30s', '10min' or '2h', or False for signals alone."
    )
