"""Find the names of HDF5 objects that the attributes and soft links of a file refer to."""

from __future__ import annotations

import posixpath
from collections import Counter
from collections.abc import Iterator
from typing import Any

from ..plain.errors import MmapstoreError
from .tree_contract import Kind, TreeSource


def names_referred_to(tree: TreeSource) -> dict[str, str]:
    """Return {path that `walk` gives an object: the name that is referred to most}, for objects where these differ.

    Soft links count, and words in text attributes that name an object: by its whole path as NeXus's `target` does, or from the
    group of the attribute or array, as NeXus's `default`, `signal` and `axes`, and CF's `coordinates`.
    """
    names: dict[str, list[str]] = {}
    for node in tree.walk():
        if node.kind == Kind.ALIAS:
            names.setdefault(node.target, [node.target]).append(node.path)
    if not names:
        return {}
    wanted = {name for each in names.values() for name in each}
    counts: Counter[str] = Counter()
    for path in _paths_in(tree):
        while path != "/":  # a path into a group refers to the group as well
            if path in wanted:
                counts[path] += 1
            path = posixpath.dirname(path)
    best = {first: max(each, key=lambda name: counts[name]) for first, each in names.items()}
    return {first: name for first, name in best.items() if name != first}


def _paths_in(tree: TreeSource) -> Iterator[str]:
    for node in tree.walk():
        base = node.path if node.kind == Kind.GROUP else posixpath.dirname(node.path)
        if node.kind == Kind.SOFT_LINK:
            yield _joined(base, node.target)
        if not node.attributes:
            continue
        try:
            attributes = tree.attributes(node.path)
        except MmapstoreError:
            continue
        for attribute in attributes:
            for text in _texts(attribute.value):
                for word in {text, *text.replace(":", " ").replace(",", " ").split()}:
                    yield _joined(base, word)


def _joined(base: str, path: str) -> str:
    return "/" + posixpath.normpath(posixpath.join(base, path)).lstrip("/")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str) and value:
        yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each)
