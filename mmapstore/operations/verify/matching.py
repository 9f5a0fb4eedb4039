"""Pair the objects of two places, and compare their attributes."""

from __future__ import annotations

from typing import Any

from ...formats.tree_contract import Attribute, finite
from .objects import Object, Objects, groups_of

Pair = tuple[str, Object, Object]
"""The common name of two objects, and both objects."""


def matched(a: Objects, b: Objects) -> tuple[list[Pair], list[str], list[str]]:
    """Return the pairs that belong together, and the names of objects that only the first, and only the second, has.

    "x" in one, for an archive with one array, belongs to the only "x/..." of the other. A link in one and an array in the other
    are compared by the array to which the link leads.
    """
    firsts, seconds = a.arrays, b.arrays
    if len(firsts) == len(seconds) == 1 and (a.is_one_array or b.is_one_array or not firsts.keys() & seconds.keys()):
        return [_pair(next(iter(firsts.values())), next(iter(seconds.values())))], [], []
    pairs = [_pair(found, seconds[key]) for key, found in firsts.items() if key in seconds]
    left = dict.fromkeys(key for key in firsts if key not in seconds)
    right = dict.fromkeys(key for key in seconds if key not in firsts)
    for mine, theirs, turned in ((left, right, False), (right, left, True)):
        for key, within in _within(mine, theirs).items():
            inner = [other for other in within if other in theirs]
            if len(inner) == 1:
                del mine[key], theirs[inner[0]]
                pairs.append(_pair(*((firsts[inner[0]], seconds[key]) if turned else (firsts[key], seconds[inner[0]]))))
    seen = {(first.key, second.key) for _, first, second in pairs}  # of an object with two names each has one
    for own, other, names, turned in ((b, firsts, left, True), (a, seconds, right, False)):
        for key in [key for key, each in own.items() if each.link is not None and key in names]:
            if (target := own.led_to(key)) is not None:
                del names[key]
                first, second = (other[key], target) if turned else (target, other[key])
                if (first.key, second.key) not in seen:
                    seen.add((first.key, second.key))
                    pairs.append((key, first, second))
    missing, extra = [*left, *_absent(a, b)], [key for key in (*right, *_absent(b, a)) if not a.is_lost(key)]
    return pairs, _named(a, missing), _named(b, extra)


def _within(mine: dict[str, None], theirs: dict[str, None]) -> dict[str, list[str]]:
    """Return, for each key of `mine` that is a group of `theirs`, the keys in that group."""
    found: dict[str, list[str]] = {}
    for other in theirs:
        for group in groups_of(other)[1:]:
            if group in mine:
                found.setdefault(group, []).append(other)
    return {key: found[key] for key in mine if key in found}


def _pair(first: Object, second: Object) -> Pair:
    same = first.key == second.key
    return first.key if same else f"{first.key or first.name} and {second.key or second.name}", first, second


def _absent(objects: Objects, others: Objects) -> list[str]:
    """Return the names without values that the others lack; of groups only the empty ones."""
    absent = [each for each in objects.values() if not each.is_array and each.is_there and not others.has(each.key)]
    filled = {group for key, each in objects.items() if each.is_array or each.is_empty or each.link for group in groups_of(key)}
    has_groups = others.has_attributes
    return [each.key for each in absent if each.is_empty or each.link or (has_groups and each.key not in filled)]


def _named(objects: Objects, keys: list[str]) -> list[str]:
    return [key or objects[key].name or "/" for key in sorted(keys)]


def attribute_words(first: list[Attribute], second: list[Attribute]) -> tuple[list[str], list[str]]:
    """Return (problems, notes) of the attributes of one object."""
    others = {attribute.name: attribute for attribute in second}
    wrong, notes = [], []
    for attribute in first:
        if attribute.name in _OF_FORMATS:
            continue
        other = others.pop(attribute.name, None)
        if attribute.refused:
            notes.append(f"attribute {attribute.name!r} is not compared: {attribute.refused}")
        elif other is None:
            wrong.append(f"attribute {attribute.name!r} is missing")
        elif finite({"": attribute.value}) != finite({"": other.value}):  # NaN is NaN, or a text where there are no such numbers
            wrong.append(f"attribute {attribute.name!r}: {_short(attribute.value)} against {_short(other.value)}")
    beside = [name for name, other in others.items() if name not in _OF_FORMATS and not other.derived]
    return wrong, [*notes, *([f"the second has further attributes: {', '.join(beside)}"] if beside else [])]


_OF_FORMATS = {"_ARRAY_DIMENSIONS", "layout"}  # how Zarr 2 names axes, and what `ingest` leaves


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
