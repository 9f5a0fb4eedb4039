"""Classes of labels that lie one after the other in the store."""

from __future__ import annotations

from collections.abc import Iterator

from ...batches.missing_classes import sorted_classes
from ..case import Case
from ..mending import open_line
from ..speeds import Speeds
from .contract import FAILS, Finding


def findings(case: Case, speeds: Speeds | None) -> Iterator[Finding]:
    if speeds is None or (found := sorted_classes(case.dataset)) is None:
        return
    field, words = found
    yield Finding(
        "sorted-classes",
        FAILS,
        f"the classes of the field {field!r} lie one after the other ({words}): contiguous parts, as of split(0.8, 0.2), lack some",
        f"train, val = {open_line(case)}.split(0.8, 0.2, stratify={field!r})",
        "every class in each part, in proportion",
    )
