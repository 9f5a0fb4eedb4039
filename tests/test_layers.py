"""Imports point down, and frameworks and format libraries are imported by their owners alone."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import mmapstore

ROOT = Path(mmapstore.__file__).parent
LAYERS = ["plain", "files", "codecs", "formats", "readers", "batches", "operations", "adapters", "entry"]
# What batches and `Dataset` offer by themselves, `to_keras`, `to_tf` and `augmented`, is loaded when it is called.
UPWARD = {("batches/batch_epochs.py", "adapters"), ("batches/dataset.py", "operations")}
OWNERS = {
    "h5py": {"formats/hdf5_", "bench/"},
    "zarr": {"formats/zarr_", "bench/"},
    "numcodecs": {"codecs/", "formats/"},
    "deflate": {"codecs/"},
    "blosc2": {"codecs/"},
    "imagecodecs": {"codecs/"},
    "tensorflow": {"adapters/", "demo", "bench/", "operations/footprint", "batches/batch_epochs.py"},
    "keras": {"adapters/", "demo", "bench/", "operations/footprint"},
    "torch": {"adapters/"},
    "jax": {"adapters/"},
    "av": {"operations/ingest/video", "demo"},
    "joblib": {"operations/ingest/megabatches/unpickling"},
    "PIL": {"operations/", "demo", "bench/"},
    "matplotlib": set(),
    "tqdm": {"operations/progress", "bench/"},
}
MODULES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*.py"))


def layer_of(module: str) -> str:
    head = module.split("/")[0]
    return head if head in LAYERS else "entry"


def imports(module: str):
    """(dotted name, inside a function or under TYPE_CHECKING) of every import, relative ones made absolute."""
    tree = ast.parse((ROOT / module).read_text(encoding="utf-8"))
    lazy = {
        id(child)
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        or (isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING")
        for child in ast.walk(node)
    }
    package = ["mmapstore", *module.split("/")[:-1]]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in lazy
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            name = ".".join([*base, *([node.module] if node.module else [])])
            yield name, id(node) in lazy
            if name == "mmapstore" or name.count(".") < 2:
                for alias in node.names:
                    yield f"{name}.{alias.name}", id(node) in lazy


def layer_of_import(name: str) -> str | None:
    parts = name.split(".")
    if parts[0] != "mmapstore":
        return None
    head = parts[1] if len(parts) > 1 else ""
    return head if head in LAYERS else "entry" if head in {"cli", "demo", "bench", "doctor"} else None


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module):
    own = layer_of(module)
    for name, lazy in imports(module):
        other = layer_of_import(name)
        if other is None or (lazy and (module, other) in UPWARD):
            continue
        assert LAYERS.index(other) <= LAYERS.index(own), f"{module} ({own}) imports {name} ({other}), which is above it"


@pytest.mark.parametrize("module", MODULES)
def test_libraries_are_imported_by_their_owners(module):
    for name, _ in imports(module):
        owners = OWNERS.get(name.split(".")[0])
        if owners is not None:
            assert any(module.startswith(owner) for owner in owners), f"{module} imports {name}; only {sorted(owners)} may"


def test_the_check_sees_imports():
    found = dict(imports("batches/batch_epochs.py"))
    assert found["mmapstore.adapters.keras_sequence"] is True
    assert found["mmapstore.batches.look_ahead"] is False
    assert {layer_of(module) for module in MODULES} >= set(LAYERS) - {"operations"}


def test_files_are_small():
    for module in MODULES:
        lines = len((ROOT / module).read_text(encoding="utf-8").splitlines())
        assert lines <= 420, f"{module} has {lines} lines; split it by noun"
        assert Path(module).stem not in {"utils", "helpers", "core", "common"}
