"""The records that the parts of the benchmark exchange: a task, the row of one strategy on it, and the report of all rows."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields
from pathlib import PurePath
from typing import Any

import numpy as np

KINDS = {
    "next": "x is a frame, y the frame after it",
    "labelled": "x is a sample, y its class, an integer",
    "images": "x is an image out of a folder of image files, one folder for each class; y its class",
    "input": "x is a sample alone, without y",
}
FORMS = {
    "npy": "a .npy file",
    "h5": "HDF5, contiguous",
    "h5-gzip": "HDF5, chunks of some 2 MB, gzip after shuffle",
    "zarr": "Zarr, chunks of some 2 MB, uncompressed",
    "zarr-zstd": "Zarr, chunks of some 2 MB, zstd",
    "h5-own": "the user's own HDF5, in chunks, as it is",
    "zarr-own": "the user's own Zarr, as it is",
    "folder": "image files in a folder for each class",
}
FINISHED, KILLED, FAILED, GIVEN_UP, NOT_RUN = "finished", "killed", "failed", "given up", "not run"


def name_of(strategy: str) -> str:
    """Return the name that a report has for a strategy, asked for by its name or by the path of the user's own file.

    >>> name_of("fit_memmap"), name_of("at/home/mine.py")
    ('fit_memmap', 'mine')
    """
    return PurePath(strategy).stem


def delivered(kind: str, nbytes: int, pairs: int) -> int:
    """Return the bytes of x and y in an epoch of `pairs` over data of `nbytes`, as they are stored; a class takes 8.

    >>> delivered("next", 101 * 40, pairs=100), delivered("labelled", 200, pairs=100)
    (8000, 1000)
    """
    return 2 * nbytes * pairs // (pairs + 1) if kind == "next" else nbytes + 8 * pairs * (kind != "input")


@dataclass(frozen=True)
class Task:
    """The data to train on and their stored form. One epoch delivers every x and y once, in batches of `batch`."""

    # kind, form: keys of `KINDS` and `FORMS`
    kind: str
    form: str
    path: str  # of the samples, as `mmapstore.open` takes it ("a.h5::/frames"); for form "folder" the folder
    # samples, shape, dtype: of the stored array, samples along the first axis; of "images", as they are after decoding
    samples: int
    shape: tuple[int, ...]
    dtype: str
    labels: str | None = None  # path of a .npy with one int64 class for each sample; None unless the kind is "labelled"
    batch: int = 32
    seed: int = 0  # of whatever is shuffled
    prepared: str | None = None  # where `prepare` of a strategy puts what it makes beforehand; None: beside `path`

    @property
    def nbytes(self) -> int:
        """Bytes of all samples, decoded, in the stored dtype."""
        return self.samples * math.prod(self.shape) * np.dtype(self.dtype).itemsize

    @property
    def pairs(self) -> int:
        """Samples of an epoch: the last frame has none after it."""
        return self.samples - (self.kind == "next")


@dataclass
class Epoch:
    """One pass of `fit`: seconds, samples, bytes of x and y as the model got them, and True if their checksum was the task's.

    Of the process itself, without those that it starts, where the kernel tells: the bytes that it had read from the disk, its major
    page faults (each waited for the disk), and its private memory at the end, in bytes.
    """

    seconds: float
    samples: int
    nbytes: int
    right: bool
    from_disk: int | None = None
    major_faults: int | None = None
    private: int | None = None


@dataclass
class Look:
    """The memory of the process and its children at one moment. Bytes; `seconds` since the baseline, before it negative."""

    seconds: float
    private: int  # Pss_Anon + Pss_Shmem + SwapPss: memory that the kernel cannot take back
    file_backed: int  # Pss_File: pages of mapped files, of code too
    resident: int  # RSS, which counts both, and pages that processes share once for each


@dataclass
class Row:
    """One strategy on one task, in a process of its own, under a limit or none. Bytes, seconds."""

    strategy: str
    form: str
    kind: str
    outcome: str  # FINISHED, KILLED (by the limit), FAILED, GIVEN_UP (over its time) or NOT_RUN; `why` has the reason, if any
    why: str = ""
    data_nbytes: int = 0
    # limit, limited_by: of memory, framework included; "control group" or "RLIMIT_DATA"
    limit: int | None = None
    limited_by: str | None = None
    # predicted, private: highest private memory over the baseline, as the strategy predicts it, and as it was measured
    predicted: int | None = None
    private: int | None = None
    baseline: int | None = None  # private memory after the framework has started and one step was run on a batch in RAM
    # file_backed, resident: their peaks, not over the baseline
    file_backed: int | None = None
    resident: int | None = None
    # from the call of `fit_arguments` until the first training step has begun; None if it never did
    first_batch: float | None = None
    epochs: list[Epoch] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)  # at most some 150, evenly thinned, the peak kept
    command: str = ""  # reproduces this row


@dataclass
class Report:
    """All that one run found; `to_json` and `from_json` are each other's inverse."""

    machine: dict[str, Any]  # processor, cores, memory, system, Python, versions of packages; no names, no paths
    seed: int
    calibration: str = ""  # of the instruments in this run, in a sentence
    tasks: list[dict[str, Any]] = field(default_factory=list)  # as dictionaries, without paths
    rows: list[Row] = field(default_factory=list)  # without a limit; `limited` those under the hard limit
    limited: list[Row] = field(default_factory=list)

    @property
    def everything(self) -> list[Row]:
        return [*self.rows, *self.limited]

    def to_json(self) -> str:
        """Write one line for each row or task, so that two runs can be compared by line; the looks of a row in columns."""
        found = asdict(self)
        for row in (*found["rows"], *found["limited"]):
            row["looks"] = {each.name: [look[each.name] for look in row["looks"]] for each in fields(Look)}
        parts = []
        for name, value in found.items():
            lines = ",\n".join(f"  {json.dumps(each)}" for each in value) if isinstance(value, list) else ""
            parts.append(f"{json.dumps(name)}: " + (f"[\n{lines}\n ]" if lines else json.dumps(value)))
        return "{\n " + ",\n ".join(parts) + "\n}\n"

    @classmethod
    def from_json(cls, text: str) -> Report:
        found = json.loads(text)
        for name in ("rows", "limited"):
            for row in found[name]:
                row["epochs"] = [Epoch(**each) for each in row["epochs"]]
                columns = (row["looks"][each.name] for each in fields(Look))
                row["looks"] = [Look(*values) for values in zip(*columns, strict=True)]
            found[name] = [Row(**row) for row in found[name]]
        return cls(**found)
