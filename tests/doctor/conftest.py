"""Judged by one framework and at one speed, whatever the machine has: what is found then depends on the data alone."""

from __future__ import annotations

import pytest

from mmapstore.doctor import examination
from mmapstore.doctor.frameworks import Frameworks
from mmapstore.doctor.speeds import Speeds

KERAS = Frameworks({"keras": "3.15.1", "tensorflow-cpu": "2.21.0"})
FAST = Speeds(copy=1e10, read=1e10, batch=1e-5)


@pytest.fixture(autouse=True)
def keras_on_a_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "installed", lambda: KERAS)


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(examination, "measured", lambda subject: FAST)
