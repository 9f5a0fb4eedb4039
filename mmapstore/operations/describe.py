"""`mmapstore info`: the arrays at a path, how each is read, and why. Reads headers, and fields of labels up to 16 MB."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..batches.dataset import Dataset
from ..batches.labels import are_sorted, class_words, is_label, label_field, sorted_words
from ..batches.opening import open_dataset, open_quietly
from ..files.lent_buffers import ALIGNMENT, is_aligned
from ..files.stored_files import nbytes_on_disk
from ..files.stored_manifest import read_manifest
from ..formats.registry import identify, list_stored, split_inside, suffixes
from ..plain.cf_packing import packed_words
from ..plain.display import text_table
from ..plain.errors import DamagedFileError, MmapstoreError, NotFoundError
from ..plain.manifest import DIRECTORY_MANIFEST, SUFFIX, Manifest
from ..plain.memory_budget import format_bytes
from ..plain.windows import Episodes, NextFrame
from ..readers.contract import Reader
from .decodes import decodes_per_chunk
from .verify.objects import archive_files

_MANY_DECODES = 2
_MOST_CLASSES = 20  # named
_FEWER = ": chunks of fewer samples would have fewer decoded again, and ds.cache(directory) each once for all epochs"


@dataclass(frozen=True)
class ArrayDescription:
    """The description of an array: its form, how it is read, and advice.

    `decodes` is how often a shuffled epoch decodes each chunk, of next-frame pairs unless samples are mixed or have labels; 0 where
    nothing is decoded. `refused` is the reason why the array cannot be opened; all other attributes but `name` are then empty.
    """

    name: str
    shape: tuple[int, ...] = ()
    dtype: str = ""
    layout: str = ""
    samples: int = 0
    sample_bytes: int = 0
    bytes: int = 0
    episodes: int = 0
    stored: str = ""
    read: str = ""
    place: str = ""
    decodes: float = 0.0
    notes: tuple[str, ...] = ()
    refused: str = ""


@dataclass(frozen=True)
class Archive:
    """A file or store in a directory of archives."""

    name: str  # relative to the directory
    arrays: int = 0  # those that can be opened
    bytes: int = 0  # of their values, decoded; `bytes_on_disk` of the file or store
    bytes_on_disk: int = 0
    read: tuple[str, ...] = ()  # how they will be read, in a few words, each way once
    refused: tuple[str, ...] = ()  # "name: why" of every array that cannot be opened, or why none can


@dataclass(frozen=True)
class Description:
    """The arrays at a path; for a directory of archives, the arrays of all archives."""

    path: str
    kind: str
    bytes_on_disk: int
    arrays: tuple[ArrayDescription, ...]
    manifest: str = ""
    open_with: str = ""
    notes: tuple[str, ...] = field(default=())
    archives: tuple[Archive, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def to_text(self) -> str:
        lines = [f"{self.path}: {self.kind}, {format_bytes(self.bytes_on_disk)} on disk"]
        if self.archives:
            lines += ["", *(f"  {line}" for line in _archive_table(self.archives))]
        for array in self.arrays if not self.archives else ():
            lines.append("")
            if array.refused:
                lines += [f"  {array.name}", f"    cannot be opened: {array.refused}"]
                continue
            episodes = f" in {array.episodes} episodes" if array.episodes > 1 else ""
            lines += [
                f"  {array.name}",
                f"    {array.samples} samples{episodes} of {array.shape[1:] or 'one'} {array.dtype}, axes {array.layout}; "
                f"{format_bytes(array.sample_bytes)} each, {format_bytes(array.bytes)} in all",
                *([f"    stored: {array.stored}"] if array.stored else []),
                f"    read: {array.read}",
                *(f"    note: {note}" for note in array.notes),
            ]
        lines += ["", *([f"  manifest: {self.manifest}"] if self.manifest else []), *(f"  {note}" for note in self.notes)]
        if self.open_with:
            lines.append(f"  open it: {self.open_with}")
        return "\n".join(lines)


def _archive_table(archives: Sequence[Archive]) -> Iterator[str]:
    """Yield a heading, one line per archive, and below it the reasons of refusals.

    >>> print("\\n".join(_archive_table([Archive("a.h5", 2, 1200, 800, ("memory-mapped",), ("a.h5::/s: text",))])))
    archive  arrays   values  on disk  read
    a.h5          2  1.20 kB    800 B  memory-mapped
               refused: a.h5::/s: text
    """
    rows = [("archive", "arrays", "values", "on disk", "read")] + [
        (each.name, str(each.arrays), format_bytes(each.bytes), format_bytes(each.bytes_on_disk), ", ".join(each.read) or "-")
        for each in archives
    ]
    heading, *lines = text_table(rows, "<>>><", indent="")
    yield heading
    for each, line in zip(archives, lines, strict=True):
        yield line
        for reason in each.refused:
            yield f"{' ' * (max(len(row[0]) for row in rows) + 4)}refused: {reason}"


def describe(
    path: str | os.PathLike[str], layout: str | None = None, *, dtype: Any = None, shape: Any = None, offset: int | None = None
) -> Description:
    """Describe the arrays in a file or store, below a group inside one, or in a directory of files.

    `dtype`, `shape` and `offset` are those of `mmapstore.open` for a file without a header.
    """
    text = os.fspath(path)
    told = {"dtype": dtype, "shape": shape, "offset": offset}
    form: dict[str, Any] = {name: value for name, value in told.items() if value is not None}
    if form:
        found = _described_dataset(text, open_dataset(text, layout=layout, **form), "numbers without a header", layout)
        options = "".join(f", {name}={value!r}" for name, value in form.items())
        return replace(found, open_with=f"{_call(text, layout)[:-1]}{options})")
    outer, inside = split_inside(text)
    if (Path(outer) / DIRECTORY_MANIFEST).is_file():
        kind = "a directory that mmapstore wrote" if inside is None else "in a directory that mmapstore wrote"
        return _described_dataset(text, open_quietly(text, layout=layout), kind, layout)
    if not Path(outer).exists() and any(c in outer for c in "*?["):
        return _described_dataset(text, open_quietly(text, layout=layout), "several files, joined", layout)
    try:
        title = identify(outer).title
    except DamagedFileError:
        if Path(outer).is_dir():
            return _described_folder(outer)
        raise
    listing = list_stored(outer, inside)
    only, has_labels = len(listing) == 1, any(is_label(_tail(entry.key)) for entry in listing)
    arrays = tuple(_described_entry(outer, entry.key, layout if only else None, entry.storage, has_labels) for entry in listing)
    opened = [array for array in arrays if not array.refused]
    manifest = _manifest_beside(Path(outer.rstrip("/") + SUFFIX))
    together = manifest is not None and len(manifest.fields) > 1 and not inside
    spelled = max(opened, key=lambda array: array.bytes).name if len(arrays) > 1 and opened and not together else text
    return Description(
        path=text,
        kind=f"{title}, {len(arrays)} array{'s' * (len(arrays) != 1)}" if title != ".npy" else "a .npy file",
        bytes_on_disk=nbytes_on_disk(outer),
        arrays=arrays,
        manifest=_manifest_words(manifest),
        open_with=_call(spelled, layout if len(listing) == 1 else None) if opened else "",
        notes=() if arrays else ("there is no array in it",),
    )


def _tail(key: str) -> str:
    return key.strip("/").rpartition("/")[2]


def _described_entry(outer: str, key: str, layout: str | None, storage: str, has_labels: bool) -> ArrayDescription:
    name = f"{outer}::/{key.strip('/')}" if key.strip("/") else outer
    field = _tail(key)
    try:
        # By its own name a field of labels is known as one.
        source: Any = {field: name} if is_label(field) else name
        return _described_field(name, name, open_quietly(source, layout=layout), has_labels, storage, layout)
    except MmapstoreError as error:
        return ArrayDescription(name, refused=str(error))


def _ingest_command(source: str, layout: str | None) -> str:
    """
    >>> _ingest_command("runs/*.h5::/x", "TNHW")
    "mmapstore ingest 'runs/*.h5::/x' x-nchw.npy --source-layout TNHW"
    """
    outer, inside = split_inside(source)
    stem = next((part for part in (inside or "", Path(outer).stem) if re.fullmatch(r"[\w.-]+", part.strip("/"))), "frames")
    option = f" --source-layout {layout}" if layout else ""
    return f"mmapstore ingest {shlex.quote(source)} {stem.strip('/')}-nchw.npy{option}"


def _described_field(
    name: str, source: str, dataset: Dataset, has_labels: bool, storage: str = "", layout: str | None = None
) -> ArrayDescription:
    """Describe one field; `source` is a path that opens it alone, `has_labels` is true if there is a field of labels beside it."""
    reader = next(iter(dataset.readers.values()))
    spec = reader.spec
    packed = packed_words(next(iter(dataset.packed.values()), ()))
    notes = [packed] if packed else []
    if "consecutive samples lie" in reader.why or "scattered" in reader.why:
        notes.append(
            f"training from this order is slow; this writes it once in the order it is read: {_ingest_command(source, layout)}"
        )
    labelled = label_field(dataset)
    is_of_frames = labelled is None and not (has_labels or dataset.mixed)
    decodes = decodes_per_chunk(reader, Episodes.of(dataset.episodes), NextFrame() if is_of_frames else None) or 0.0
    if decodes:
        fewer = _FEWER if decodes > _MANY_DECODES else ""
        pairs = " of next-frame pairs" if is_of_frames else ""
        notes.append(f"a shuffled epoch{pairs} decodes each chunk {decodes:.2f} times{fewer}")
    if _begins_aligned(reader):
        batch = ALIGNMENT // math.gcd(spec.sample_nbytes, ALIGNMENT)
        sizes = f", where the batch size is a multiple of {batch}" if batch > 1 else ""
        notes.append(f"to_keras() hands x of unshuffled batches to TensorFlow without a copy{sizes}")
    notes += [doubt.words("layout") for doubt in dataset.doubts.values()]
    if labelled is not None:
        notes.append(class_words(*labelled))
        if are_sorted(labelled[1]):
            notes.append(
                f"its classes lie one after the other ({sorted_words(labelled[1])}), so contiguous parts lack some; this divides "
                f"each class: ds.split(0.8, 0.2, stratify={labelled[0]!r})"
            )
    for note in dataset.notes.values():
        if note.classes and labelled is None:
            more = f" ... ({len(note.classes)} in all)" if len(note.classes) > _MOST_CLASSES else ""
            notes.append(f"class names: {', '.join(note.classes[:_MOST_CLASSES])}{more}")
        if note.mixed:
            notes.append("ingest mixed the order of samples: contiguous parts are random parts, and NextFrame() raises an error")
    return ArrayDescription(
        name=name,
        shape=spec.shape,
        dtype=str(spec.dtype),
        layout=spec.layout,
        samples=len(spec),
        sample_bytes=spec.sample_nbytes,
        bytes=spec.nbytes,
        episodes=len(dataset.episodes) - 1,
        stored=storage,
        read=reader.why,
        place=reader.place,
        decodes=round(decodes, 3),
        notes=tuple(notes),
    )


def _begins_aligned(reader: Reader) -> bool:
    """Return True if samples are views of a mapped file, and the first is aligned for TensorFlow."""
    if reader.place != "memory-mapped" or reader.spec.nbytes == 0:
        return False
    if reader.spec.dtype.kind == "S":  # a tensor holds strings of its own
        return False
    first = reader.view(0, min(2, len(reader.spec)))
    return first is not None and is_aligned(first)


def _described_dataset(path: str, dataset: Dataset, kind: str, layout: str | None) -> Description:
    several, has_labels = len(dataset.fields) > 1, any(map(is_label, dataset.fields))
    arrays = tuple(
        _described_field(*((f"field {name!r}", f"{path}::/{name}") if several else (path, path)), part, has_labels, layout=layout)
        for name, part in dataset.fields.items()
    )
    outer = Path(split_inside(path)[0])
    return Description(
        path=path,
        kind=kind,
        bytes_on_disk=nbytes_on_disk(outer) if outer.exists() else dataset.nbytes,
        arrays=arrays,
        manifest=_manifest_words(_manifest_beside(outer / DIRECTORY_MANIFEST)),
        open_with=_call(path, layout),
    )


def _described_folder(path: str) -> Description:
    """Describe a directory of archives, including those in directories inside it."""
    archives, arrays = [], []
    for archive in archive_files(path):
        file, name = Path(archive.path), archive.relative
        try:
            found = list(describe(file).arrays)
        except (MmapstoreError, OSError) as error:
            if file.suffix.lower() in suffixes():  # it claims to be an archive
                archives.append(Archive(name, bytes_on_disk=nbytes_on_disk(file) if file.exists() else 0, refused=(str(error),)))
            continue
        opened = [array for array in found if not array.refused]
        ways = tuple(dict.fromkeys(array.place for array in opened))
        refused = tuple(array.refused for array in found if array.refused)
        archives.append(Archive(name, len(opened), sum(array.bytes for array in opened), nbytes_on_disk(file), ways, refused))
        arrays += found
    if not archives:
        raise NotFoundError(
            f"{path} holds no .npy, HDF5 or Zarr data, nor a manifest of mmapstore. Check the directory, or ingest its images, "
            f"videos or pickles first: mmapstore ingest {shlex.quote(path)} OUT."
        )
    return Description(
        path=path,
        kind=f"a directory, {len(arrays)} array{'s' * (len(arrays) != 1)} in {len(archives)} archive{'s' * (len(archives) != 1)}",
        bytes_on_disk=nbytes_on_disk(path),
        arrays=tuple(arrays),
        archives=tuple(archives),
        notes=(f"open one of them{_glob_hint(path, arrays)}",) if arrays else (),
    )


def _glob_hint(path: str, arrays: Sequence[ArrayDescription]) -> str:
    found = [Path(split_inside(array.name)[0]).suffix for array in arrays]
    suffix = max(found, key=found.count)
    if found.count(suffix) < 2 or not suffix:
        return ""
    return f", or join those of one kind with a glob such as {str(Path(path) / f'*{suffix}')!r}"


def _call(path: str, layout: str | None) -> str:
    return f"mmapstore.open({path!r}{f', layout={layout!r}' if layout else ''})"


def _manifest_beside(path: Path) -> Manifest | None:
    return read_manifest(path) if path.is_file() else None


def _manifest_words(manifest: Manifest | None) -> str:
    if manifest is None:
        return ""
    blocks = sum(len(entry.checksums) for entry in manifest.fields.values())
    sources = sorted({entry.source for entry in manifest.fields.values() if entry.source})
    statistics = ", statistics per channel" if any(entry.statistics for entry in manifest.fields.values()) else ""
    return f"complete; checksums of {blocks} blocks{statistics}" + (f"; from {'; '.join(sources)}" if sources else "")
