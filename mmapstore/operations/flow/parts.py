"""The regions of a plan, done by an engine: a receipt for each, and the record of all of them once every region has one."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...plain.channel_statistics import ChannelStatistics
from ...plain.errors import InvalidValueError, StateMismatchError
from . import engines
from .journal import UNREADABLE
from .receipts import WHOLE, Part, Receipts
from .record import Record
from .regions import in_order
from .tally import Tally


@dataclass(frozen=True)
class Receipt:
    """The proof that a region is on disk.

    Attributes
    ----------
    mark : of the plan: receipts with another are of another plan
    region : its number
    checksums : by field, CRC-32 of each of its blocks, 8 hex digits
    leaves : by field and number, SHA-256 of each leaf of the digest that one worker has hashed whole
    statistics : by field, those of the values and of x[t+1] - x[t], as `ChannelStatistics.to_json` has them
    starts : samples at which an episode begins
    counts : other counts of the region, by name
    peak_nbytes : private memory that the process took for it, at most
    """

    mark: str
    region: int
    checksums: Mapping[str, Sequence[str]]
    leaves: Mapping[str, Mapping[int, bytes]]
    statistics: Mapping[str, Sequence[dict[str, Any]]] = field(default_factory=dict)
    starts: Sequence[int] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    peak_nbytes: int = 0

    @classmethod
    def of(cls, mark: str, region: int, record: Record, tallies: Mapping[str, Tally], peak_nbytes: int) -> Receipt:
        """Return the receipt of a region that alone is in the record and the tallies."""
        leaves = {name: dict(tally.digest.done) for name, tally in tallies.items()}
        statistics = {
            name: [tally.values.to_json(), tally.differences.statistics.to_json()]
            for name, tally in tallies.items()
            if tally.is_counted
        }
        return cls(mark, region, record.checksums, leaves, statistics, record.starts, record.counts, peak_nbytes)

    def to_json(self) -> dict[str, Any]:
        leaves = {name: {str(leaf): digest.hex() for leaf, digest in found.items()} for name, found in self.leaves.items()}
        return {**vars(self), "leaves": leaves}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Receipt:
        leaves = {name: {int(leaf): bytes.fromhex(text) for leaf, text in each.items()} for name, each in found["leaves"].items()}
        return cls(**{**found, "leaves": leaves})

    def add_to(self, record: Record, tallies: Mapping[str, Tally]) -> None:
        """Add what the region has to the record and the tallies of those before it."""
        record.starts += self.starts
        for name, count in self.counts.items():
            record.counts[name] = record.counts.get(name, 0) + count
        for name, tally in tallies.items():
            record.checksums[name] += self.checksums[name]
            tally.digest.done.update(self.leaves[name])
            if name in self.statistics:
                values, differences = self.statistics[name]
                tally.values.merge(ChannelStatistics.from_json(values, tally.digest.dtype))
                tally.differences.statistics.merge(ChannelStatistics.from_json(differences))


def without_receipt(regions: Iterable[int], part: Part, receipts: Receipts) -> list[int]:
    """Return the regions of a part of the work that are still to do."""
    done = {receipt["region"] for receipt in receipts.read(None if part == WHOLE else part)}
    return [number for number in regions if number not in done]


def do_all(
    do: Callable[[Any, int], Receipt],
    plan: Any,
    regions: Sequence[int],
    part: Part,
    receipts: Receipts,
    engine: Any,
    memory_nbytes: int,
    report: Callable[[Collection[int]], None],
) -> None:
    """Have an engine do regions, and keep their receipts beside the target.

    `memory_nbytes` is that of one region; `report` is called with the regions that are left. Raises what `do` and the engine raise;
    the receipts of other regions are kept.
    """
    left = set(regions)
    report(left)
    found: Iterator[Receipt]
    if engine == engines.THREADS:
        found = (do(plan, number) for number in regions)
    else:
        found = engines.results(engine, do, plan, regions, memory_nbytes)
    for receipt in found:
        receipts.add(part, receipt.to_json())
        left.discard(receipt.region)
        report(left)
    if left:
        raise InvalidValueError(f"The engine returned no result for {len(left)} of {len(regions)} regions. Give one that does.")


def kept(receipts: Receipts) -> Iterator[Receipt]:
    """Yield the receipts beside a target. Raises StateMismatchError for one that is not ours."""
    try:
        for found in receipts.read():
            yield Receipt.from_json(found)
    except StateMismatchError:
        raise
    except UNREADABLE as error:
        raise StateMismatchError(f"A receipt in {receipts.folder} is not one of mmapstore ({error}). Do its part again.") from error


def merge(receipts: Iterable[Receipt], mark: str, count: int, record: Record, tallies: Mapping[str, Tally]) -> None:
    """Add all `count` regions of a plan, in their order, to an empty record and empty tallies.

    Raises StateMismatchError for receipts of another plan, for regions without a receipt, and for two receipts that differ.
    """
    known = dict[int, int]()  # CRC-32 of checksums: statistics of thousands of channels would take memory for each region

    def checked() -> Iterator[tuple[int, Receipt]]:
        for receipt in receipts:
            if receipt.mark != mark:
                raise StateMismatchError(f"A receipt is of another call ({receipt.mark}); expected those of {mark}.")
            found = zlib.crc32(json.dumps(receipt.checksums).encode())
            if known.setdefault(receipt.region, found) != found:
                raise StateMismatchError(
                    f"Region {receipt.region} was done twice with different values: the source was changed meanwhile. Plan it anew."
                )
            yield receipt.region, receipt

    for receipt in in_order(checked(), count):
        receipt.add_to(record, tallies)
