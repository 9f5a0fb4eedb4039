"""The backends of Keras that tests run on, in processes of their own."""

from __future__ import annotations

import importlib.util
import os
import sys

import pytest

# Other builds of torch than that for Python 3.11, which pyproject.toml names, bring gigabytes.
_IN_CI = {"tensorflow", "jax"} | ({"torch"} if sys.version_info[:2] == (3, 11) else set())


def require_backend(backend: str) -> None:
    """Skip the test where a backend is not installed; fail it in CI, which installs them."""
    if importlib.util.find_spec(backend) is None:
        assert "CI" not in os.environ or backend not in _IN_CI, f"{backend} is not installed, and CI is to test with it"
        pytest.skip(f"{backend} is not installed")
