"""The number of times that a shuffled epoch decodes each chunk: arithmetic on its order, no I/O."""

from __future__ import annotations

from collections.abc import Callable

from ..batches.plan import plan_for
from ..batches.window_frames import WindowFrames
from ..plain.array_spec import ArraySpec
from ..plain.runs import merged
from ..plain.sample_order import SampleOrder, Shuffling
from ..plain.windows import Anchors, Episodes, NextFrame, Window
from ..readers.contract import Reader

_MOST_WINDOWS = 64  # of an epoch, that are looked at: in longer ones the others are like them
_PAIRS = NextFrame()


def decodes_per_chunk(reader: Reader, episodes: Episodes, target: Window | None = _PAIRS) -> float | None:
    """Return how often an epoch with `shuffle=True` decodes a chunk, on average over chunks: of next-frame pairs, or of `target`.

    None for readers that do not decode, or not all chunks of a window at once; and where there is no pair.
    1 would be every chunk once: blocks that begin and end inside chunks, and the frame past a block, add to it.
    """
    if not (reader.decoded_together and reader.joins_runs):
        return None
    return decodes_with(reader.spec, episodes, reader.whole_chunks, target)


def decodes_with(
    spec: ArraySpec, episodes: Episodes, whole_chunks: Callable[[int, int], tuple[int, int]], target: Window | None = _PAIRS
) -> float | None:
    """Return the same for any chunks: `whole_chunks` widens a run [start, stop) to the samples that are decoded with it."""
    plan = plan_for({"x": spec}, None, target)
    anchors = Anchors(episodes, plan.reach())
    if len(anchors) == 0:
        return None
    order = SampleOrder(len(anchors), Shuffling.of(True, spec.sample_nbytes))
    frames = WindowFrames(plan.fields, plan, anchors, order, 1)
    decoded = position = 0
    for _ in range(_MOST_WINDOWS):
        window = frames.at(0, position)
        chunks = merged([whole_chunks(*run) for run in frames.runs(0, window).tolist()])
        decoded += int((chunks[:, 1] - chunks[:, 0]).sum())
        position = window.stop
        if position >= len(order):
            break
    return decoded * len(order) / position / len(spec)
