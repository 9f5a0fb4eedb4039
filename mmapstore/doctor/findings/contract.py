"""What a finding is, and what the modules beside this one offer: `findings(case, speeds)`, which yields those of its kind.

`speeds` is None where nothing was measured; a finding then has no seconds, and those that only a measurement can tell are not
made. Nothing is read here but labels: what there is to know lies in the case, in the speeds and in the few values that were
looked at.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

FAILS, SLOW, NOTE = "fails", "slow", "note"
LEVELS = (FAILS, SLOW, NOTE)


@dataclass(frozen=True)
class Finding:
    """
    Attributes
    ----------
    code : a word that stays the same, for programs: "dtype", "chunks" ...
    level : FAILS (it will not train so), SLOW (it trains, and pays for it), NOTE (a little is to be had)
    found : what is so, with its numbers
    mend : the command, or the line of Python, that mends it
    gain : what that would bring, in words
    seconds : of an epoch, less; None where nothing was measured
    nbytes : fewer of them to read, decode, copy or hold, as `gain` says
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
        """Sorts what matters most to the front."""
        return LEVELS.index(self.level), -(self.seconds or 0.0), -(self.nbytes or 0)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)
