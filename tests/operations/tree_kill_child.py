"""Run in a child process: converts a tree again and again, each time killed at another call that reaches the disk, and resumes.

Arguments: source, folder, suffix of the target, every how many of these calls one kill, overwrite (0 or 1). Prints JSON: how many
kills, and what was wrong afterwards.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import h5py
import zarr  # noqa: F401 - loaded here, so that no fork has to

from mmapstore.operations.convert.tree import convert_all
from mmapstore.operations.flow import journal

journal.COMMIT_SECONDS = 0.0
CALLS = ("fsync", "replace", "unlink", "truncate", "ftruncate", "mkdir", "posix_fallocate", "rename", "rmdir")


def killed_at(source, target, number, overwrite) -> bool:
    """Convert in a fork that kills itself at call `number`. True if it came that far."""
    process = os.fork()
    if process == 0:
        count = 0

        def counted(call):
            def wrapped(*arguments, **options):
                nonlocal count
                count += 1
                if count == 2 * number:  # after a call
                    call(*arguments, **options)
                if count >= 2 * number - 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                return call(*arguments, **options)

            return wrapped

        for name in CALLS:
            setattr(os, name, counted(getattr(os, name)))
        code = 0
        try:
            # A row is told when its object is written and before it is on disk: one more moment to be killed at.
            journal.COMMIT_SECONDS = 0.0 if number % 2 else 3600.0
            convert_all(source, target, overwrite=overwrite, progress=counted(lambda row: None))
        except BaseException as error:
            print(repr(error), file=sys.stderr)
            code = 3
        os._exit(code)
    _, status = os.waitpid(process, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 0, "the conversion failed by itself"
        return False
    return True


def killed_after(source, target, seconds, overwrite) -> bool:
    """Convert in a fork that is killed after a time. True if it had not ended."""
    process = os.fork()
    if process == 0:
        journal.COMMIT_SECONDS = 0.0
        convert_all(source, target, overwrite=overwrite, progress=False)
        os._exit(0)
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)
    _, status = os.waitpid(process, 0)
    return os.WIFSIGNALED(status)


def in_a_fork(work) -> str:
    """What `work` returns, done in a process of its own, so that this one stays without threads."""
    reader, writer = os.pipe()
    process = os.fork()
    if process == 0:
        os.close(reader)
        try:
            answer = work()
        except BaseException as error:
            answer = f"{type(error).__name__}: {error}"
        with os.fdopen(writer, "w") as out:
            out.write(answer)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as given:
        answer = given.read()
    os.waitpid(process, 0)
    return answer


def contents(path):
    """What the target holds: bytes of files; of an HDF5 file, which is not the same bit for bit, names, values and attributes."""
    if os.path.isdir(path):
        return {str(file.relative_to(path)): file.read_bytes() for file in sorted(Path(path).rglob("*")) if file.is_file()}
    found = {}
    with h5py.File(path) as file:

        def visit(name, item):
            value = repr(item[()].tolist()) if isinstance(item, h5py.Dataset) else ""
            found[name] = (value, repr(sorted((key, repr(each)) for key, each in item.attrs.items())))

        file.visititems(visit)
    return found


def main():
    source, folder, suffix, every, overwrite = *sys.argv[1:4], int(sys.argv[4]), sys.argv[5] == "1"
    whole = os.path.join(folder, f"whole{suffix}")
    began = time.monotonic()
    rows = in_a_fork(lambda: repr(convert_all(source, whole, progress=False).rows))
    took = time.monotonic() - began
    target = os.path.join(folder, f"target{suffix}")
    wrong, kills = [], {"by call": 0, "by time": 0}

    def prepare():
        for name in os.listdir(folder):
            if name.startswith("target"):
                path = os.path.join(folder, name)
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
        if overwrite:
            shutil.copytree(whole, target) if os.path.isdir(whole) else shutil.copyfile(whole, target)

    def check(when):
        if overwrite and not os.path.lexists(target) and not os.path.lexists(f"{target}.replaced"):
            wrong.append(f"{when}: neither the old target nor the new is there")
        if not overwrite and os.path.lexists(target) and contents(target) != contents(whole):
            wrong.append(f"{when}: a target that is not whole has its name")
        resumed = in_a_fork(lambda: repr(convert_all(source, target, overwrite=True, progress=False).rows))
        if resumed != rows:
            wrong.append(f"{when}: resumed to {resumed[:500]}")
        elif contents(target) != contents(whole):
            wrong.append(f"{when}: resumed to other contents")
        left = [name for name in os.listdir(folder) if name.startswith("target") and name != os.path.basename(target)]
        if left:
            wrong.append(f"{when}: left {left}")

    number, ended = 1, set()
    while len(ended) < 2:  # runs with few commits, and those with many
        prepare()
        if killed_at(source, target, number, overwrite):
            kills["by call"] += 1
            check(f"call {number}")
        else:
            ended.add(number % 2)
        number += every
    times = random.Random(0)
    for _ in range(20 // every):
        prepare()
        seconds = times.random() * took
        kills["by time"] += killed_after(source, target, seconds, overwrite)
        check(f"after {seconds:.3f} s")
    print(json.dumps({"kills": kills, "wrong": wrong}))


if __name__ == "__main__":
    main()
