"""Work in forked processes, each of which may end, without a word, at one of the calls that change what is on the disk."""

from __future__ import annotations

import itertools
import json
import os
import shutil
from collections.abc import Callable
from typing import Any

_CALLS = ("replace", "unlink", "fsync", "fdatasync", "makedirs", "link", "truncate", "ftruncate")


def forked(work: Callable[[], Any], dies_at: int | None = None) -> tuple[int, Any]:
    """(exit code, what `work` returned through JSON, or its error as text). It ends at call number `dies_at` with exit code 9."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if dies_at is not None:
                _die_at(dies_at)
            text = json.dumps(work())
        except BaseException as error:
            text = json.dumps(f"{type(error).__name__}: {error}")
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        text = file.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return code, (json.loads(text) if text else None)


def _die_at(step: int) -> None:
    number = itertools.count(1)

    def counted(call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **options: Any) -> Any:
            if next(number) == step:
                os._exit(9)
            return call(*arguments, **options)

        return counting

    for name in _CALLS:
        if hasattr(os, name):
            setattr(os, name, counted(getattr(os, name)))
    shutil.rmtree, shutil.copyfile = counted(shutil.rmtree), counted(shutil.copyfile)
