"""Check names in a container that become names of files: a directory cannot hold some, and others lead out of it."""

from __future__ import annotations

import os

from ..plain.errors import UnsafeFileError

_MOST_NAME, _MOST_PATH = 255, 4095  # bytes, of ext4, XFS, APFS and NTFS alike (NTFS counts letters)
_ROOM = 80  # for suffixes: the name of a chunk, ".partial"
_NEVER_ON_WINDOWS = set('<>:"|?*')


def place_below(root: str, path: str) -> str:
    """Return the file or directory that `path` names below `root`. Raises UnsafeFileError for a path that leads elsewhere.

    >>> place_below("out", "/a/b"), place_below("out", "/")
    ('out/a/b', 'out')
    """
    if path == "/":
        return root
    parts = path[1:].split("/")
    if any(not part or part in (".", "..") or os.sep in part or "\0" in part for part in parts):
        raise UnsafeFileError(f"{root}: {path!r} is not a path inside the directory; its names would lead elsewhere.")
    return os.path.join(root, *parts)


def why_no_file(root: str, path: str, reserved: tuple[str, ...] = (), ending: str = "") -> str:
    """Return the reason if the last name of `path` cannot be that of a file or directory below `root`; "" if it can.

    >>> why_no_file("out", "/a/b"), why_no_file("out", "/a/..")
    ('', "'..' leads out of the directory")
    """
    name = path.rsplit("/", 1)[-1]
    if path == "/":
        return ""
    if not name or set(name) == {"."}:
        return f"{name!r} leads out of the directory" if name == ".." else f"no file can be called {name!r}"
    found = [letter for letter in ("\0", "\\", os.sep) if letter in name]
    if found:
        return f"{name!r} holds {found[0]!r}, which no name of a file may"
    if os.name == "nt" and (set(name) & _NEVER_ON_WINDOWS or name[-1] in " ." or min(name) < " "):
        return f"{name!r} is no name of a file on Windows"
    if name + ending in reserved:
        return f"the name {name + ending!r} is taken by the store itself"
    try:
        encoded = os.fsencode(name + ending)
    except UnicodeEncodeError:
        return f"{name!r} cannot be written in the encoding of file names here"
    if len(encoded) > _MOST_NAME:
        return f"its name has {len(encoded)} bytes; a file may have {_MOST_NAME}"
    nbytes = len(os.fsencode(os.path.abspath(root) + path)) + _ROOM
    return f"its path has {nbytes} bytes; a file may have {_MOST_PATH}" if nbytes > _MOST_PATH else ""
