"""Statistics of the values and of their change, and a digest of the values, taken while fields are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from ...files.worker_threads import usable_cpus
from ...plain.channel_statistics import ChannelStatistics, DifferenceStatistics
from ...plain.content_digest import Array, LeafDigests


class Tally:
    """The digest of one field and, if `is_counted`, its statistics. Blocks come in order; each method has one thread at a time."""

    def __init__(
        self, dtype: Any, channel_axis: int | None = None, is_counted: bool = False, known_leaves: Mapping[int, bytes] | None = None
    ) -> None:
        self._axis = channel_axis
        self.is_counted = is_counted
        self.values = ChannelStatistics()
        self.differences = DifferenceStatistics()
        self.digest = LeafDigests(dtype, known=known_leaves)

    def count_values(self, block: Array) -> None:
        self.values.update(block, self._axis)

    def count_differences(self, block: Array, starts: Sequence[int]) -> None:
        """`starts`: the samples of this block, counted from its first, at which an episode begins."""
        self.differences.update(block, starts, self._axis)

    def statistics(self) -> dict[str, Any] | None:
        """For the manifest: of the values, and under "difference" of x[t+1] - x[t]; None where there is nothing to say."""
        if not self.values.channels:
            return None
        found = self.values.to_json()
        if self.differences.statistics.channels:
            found["difference"] = self.differences.statistics.to_json()
        return found


class Beside:
    """Takes blocks into the tallies of all fields in threads of its own, while the caller writes them."""

    def __init__(self, tallies: Mapping[str, Tally]) -> None:
        self._tallies = tallies
        counted = [tally for tally in tallies.values() if tally.is_counted]
        # Values, differences, and the digest of each field.
        self._threads = ThreadPoolExecutor(max(1 + 2 * bool(counted), min(2 + len(tallies), usable_cpus())), "mmapstore tally")

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._threads.shutdown()

    def take(self, blocks: Mapping[str, Array], starts: Sequence[int]) -> Callable[[], None]:
        """Begin with blocks that follow those before; call what is returned before they change, and before the next ones."""
        pairs = [(self._tallies[name], block) for name, block in blocks.items()]
        counted = [(tally, block) for tally, block in pairs if tally.is_counted]

        def values() -> None:
            for tally, block in counted:
                tally.count_values(block)

        def differences() -> None:
            for tally, block in counted:
                tally.count_differences(block, starts)

        tasks = [self._threads.submit(task) for task in (values, differences) if counted]
        tasks += [self._threads.submit(tally.digest.update, block) for tally, block in pairs]

        def wait() -> None:
            for task in tasks:
                task.result()

        return wait
