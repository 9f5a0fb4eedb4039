"""The public names: what is listed is what is there, and all of it is explained."""

from __future__ import annotations

import inspect
import types

import pytest

import mmapstore


def visible() -> list[str]:
    return [
        name for name in dir(mmapstore) if not name.startswith("_") and not isinstance(getattr(mmapstore, name), types.ModuleType)
    ]


def test_listed_names_are_the_visible_ones():
    assert sorted(mmapstore.__all__) == sorted([*visible(), "__version__"])


def test_listed_names_are_sorted_and_unique():
    assert list(mmapstore.__all__) == sorted(set(mmapstore.__all__))


def test_every_listed_name_can_be_imported():
    for name in mmapstore.__all__:
        assert getattr(mmapstore, name) is not None


def public_callables():
    for name in mmapstore.__all__:
        found = getattr(mmapstore, name)
        if callable(found):
            yield name, found
        if inspect.isclass(found):
            for member, value in vars(found).items():
                if not member.startswith("_") and (callable(value) or isinstance(value, (property, classmethod, staticmethod))):
                    yield f"{name}.{member}", value


OBVIOUS = {"Window.offsets"}


@pytest.mark.parametrize(("name", "found"), list(public_callables()))
def test_public_callables_are_explained(name, found):
    assert (inspect.getdoc(found) or "").strip() or name in OBVIOUS, f"{name} has no docstring"
