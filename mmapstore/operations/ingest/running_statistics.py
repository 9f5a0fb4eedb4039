"""What is learned of fields while they are written: statistics of values and of their change, and a digest of all of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from ...files.worker_threads import usable_cpus
from ...plain.channel_statistics import ChannelStatistics, DifferenceStatistics
from ...plain.content_digest import LeafDigests
from .contract import Array

Blocks = Mapping[str, Array]  # the same samples of each field


class Summary:
    """Of one field. Blocks are given in order, each to both methods and to `digest`, which may run at the same time in threads."""

    def __init__(
        self, dtype: Any, channel_axis: int | None, is_counted: bool, known_leaves: Mapping[int, bytes] | None = None
    ) -> None:
        self._axis = channel_axis
        self._is_counted = is_counted
        self.values = ChannelStatistics()
        self.differences = DifferenceStatistics()
        self.digest = LeafDigests(dtype, known=known_leaves)

    def count_values(self, block: Array) -> None:
        if self._is_counted:
            self.values.update(block, self._axis)

    def count_differences(self, block: Array, starts: Sequence[int]) -> None:
        """`starts`: the samples of this block, counted from its first, at which an episode begins."""
        if self._is_counted:
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
    """Takes blocks into the summaries of all fields in threads of its own, while the caller writes them."""

    def __init__(self, summaries: Mapping[str, Summary]) -> None:
        self._summaries = summaries
        most = max(3, min(2 + len(summaries), usable_cpus()))  # values, differences, and the digest of each field
        self._threads = ThreadPoolExecutor(most, "mmapstore summary")

    def __enter__(self) -> Beside:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._threads.shutdown()

    def sum_up(self, blocks: Blocks, starts: Sequence[int]) -> Callable[[], None]:
        """Begin with blocks that follow those before; call what is returned before they change, and before the next ones."""
        pairs = [(self._summaries[name], block) for name, block in blocks.items()]

        def values() -> None:
            for summary, block in pairs:
                summary.count_values(block)

        def differences() -> None:
            for summary, block in pairs:
                summary.count_differences(block, starts)

        tasks = [self._threads.submit(task) for task in (values, differences)]
        tasks += [self._threads.submit(summary.digest.update, block) for summary, block in pairs]

        def wait() -> None:
            for task in tasks:
                task.result()

        return wait
