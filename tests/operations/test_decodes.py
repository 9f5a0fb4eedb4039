"""How often `info` says that chunks are decoded, against a count of a real epoch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mmapstore as mm
from mmapstore.cli import main
from mmapstore.operations.describe import describe
from mmapstore.readers.decoded import Decoded

SAMPLES = 640
FRAMES = np.random.default_rng(0).integers(0, 9, (SAMPLES, 1, 16, 16)).astype("f4")  # 1 KiB each


def written(path: Path, chunk: int) -> str:
    if path.suffix == ".h5":
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=FRAMES, chunks=(chunk, 1, 16, 16), compression="gzip", compression_opts=1)
    else:
        zarr = pytest.importorskip("zarr")
        zarr.create_array(path, data=FRAMES, chunks=(chunk, 1, 16, 16), compressors=zarr.codecs.GzipCodec(level=1))
    return str(path)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The stored size of each chunk that is decoded, in whole or in part, from now on."""
    calls: list[int] = []
    decode = Decoded._decode

    def counting(self: Decoded, chunk: Any, place: Any, stored: Any, *rest: Any) -> None:
        calls.append(len(stored))
        decode(self, chunk, place, stored, *rest)

    monkeypatch.setattr(Decoded, "_decode", counting)
    return calls


@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
@pytest.mark.parametrize("chunk", [2, 16, 64, 160])
@pytest.mark.parametrize("block", [1, 8, 40])
def test_decodes_are_what_info_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, decoded: list[int], suffix: str, chunk: int, block: int
) -> None:
    """Exactly: blocks of `block` samples, 32 in a window."""
    monkeypatch.setattr("mmapstore.plain.sample_order.BLOCK_BYTES", block * FRAMES[0].nbytes)
    path = written(tmp_path / f"a{suffix}", chunk)
    (array,) = describe(path).arrays
    decoded.clear()
    assert sum(len(x) for x, _ in mm.open(path).batches(32, target=mm.NextFrame(), shuffle=True)) == SAMPLES - 1
    assert len(decoded) == round(array.decodes * SAMPLES / chunk)
    # Each block reaches into as many chunks as it can at worst, and those of one window into none twice.
    assert 1 <= array.decodes <= min(1 + (chunk + 1) / block, -(-SAMPLES // (32 * block)) + 1)
    if chunk == 2 and block == 40:
        assert array.decodes == 1  # one window holds everything
    if chunk == 64 and block == 8:
        assert array.decodes > 1.5


def test_it_is_told_in_words_and_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mmapstore.plain.sample_order.BLOCK_BYTES", 8 * FRAMES[0].nbytes)
    path = written(tmp_path / "a.h5", 64)
    assert main(["info", path]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if "decodes each chunk" in line]
    assert main(["info", "--json", path]) == 0
    times = json.loads(capsys.readouterr().out)["arrays"][0]["decodes"]
    assert f"a shuffled epoch of next-frame pairs decodes each chunk {times:.2f} times" in line
    assert ("ds.cache(directory)" in line) is (times > 2)


def test_samples_with_labels_are_no_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmapstore.plain.sample_order.BLOCK_BYTES", 16 * FRAMES[0].nbytes)
    h5py = pytest.importorskip("h5py")
    for name in ("other", "label"):
        with h5py.File(tmp_path / f"{name}.h5", "w") as file:
            file.create_dataset("x", data=FRAMES, chunks=(16, *FRAMES.shape[1:]), compression="gzip")
            file.create_dataset(name, data=np.arange(SAMPLES) % 2)
        (told,) = [
            note for array in describe(tmp_path / f"{name}.h5").arrays for note in array.notes if "decodes each chunk" in note
        ]
        # The frame past a block is in another chunk; labelled samples have none.
        assert told.startswith("a shuffled epoch decodes each chunk 1.00 times") is (name == "label")
        assert (" of next-frame pairs " in told) is (name == "other")


def test_what_is_not_decoded_says_nothing(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", FRAMES[:8])
    (array,) = describe(tmp_path / "a.npy").arrays
    assert array.decodes == 0 and not any("decodes" in note for note in array.notes)
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "one.h5", "w") as file:
        file.create_dataset("x", data=FRAMES[:1], chunks=(1, 1, 16, 16), compression="gzip")
    (array,) = describe(tmp_path / "one.h5").arrays  # no pair in it
    assert array.decodes == 0 and array.place == "decoded in threads"
