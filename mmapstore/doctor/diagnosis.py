"""The result of the doctor, as text for people and JSON for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from ..plain.display import format_duration, text_table
from ..plain.memory_budget import MemoryPlan, format_bytes
from .findings import Finding
from .frameworks import Frameworks
from .routes import Route
from .speeds import Bottleneck, Speeds


@dataclass(frozen=True)
class Diagnosis:
    """The diagnosis of one array, or of one folder of images."""

    path: str  # path for `mmapstore.open`
    what: str  # one line: samples, dtype, axes, bytes, x and y
    read: str  # how the array is read, and why
    findings: tuple[Finding, ...]  # faults, the most important first; empty where all is well
    # strategies beside mmapstore, the largest peak first; `memory` is mmapstore's predicted peak if used as `how` says
    routes: tuple[Route, ...]
    memory: MemoryPlan | None
    how: str
    available: int  # bytes of memory that were available
    frameworks: Frameworks
    # speeds, bottleneck: None where nothing was measured
    speeds: Speeds | None = None
    bottleneck: Bottleneck | None = None
    notes: tuple[str, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return plain values, in bytes, seconds and bytes per second."""
        found = asdict(self)
        for name in ("memory", "how", "available"):
            del found[name]
        return {
            **found,
            "memory_bytes": None if self.memory is None else self.memory.total,
            "memory": {} if self.memory is None else dict(self.memory.parts),
            "available_bytes": self.available,
        }

    def to_text(self) -> str:
        lines = [self.what if self.findings else f"{self.what}; nothing to mend"]
        for found in self.findings:
            lines += ["", f"{found.level}: {found.found} [{found.code}]", f"    mend: {found.mend}", f"    gain: {found.gain}"]
            if found.seconds is not None and found.seconds >= 0.0005:
                lines[-1] += f"; about {format_duration(found.seconds)} less an epoch"
        rows = [(route.name, format_bytes(route.nbytes), "" if route.fits else "more than there is") for route in self.routes]
        if self.memory is not None:
            parts = (f"{name} {format_bytes(size)}" for name, size in self.memory.parts.items() if size * 200 > self.memory.total)
            rows.append((self.how, format_bytes(self.memory.total), f"= {' + '.join(parts)}"))
        lines += [
            "",
            f"private memory over the framework's own, predicted for {self.frameworks}; {format_bytes(self.available)} available:",
            *text_table(rows, "<><"),
            "",
            f"read: {self.read}",
        ]
        return "\n".join([*lines, *([f"speed: {self.bottleneck.words}"] if self.bottleneck else []), *self.notes])
