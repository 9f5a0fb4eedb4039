"""Checkpoints of a training run: files of one directory, each written whole or not at all, the last ones kept."""

from __future__ import annotations

import contextlib
import json
import os
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..files.durable_writes import replace
from ..plain.errors import DamagedFileError, InvalidTypeError, TrainingWarning, warn_user

_NAME = re.compile(r"checkpoint-(\d{8,})\.npz")
_STATE = "state.json"
_ARRAY = "<array>"


class CheckpointFiles:
    """The files `checkpoint-00000001.npz`, `checkpoint-00000002.npz` ... of a directory.

    Each is an archive of NumPy: `state.json`, as bytes, and the arrays that it names. Its CRC-32 of each part and its table of
    contents at the end show damage and half files.
    """

    def __init__(self, directory: Path, keep: int) -> None:
        self._directory, self._keep = directory, keep
        self._good: list[Path] = []  # those that were read or written whole, the newest last

    def numbered(self) -> dict[int, Path]:
        """Return the checkpoints by number, the oldest first."""
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            found = {
                int(match[1]): self._directory / match[0] for match in map(_NAME.fullmatch, os.listdir(self._directory)) if match
            }
            return dict(sorted(found.items()))
        return {}

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """Return the newest checkpoint that can be read and its state; None if there is none. Warns of each that is damaged.

        Raises DamagedFileError if all are damaged: a program does not decide to begin anew.
        """
        there, damage = list(self.numbered().values())[::-1], []
        for path in there:
            try:
                state = _read(path)
            except Exception as error:  # zipfile, NumPy and json raise many kinds for damaged bytes
                damage.append(f"{path} is damaged or half written ({type(error).__name__}: {error})")
                continue
            for text in damage:
                warn_user(f"{text}; the checkpoint before it is used, {path.name}.", TrainingWarning)
            self._good = [path]
            return path, state
        if damage:
            raise DamagedFileError(
                f"{'; '.join(damage)}. There is no other checkpoint. "
                f"Delete the directory {self._directory} to train from the beginning."
            )
        return None

    def write(self, state: dict[str, Any]) -> Path:
        """Write a checkpoint: nested dicts and lists of numbers, strings and arrays. Older ones than the last are deleted then.

        Raises OSError, and leaves no part of the file, when it cannot be written.
        """
        there = self.numbered()
        path = self._directory / f"checkpoint-{max(there, default=0) + 1:08d}.npz"
        temporary = path.with_suffix(".tmp")
        arrays: dict[str, Any] = {}
        text = json.dumps(state, default=partial(_stored, arrays))
        arrays[_STATE] = np.frombuffer(text.encode(), np.uint8)
        self._directory.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        self._good = [*self._good, path][-self._keep :]
        for old in there.values():
            if old not in self._good:
                with contextlib.suppress(OSError):
                    old.unlink()
        return path

    def delete(self) -> None:
        """Delete all checkpoints, and the directory if there is nothing else in it."""
        for path in [*self.numbered().values(), *self._directory.glob("checkpoint-*.tmp")]:
            path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._directory.rmdir()
        self._good = []


def _stored(arrays: dict[str, Any], value: Any) -> dict[str, str]:
    """Put an array, or a number of NumPy's, among the `arrays`; return its name as JSON."""
    if not isinstance(value, (np.ndarray, np.generic)) or value.dtype.hasobject:
        raise InvalidTypeError(
            f"a state to save holds {value!r}, a {type(value).__name__}; expected dicts and lists of numbers, strings and arrays. "
            "Return these from state_dict() of the callback."
        )
    name, array = f"array{len(arrays)}", np.asarray(value)
    if array.dtype.kind != "V":
        arrays[name] = array
        return {_ARRAY: name}
    # Types that NumPy does not have itself, such as bfloat16, are stored as their bytes.
    arrays[name] = np.asarray(array, order="C").view(np.dtype((np.void, array.dtype.itemsize)))
    return {_ARRAY: name, "dtype": array.dtype.name}


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        damaged = archive.zip.testzip()
        if damaged is not None:
            raise ValueError(f"the checksum of {damaged} does not match")

        def found(value: dict[str, Any]) -> Any:
            if _ARRAY not in value:
                return value
            array = archive[value[_ARRAY]]
            return array.view(np.dtype(value["dtype"])) if "dtype" in value else array

        state: dict[str, Any] = json.loads(archive[_STATE].tobytes(), object_hook=found)
        return state
