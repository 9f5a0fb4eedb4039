"""Receipts of regions, kept in small files beside a partial target that many processes write.

    x.zarr.partial.receipts/3-of-64.node7-4242.jsonl

Each process adds to a file of its own, so that no file has two writers on any file system; a line is JSON behind its CRC-32, as in
a journal. A region may have several receipts. The name tells the part of the work that the process was given.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files import durable_writes
from ...files.system_errors import explaining_write_errors
from ...plain.errors import InvalidTypeError, InvalidValueError, StateMismatchError
from .journal import UNREADABLE, add_lines, cut_to, journal_lines
from .target import Output


@dataclass(frozen=True)
class Part:
    """Part `index` of `count` of the regions of a plan, each a run of them of about the same length."""

    index: int
    count: int

    def regions(self, number: int) -> range:
        """Return the regions of this part, of `number` in all.

        >>> [list(Part(index, 3).regions(4)) for index in range(3)]
        [[0], [1], [2, 3]]
        """
        return range(self.index * number // self.count, (self.index + 1) * number // self.count)

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


WHOLE = Part(0, 1)


def part_of(text: Any) -> Part:
    """Read "3/64". Raises InvalidTypeError and InvalidValueError, also for a part that there is not.

    >>> part_of("3/64")
    Part(index=3, count=64)
    """
    if not isinstance(text, str):
        raise InvalidTypeError(f"part={text!r} is not text; expected 'i/n', such as '0/64', or 'finish'.")
    index, slash, count = (each.strip() for each in text.partition("/"))
    if not slash or not index.isdecimal() or not count.isdecimal() or int(count) == 0:
        raise InvalidValueError(f"part={text!r} is not understood; expected 'i/n', such as '0/64' for the first of 64 parts.")
    found = Part(int(index), int(count))
    if found.index >= found.count:
        raise InvalidValueError(f"part={text!r} is none of {found.count} parts; expected 0/{count} to {found.count - 1}/{count}.")
    return found


def part_of_job(environment: Mapping[str, str], count: int | None) -> Part:
    """Return the part of `count` that a job of an array is: of SLURM, or of Kubernetes (completion mode Indexed).

    Raises InvalidValueError outside of such a job, and for an array of another number of jobs, whose numbers mean other parts.

    >>> part_of_job({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "1", "SLURM_ARRAY_TASK_STEP": "2"}, 4)
    Part(index=3, count=4)
    >>> part_of_job({"JOB_COMPLETION_INDEX": "3"}, 4)
    Part(index=3, count=4)
    """
    if count is None or count < 1:
        asked = "" if count is None else f", and --parts {count} was given"
        raise InvalidValueError(f"--part auto needs the number of parts{asked}: --parts N, that of the jobs in the array.")
    names = "SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP", "SLURM_ARRAY_TASK_COUNT", "JOB_COMPLETION_INDEX"
    given = {name: environment[name] for name in names if environment.get(name)}
    try:
        at, least, step, jobs, index = (int(given[name]) if name in given else None for name in names)
    except ValueError:
        raise InvalidValueError(f"--part auto found {given}; expected whole numbers.") from None
    if at is None and index is None:
        raise InvalidValueError(
            f"--part auto found neither {names[0]} nor {names[-1]} in the environment. Run it in a job of an array, or "
            "give --part I/N."
        )
    if at is not None and jobs is not None and jobs != count:
        raise InvalidValueError(
            f"--parts {count}, but the SLURM array has {jobs} jobs. Give --parts {jobs}; to repeat single parts, give --part I/N."
        )
    found = (at - (least or 0)) // (step or 1) if at is not None else index
    return part_of(f"{found}/{count}")


def late(path: str) -> StateMismatchError:
    """Return the error of a process that is still at work on a target whose partial file is no longer there, or another's."""
    return StateMismatchError(
        f"{path} was published, or begun anew, while this call was at work on it: the call is late, and not needed."
    )


class Receipts:
    """The receipts beside a target. `mark` tells those of one plan from those of another."""

    @staticmethod
    def begin(output: Output) -> None:
        """Make the directory, with the plan: a process that comes late, with receipts of an earlier plan, makes none."""
        with explaining_write_errors(output.receipts):
            durable_writes.remove(output.receipts)
            os.mkdir(output.receipts)

    def __init__(self, output: Output, mark: str) -> None:
        self.folder, self._mark = Path(output.receipts), mark
        self._own: Path | None = None

    def add(self, part: Part, *receipts: dict[str, Any]) -> None:
        """Put receipts on disk. Raises WriteError."""
        if self._own is None:
            self._own = self.folder / f"{part.index}-of-{part.count}.{platform.node()}-{os.getpid()}.jsonl"
            if not self.folder.is_dir():
                raise late(str(self.folder).removesuffix(".partial.receipts"))
            if self._own.exists():  # of a process that had this number, and may have been killed
                cut_to(str(self._own), journal_lines(self._own.read_bytes())[1])
            else:
                add_lines(str(self._own), [{"receipts": self._mark}])
        add_lines(str(self._own), receipts)

    def read(self, part: Part | None = None) -> Iterator[dict[str, Any]]:
        """Yield all receipts, or those of processes that had this part. Raises StateMismatchError for a file of another plan."""
        for path in self._files():
            if part is not None and not path.name.startswith(f"{part.index}-of-{part.count}."):
                continue
            try:
                head, *rest = journal_lines(path.read_bytes())[0] or [{"receipts": self._mark}]
            except (OSError, *UNREADABLE) as error:
                raise StateMismatchError(f"{path} is damaged ({error}). Delete it, and do part {_part_in(path)} again.") from error
            if head.get("receipts") != self._mark:
                raise StateMismatchError(
                    f"{path} is of another call ({head.get('receipts')}, expected {self._mark}). Delete it, and do its part again."
                )
            yield from rest

    def parts_of(self, missing: list[int], number: int) -> list[str]:
        """Return the parts, of those that processes were given so far, that hold regions; the first 10 of them."""
        counts = [int(_part_in(path).partition("/")[2]) for path in self._files()]
        count = max(counts, default=1)
        parts = sorted({_part_with(region, number, count) for region in missing})
        return [f"{index}/{count}" for index in parts[:10]] + ["..."] * (len(parts) > 10)

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("*-of-*.jsonl") if path.is_file()) if self.folder.is_dir() else []


def _part_in(path: Path) -> str:
    index, _, count = path.name.partition(".")[0].partition("-of-")
    return f"{index}/{count}" if index.isdecimal() and count.isdecimal() else "0/1"


def _part_with(region: int, number: int, count: int) -> int:
    """Return the index of the part that holds a region.

    >>> [_part_with(region, 4, 3) for region in range(4)]
    [0, 1, 2, 2]
    """
    return (region * count + count - 1) // number
