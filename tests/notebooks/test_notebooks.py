"""The notebooks run from a clean kernel, and what is committed of them is fit to be read."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted(ROOT.glob("notebooks/*.ipynb"))
LARGEST = 300_000  # bytes of a notebook, its pictures included
# Somebody's home, a temporary directory, a checkout. `/proc` is in the cells because Linux has it there for everybody.
MACHINE_PATHS = re.compile(r"/(?:home|root|tmp|var|work|Users|usr|opt|private)/|[A-Z]:\\\\|/dev/shm")
GREETINGS = ("cuda", "oneDNN", "absl", "cpu_feature_guard", "Warning")

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def cells(path, kind="code"):
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == kind]


def outputs(path):
    return [output for cell in cells(path) for output in cell["outputs"]]


def text_of(output):
    """All that an output says in words: a stream, a traceback, or the text beside a picture."""
    data = output.get("data", {})
    return "".join([*output.get("text", []), *output.get("traceback", []), *data.get("text/plain", [])])


def test_there_are_four_and_they_lead_to_each_other():
    names = [path.name for path in NOTEBOOKS]
    assert [name[:2] for name in names] == ["1_", "2_", "3_", "4_"]
    for path, following in zip(NOTEBOOKS, names[1:], strict=False):
        assert f"]({following})" in "".join(cells(path, "markdown")[-1]["source"])


@each_notebook
def test_it_is_committed_as_one_run_left_it(path):
    counts = [cell["execution_count"] for cell in cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert {output["output_type"] for output in outputs(path)} <= {"stream", "display_data", "execute_result"}
    assert any(output["output_type"] == "stream" for output in outputs(path))
    assert any("image/png" in output.get("data", {}) for output in outputs(path))


@each_notebook
def test_nothing_but_what_it_prints_is_in_its_outputs(path):
    assert [text_of(output) for output in outputs(path) if output.get("name") == "stderr"] == []
    for output in outputs(path):
        assert not any(word in text_of(output) for word in GREETINGS), text_of(output)


@each_notebook
def test_it_tells_nothing_of_the_machine(path):
    for cell in (*cells(path), *cells(path, "markdown")):
        said = ["".join(cell["source"]), *map(text_of, cell.get("outputs", []))]
        for text in said:
            assert not MACHINE_PATHS.search(text), text
    whole = json.loads(path.read_text(encoding="utf-8"))
    assert set(whole["metadata"]) == {"kernelspec", "language_info"}
    assert whole["metadata"]["kernelspec"]["name"] == "python3"
    assert all(cell["metadata"] == {} for cell in whole["cells"])


@each_notebook
def test_it_is_small_and_its_cells_are_named_for_good(path):
    assert path.stat().st_size < LARGEST
    numbers = [cell["id"] for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]]
    assert len(set(numbers)) == len(numbers)


@pytest.mark.slow
@each_notebook
def test_it_runs_from_a_clean_kernel(path, tmp_path):
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    before = sorted(each.name for each in path.parent.iterdir())

    program = [sys.executable, str(Path(__file__).with_name("execution.py")), str(copy)]
    env = {**os.environ, "TMPDIR": str(scratch)}
    done = subprocess.run(program, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr[-3000:]
    for one in (test_it_is_committed_as_one_run_left_it, test_nothing_but_what_it_prints_is_in_its_outputs):
        one(copy)
    test_it_tells_nothing_of_the_machine(copy)
    test_it_is_small_and_its_cells_are_named_for_good(copy)
    assert sorted(each.name for each in path.parent.iterdir()) == before
    # TensorFlow's own temporary files stay behind in processes that were killed by a limit.
    assert list(scratch.glob("mmapstore-*")) == []
