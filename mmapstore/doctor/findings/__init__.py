"""Everything that may be wrong with a dataset, by what it is about. `all_findings` asks each module, and sorts."""

from __future__ import annotations

from ..case import Case
from ..speeds import Speeds
from . import alignment, arrangement, chunks, classes, codec, elements, shuffling
from .contract import Finding

_KINDS = (elements, arrangement, chunks, codec, alignment, shuffling, classes)


def all_findings(case: Case, speeds: Speeds | None) -> list[Finding]:
    """What matters most first."""
    return sorted((found for kind in _KINDS for found in kind.findings(case, speeds)), key=lambda found: found.rank)
