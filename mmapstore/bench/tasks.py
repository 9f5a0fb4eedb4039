"""Tasks on a user's own data."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..formats.registry import identify, open_stored, split_inside
from ..operations.ingest.images.files import images_in_folder, looks_like_images
from ..operations.ingest.images.header import read_header
from ..plain.errors import InvalidTypeError, InvalidValueError
from .contract import Task

if TYPE_CHECKING:
    from ..batches.dataset import Dataset

_FORMS = {".npy": "npy", "HDF5": "h5-own", "Zarr": "zarr-own"}
_READ_BY_ALL = (".png", ".bmp", ".jpg", ".jpeg")  # of image files


def of_user(
    path: str | os.PathLike[str],
    *,
    labels: str | os.PathLike[str] | None = None,
    batch: int = 32,
    seed: int = 0,
    directory: str | os.PathLike[str] | None = None,
    notes: list[str] | None = None,
) -> Task:
    """Return the task on the user's own data: classification for images and with `labels`, else next-frame.

    Samples whose manifest says that they were mixed have no next frame: without `labels` they are fed alone, and `notes` say so.

    Parameters
    ----------
    path : a .npy file, an array in an HDF5 file or Zarr store ("a.h5::/frames"), with samples along its first axis; or a folder
        with a folder of JPEG, PNG or BMP files for each class
    labels : an array of one whole number for each sample, in any of these formats
    directory : where labels that are not a .npy of int64 are written as one, and where images are ingested. Needed for these alone

    Raises the errors of `mmapstore.open`; InvalidValueError and InvalidTypeError for data that not every strategy can be fed from.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.save(f"{folder}/frames.npy", np.zeros((100, 3, 8, 8), np.float32))
    ...     task = of_user(f"{folder}/frames.npy")
    ...     task.kind, task.form, task.samples, task.shape
    ('next', 'npy', 100, (3, 8, 8))
    """
    path = os.fspath(path)
    if Path(path).is_dir() and looks_like_images(path):
        if labels is not None:
            raise InvalidValueError(f"{path} is a folder of images, whose folders are the classes; leave labels={labels!r} out.")
        task = _of_images(path, batch, seed, directory)
    else:
        task = _of_array(path, labels, batch, seed, directory)
    if task.pairs < 2 * batch:
        raise InvalidValueError(
            f"{path} has {task.samples} samples; expected enough for two batches of {batch}. Ask for a smaller batch."
        )
    if task.kind == "input" and notes is not None:
        notes.append(
            f"{path} holds samples in an order that ingest mixed (its manifest says so), so no sample has a next one: the samples "
            "are fed alone, without y. Give --labels FILE to train on their classes."
        )
    return task


def _of_array(path: str, labels: Any, batch: int, seed: int, directory: Any) -> Task:
    samples = _one_array(path)
    outer, inside = split_inside(path)
    title = identify(outer).title
    if title not in _FORMS:
        raise InvalidTypeError(
            f"{path} is {title}, which most strategies of feeding Keras do not read; expected {', '.join(_FORMS)}. "
            f"Convert it first: mmapstore convert {path} data.npy"
        )
    if samples.dtype.kind not in "biuf":
        raise InvalidTypeError(f"{path} has dtype {samples.dtype}; Keras trains on bool, integers or floats.")
    stored = open_stored(outer, inside)
    if stored.shape != samples.shape:
        raise InvalidValueError(
            f"{path} is stored as {stored.shape}, and its samples do not run along the first axis (they are {samples.shape}), "
            "where every other strategy expects them. "
            f"Convert it first: mmapstore convert {path} data.npy --layout {samples.layout}"
        )
    form = "h5" if title == "HDF5" and stored.chunks is None else _FORMS[title]
    name = path if form == "npy" else stored.name
    kept = None if labels is None else _labels(os.fspath(labels), len(samples), directory, path)
    kind = "labelled" if kept is not None else "input" if samples.mixed else "next"
    return Task(kind, form, name, len(samples), samples.shape[1:], samples.dtype.name, kept, batch, seed)


def _one_array(path: str) -> Dataset:
    import mmapstore as mm

    found = mm.open(path)
    if len(found.fields) > 1:
        name = next(iter(found.fields))
        inside = os.path.join(path, f"{name}.npy") if Path(path, f"{name}.npy").exists() else f"{path}::/{name}"
        raise InvalidValueError(
            f"{path} holds the fields {', '.join(found.fields)}; expected one array. Name it, such as {inside}."
        )
    return found


def _labels(labels: str, samples: int, directory: Any, path: str) -> str:
    """Return the path of a .npy of int64 with these labels, which is written if need be."""
    found = _one_array(labels)
    if found.dtype.kind not in "iub" or found.shape[1:] not in ((), (1,)):
        raise InvalidTypeError(
            f"{labels} holds {found.dtype} of shape {found.shape}; expected one whole number for each sample, its class."
        )
    if len(found) != samples:
        raise InvalidValueError(f"{labels} has {len(found)} labels, {path} {samples} samples; expected as many of both.")
    if labels.lower().endswith(".npy") and found.dtype == np.int64 and found.shape == (samples,):
        return labels
    if directory is None:
        raise InvalidValueError(
            f"{labels} is not a .npy file of int64, shape ({samples},), and there is no directory= to write one to. Give one."
        )
    Path(directory).mkdir(parents=True, exist_ok=True)
    target = Path(directory) / "labels.npy"
    np.save(target, np.asarray(found[:]).reshape(-1).astype(np.int64))
    return str(target)


def _of_images(path: str, batch: int, seed: int, directory: Any) -> Task:
    listed = images_in_folder(path)
    if listed.labels is None:
        raise InvalidValueError(
            f"{path} holds images without a class; expected a folder in it for each class. "
            "Ingest them first, and give the result: mmapstore ingest FOLDER images.npy"
        )
    others = [name for name in listed.paths if not name.lower().endswith(_READ_BY_ALL)]
    if others:
        raise InvalidValueError(
            f"{path} holds {len(others)} images, such as {others[0]}, that Keras's loaders skip or cannot decode; expected "
            f"{', '.join(_READ_BY_ALL)}. Move them elsewhere, or convert them."
        )
    headers = [read_header(name) for name in listed.paths]
    height, width = headers[0].size  # to which images of unequal size are resized
    channels = 3 if any(header.colour or header.alpha for header in headers) else 1
    prepared = None if directory is None else str(Path(directory) / "prepared")
    return Task("images", "folder", path, len(headers), (height, width, channels), "uint8", None, batch, seed, prepared)
