"""The kind of a source: an array, something `mmapstore.open` takes, files, videos, or an iterable."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

from ...batches.dataset import Dataset
from ...batches.notes import warn_of_packed
from ...batches.opening import open_quietly
from ...formats.registry import PARTIAL, require_exists, split_inside
from ...plain.array_likes import is_array_like, is_fields, is_read_in_slices
from ...plain.errors import InvalidTypeError, InvalidValueError, NotFoundError, SourceWarning
from ...plain.guessed_axes import warn_of_doubts
from ...plain.inside_names import file_of
from ...plain.manifest import DIRECTORY_MANIFEST, SUFFIX, is_beside
from ..flow.target import Target, require_field_names
from .contract import ONLY, DoubtsAxes, Source
from .files import ARRAY_SUFFIXES, STORE_FILES, FilesSource, NpzSource, inside_directory, matching
from .images.files import PassedOver, is_hidden, looks_like_images
from .images.images import Images
from .megabatches.unpickling import PICKLE_SUFFIXES, is_pickle, refuse_pickle
from .plan import Options
from .sources import DatasetSource, IterableSource, array_source
from .video import VIDEO_SUFFIXES, VideoSource
from .zipped_sources import ZippedSources

_CONTRACT = ("name", "specs", "samples", "guess", "paths", "fingerprint", "gives_from_any_sample", "notes", "pieces", "memory")


def fields_of(source: Any) -> Mapping[str, Any] | None:
    """The sources by field name, where each is given by itself: a dict, or a dataset or directory that holds several.

    Raises UnsafeFileError for pickles: they hold several too, and only who names them `Megabatches` gets them loaded.
    """
    _refuse_pickles(source)
    if is_fields(source):
        return source
    if isinstance(source, (str, os.PathLike)) and _has_manifest(os.fspath(source)):
        source = open_quietly(os.fspath(source))
        if len(source.fields) > 1:
            warn_of_packed(each for field in source.packed.values() for each in field)
    if isinstance(source, Dataset) and len(source.fields) > 1:
        return dict(source.fields)
    return None


def _refuse_pickles(source: Any) -> None:
    paths = list(source) if isinstance(source, (list, tuple)) else [source]
    if not paths or not all(isinstance(path, (str, os.PathLike)) for path in paths):
        return
    paths = [os.fspath(path) for path in paths]
    if len(paths) == 1 and os.path.isdir(paths[0]):
        others = inside_directory(paths[0], (*ARRAY_SUFFIXES, *VIDEO_SUFFIXES, *STORE_FILES))
        paths = [] if others else inside_directory(paths[0], PICKLE_SUFFIXES)
    if paths and all(map(is_pickle, paths)):
        raise refuse_pickle(matching(paths[0])[0] if glob.has_magic(paths[0]) and not os.path.exists(paths[0]) else paths[0])


def _has_manifest(path: str) -> bool:
    file = file_of(path).rstrip("/")
    return os.path.exists(os.path.join(file, DIRECTORY_MANIFEST)) or os.path.exists(file + SUFFIX)


def is_source(source: Any) -> bool:
    """True for what keeps the contract of a source by itself."""
    return all(hasattr(source, name) for name in _CONTRACT) and callable(source.pieces)


def images_of(source: Any, source_layout: Any, order: str | None, seed: int | None) -> Any:
    """Return a path, or a list of paths, of images as `Images` in this order, and anything else as it is.

    Raises InvalidValueError for an order of something else, which comes in an order of its own.
    """
    paths = [source] if isinstance(source, (str, os.PathLike)) else source
    if isinstance(paths, (list, tuple)) and paths and all(isinstance(path, (str, os.PathLike)) for path in paths):
        named = [os.fspath(path) for path in paths]
        if looks_like_images(named if len(named) > 1 else named[0]):
            return _of_images(named if len(named) > 1 else named[0], source_layout, order, seed or 0)
    if order is not None or seed is not None:
        what = repr(os.fspath(source)) if isinstance(source, (str, os.PathLike)) else f"a {type(source).__name__}"
        raise InvalidValueError(
            f"order={order!r}, seed={seed!r} are for paths of images, and the source is {what}. Of mmapstore.Images and "
            "mmapstore.AnnotatedImages say them there; anything else stays in its order: leave them out."
        )
    return source


def source_of(source: Any, source_layout: str | None, layout: str | None, any_dtype: bool) -> Source:
    """Open a source, reading no more of it than tells what it holds. Warn where its axes are likely others than the usual ones.

    `any_dtype` lets the items of an iterable have different dtypes, because all are converted to one.
    """
    found = _source_of(source, source_layout, layout, any_dtype)
    if isinstance(found, DoubtsAxes):
        # A source that describes its samples itself is given their axes where it is made.
        argument = "layout" if is_source(source) else "source_layout"
        warn_of_doubts(found.doubts, argument, "--source-layout", stacklevel=4)
    return found


def opened_source(source: Any, several: Mapping[str, Any] | None, target: Target, options: Options) -> Source:
    """Open the source of a call: one, or `several` by field. Raises also for options and names that do not fit its fields."""

    def one(field: str, part: Any) -> Source:
        wanted = {name: options.of(name, field) for name in ("source_layout", "layout", "dtype")}
        return source_of(part, wanted["source_layout"], wanted["layout"], wanted["dtype"] is not None)

    if several is not None:
        return ZippedSources({field: one(field, part) for field, part in several.items()}, options.samples)
    opened = one(ONLY, source)
    if is_source(source):
        options.check(opened.specs, target.named)
        if target.named:
            require_field_names(list(opened.specs))
    return opened


def _source_of(source: Any, source_layout: str | None, layout: str | None, any_dtype: bool) -> Source:
    if is_source(source):
        if source_layout is not None:
            raise InvalidValueError(
                f"source_layout={source_layout!r} is for arrays; {source.name} knows the axes of what it gives. Leave it out."
            )
        own: Source = source
        return own
    if isinstance(source, (str, os.PathLike)):
        return _of_path(os.fspath(source), source_layout)
    if isinstance(source, (list, tuple)) and source and all(isinstance(item, (str, os.PathLike)) for item in source):
        return _of_files([os.fspath(item) for item in source], source_layout)
    if isinstance(source, Dataset):
        if source_layout is not None and source_layout.upper() != source.layout:
            raise InvalidValueError(
                f"The dataset given is laid out {source.layout}, not {source_layout!r}. Say layout= where it is opened."
            )
        return DatasetSource(_only_field(source), source.name, _dataset_paths(source))
    if is_array_like(source) or is_read_in_slices(source):
        return array_source(source, source_layout)
    if isinstance(source, Iterable) and not isinstance(source, (bytes, bytearray)):
        return IterableSource(source, source_layout, layout, any_dtype)
    raise InvalidTypeError(
        f"An object of type {type(source).__name__} cannot be ingested; expected an array, a path, a glob, a list of paths, "
        "an iterable of samples or blocks, or a dict of these by field name."
    )


def _of_path(path: str, source_layout: str | None) -> Source:
    if not path:
        raise InvalidValueError("The source is an empty text; expected the path of an array, a video or a directory.")
    file, inside = split_inside(path)
    if inside is not None and file.lower().endswith(".npz"):
        return NpzSource(file, inside.strip("/"), source_layout)
    if inside is not None and not glob.has_magic(file):
        return _of_opened(path, [file], source_layout)
    if os.path.isdir(path) and not any(os.path.exists(os.path.join(path, name)) for name in STORE_FILES):
        return _of_directory(path, source_layout)
    if glob.has_magic(file) and not os.path.exists(path):
        if inside is not None:
            return _of_opened(path, matching(file), source_layout)
        return _of_files(matching(path), source_layout)
    require_exists(path)
    return _of_files([path], source_layout)


def require_source_exists(source: Any) -> None:
    """Raise NotFoundError for a path that is not there, before anything is said about where the data goes."""
    if not isinstance(source, (str, os.PathLike)) or not os.fspath(source):
        return
    file, _ = split_inside(os.fspath(source))
    if not glob.has_magic(file) and not os.path.exists(os.fspath(source)):
        require_exists(file)


def _of_directory(path: str, source_layout: str | None) -> Source:
    if looks_like_images(path):
        return _of_images(path, source_layout)
    arrays, videos = inside_directory(path, ARRAY_SUFFIXES), inside_directory(path, VIDEO_SUFFIXES)
    if arrays and videos:
        raise InvalidValueError(
            f"{path} holds arrays ({os.path.basename(arrays[0])} ...) and videos ({os.path.basename(videos[0])} ...). "
            "Name one kind with a pattern, such as 'directory/*.npy'."
        )
    if not arrays and not videos:
        names = sorted(os.listdir(path))[:5]
        raise NotFoundError(
            f"{path} is a directory without .npy, .npz, image or video files; it holds {', '.join(names) or 'nothing'}. "
            "Name the data in it, or a pattern."
        )
    _warn_of_others(path, arrays or videos)
    return _of_files(arrays or videos, source_layout)


def _warn_of_others(path: str, taken: list[str]) -> None:
    others = PassedOver()
    for name in set(inside_directory(path, ("",))).difference(taken):
        if not is_hidden(os.path.basename(name)) and not is_beside(name) and PARTIAL not in name:
            others.add(os.path.basename(name), f"not of the kind of {os.path.basename(taken[0])}")
    if others.words():
        warnings.warn(f"{path}: skipped {'; '.join(others.words())}.", SourceWarning, stacklevel=5)


def _of_files(paths: list[str], source_layout: str | None) -> Source:
    for path in paths:
        require_exists(file_of(path))
    if looks_like_images(paths if len(paths) > 1 else paths[0]):
        return _of_images(paths if len(paths) > 1 else paths[0], source_layout)
    suffixes = {os.path.splitext(path)[1].lower() for path in paths}
    if suffixes <= set(VIDEO_SUFFIXES):
        return VideoSource(paths, source_layout)
    if suffixes & set(VIDEO_SUFFIXES):
        raise InvalidValueError(
            f"Videos and other files ({', '.join(sorted(suffixes))}) cannot be joined into one array. Name one kind."
        )
    if ".npz" in suffixes and suffixes <= set(ARRAY_SUFFIXES):
        return FilesSource(paths, lambda path: _open_part(path, source_layout))
    return _of_opened(paths if len(paths) > 1 else paths[0], paths, source_layout)


def _of_images(source: str | list[str], source_layout: Any, order: str | None = None, seed: int = 0) -> Source:
    if source_layout is not None:
        raise InvalidValueError(f"source_layout={source_layout!r} is for arrays; images come as 'NHWC'. Leave it out.")
    return Images(source, order=order, seed=seed)


def _open_part(path: str, source_layout: str | None) -> Source:
    return NpzSource(path, None, source_layout) if path.lower().endswith(".npz") else _of_opened(path, [path], source_layout)


def _of_opened(source: Any, paths: list[str], source_layout: str | None) -> Source:
    name = source if isinstance(source, str) else f"{len(paths)} files, {paths[0]} to {paths[-1]}"
    dataset = _only_field(open_quietly(source, layout=source_layout))
    warn_of_packed(each for field in dataset.packed.values() for each in field)
    files = [os.path.abspath(file_of(path)) for path in paths]
    return DatasetSource(dataset, name, files, list(dataset.doubts.values()))


def _only_field(dataset: Dataset) -> Dataset:
    fields = list(dataset.fields)
    if len(fields) > 1:
        raise InvalidValueError(
            f"This source has several fields ({', '.join(map(str, fields))}); expected one. Name it, as in ds[{fields[0]!r}]."
        )
    return dataset


def _dataset_paths(dataset: Dataset) -> list[str]:
    """The files that its samples come from: none of them may be the target."""
    readers = list(dataset.readers.values())
    return [os.path.abspath(path) for reader in readers for path in reader.files]
