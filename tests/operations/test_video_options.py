"""Videos with options, on real ones: every so many-th frame, scaled, broken ones left out; also where a kill interrupted."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_results import manifest_of, video

import mmapstore as mm
from mmapstore.operations.flow import journal
from mmapstore.operations.ingest import plan
from mmapstore.operations.ingest.contract import ONLY, Position
from mmapstore.operations.ingest.video import VideoSource
from mmapstore.plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, NotFoundError

av = pytest.importorskip("av")
PRISTINE, DISTORTED, BIKES = (video(name) for name in ("carphone_pristine.mp4", "carphone_distorted.mp4", "bikes.mp4"))


def decoded(path: str) -> np.ndarray[Any, Any]:
    with av.open(path) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def given(source: VideoSource, after: Position | None = None) -> tuple[np.ndarray[Any, Any], list[int], list[str]]:
    """All samples, where episodes begin, and what was left out."""
    samples, starts, skipped = [np.empty((0, *source.specs[ONLY].sample_shape), np.uint8)], [], []
    for piece in source.pieces(after or Position(), 8):
        starts += [sum(map(len, samples)) + start for start in piece.starts]
        samples.append(piece.fields[ONLY])
        skipped += piece.skipped
    return np.concatenate(samples), starts, skipped


@pytest.mark.parametrize("stride", [1, 2, 7, 119, 120, 500])
def test_every_so_many_th_frame_of_each_video(tmp_path: Path, stride: int) -> None:
    whole = [decoded(path)[::stride] for path in (PRISTINE, DISTORTED)]
    source = mm.Videos([PRISTINE, DISTORTED], stride=stride)
    assert source.guess == sum(map(len, whole))
    path = mm.ingest(source, tmp_path / "x.npy", layout="NHWC")
    np.testing.assert_array_equal(np.load(path), np.concatenate(whole))
    assert manifest_of(path).episodes == (0, len(whole[0]), len(whole[0]) + len(whole[1]))
    assert (manifest_of(path).notes or {}).get("stride", 1) == stride


def test_videos_of_different_sizes_are_scaled_to_one(tmp_path: Path) -> None:
    frames = np.load(mm.ingest(mm.Videos([PRISTINE, BIKES], size=(72, 88), stride=30), tmp_path / "x.npy"))
    assert frames.shape == (4 + 9, 3, 72, 88)
    # What means of areas give, and the scaler does, differ by rounding and by the halved resolution of colour.
    means = decoded(PRISTINE)[::30].reshape(4, 72, 2, 88, 2, 3).mean((2, 4)).transpose(0, 3, 1, 2)
    assert np.abs(frames[:4].astype(float) - means).mean() < 2
    notes = manifest_of(str(tmp_path / "x.npy")).notes
    assert notes is not None and [each["step"] for each in notes.pop("time")] == pytest.approx([30 * 1001 / 30000, 30 / 25])
    assert notes == {"stride": 30, "scaled to": [72, 88]}


def test_scaling_up_and_one_number_for_both_sides() -> None:
    source = mm.Videos(PRISTINE, size=300, stride=60)
    frames, _, _ = given(source)
    assert frames.shape == (2, 300, 300, 3)
    original = decoded(PRISTINE)[::60]
    assert np.abs(frames.mean((1, 2)) - original.mean((1, 2))).max() < 2
    np.testing.assert_array_equal(given(mm.Videos(PRISTINE, size=(144, 176), stride=60))[0], original)


@pytest.mark.parametrize("options", [{"size": (20, 30)}, {"size": (20, 30), "stride": 3}, {"stride": 5}])
def test_the_same_from_any_sample_on(options: Any) -> None:
    source = mm.Videos([PRISTINE, DISTORTED], **options)
    whole, starts, _ = given(source)
    for sample in (0, 1, 7, starts[1] - 1, starts[1], starts[1] + 1, len(whole) - 1, len(whole)):
        begun = [start for start in starts if start <= sample]
        rest, later, _ = given(source, Position(sample, begun))
        np.testing.assert_array_equal(rest, whole[sample:])
        assert [sample + start for start in later] == [start for start in starts if start >= sample]


def test_a_folder_and_a_glob(tmp_path: Path) -> None:
    for name in ("v10.mp4", "v9.mp4"):
        (tmp_path / name).write_bytes(Path(PRISTINE if name == "v9.mp4" else DISTORTED).read_bytes())
    (tmp_path / "readme.txt").write_text("")
    expected = given(mm.Videos([PRISTINE, DISTORTED], stride=40))[0]
    for source in (tmp_path, str(tmp_path / "*.mp4")):
        np.testing.assert_array_equal(given(mm.Videos(source, stride=40))[0], expected)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos that can be decoded, among four that cannot: not opened, or not the first frame, one in the middle, the last."""
    whole = Path(PRISTINE).read_bytes()
    torn = bytearray(whole)
    with av.open(PRISTINE) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for name, first, last in (("2.mp4", 0, 120), ("4.mp4", 60, 70), ("6.mp4", 119, 120)):
        torn = bytearray(whole)
        for position, size in packets[first:last]:
            torn[position : position + size] = b"\xff" * size
        (tmp_path / name).write_bytes(torn)
    (tmp_path / "1.mp4").write_bytes(b"no video at all" * 50)
    (tmp_path / "3.mp4").write_bytes(whole)
    (tmp_path / "5.mp4").write_bytes(Path(DISTORTED).read_bytes())
    return tmp_path


