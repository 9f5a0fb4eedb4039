"""Run a notebook from a clean kernel, in a directory of its own.

    python tests/notebooks/execution.py notebooks/1_wrap_a_memmap.ipynb

writes the outputs back into it: do this after changing a cell, and look at them before you commit.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

SECONDS = 600  # for one cell, before it counts as stuck


def executed(notebook: Any, folder: str | os.PathLike[str]) -> Any:
    """Run all cells with `folder` as the working directory; gives the notebook with its new outputs, and nothing of its old ones.

    Raises nbclient's CellExecutionError where a cell fails.
    """
    from nbclient import NotebookClient

    commands = str(Path(sys.executable).parent)  # for `!mmapstore`, where the environment is not activated
    path = os.pathsep.join([commands, os.environ.get("PATH", "")])
    env = {**os.environ, "PATH": path, "IPYTHONDIR": str(Path(folder, ".ipython"))}  # nobody's settings, nobody's history
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", record_timing=False, coalesce_streams=True)
    client.execute(cwd=os.fspath(folder), env=env)
    return notebook


def main(path: Path) -> None:
    import nbformat

    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        executed(notebook, folder)
    metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    notebook.metadata = nbformat.from_dict({**metadata, "language_info": {"name": "python"}})
    path.write_text(nbformat.writes(notebook) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        main(Path(argument))
