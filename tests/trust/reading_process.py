"""Has files read in a child process, and says what came of it: also when it died, hung, or took too much memory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST_GROWN_KIB = 200 << 10  # private memory that one reading of a file of some kilobytes may take, at most
_CHILD = Path(__file__).with_name("reading_child.py")


@dataclass(frozen=True)
class Outcome:
    """What came of one reading.

    Attributes
    ----------
    kind : "read"; "refused" by an MmapstoreError; "broken" by any other exception; "died" by a signal; "hung"
    error : name of the exception, or the return code
    text : of the exception, or what the child wrote before it died
    shape, dtype, digest : of what was read
    grown_kib : how far the most memory that the child ever had in use rose
    """

    kind: str
    error: str = ""
    text: str = ""
    shape: tuple[int, ...] = ()
    dtype: str = ""
    digest: str = ""
    grown_kib: int = 0

    @property
    def values(self) -> tuple[tuple[int, ...], str, str]:
        return self.shape, self.dtype, self.digest

    def complaint(self, named: str) -> str:
        """What is wrong with it, whatever the file was like; empty if nothing is. An error must name `named`."""
        if self.kind not in ("read", "refused"):
            return f"{self.kind}: {self.error} {self.text}"
        if self.grown_kib > MOST_GROWN_KIB:
            return f"it took {self.grown_kib} KiB of memory"
        if self.kind == "refused" and named not in self.text:
            return f"the error does not say where: {self.error}: {self.text}"
        return ""


class ReadingProcess:
    """A child that reads; another one takes its place where it dies."""

    def __init__(self) -> None:
        self._child: subprocess.Popen[str] | None = None
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115

    def read(self, source: Any, **options: Any) -> Outcome:
        """What comes of opening `source` and reading all of it."""
        child = self._started()
        assert child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps([source, options]) + "\n")
        child.stdin.flush()
        line = child.stdout.readline()
        if line:
            found = json.loads(line)
            return Outcome(**{**found, "shape": tuple(found.get("shape", ()))})
        code = child.wait()
        self._errors.seek(0)
        text = self._errors.read()[-2000:]
        self._end()
        return Outcome("hung" if code in (-signal.SIGALRM, -signal.SIGPROF) else "died", str(code), text)

    def _started(self) -> subprocess.Popen[str]:
        if self._child is None:
            self._errors.seek(0)
            self._errors.truncate()
            self._child = subprocess.Popen(
                [sys.executable, "-X", "faulthandler", str(_CHILD)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env={**os.environ, "MALLOC_ARENA_MAX": "2"},  # each arena takes 64 MiB of addresses
            )
        return self._child

    def close(self) -> None:
        self._end()
        self._errors.close()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            assert child.stdin is not None and child.stdout is not None
            child.stdin.close()
            child.wait()
            child.stdout.close()