def test_broken_videos_stop_the_run_with_their_name(folder: Path) -> None:
    with pytest.raises(DamagedFileError, match=r"1\.mp4 cannot be decoded"):
        mm.Videos(folder)
    (folder / "1.mp4").unlink()
    (folder / "2.mp4").unlink()
    with pytest.raises(DamagedFileError, match=r"4\.mp4 cannot be decoded"):
        given(mm.Videos(folder))


def test_broken_videos_are_left_out_whole_and_listed(folder: Path, tmp_path: Path) -> None:
    source = mm.Videos(folder, skip_broken=True, stride=20)
    samples, starts, skipped = given(source)
    np.testing.assert_array_equal(samples, given(mm.Videos([PRISTINE, DISTORTED], stride=20))[0])
    assert starts == [0, 6] and [os.path.basename(path) for path in skipped] == ["1.mp4", "2.mp4", "4.mp4", "6.mp4"]
    for sample, told in itertools.product(range(13), range(5)):
        if told < (2 if sample < 6 else 3) and sample:
            continue  # those before what was given are known
        if told > 2 and sample < 6:
            continue
        begun = [start for start in starts if start <= sample] if sample else []
        rest, _, later = given(source, Position(sample, begun, skipped[:told]))
        np.testing.assert_array_equal(rest, samples[sample:])
        assert later == skipped[told:], (sample, told)


def test_interrupted_while_leaving_videos_out(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(journal, "COMMIT_SECONDS", 0.0)
    monkeypatch.setattr(plan, "BLOCK_NBYTES", 400_000)
    source = mm.Videos(folder, skip_broken=True, stride=5)
    out = tmp_path / "out.npy"
    frames = VideoSource._frames
    for stop in (20, 14, 8):
        given_now = 0

        def stopping(self: VideoSource, path: str, skip: int, stop: int = stop) -> Iterator[Any]:
            nonlocal given_now
            for piece in frames(self, path, skip):
                given_now += 1
                if given_now > stop:
                    raise RuntimeError("stopped")
                yield piece

        monkeypatch.setattr(VideoSource, "_frames", stopping)
        with pytest.raises(RuntimeError, match="stopped"):
            mm.ingest(source, out)
    monkeypatch.setattr(VideoSource, "_frames", frames)
    np.testing.assert_array_equal(
        np.load(mm.ingest(source, out)).transpose(0, 2, 3, 1), given(mm.Videos([PRISTINE, DISTORTED], stride=5))[0]
    )
    assert mm.open(out).episodes.tolist() == [0, 24, 48]
    listed = (manifest_of(str(out)).notes or {})["skipped"]
    assert [os.path.basename(path) for path in listed] == ["1.mp4", "2.mp4", "4.mp4", "6.mp4"]


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"stride": 0}, InvalidValueError, "stride=0 is less than 1"),
        ({"stride": 1.5}, InvalidTypeError, "not a number of frames"),
        ({"size": (0, 10)}, InvalidValueError, "is not a size"),
        ({"size": "10x10"}, InvalidTypeError, "expected \\(height, width\\)"),
    ],
)
def test_options_that_cannot_be_meant(options: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        mm.Videos(PRISTINE, **options)


def test_what_is_no_video(tmp_path: Path) -> None:
    for source, kind, said in [
        (tmp_path, NotFoundError, "holds no file that ends with .*.mp4"),
        (tmp_path / "no.mp4", NotFoundError, "does not exist"),
        (str(tmp_path / "*.mp4"), NotFoundError, "No file matches"),
        (3, InvalidTypeError, "Videos are files; got 3"),
        ([], InvalidTypeError, "Videos are files"),
    ]:
        with pytest.raises(kind, match=said):
            mm.Videos(source)  # type: ignore[arg-type]
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(DamagedFileError, match=r"a\.mp4 cannot be decoded"):
        mm.Videos(tmp_path, skip_broken=True)
    with pytest.raises(InvalidValueError, match=r"size=\(144, 176\).*--size 144x176"):
        mm.Videos([PRISTINE, BIKES])
