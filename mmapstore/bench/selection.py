"""Which strategies, tasks and forms the words of a command line mean."""

from __future__ import annotations

import difflib
import fnmatch
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from ..plain.errors import InvalidValueError
from . import strategies
from .arm import strategy_module
from .contract import KINDS, Task

GENERATED_FORMS = {
    "next": ("npy", "h5", "h5-gzip", "zarr", "zarr-zstd"),
    "labelled": ("npy", "h5", "h5-gzip", "zarr", "zarr-zstd"),
    "images": ("folder",),
}
_WRITTEN_BY = {"h5": ("h5py", "hdf5"), "zarr": ("zarr", "zarr"), "folder": ("PIL", "images")}  # module, extra


def chosen_strategies(only: str | None) -> list[str]:
    """Names of strategies, in their usual order: all, or those that `only` names with commas between, `*` standing for anything.

    A strategy has two names, both of which `--list` prints: that of its file, and what the table calls it. The path of a .py
    file is a strategy of the reader's own.
    Raises InvalidValueError, with the nearest names, for a word that is none of them.
    """
    known = strategies.names()
    if only is None:
        return known
    titles = {strategies.load(name).NAME: name for name in known}
    found: set[str] = set()
    own: list[str] = []
    # What the table calls a strategy may have a comma in it: "array in RAM, fit(x, y)".
    for word in [only] if _same(only, list(titles)) else [each.strip() for each in only.split(",")]:
        if word.endswith(".py") and Path(word).is_file():
            own.append(word)
            continue
        meant = {name for title, name in titles.items() if _same(word, (title, name))}
        if not meant:
            near = _nearest(word, [*known, *titles])
            raise InvalidValueError(f"--only {word}: there is no such strategy{near}. `mmapstore bench --list` has all.")
        found |= meant
    return [name for name in known if name in found] + own


def strategy_named(word: str) -> str:
    """The one strategy of that name. Raises InvalidValueError, with the nearest names."""
    for name in strategies.names():
        if _same(word, (name, strategies.load(name).NAME)):
            return name
    names = strategies.names()
    near = _nearest(word, [*names, *(strategies.load(name).NAME for name in names)])
    raise InvalidValueError(f"{word}: there is no such strategy{near}. `mmapstore bench --list` has all.")


def _same(word: str, names: Sequence[str]) -> bool:
    word = word.strip().lower()
    return any(word == name.lower() or ("*" in word and fnmatch.fnmatchcase(name.lower(), word)) for name in names)


def _nearest(word: str, names: Sequence[str]) -> str:
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.strip().lower(), lowered, n=3, cutoff=0.5)
    return f"; near it: {', '.join(lowered[name] for name in near)}" if near else ""


def chosen_words(given: str | None, option: str, known: Sequence[str], default: Sequence[str]) -> list[str]:
    """The words with commas between that an option takes, in the order of `known`.

    >>> chosen_words("zarr,npy", "--form", ["npy", "h5", "zarr"], [])
    ['npy', 'zarr']
    """
    if given is None:
        return list(default)
    words = [word.strip().lower() for word in given.split(",")]
    for word in words:
        if word not in known:
            raise InvalidValueError(
                f"{option} {word} is not known{_nearest(word, known)}; expected one or more of {', '.join(known)}, with commas "
                "between."
            )
    return [word for word in known if word in words]


def chosen_kinds(given: str | None) -> list[str]:
    """Next-frame alone unless others are asked for."""
    return chosen_words(given, "--task", list(KINDS), ["next"])


def chosen_forms(given: str | None, kind: str) -> list[str]:
    """The forms that data of this kind is generated in, of those that were asked for."""
    known = list(dict.fromkeys(form for forms in GENERATED_FORMS.values() for form in forms))
    return [form for form in chosen_words(given, "--form", known, known) if form in GENERATED_FORMS[kind]]


def serving(names: Sequence[str], kind: str, form: str) -> list[str]:
    """Those of the strategies that are for such a task."""
    found = []
    for name in names:
        strategy = strategy_module(name)
        if kind in strategy.KINDS and form.startswith(tuple(strategy.STORED)):
            found.append(name)
    return found


def unwritable(task: Task) -> str:
    """What is missing to generate data of this form, with the line that installs it; "" if nothing is."""
    module, extra = _WRITTEN_BY.get(task.form.split("-")[0], ("numpy", ""))
    if importlib.util.find_spec(module) is not None:
        return ""
    return f'{module} is not installed: pip install "mmapstore[{extra}]"'
