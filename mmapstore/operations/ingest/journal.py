"""The state of a write that may be killed at any moment, and the last steps that make it visible.

    x.npy.partial                   what is written so far
    x.npy.partial.json              the journal: what was asked for, and which blocks are complete
    x.npy.partial.lock              held by the process that writes; after a kill it is there, and held by nobody
    x.npy                           the result, renamed into place when it is whole
    x.npy.mmapstore.leaves          the leaves of its digest, where there are several
    x.npy.mmapstore.json            its manifest, written last
    x.npy.mmapstore.json.replaced   the manifest of the file before, between two of the steps below

The journal is there before the partial file and goes after everything else, so that a partial file without one is never ours.

With `overwrite`, a manifest must never describe data it was not made for, and whatever is killed, the old data or the new is there,
whole, under its name or (directories) as `<name>.replaced`, with a journal that tells how to go on. Hence the order:

1. the partial file and then the journal, now with the finished manifest in it, are on disk;
2. the old manifest is moved aside: old data without a manifest still opens, it lacks its notes alone, and those lie beside it;
3. the partial file is renamed over the old data: from here the new data opens, without a manifest;
4. the new leaves and then the new manifest are written (leaves of another manifest are noticed: its digest covers them);
5. the old manifest and the journal are deleted.

A kill before 3 leaves a partial file, one after 3 leaves none: so both ways are known, on with `publish`, and back with `discard`.

A journal is read as what somebody else may have put there: it has a CRC-32 of itself, and names no file but its target's.

Samples appended to `.npy` files have no partial file: they lie behind the end of the old ones (`formats.npy_tail`). Then the
journal gets the finished manifest, which decides; the headers are changed, the manifest is replaced, the journal goes. Between the
last three, files and manifest disagree, which `open` notices; and the journal is there, with which any later call goes on first.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...files import durable_writes
from ...files.system_errors import explaining_write_errors
from ...formats import npy_tail
from ...plain.errors import StateMismatchError, TargetExistsError
from ...plain.manifest import Manifest
from ..manifest_files import write_manifest
from .contract import Position
from .target import Target

_VERSION = 4
COMMIT_NBYTES = 64 << 20  # at most so much, or so many seconds, is written again after a kill; each commit waits for the disk
COMMIT_SECONDS = 1.0
_LARGE_NBYTES, _SHARE = 1 << 20, 20  # a larger journal is written again in at most one part in 20 of the time: cost stays linear


@dataclass
class Record:
    """What is complete, of all fields alike.

    Attributes
    ----------
    block_samples : samples in each block
    chunk_samples : samples in each chunk, by field
    checksums : by field, CRC-32 of each complete block, 8 hex digits
    samples : how many these blocks hold
    starts : the sample at which each episode begins
    skipped : (sample that follows, name) of each item of the source that was left out
    done : the source has ended
    counts : what else was counted in these blocks, by name
    """

    block_samples: int
    chunk_samples: dict[str, int]
    checksums: dict[str, list[str]] = field(default_factory=dict)
    samples: int = 0
    starts: list[int] = field(default_factory=list)
    skipped: list[tuple[int, str]] = field(default_factory=list)
    done: bool = False
    counts: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.skipped = [(at, name) for at, name in self.skipped]
        for name in self.chunk_samples:
            self.checksums.setdefault(name, [])

    def require_sound(self) -> None:
        """Raise ValueError, or what comes of it, unless this may have been written by mmapstore."""
        found = [self.block_samples, self.samples, *self.starts, *self.chunk_samples.values(), *self.counts.values()]
        numbers = [*found, *(at for at, _ in self.skipped)]
        texts = [text for texts in self.checksums.values() for text in texts] + [name for _, name in self.skipped]
        is_sound = (
            all(_is_count(number) for number in numbers)
            and all(isinstance(text, str) for text in texts)
            and self.checksums.keys() == self.chunk_samples.keys()
            and self.checksums
            and all(isinstance(texts, list) for texts in (*self.checksums.values(), self.starts))
            and self.block_samples > 0
            and isinstance(self.done, bool)
        )
        if not is_sound:
            raise ValueError("its record is of something else")

    @property
    def blocks(self) -> int:
        return min(map(len, self.checksums.values()))

    def keep(self, blocks: int) -> None:
        """Forget all but the first blocks, if there are more."""
        if blocks < self.blocks:
            self.samples, self.done = blocks * self.block_samples, False
        for checksums in self.checksums.values():
            del checksums[blocks:]

    def position(self, again_from: int | None = None) -> Position:
        """What a source has to know to go on behind the samples that are complete, or to give all from sample `again_from` on."""
        at = self.samples if again_from is None else again_from
        # What was left out right before a sample that is given again is told again; and what was before sample 0 is before all.
        known = [name for before, name in self.skipped if (before <= at if again_from is None else before < at)]
        return Position(at, [start for start in self.starts if start <= at], known)

    def forget_beyond(self, after: Position) -> None:
        """Forget what the source will tell again when it goes on from there."""
        self.starts = [start for start in self.starts if start < after.samples]
        self.skipped = self.skipped[: len(after.skipped)]

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "starts": [start for start in self.starts if start <= self.samples],
            "skipped": [each for each in self.skipped if each[0] <= self.samples],
        }


class Journal:
    """What was asked for, and how far it got.

    Attributes
    ----------
    call : what a call has to have in common with this one to go on with it, plain JSON
    record : what is complete; None before anything is
    grows : the `.npy` files that samples are appended to, where they are; None where a partial file is written
    began_with : how many samples were complete before the first was written
    manifest, leaves : as they will be; there once everything is on disk
    identity : of the finished partial file
    """

    def __init__(self, target: Target, call: dict[str, Any]) -> None:
        self.target = target
        self.call = json.loads(json.dumps(call))
        self.record: Record | None = None
        self.grows: list[str] | None = None
        self.began_with = 0
        self.manifest: str | None = None
        self.leaves = b""
        self.identity: int | None = None
        self._committed = time.monotonic()
        self._nbytes, self._pause = 0, 0.0

    def write(self) -> None:
        """Raises WriteError; the journal before is then still there."""
        began = time.monotonic()
        found: dict[str, Any] = {
            "mmapstore_journal": _VERSION,
            "call": self.call,
            "record": self.record and self.record.to_json(),
            "grows": self.grows and [_name_beside(self.target, path) for path in self.grows],
            "began_with": self.began_with,
            "manifest": self.manifest,
            "leaves": self.leaves.hex(),
            "identity": self.identity,
        }
        text = json.dumps({**found, "crc32": _crc32(found)})
        with explaining_write_errors(self.target.journal):
            try:
                durable_writes.write_text_atomically(self.target.journal, text)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(f"{self.target.journal}.tmp")
                raise
        self._committed, self._nbytes = time.monotonic(), 0
        self._pause = _SHARE * (self._committed - began) if len(text) > _LARGE_NBYTES else 0.0

    def finish(self, manifest: Manifest) -> None:
        """Step 1: everything written is on disk, and then that it is whole, and what the manifest will say."""
        with explaining_write_errors(self.target.partial):
            if self.grows is None:
                durable_writes.sync_tree(self.target.partial)
                # A rename keeps this number: it tells our data from the old, should somebody delete the partial file.
                self.identity = os.stat(self.target.partial).st_ino
            else:
                for path in self.grows:
                    durable_writes.sync_tree(path)
        self.manifest, self.leaves = manifest.to_json(), manifest.leaves
        self.write()

    def is_due(self, nbytes: int) -> bool:
        """True once enough bytes, or enough time, have passed since the journal was written."""
        self._nbytes += nbytes
        passed = time.monotonic() - self._committed
        return passed >= self._pause and (self._nbytes >= COMMIT_NBYTES or passed >= COMMIT_SECONDS)

    def require_sound(self) -> None:
        """Raise ValueError, or what comes of it, unless this may have been written by mmapstore."""
        if self.record is not None:
            self.record.require_sound()
        is_sound = (
            isinstance(self.call, dict)
            and _is_count(self.began_with)
            and (self.manifest is None or (isinstance(self.manifest, str) and self.record is not None))
            and (self.identity is None or _is_count(self.identity))
        )
        if not is_sound:
            raise ValueError("it tells of something else")

    @property
    def has_progress(self) -> bool:
        return self.record is not None and self.record.samples > self.began_with


def found_journal(target: Target, resume: bool = True) -> Journal | None:
    """The journal of an interrupted write, None if there is none. One that cannot be read is forgotten if nobody would `resume`.

    Raises StateMismatchError for one that cannot be read, TargetExistsError for a partial file without one.
    """
    try:
        with Path(target.journal).open(encoding="utf-8") as file:
            found = json.load(file)
        if found["mmapstore_journal"] != _VERSION:
            raise ValueError(f"its version is {found['mmapstore_journal']!r}")
        if found.pop("crc32") != _crc32(found):
            raise ValueError("its CRC-32 is another")
        journal = Journal(target, found["call"])
        journal.record = found["record"] and Record(**found["record"])
        journal.manifest, journal.identity = found["manifest"], found["identity"]
        journal.leaves = bytes.fromhex(found["leaves"])
        journal.grows = found["grows"] and [_path_of(target, name) for name in found["grows"]]
        journal.began_with = found["began_with"]
        journal.require_sound()
        return journal
    except FileNotFoundError:
        if os.path.lexists(target.partial):
            raise TargetExistsError(
                f"{target.partial} exists, and no journal says what it is. mmapstore would write there: move it away, or delete it."
            ) from None
        return None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        if not resume:
            discard(target)
            return None
        raise StateMismatchError(
            f"{target.journal} is not the journal of an interrupted ingest that this mmapstore can go on with ({error}). "
            f"Pass resume=False (--no-resume) if nothing is to be kept of it, or delete it and {target.partial}."
        ) from error


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 64


def _crc32(found: dict[str, Any]) -> str:
    return f"{zlib.crc32(json.dumps(found).encode()):08x}"


def _name_beside(target: Target, path: str) -> str:
    """Of the target, or of a file in it: what stays the same from wherever the target is named."""
    return os.path.relpath(path, os.path.dirname(target.path) or ".")


def _path_of(target: Target, name: str) -> str:
    own = os.path.basename(target.path)
    folder, _, file = name.rpartition("/") if os.sep == "/" else name.replace(os.sep, "/").rpartition("/")
    if name != own and (folder != own or file in ("", ".", "..")):
        raise ValueError(f"it names {name}, which is no file of {target.path}")
    return os.path.join(os.path.dirname(target.path), name)


def begun_by_another_call(target: Target, differences: Iterable[str]) -> StateMismatchError:
    """The error for a call that wants something else than the interrupted one, whose `differences` are told in words."""
    return StateMismatchError(
        f"{target.partial} was begun by another call: {'; '.join(differences)}. "
        "Repeat that call to go on with it, or pass resume=False (--no-resume) to start again."
    )


def discard(target: Target, journal: Journal | None = None) -> None:
    """Forget an interrupted write, of which `journal` tells where it can be read. What was there before it is there again."""
    with explaining_write_errors(target.path):
        for path in (journal and journal.grows) or ():
            npy_tail.forget(path)
        old, aside = f"{target.path}.replaced", _aside(target)
        if os.path.lexists(target.partial):
            if os.path.isdir(old) and not os.path.lexists(target.path):
                os.replace(old, target.path)
            if aside and os.path.exists(aside) and not os.path.exists(str(target.manifest)):
                os.replace(aside, str(target.manifest))
            durable_writes.remove(target.partial)
        for leftover in (f"{target.journal}.tmp", target.journal):
            durable_writes.remove(leftover)
        durable_writes.sync_directory(os.path.dirname(os.path.abspath(target.path)))


def publish(journal: Journal, overwrite: bool) -> None:
    """Steps 2 to 5, for a journal that is finished; from whichever step a kill interrupted."""
    target, aside = journal.target, _aside(journal.target)
    assert journal.manifest is not None
    if journal.grows is not None:
        _show(journal, journal.grows, journal.manifest)
        return
    if not is_published(journal) and not overwrite and _holds_something(target.path):
        raise TargetExistsError(
            f"{target.path} appeared while it was being written. Pass overwrite=True (--overwrite) to replace it; "
            f"the finished data waits in {target.partial}."
        )
    with explaining_write_errors(target.path):
        old = f"{target.path}.replaced"
        if os.path.lexists(target.partial):
            if aside and os.path.exists(str(target.manifest)):
                os.replace(str(target.manifest), aside)
                durable_writes.sync_directory(os.path.dirname(os.path.abspath(target.path)))
            was_moved_aside = os.path.isdir(old) and not os.path.lexists(target.path)
            durable_writes.replace(target.partial, target.path)
        else:
            was_moved_aside = os.path.isdir(old)
        if was_moved_aside:
            shutil.rmtree(old)
        if target.manifest:
            write_manifest(target.manifest, journal.manifest, journal.leaves)
        if aside:
            durable_writes.remove(aside)
        durable_writes.remove(target.journal)


def _show(journal: Journal, paths: list[str], manifest: str) -> None:
    """The last steps where files grow: each may have been done before."""
    assert journal.record is not None
    for path in paths:
        npy_tail.show(path, journal.record.samples)
    with explaining_write_errors(journal.target.path):
        write_manifest(journal.target.manifest_path, manifest, journal.leaves)
        durable_writes.remove(journal.target.journal)
    durable_writes.sync_directory(os.path.dirname(os.path.abspath(journal.target.path)))


def is_published(journal: Journal) -> bool:
    """True if the data is in place, so that nothing but the last steps is missing."""
    if journal.grows is not None:
        return journal.manifest is not None
    if journal.manifest is None or os.path.lexists(journal.target.partial) or not os.path.lexists(journal.target.path):
        return False
    return os.stat(journal.target.path).st_ino == journal.identity


def _aside(target: Target) -> str | None:
    return f"{target.manifest}.replaced" if target.manifest else None


def _holds_something(path: str) -> bool:
    return os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path))
