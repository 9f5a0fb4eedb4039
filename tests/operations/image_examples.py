"""Real photographs, and files of them in every form that images come in."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import skimage.data
from PIL import Image

PHOTOGRAPHS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "hubble_deep_field.jpg")
PACKAGED = Path(skimage.data.__file__).parent


@functools.cache
def _photograph(name: str) -> Image.Image:
    return by_pillow(PACKAGED / name)


def by_pillow(path: Path, mode: str = "RGB") -> Image.Image:
    """A file decoded by Pillow alone, and closed."""
    with Image.open(path) as image:
        return image.convert(mode)


def photograph(name: str = "chelsea.png", size: tuple[int, int] | None = None) -> Image.Image:
    """A picture of scikit-image's, RGB, maybe as (width, height)."""
    found = _photograph(name).copy()
    return found if size is None else found.resize(size, Image.Resampling.LANCZOS)


def class_folders(folder: Path, classes: dict[str, list[str]], size: tuple[int, int] | None = (120, 90)) -> Path:
    """`folder`, with a sub-folder per class, and in it the photographs named as JPEG files 1.jpg, 2.jpg ..."""
    for name, files in classes.items():
        (folder / name).mkdir(parents=True)
        for number, file in enumerate(files, 1):
            photograph(file, size).save(folder / name / f"{number}.jpg", quality=92)
    return folder


def read_all(source, at_most: int = 7, after=None):
    """All fields of a source, and what it left out with the number of samples before it."""
    from mmapstore.operations.ingest.contract import Position

    after = after or Position()
    parts: dict[str, list[np.ndarray]] = {name: [] for name in source.specs}
    skipped: list[tuple[int, str]] = []
    at = after.samples
    for piece in source.pieces(after, at_most):
        skipped += [(at, name) for name in piece.skipped]
        assert set(piece.fields) == set(source.specs)
        lengths = {len(array) for array in piece.fields.values()}
        assert len(lengths) == 1
        (length,) = lengths
        assert length <= at_most
        at += length
        for name, array in piece.fields.items():
            spec = source.specs[name]
            assert array.dtype == spec.dtype
            assert array.shape[1:] == spec.sample_shape
            parts[name].append(array.copy())
    return {name: np.concatenate(arrays) if arrays else None for name, arrays in parts.items()}, skipped
