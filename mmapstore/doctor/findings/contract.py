"""A finding, as each module beside this one yields it from `findings(subject, speeds)`.

`speeds` is None where nothing was measured; findings then have no seconds, and those that need a measurement are not made.
"""

from __future__ import annotations

from dataclasses import dataclass

FAILS, SLOW, NOTE = "fails", "slow", "note"
LEVELS = (FAILS, SLOW, NOTE)


@dataclass(frozen=True)
class Finding:
    """A fault and its remedy.

    Attributes
    ----------
    code : a stable word for programs: "dtype", "chunks" ...
    level : FAILS (training fails), SLOW (training is slowed down), NOTE (a small gain)
    found : the fault, with its numbers
    mend : the command, or the line of Python, that fixes the fault
    gain : the gain of that, in words
    seconds : seconds saved in an epoch; None where nothing was measured
    nbytes : bytes saved of reading, decoding, copying or holding, as `gain` says
    """

    code: str
    level: str
    found: str
    mend: str
    gain: str
    seconds: float | None = None
    nbytes: int | None = None

    @property
    def rank(self) -> tuple[int, float, int]:
        """Sort key that brings the most important to the front."""
        return LEVELS.index(self.level), -(self.seconds or 0.0), -(self.nbytes or 0)
