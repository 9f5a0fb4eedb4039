""".npy files: one array in each, its values in one piece behind a header."""

from __future__ import annotations

from . import npy_file, npy_tail
from .contract import Format, Writing

FORMAT = Format(
    title=".npy",
    suffixes=(".npy",),
    matches=npy_file.matches,
    open_array=npy_file.open_array,
    list_arrays=npy_file.list_arrays,
    writing=Writing(
        create=npy_file.create,
        reopen=npy_file.reopen,
        suffixes=(".npy",),
        holds_many=False,
        flushes_beside=npy_file.NpyWriter.flushes_beside,
        tail=Writing(create=npy_tail.reopen, reopen=npy_tail.reopen, suffixes=(), holds_many=False),
    ),
    container="npy_tree.FILE",
)
