"""What the doctor says, in lines for people and in JSON for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..plain.display import format_duration
from ..plain.memory_budget import MemoryPlan, format_bytes
from .bottleneck import Bottleneck
from .findings.contract import Finding
from .frameworks import Frameworks
from .routes import Route
from .speeds import Speeds


@dataclass(frozen=True)
class Diagnosis:
    """Of one array, or of one folder of images.

    Attributes
    ----------
    path : as `mmapstore.open` takes it
    what : one line: samples, dtype, axes, bytes, and what x and y are
    read : how it is read, and why so
    findings : what matters most first; empty where all is well
    routes : the ways there are beside mmapstore, the dearest first; `memory` is mmapstore's predicted peak, with `how` it is used
    available : bytes of memory that could be used when it was judged
    speeds, bottleneck : None where nothing was measured
    """

    path: str
    what: str
    read: str
    findings: tuple[Finding, ...]
    routes: tuple[Route, ...]
    memory: MemoryPlan | None
    how: str
    available: int
    frameworks: Frameworks
    speeds: Speeds | None = None
    bottleneck: Bottleneck | None = None
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Plain values; bytes, seconds, bytes per second."""
        return {
            "path": self.path,
            "what": self.what,
            "read": self.read,
            "findings": [found.to_json() for found in self.findings],
            "routes": [asdict(route) for route in self.routes],
            "memory_bytes": None if self.memory is None else self.memory.total,
            "memory": {} if self.memory is None else dict(self.memory.parts),
            "available_bytes": self.available,
            "frameworks": {**asdict(self.frameworks), "versions": dict(self.frameworks.versions)},
            "speeds": None if self.speeds is None else asdict(self.speeds),
            "bottleneck": None if self.bottleneck is None else self.bottleneck.to_json(),
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        lines = [self.what, *(line for found in self.findings for line in ("", *_finding_lines(found)))]
        if not self.findings:
            lines[0] += "; nothing to mend"
        lines += ["", *self._memory_lines(), "", f"read: {self.read}"]
        if self.bottleneck is not None:
            lines.append(f"speed: {self.bottleneck.words}")
        return "\n".join([*lines, *self.notes])

    def _memory_lines(self) -> list[str]:
        rows = [(route.name, route.nbytes, _words(route)) for route in self.routes]
        if self.memory is not None:
            parts = " + ".join(
                f"{name} {format_bytes(size)}" for name, size in self.memory.parts.items() if size * 200 > self.memory.total
            )
            rows.append((self.how, self.memory.total, f"  = {parts}"))
        width = max((len(name) for name, _, _ in rows), default=0)
        return [
            f"private memory over the framework's own, predicted for {self.frameworks}; {format_bytes(self.available)} available:",
            *(f"  {name.ljust(width)}  {format_bytes(nbytes):>7}{words}" for name, nbytes, words in rows),
        ]


def _words(route: Route) -> str:
    """What stands behind the bytes of a way."""
    chance = f"  left to chance, from {format_bytes(route.least)} on" if route.least < route.nbytes else ""
    return chance + ("" if route.fits else "  more than there is")


def _finding_lines(found: Finding) -> list[str]:
    seconds = "" if found.seconds is None or found.seconds < 0.0005 else f"; about {format_duration(found.seconds)} less an epoch"
    return [f"{found.level}: {found.found} [{found.code}]", f"    mend: {found.mend}", f"    gain: {found.gain}{seconds}"]
