"""The errors and warnings of mmapstore. Each error is an MmapstoreError, and also the built-in that fits it.

Every text says what was found, what was expected, where, and what to do next.
"""

import sys
import warnings
from types import FrameType

_NOT_THE_USERS = {"mmapstore", "keras", "tensorflow", "tqdm"}  # packages whose frames a warning passes over


class MmapstoreError(Exception):
    """Base of every error raised by mmapstore on purpose."""

    def __str__(self) -> str:
        # KeyError and OSError would quote or number the text; ours is written to be read as it is.
        return str(self.args[0]) if len(self.args) == 1 else super().__str__()


class NotFoundError(MmapstoreError, FileNotFoundError):
    """No file, directory or pattern match under that name."""


class NotReadableError(MmapstoreError, PermissionError):
    """The file exists, and may not be read by whoever asks."""


class KeyNotFoundError(MmapstoreError, KeyError):
    """The container exists; the dataset, group or field named inside it does not."""


class InvalidValueError(MmapstoreError, ValueError):
    """An argument, or a combination of arguments, that cannot be meant."""


class InvalidTypeError(MmapstoreError, TypeError):
    """An object or dtype that no array dataset can hold, or a use that would read everything."""


class NotAnArrayError(InvalidTypeError, AttributeError):
    """Batches or a dataset were used as an array, which would read everything; the text has the line to write instead."""


class NoClassNamesError(MmapstoreError, AttributeError):
    """A dataset has labels without names, or no labels; the text says where names come from."""


class OutOfRangeError(MmapstoreError, IndexError):
    """A sample or batch number past the end."""


class DamagedFileError(MmapstoreError, OSError, ValueError):
    """Truncated, corrupt, or not what its suffix says."""


class UnsafeFileError(MmapstoreError, PermissionError):
    """A file that points outside itself, or declares more than it holds."""


class LockedFileError(MmapstoreError, BlockingIOError):
    """Another program holds the file, or its file system refuses locks."""


class TargetExistsError(MmapstoreError, FileExistsError):
    """Writing would replace something that exists."""


class ReadError(MmapstoreError, OSError):
    """The system cannot read it now, though nothing is wrong with the file: too many open files, no memory."""


class WriteError(MmapstoreError, OSError):
    """The target cannot be written: permission, full disk, I/O error."""


class MemoryBudgetError(MmapstoreError, MemoryError):
    """The predicted memory is over `max_memory`; nothing was started."""


class MissingPackageError(MmapstoreError, ImportError):
    """An optional package is needed and absent; the text names the extra to install."""


class StateMismatchError(MmapstoreError, ValueError):
    """A saved position belongs to other data or to another order."""


class TransformError(MmapstoreError, RuntimeError):
    """The function given as `transform` raised for a batch, which the text names; `__cause__` is what it raised."""


class SlowAccessWarning(UserWarning):
    """Data is read in a way that costs many times what it needs to; the text says how many, and what to change."""


class SourceWarning(UserWarning):
    """A part of a source is not taken, or the source is understood in one of several ways; the text says how to change that."""


class PackedValuesWarning(SourceWarning):
    """Stored numbers that stand for others, or for none, are taken as they are; the text says how to have their values."""


class LabelWarning(UserWarning):
    """Labels or groups with which training may go wrong without a word: a class is missing from a part, labels are floats, whole
    groups do not fit the parts asked for."""


class AugmentationWarning(UserWarning):
    """Training waits for augmented rounds, or their samples repeat; the text says what to change."""


class TrainingWarning(UserWarning):
    """A checkpoint could not be written or read, or a control file was not followed; training goes on, and the text says how."""


def warn_user(text: str, category: type[Warning]) -> None:
    """Warn at the line of the user's code that led here, through `fit` of a framework too.

    With Python 3.12 as the oldest version, `warnings.warn(skip_file_prefixes=)` replaces this function.
    """
    level = 1
    frame: FrameType | None = sys._getframe()
    while frame is not None and str(frame.f_globals.get("__name__")).partition(".")[0] in _NOT_THE_USERS:
        level, frame = level + 1, frame.f_back
    warnings.warn(text, category, stacklevel=level if frame is not None else 2)
