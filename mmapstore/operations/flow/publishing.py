"""The last steps of a write, which make it visible, and the way back. Each step may be interrupted by a kill.

With `overwrite`, a manifest must never describe data it was not made for, and whatever is killed, the old data or the new is there,
whole, under its name or (directories) as `<name>.replaced`, with a journal that tells how to go on. Hence the order:

1. the partial file and then the journal, now with the finished manifest in it, are on disk;
2. the old manifest is moved aside (`<name>.mmapstore.json.replaced`): old data without a manifest still opens;
3. the partial file is renamed over the old data: from here the new data opens, without a manifest;
4. the new leaves and then the new manifest are written (leaves of another manifest are noticed: its digest covers them);
5. the old manifest and the journal are deleted.

A kill before 3 leaves a partial file, one after 3 leaves none: so both ways are known, on with `publish`, and back with `discard`.

Samples appended to `.npy` files have no partial file: they lie behind the end of the old ones (`formats.npy_tail`). Then the
journal gets the finished manifest, which decides; the headers are changed, the manifest is replaced, the journal goes. Between the
last three, files and manifest disagree, which `open` notices; and the journal is there, with which any later call goes on first.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from typing import Any

from ...files import durable_writes
from ...files.stored_manifest import write_manifest
from ...files.system_errors import explaining_write_errors
from ...formats import npy_tail
from ...plain.errors import StateMismatchError, TargetExistsError
from ...plain.manifest import leaves_path
from .journal import Journal, found_journal, require_same_call
from .record import grown_paths
from .target import Output


def interrupted_write(output: Output, new_record: Callable[[], Any], resume: bool) -> Journal | None:
    """Return the journal of an interrupted write, None if there is none. One that cannot be read is forgotten without `resume`.

    Raises StateMismatchError and TargetExistsError as `found_journal` does.
    """
    try:
        return found_journal(output, new_record)
    except StateMismatchError:
        if resume:
            raise
        discard(output)
        return None


class Earlier:
    """The write that an earlier call left at an output, whose lock the caller holds.

    Its last steps are taken at once where nothing else is missing: then it is `published`. `journal` is None for no such write.
    """

    def __init__(
        self, output: Output, new_record: Callable[[], Any], resume: bool, is_whole: Callable[[Journal], bool] | None = None
    ) -> None:
        self.journal: Any = interrupted_write(output, new_record, resume)
        self.published = self.journal is not None and (is_whole or is_published)(self.journal)
        if self.journal is not None and self.published:
            publish(self.journal, overwrite=True)
        self._resume = resume

    def forget_unless_resumed(self, require_free: Callable[[], None]) -> None:
        """Discard what is not whole, for a call that does not resume."""
        if self.journal is not None and not self.published and not self._resume:
            require_free()
            discard(self.journal.output, grown_paths(self.journal.output, self.journal.record))
            self.journal = None

    def resumed(self, journal: Journal, fields: Collection[str], ignored: Collection[str] = ()) -> Journal:
        """Return the earlier journal to go on with, or `journal`, of the new call. Raises StateMismatchError for another call."""
        if self.journal is None or self.published:
            return journal
        require_same_call(self.journal, journal, fields, ignored)
        earlier: Journal = self.journal
        return earlier


@contextlib.contextmanager
def kept_if_begun(journal: Journal) -> Iterator[None]:
    """Leave nothing behind if the write fails before there is anything to resume from."""
    try:
        yield
    except BaseException:
        if journal.record is None or not (journal.record.has_progress or journal.output.has_receipts):
            discard(journal.output, grown_paths(journal.output, journal.record))
        raise


def discard(output: Output, grown: list[str] | None = None) -> None:
    """Forget an interrupted write; `grown` are the files that it appended to. What was there before it is there again."""
    with explaining_write_errors(output.path):
        for path in grown or ():
            npy_tail.forget(path)
        old, aside = f"{output.path}.replaced", _aside(output)
        if os.path.lexists(output.partial):
            if os.path.isdir(old) and not os.path.lexists(output.path):
                os.replace(old, output.path)
            if aside and os.path.exists(aside) and not os.path.exists(str(output.manifest)):
                os.replace(aside, str(output.manifest))
            durable_writes.remove(output.partial)
        for leftover in (output.receipts, f"{output.journal}.tmp", output.journal):
            durable_writes.remove(leftover)
        durable_writes.sync_directory(os.path.dirname(os.path.abspath(output.path)))


def publish(journal: Journal, overwrite: bool) -> None:
    """Take steps 2 to 5, for a journal that is finished; from whichever step a kill interrupted."""
    output, aside = journal.output, _aside(journal.output)
    finished = journal.finished
    assert finished is not None
    grown = grown_paths(output, journal.record)
    if not grown and not is_published(journal) and not overwrite and _holds_something(output.path):
        raise TargetExistsError(
            f"{output.path} appeared while it was being written. Pass overwrite=True (--overwrite) to replace it; "
            f"the finished data waits in {output.partial}."
        )
    for path in grown:
        npy_tail.show(path, journal.record.samples)
    with explaining_write_errors(output.path):
        old = f"{output.path}.replaced"
        was_moved_aside = os.path.isdir(old) and (not os.path.lexists(output.partial) or not os.path.lexists(output.path))
        if not grown and os.path.lexists(output.partial):
            if aside and os.path.exists(str(output.manifest)):
                os.replace(str(output.manifest), aside)
                durable_writes.sync_directory(os.path.dirname(os.path.abspath(output.path)))
            durable_writes.replace(output.partial, output.path)
        if was_moved_aside and not grown:
            shutil.rmtree(old)
        if finished.manifest is None:
            durable_writes.remove(leaves_path(output.manifest_path))
        elif output.manifest or grown:  # the manifest of a directory of fields lies in the directory, unless it grew
            write_manifest(output.manifest_path, finished.manifest, finished.leaves)
        if aside:
            durable_writes.remove(aside)
        durable_writes.remove(output.receipts)
        durable_writes.remove(output.journal)
        durable_writes.sync_directory(os.path.dirname(os.path.abspath(output.path)))


def is_published(journal: Journal) -> bool:
    """Return True if the data is in place, so that nothing but the last steps is missing."""
    if journal.finished is None:
        return False
    if grown_paths(journal.output, journal.record):
        return True
    if os.path.lexists(journal.output.partial) or not os.path.lexists(journal.output.path):
        return False
    return os.stat(journal.output.path).st_ino == journal.finished.identity


def _aside(output: Output) -> str | None:
    return f"{output.manifest}.replaced" if output.manifest else None


def _holds_something(path: str) -> bool:
    return os.path.lexists(path) and not (os.path.isdir(path) and not os.listdir(path))
