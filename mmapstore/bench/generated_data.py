"""Generated data: frames, labelled samples, folders of images. Written block by block, in any size, and kept.

Values are smooth waves that move, with a little noise: about half of them is left by gzip after shuffle, and a JPEG of them has the
size of one of a photograph.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..files.durable_writes import remove, replace, sync_data, write_text_atomically
from ..files.system_errors import explaining_write_errors
from ..formats.registry import split_inside
from ..plain.errors import InvalidValueError, MissingPackageError
from ..plain.memory_budget import format_bytes
from .checksum import RECORD
from .contract import Task

Array = np.ndarray[Any, np.dtype[Any]]
DTYPES = {"next": "float32", "labelled": "uint8", "images": "uint8"}
_SHAPES = {"next": (3, 50, 50), "labelled": (3, 64, 64), "images": (128, 128, 3)}
_CLASSES = 10
_BLOCK = 16 << 20  # bytes made and written at a time
_CHUNK = 2_000_000  # bytes in a chunk of HDF5 and Zarr, about
_KEY = "/data"
_COMPRESSED = {"h5": None, "h5-gzip": "gzip", "zarr": None, "zarr-zstd": "zstd"}


def generated(
    kind: str, form: str, nbytes: int, directory: str | os.PathLike[str], seed: int = 0, batch: int = 32, dtype: str | None = None
) -> Task:
    """Return a task on `nbytes` of data (a little less: whole samples), written below `directory` unless the data exist there.

    Samples of "next" are float32 (3, 50, 50), of "labelled" uint8 (3, 64, 64) in 10 classes, or of another `dtype`, and of
    "images" JPEGs of 128 x 128 pixels. HDF5 and Zarr are converted from the .npy, which is made too.

    Raises InvalidValueError for data too small for two batches; WriteError.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     task = generated("next", "npy", 3_000_000, folder)
    ...     np.load(task.path).shape, task.samples, task.pairs
    ((100, 3, 50, 50), 100, 99)
    """
    task = planned(kind, form, nbytes, directory, seed, batch, dtype)
    samples, shape, chosen = task.samples, task.shape, np.dtype(task.dtype)
    home = Path(split_inside(task.path)[0]).parent
    sample = task.nbytes // samples
    with explaining_write_errors(home):
        home.mkdir(parents=True, exist_ok=True)
        if not (home / RECORD).exists():
            write_text_atomically(home / RECORD, json.dumps({}))
    labels = np.random.default_rng(seed).integers(0, _CLASSES, samples)
    path = home / "data.npy"
    if kind == "images":
        _keep(home / "images", lambda partial: _write_images(partial, shape, labels, seed))
    else:
        blocks = _blocks(shape, chosen, labels if kind == "labelled" else None, samples, seed)
        _keep(path, lambda partial: _write_npy(partial, (samples, *shape), chosen, blocks))
    if kind == "labelled":
        _keep(home / "labels.npy", lambda partial: _write_npy(partial, labels.shape, labels.dtype, iter([labels])))
    if form in _COMPRESSED and not Path(split_inside(task.path)[0]).exists():
        import mmapstore as mm

        chunked: dict[str, Any] = {} if form == "h5" else {"chunk_samples": max(1, _CHUNK // sample)}
        mm.convert(str(path), task.path, compression=_COMPRESSED[form] or "none", progress=False, **chunked)
    return task


def planned(
    kind: str, form: str, nbytes: int, directory: str | os.PathLike[str], seed: int = 0, batch: int = 32, dtype: str | None = None
) -> Task:
    """Return the task of `generated` for the same arguments, and write nothing.

    >>> planned("next", "h5-gzip", 3_000_000, "data").path
    'data/next-float32-100-seed0/h5-gzip.h5::/data'
    """
    shape, chosen = _SHAPES[kind], np.dtype(dtype or DTYPES[kind])
    sample = int(np.prod(shape)) * chosen.itemsize
    samples = nbytes // sample
    if samples < 2 * batch:
        raise InvalidValueError(
            f"{format_bytes(nbytes)} are {samples} samples of {format_bytes(sample)}; expected enough for two batches of {batch}, "
            f"{format_bytes(2 * batch * sample)}. Ask for more data, or for a smaller batch."
        )
    home = Path(directory) / f"{kind}-{chosen.name}-{samples}-seed{seed}"
    name = {"npy": "data.npy", "folder": "images"}.get(form) or f"{form}.{form.split('-')[0]}::{_KEY}"
    labels = str(home / "labels.npy") if kind == "labelled" else None
    prepared = str(home / "prepared") if kind == "images" else None
    return Task(kind, form, f"{home}/{name}", samples, shape, chosen.name, labels, batch, seed, prepared)


def _keep(path: Path, write: Callable[[Path], None]) -> None:
    """Call `write` for a path that does not exist; the path appears whole or not at all."""
    if path.exists():
        return
    partial = path.with_name(f"{path.name}.partial")
    with explaining_write_errors(path):
        remove(partial)
        write(partial)
        replace(partial, path)


def _write_npy(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any], blocks: Iterator[Array]) -> None:
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": dtype.str, "fortran_order": False, "shape": shape})
        for block in blocks:
            block.tofile(file)
        file.flush()
        sync_data(file.fileno())


def _write_images(folder: Path, shape: tuple[int, ...], labels: Array, seed: int) -> None:
    """Write JPEGs in a folder for each class, "a" to "j"; each class has its own waves."""
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingPackageError(
            f'Making images needs Pillow ({error}). Install it with: pip install "mmapstore[images]"'
        ) from error
    height, width, channels = shape
    for number in range(_CLASSES):
        (folder / chr(ord("a") + number)).mkdir(parents=True)
    done = 0
    for block in _blocks((channels, height, width), np.dtype("uint8"), labels, len(labels), seed):
        for sample in block:
            name = folder / chr(ord("a") + int(labels[done])) / f"{done:07d}.jpg"
            Image.fromarray(np.ascontiguousarray(sample.transpose(1, 2, 0))).save(name, quality=90)
            done += 1


def _blocks(shape: tuple[int, ...], dtype: np.dtype[Any], labels: Array | None, samples: int, seed: int) -> Iterator[Array]:
    """Yield all samples, (some, *shape) at a time; each class has its own waves."""
    random = np.random.default_rng(seed)
    kinds = [waves(shape, random) for _ in range(1 if labels is None else _CLASSES)]
    step = max(1, _BLOCK // (int(np.prod(shape)) * 4))
    for start in range(0, samples, step):
        numbers = np.arange(start, min(start + step, samples))
        values = np.empty((len(numbers), int(np.prod(shape))), np.float32)
        which = np.zeros(len(numbers), np.int64) if labels is None else labels[numbers]
        for kind in np.unique(which):
            basis, speeds = kinds[kind]
            at = np.outer(numbers[which == kind], speeds)
            values[which == kind] = np.concatenate([np.cos(at), np.sin(at)], axis=1).astype(np.float32) @ basis
        values += random.standard_normal(values.shape, np.float32) * np.float32(0.003)
        # Floats are rounded so that codecs find what they find in measured data.
        scaled = np.clip(values * 40 + 128, 0, 255) if dtype == np.uint8 else np.rint(values * 4096) / 4096
        yield scaled.astype(dtype).reshape(-1, *shape)


def waves(shape: tuple[int, ...], random: np.random.Generator, count: int = 4) -> tuple[Array, Array]:
    """Return sines and cosines of phases that change over a sample, (2 * count, values) float32; and the speeds of the phases."""
    axes = np.meshgrid(*(np.linspace(0, 1, length) for length in shape), indexing="ij")
    phases = np.stack([sum(random.uniform(2, 12) * axis for axis in axes) + random.uniform(0, 6) for _ in range(count)])
    phases = phases.reshape(count, -1)
    return np.concatenate([np.sin(phases), np.cos(phases)]).astype(np.float32), random.uniform(0.01, 0.2, count)
