""".npz archives: zip files of .npy files."""

from __future__ import annotations

from . import npz_member
from .contract import Format

FORMAT = Format(
    title=".npz",
    suffixes=(".npz",),
    matches=npz_member.matches,
    open_array=npz_member.open_array,
    list_arrays=npz_member.list_arrays,
)
