"""The order in which images are written: mixed by a seed, so that contiguous parts are random parts, or that of the list."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....plain.errors import InvalidValueError, SourceWarning, warn_user
from ....plain.sample_order import Permutation
from ....plain.windows import whole_number
from ..contract import Array
from .form import require_one_of
from .header import ImageHeader

ORDERS = ("mixed", "sorted")
_FRAME = re.compile(r"(frame[ _.-]?)?([0-9]{1,18})", re.IGNORECASE)
_KEEPS = "order='sorted' (--order sorted) keeps the order of names"
_MIXES = "order='mixed' (--order mixed) mixes them"


@dataclass(frozen=True)
class WantedOrder:
    """The order that a user asks for, as `Images` explains."""

    order: str | None
    seed: int
    by_folder: bool

    @classmethod
    def of(cls, order: Any, seed: Any, episodes: Any) -> WantedOrder:
        require_one_of("order", order, (*ORDERS, None))
        require_one_of("episodes", episodes, ("folder", None))
        if order == "mixed" and episodes is not None:
            raise InvalidValueError(
                "order='mixed' would take apart the sequences that episodes='folder' keeps together. Leave one of them out."
            )
        return cls(order, whole_number("seed", seed), episodes is not None)

    def note(
        self, name: str, paths: Sequence[str], headers: Sequence[ImageHeader | None], in_folders: bool, is_labelled: bool
    ) -> dict[str, Any]:
        """Choose the order of these files, and return the manifest's note of it, which has a "seed" if the order is mixed.

        `in_folders`: folders are the classes, or hold images with masks. Files numbered as frames then stay in order, each folder
        an episode, which a SourceWarning says. `is_labelled`: there is a field beside "image".
        """
        order = self.order
        if order is None and is_labelled and not self.by_folder:
            if in_folders and are_numbered_frames(paths, headers):
                warn_user(
                    f"{name}: files are numbered as frames, such as {paths[0]}, and stay in the order of names, each folder an "
                    "episode. If that is right, say episodes='folder' (--episodes folder); if they are images without an order in "
                    "time, say order='mixed' (--order mixed).",
                    SourceWarning,
                )
                return {"order": "sorted", "why": "numbered frames"}
            order = "mixed"
        if order == "mixed":
            # Pages of a file stay together: they may follow each other in time.
            are_episodes = all(header is None or len(header.pages) > 1 for header in headers)
            return {"order": "mixed episodes" if are_episodes else "mixed", "seed": self.seed}
        return {"order": "sorted"} if order or is_labelled or self.by_folder else {}

    def places(self, samples: int) -> Array:
        """Return the sample at each place of the mixed order, a function of the seed and the number of samples alone.

        >>> WantedOrder.of("mixed", 0, None).places(6).tolist()
        [3, 2, 0, 5, 4, 1]
        """
        permutation = Permutation(samples, f"mmapstore ingest order 1: seed {self.seed}".encode())
        return permutation(np.arange(samples, dtype=np.int64))


def are_numbered_frames(paths: Sequence[str], headers: Sequence[ImageHeader | None]) -> bool:
    """True if the images of every folder have one size, and names that count frames.

    Such names are numbers without a gap, padded with zeros as programs write frames (`walk/0001.png`, `walk/0002.png`), or the
    word "frame" and numbers without a gap. Images of a class that are numbered otherwise (`cat/1.jpg`, `cat/img_0001.jpg`, numbers
    that are spread over the classes) have no order in time. `headers` are those of the files, None for a broken one.
    """
    folders: dict[str, list[tuple[str, str]]] = {}
    sizes: dict[str, set[tuple[int, int]]] = {}
    for path, header in zip(paths, headers, strict=True):
        folder, name = os.path.split(path)
        found = _FRAME.fullmatch(os.path.splitext(name)[0])
        if found is None:
            return False
        folders.setdefault(folder, []).append((found[1] or "", found[2]))
        sizes.setdefault(folder, set()).update([header.size] if header is not None else [])
        if len(sizes[folder]) > 1:
            return False
    is_padded = any(len(number) > 1 and number.startswith("0") for names in folders.values() for _, number in names)
    return any(len(names) > 1 for names in folders.values()) and all(_count_up(names, is_padded) for names in folders.values())


def _count_up(names: Sequence[tuple[str, str]], is_padded: bool) -> bool:
    """True if (word, number) of the names of a folder count frames."""
    numbers = sorted(int(number) for _, number in names)
    is_named = all(word for word, _ in names) or (is_padded and len({len(number) for _, number in names}) == 1)
    return is_named and numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def order_words(note: Any) -> str:
    """Return the order of samples in words, with the option that changes it, from a source's or a manifest's note; "" without one.

    Where several calls wrote samples, the note of the last counts.

    >>> order_words({"samples": 9, "order": "mixed", "seed": 0})
    "samples in an order mixed by seed 0; order='sorted' (--order sorted) keeps the order of names"
    """
    note = next(iter(note[-1:]), {}) if isinstance(note, list) else note or {}
    kind = note.get("order")
    if kind not in (*ORDERS, "mixed episodes"):
        return ""
    if kind == "sorted":
        if "numbered frames" in note.get("why", ""):
            return f"samples in the order of names, each folder an episode, for files are numbered as frames; {_MIXES}"
        return f"samples in the order of names; {_MIXES}"
    if "seed" not in note:
        return "samples in the mixed order of their source"
    what = "files, each an episode," if kind == "mixed episodes" else "samples"
    return f"{what} in an order mixed by seed {note['seed']}; {_KEEPS}"
