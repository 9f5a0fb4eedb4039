"""Sources of one field each, given together: what a dict of sources means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...plain.errors import InvalidValueError
from .contract import ONLY, Array, FitsMemory, Piece, Position, Source


class UnequalFieldsError(InvalidValueError):
    """The fields do not belong together sample by sample. The same call would find that again."""


class ZippedSources:
    """Fields from a source each, cut into pieces of one length.

    An episode begins where one begins in any of them. Where one of them has to be read from its first sample on, all are: whoever
    writes compares what comes again with what is there.

    Raises UnequalFieldsError if one ends before the others, or leaves an item out: from there on the samples of the others would
    belong to other items.
    """

    def __init__(self, parts: Mapping[str, Source], limit: int | None) -> None:
        self.parts = dict(parts)
        only = {name: _only_field(name, part) for name, part in parts.items()}
        lengths = {name: part.samples for name, part in parts.items()}
        known = {name: min(length, limit or length) for name, length in lengths.items() if length is not None}
        if len(set(known.values())) > 1:
            raise _unequal({name: str(length) for name, length in known.items()})
        self.name = "{" + ", ".join(f"{name}: {part.name}" for name, part in parts.items()) + "}"
        self.specs = {name: part.specs[only[name]] for name, part in parts.items()}
        self.samples = next(iter(known.values())) if len(known) == len(lengths) else None
        # One that has no end may stand beside one that has.
        self.guess = next(iter(known.values()), max(part.guess for part in parts.values()))
        self.paths = [path for part in parts.values() for path in part.paths]
        self.fingerprint: dict[str, Any] = {name: part.fingerprint for name, part in parts.items()}
        # Where the end shows last, the way back to a sample leads over the episodes of that one source, and these are those of all.
        self.gives_from_any_sample = all(part.gives_from_any_sample and part.samples is not None for part in parts.values())
        self.notes = {name: part.notes[only[name]] for name, part in parts.items() if part.notes.get(only[name])}

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        flows = {name: _Flow(name, part.pieces(after, at_most)) for name, part in self.parts.items()}
        at = after.samples
        try:
            while True:
                ended = [name for name, flow in flows.items() if not flow.filled()]
                if len(ended) == len(flows):
                    return
                if ended:
                    raise _unequal({name: self._length_words(name, name in ended, at) for name in flows})
                count = min(len(flow.samples) for flow in flows.values())
                taken = [flow.take(count) for flow in flows.values()]
                starts = sorted({start for piece in taken for start in piece.starts})
                yield Piece({name: piece.fields[ONLY] for name, piece in zip(flows, taken, strict=True)}, starts)
                at += count
        finally:
            for flow in flows.values():
                flow.close()

    def _length_words(self, name: str, ended: bool, at: int) -> str:
        return str(at) if ended else str(self.parts[name].samples or f"more than {at}")

    def fit(self, nbytes: int) -> None:
        for part in self.parts.values():
            if isinstance(part, FitsMemory):
                part.fit(nbytes // len(self.parts))

    def memory(self, at_most: int) -> dict[str, int]:
        parts = {name: part.memory(at_most) for name, part in self.parts.items()}
        return {f"{what} ({name})": nbytes for name, part in parts.items() for what, nbytes in part.items()}


class _Flow:
    """The pieces of one source, of which any number of samples can be taken."""

    def __init__(self, field: str, pieces: Iterator[Piece]) -> None:
        self._field, self._pieces = field, pieces
        self.samples: Array
        self._starts: list[int] = []
        self._held = 0

    def filled(self) -> bool:
        """Have at least one sample at hand; False at the end of the source."""
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            if piece.skipped:
                raise UnequalFieldsError(
                    f"The source of field {self._field!r} leaves out {piece.skipped[0]}, and the other fields know nothing "
                    "of that: they would belong to other samples. Mend or remove that item, or give all fields by one source."
                )
            (self.samples,), self._starts = piece.fields.values(), list(piece.starts)
            self._held = len(self.samples)
        return True

    def take(self, count: int) -> Piece:
        taken = Piece({ONLY: self.samples[:count]}, [start for start in self._starts if start < count])
        self.samples = self.samples[count:]
        self._starts = [start - count for start in self._starts if start >= count]
        self._held = len(self.samples)
        return taken

    def close(self) -> None:
        close = getattr(self._pieces, "close", None)
        if close is not None:
            close()


def _only_field(name: str, part: Source) -> str:
    if len(part.specs) > 1:
        raise InvalidValueError(
            f"The source of field {name!r}, {part.name}, gives the fields {', '.join(part.specs)}; in a dict of sources each gives "
            "one. Ingest it by itself, or leave out its others (mmapstore.Images(..., labels=None) has none)."
        )
    return next(iter(part.specs))


def _unequal(lengths: Mapping[str, str]) -> UnequalFieldsError:
    found = ", ".join(f"{name} {length}" for name, length in lengths.items())
    return UnequalFieldsError(
        f"The fields have different numbers of samples: {found}. Every sample needs all fields; cut them to one length."
    )
