"""Faults by subject matter: each module yields them from `findings(subject, speeds)`.

`speeds` is None where nothing was measured; findings then have no seconds, and those that need a measurement are not made.
"""

from __future__ import annotations

from dataclasses import dataclass

FAILS, SLOW, NOTE = "fails", "slow", "note"
LEVELS = (FAILS, SLOW, NOTE)


@dataclass(frozen=True)
class Finding:
    """A fault and its remedy."""

    code: str  # a stable word for programs: "dtype", "chunks" ...
    level: str  # FAILS (training fails), SLOW (training is slowed down), NOTE (a small gain)
    found: str  # the fault, with its numbers
    mend: str  # the command, or the line of Python, that fixes the fault
    gain: str  # the gain of that, in words
    seconds: float | None = None  # seconds saved in an epoch; None where nothing was measured
    nbytes: int | None = None  # bytes saved of reading, decoding, copying or holding, as `gain` says

    @property
    def rank(self) -> tuple[int, float, int]:
        """Sort key that brings the most important to the front."""
        return LEVELS.index(self.level), -(self.seconds or 0.0), -(self.nbytes or 0)
