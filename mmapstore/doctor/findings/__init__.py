"""All faults that the doctor finds, by subject matter; `all_findings` asks each module and sorts."""

from __future__ import annotations

from ..speeds import Speeds
from ..subject import Subject
from . import arrangement, elements, shuffling, storage
from .contract import Finding


def all_findings(subject: Subject, speeds: Speeds | None) -> list[Finding]:
    """Return the findings, the most important first."""
    kinds = (elements, arrangement, storage, shuffling)
    return sorted((found for kind in kinds for found in kind.findings(subject, speeds)), key=lambda found: found.rank)
