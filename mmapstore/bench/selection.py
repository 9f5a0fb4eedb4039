"""The strategies, tasks and forms that the words of a command line name."""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from pathlib import Path

from ..plain.errors import InvalidValueError
from . import strategies

_ARRAYS = ("npy", "h5", "h5-gzip", "zarr", "zarr-zstd")
GENERATED_FORMS = {"next": _ARRAYS, "labelled": _ARRAYS, "images": ("folder",)}


def chosen_strategies(only: str | None) -> list[str]:
    """Return the strategies that `only` names, with commas between and `*` for anything, in the order of the table; None: all.

    A strategy is named as its function or as its title in the table; the path of a .py file is a user's own strategy.
    Raises InvalidValueError, with the nearest names, for a word that matches none.
    """
    known = strategies.names()
    if only is None:
        return known
    titles = {strategies.load(name).title: name for name in known}
    found: set[str] = set()
    own: list[str] = []
    # A title may contain a comma: "array in RAM, fit(x, y)".
    for word in [only] if _same(only, *titles) else [each.strip() for each in only.split(",")]:
        if word.endswith(".py") and Path(word).is_file():
            own.append(word)
            continue
        meant = {name for title, name in titles.items() if _same(word, title, name)}
        if not meant:
            near = _nearest(word, [*known, *titles])
            raise InvalidValueError(f"there is no strategy {word!r}{near}. `mmapstore bench --list` has all.")
        found |= meant
    return [name for name in known if name in found] + own


def _same(word: str, *names: str) -> bool:
    return any(fnmatch.fnmatchcase(name.lower(), word.strip().lower().replace("[", "[[]")) for name in names)


def _nearest(word: str, names: Sequence[str]) -> str:
    lowered = {name.lower(): name for name in names}
    near = difflib.get_close_matches(word.strip().lower(), lowered, n=3, cutoff=0.5)
    return f"; near it: {', '.join(lowered[name] for name in near)}" if near else ""


def chosen_words(given: str | None, option: str, known: Sequence[str], default: Sequence[str]) -> list[str]:
    """Return the words with commas between that an option takes, in the order of `known`.

    >>> chosen_words("zarr,npy", "--form", ["npy", "h5", "zarr"], [])
    ['npy', 'zarr']
    """
    words = list(default) if given is None else [word.strip().lower() for word in given.split(",")]
    for word in words:
        if word not in known:
            raise InvalidValueError(
                f"{option} {word} is not known{_nearest(word, known)}; expected one or more of {', '.join(known)}, with commas "
                "between."
            )
    return [word for word in known if word in words]


def chosen_kinds(given: str | None) -> list[str]:
    return chosen_words(given, "--task", list(GENERATED_FORMS), ["next"])


def chosen_forms(given: str | None, kind: str) -> list[str]:
    """Return the forms that data of this kind is generated in, of those asked for."""
    known = [*_ARRAYS, "folder"]
    return [form for form in chosen_words(given, "--form", known, known) if form in GENERATED_FORMS[kind]]
