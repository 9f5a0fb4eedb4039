"""The command as a whole: exit codes, and readers that leave."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from mmapstore.cli import main


@pytest.fixture
def array(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((30, 3, 4, 5), np.uint8))
    return str(tmp_path / "x.npy")


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["info", "x.npy"], 0), (["info", "no.npy"], 1), (["demo", "x.npy", "--epochs", "0"], 2), (["ingest", "x.npy", "y.txt"], 2)],
)
def test_exit_codes_tell(array, monkeypatch, tmp_path, capsys, arguments, code):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == code
    assert bool(capsys.readouterr().err.startswith("mmapstore: ")) is bool(code)
    assert main([*arguments, "--json"]) == code
    assert ("error" in json.loads(capsys.readouterr().out)) is bool(code)


@pytest.mark.skipif(os.name == "nt", reason="needs pipes of POSIX")
def test_a_reader_that_leaves_is_no_error(array):
    """The pipe is closed before anything is written: output that fits a buffer meets it only when that is emptied."""
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-c", "import sys; from mmapstore.cli import main; sys.exit(main(sys.argv[1:]))", "info", array]
    try:
        done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": ""})
    finally:
        os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


COMMAND = [sys.executable, "-c", "import sys; from mmapstore.cli import main; sys.exit(main(sys.argv[1:]))"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize("arguments", [["info", "x.npy"], ["info", "--json", "x.npy"], ["info", "--json", "no.npy"]])
def test_output_that_cannot_be_written_is_one_line(array, tmp_path, arguments, buffered):
    environment = {**os.environ, "PYTHONUNBUFFERED": "" if buffered else "1"}
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run([*COMMAND, *arguments], cwd=tmp_path, stdout=full, stderr=subprocess.PIPE, text=True, env=environment)
    assert done.returncode == 1
    *before, last = done.stderr.splitlines()
    assert last == "mmapstore: the output cannot be written: No space left on device. Send it elsewhere."
    assert all(line.startswith("mmapstore: no.npy does not exist") for line in before) and len(before) <= 1


@pytest.mark.skipif(os.name == "nt", reason="needs descriptors of POSIX")
def test_closed_output_is_no_error(array, tmp_path):
    closing = ["sh", "-c", 'exec "$@" >&-', "sh", *COMMAND, "info", "x.npy"]
    done = subprocess.run(closing, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_errors_of_the_program_itself_are_not_taken_for_those_of_the_output(array, monkeypatch):
    def broken(*arguments):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("mmapstore.operations.describe.describe", broken)
    with pytest.raises(OSError, match="Input/output error"):
        main(["info", array])
