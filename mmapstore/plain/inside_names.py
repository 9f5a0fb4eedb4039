"""Names of arrays inside files, such as "a.h5::/x", where the name of a file may hold "::" as well."""

from __future__ import annotations

import os
import re


def split_name(name: str) -> tuple[str, str | None]:
    """Split a name at the "::" behind its file, the longest that exists; without one, at the first "::". None: no place inside.

    >>> split_name("a.h5::/group/x"), split_name("a.npy")
    (('a.h5', '/group/x'), ('a.npy', None))
    """
    places = [found.start() for found in re.finditer("(?=::)", name)]
    if not places or os.path.lexists(name):
        return name, None
    at = next((at for at in reversed(places) if os.path.lexists(name[:at])), places[0])
    return name[:at], name[at + 2 :]


def file_of(name: str) -> str:
    """The file, or directory of a store, of such a name."""
    return split_name(name)[0]
