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
