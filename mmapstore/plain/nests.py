"""Nests: an array, or a tuple, list or dict whose values are nests again. Leaves are all that is none of the three.

Leaves are numbered as TensorFlow, JAX and Keras number them: by the sorted keys of a dict, so that the order in which a
function fills a dict has no meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any


def leaves(nest: Any) -> list[Any]:
    """Return the leaves of a nest.

    >>> leaves(({"text": 2, "image": 1}, [3, (4,)]))
    [1, 2, 3, 4]
    """
    if isinstance(nest, Mapping):
        nest = [nest[name] for name in sorted(nest)]
    elif not isinstance(nest, (tuple, list)):
        return [nest]
    return [leaf for part in nest for leaf in leaves(part)]


def pack(nest: Any, found: Iterable[Any]) -> Any:
    """Return a nest of the structure of `nest`, with the leaves `found` in place of its own.

    >>> pack(({"text": 2, "image": 1}, [3, (4,)]), "abcd")
    ({'text': 'b', 'image': 'a'}, ['c', ('d',)])
    """
    return _filled(nest, iter(found))


def map_leaves(function: Callable[[Any], Any], nest: Any) -> Any:
    """Return the nest of what `function` makes of each leaf.

    >>> map_leaves(str, {"image": 1, "text": (2, 3)})
    {'image': '1', 'text': ('2', '3')}
    """
    return pack(nest, map(function, leaves(nest)))


def _filled(nest: Any, found: Iterator[Any]) -> Any:
    if isinstance(nest, Mapping):
        filled = {name: _filled(nest[name], found) for name in sorted(nest)}
        return {name: filled[name] for name in nest}
    if isinstance(nest, list):
        return [_filled(part, found) for part in nest]
    if isinstance(nest, tuple):
        parts = [_filled(part, found) for part in nest]
        return type(nest)(*parts) if hasattr(nest, "_fields") else tuple(parts)
    return next(found)
