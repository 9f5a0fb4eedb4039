"""Videos as players show them: whole files of every container are taken, damaged ones named; upright, and with their times."""

from __future__ import annotations

import itertools
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ingest_results import manifest_of, video

import mmapstore as mm
from mmapstore.plain.errors import DamagedFileError, InvalidTypeError

av = pytest.importorskip("av")
FORMS = [
    ("mkv", "mpeg4"), ("mkv", "libx264"), ("webm", "libvpx"), ("webm", "libvpx-vp9"), ("ts", "mpeg2video"), ("ts", "libx264"),
    ("avi", "mpeg4"), ("avi", "mjpeg"), ("avi", "libx264"), ("flv", "flv"), ("mpg", "mpeg1video"), ("mp4", "mpeg4"),
    ("mp4", "libx264"), ("mov", "mjpeg"), ("wmv", "wmv2"), ("3gp", "mpeg4"), ("m4v", "mpeg4"),
]  # fmt: skip
# FFmpeg passes over packets of zeros in ASF without a sign, before version 8 in FLV too, and their frame rates may vary.
_PASSED_OVER = ("wmv",) if int(av.__version__.split(".")[0]) >= 18 else ("wmv", "flv")
_FRAMES = 60
_HOLE = 6000  # larger than a packet: zeros within one slice may decode to a wrong picture without any sign


def pictures(frames: int = _FRAMES) -> list[np.ndarray[Any, Any]]:
    """(48, 64, 3): red upper left, and noise, so that no part of the file is padding; every frame another."""
    noise = np.random.default_rng(0).integers(0, 60, (frames, 48, 64, 3)).astype(np.uint8)
    for number, picture in enumerate(noise):
        picture[:24, :32] = [220, 30, 30]
        picture[24:, :, 1] = 40 + 3 * number
    return list(noise)


def written(path: Path, codec: str, stamps: list[int] | None = None, setup: Any = None, options: Any = None) -> bytes:
    """A video of 25 frames a second, or of frames shown at `stamps` milliseconds."""
    with av.open(str(path), "w", options=options or {}) as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if codec == "mjpeg" else "yuv420p"
        stream.codec_context.gop_size, stream.codec_context.bit_rate = 12, 2_000_000
        if setup is not None:
            setup(stream)
        if stamps is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        for number, picture in enumerate(pictures() if stamps is None else pictures(len(stamps))):
            frame = av.VideoFrame.from_ndarray(picture, "rgb24")
            if stamps is not None:
                frame.pts, frame.time_base = stamps[number], Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path.read_bytes()


def copied_stream(container: Any, stream: Any) -> Any:
    if hasattr(container, "add_stream_from_template"):
        return container.add_stream_from_template(stream)
    return container.add_stream(template=stream)  # PyAV before 14


def remuxed(source: str, path: Path, first: int = 0, options: Any = None) -> bytes:
    """The packets of a video in another container, from packet `first` on, with their stamps."""
    with av.open(source) as old, av.open(str(path), "w", options=options or {}) as new:
        stream = copied_stream(new, old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.dts is not None and number >= first:
                packet.stream = stream
                new.mux(packet)
    return path.read_bytes()


def ingested(path: Path | list[str], out: Path, **options: Any) -> np.ndarray[Any, Any]:
    source = mm.Videos(path if isinstance(path, list) else str(path), **options)
    return np.load(mm.ingest(source, out, layout="NHWC", overwrite=True, progress=False))


def decoded(path: Path | str, stream: int = 0) -> np.ndarray[Any, Any]:
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=stream)])


def damaged(data: bytes, at: float, kind: str) -> bytes:
    begin = int(len(data) * at)
    if kind == "cut":
        return data[:begin]
    return data[:begin] + bytes(_HOLE) + data[begin + _HOLE :]


@pytest.mark.parametrize(("suffix", "codec"), FORMS)
def test_a_whole_file_is_taken_and_a_damaged_one_is_named(tmp_path: Path, suffix: str, codec: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    data = written(whole, codec)
    expected = decoded(whole)
    assert len(expected) == _FRAMES
    np.testing.assert_array_equal(ingested(whole, tmp_path / "x.npy"), expected)
    (times,) = manifest_of(str(tmp_path / "x.npy")).notes["time"]  # type: ignore[index]
    assert times["step"] == pytest.approx(0.04) and times["constant"] is True and 0 <= times["first"] < 1
    for kind, at in (("hole", 0.5), ("hole", 0.75), ("cut", 0.55), ("cut", 0.8))[2 * (suffix in _PASSED_OVER) :]:
        broken = tmp_path / f"broken.{suffix}"
        broken.write_bytes(damaged(data, at, kind))
        with pytest.raises(DamagedFileError, match=rf"broken\.{suffix} (cannot be decoded|holds no frame)"):
            ingested(broken, tmp_path / "y.npy")
    kept = ingested([str(broken), str(whole)], tmp_path / "z.npy", skip_broken=True)
    np.testing.assert_array_equal(kept, expected)
    notes = manifest_of(str(tmp_path / "z.npy")).notes
    assert notes is not None and notes["skipped"] == [str(broken)] and len(notes["time"]) == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bikes.mp4", "carphone_pristine.mp4", "bigbuckbunny.mp4", "carphone_distorted.mp4"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "flv", "mov"])
def test_real_videos_in_other_containers_are_whole_and_cuts_are_found(tmp_path: Path, name: str, suffix: str) -> None:
    whole = tmp_path / f"whole.{suffix}"
    data = remuxed(video(name), whole, options={"movflags": "faststart"} if suffix in ("mp4", "mov") else None)
    out = tmp_path / "x.npy"
    assert len(ingested(whole, out, size=32)) == len(decoded(video(name)))
    found = []
    for kind, at in itertools.product(("cut", "hole"), (0.15, 0.3, 0.45, 0.6, 0.75, 0.9)):
        (tmp_path / f"b.{suffix}").write_bytes(damaged(data, at, kind))
        try:
            ingested(tmp_path / f"b.{suffix}", out, size=32)
        except DamagedFileError:
            found.append((kind, at))
    assert {at for kind, at in found if kind == "cut"} == {0.15, 0.3, 0.45, 0.6, 0.75, 0.9}
    assert len(found) >= 10  # zeros in the middle of one slice may decode to a wrong picture without any sign


# --- no false alarms ------------------------------------------------------------------------------------------------------


def test_frames_that_an_edit_list_hides_are_not_missing(tmp_path: Path) -> None:
    written(tmp_path / "whole.mp4", "libx264")
    shifted = tmp_path / "shifted.mp4"
    with av.open(str(tmp_path / "whole.mp4")) as old, av.open(str(shifted), "w", options={"avoid_negative_ts": "disabled"}) as new:
        stream = copied_stream(new, old.streams.video[0])
        for packet in old.demux(video=0):
            if packet.dts is not None:
                packet.pts -= 20 * 512
                packet.dts -= 20 * 512
                packet.stream = stream
                new.mux(packet)
    shown = decoded(shifted)
    assert 0 < len(shown) < _FRAMES
    np.testing.assert_array_equal(ingested(shifted, tmp_path / "x.npy"), shown)


def test_a_recording_that_begins_between_key_frames_is_whole(tmp_path: Path) -> None:
    written(tmp_path / "whole.ts", "libx264")
    for suffix in ("ts", "mkv", "mp4"):
        remuxed(str(tmp_path / "whole.ts"), tmp_path / f"late.{suffix}", first=5)
        shown = decoded(tmp_path / f"late.{suffix}")
        np.testing.assert_array_equal(ingested(tmp_path / f"late.{suffix}", tmp_path / "x.npy"), shown)


def test_fragments_and_live_recordings_have_no_numbers_in_their_headers(tmp_path: Path) -> None:
    written(tmp_path / "f.mp4", "libx264", options={"movflags": "frag_keyframe+empty_moov"})
    written(tmp_path / "l.mkv", "libx264", options={"live": "1"})
    for name in ("f.mp4", "l.mkv"):
        assert len(ingested(tmp_path / name, tmp_path / "x.npy")) == _FRAMES


def test_invisible_frames_are_not_missing(tmp_path: Path) -> None:
    def alternate(stream: Any) -> None:
        stream.codec_context.options = {"auto-alt-ref": "1", "lag-in-frames": "16"}

    for codec in ("libvpx", "libvpx-vp9"):
        written(tmp_path / "x.webm", codec, setup=alternate)
        assert len(ingested(tmp_path / "x.webm", tmp_path / "x.npy")) == _FRAMES


def test_sound_that_is_longer_is_no_cut(tmp_path: Path) -> None:
    for suffix in ("mkv", "mp4", "flv"):
        path = tmp_path / f"s.{suffix}"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("flv" if suffix == "flv" else "mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            sound = container.add_stream("aac", rate=44100)
            for picture in pictures(20):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, "rgb24")))
            container.mux(stream.encode())
            for number in range(100):
                frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
                frame.sample_rate, frame.pts = 44100, number * 1024
                container.mux(sound.encode(frame))
            container.mux(sound.encode())
        assert len(ingested(path, tmp_path / "x.npy")) == 20


def test_a_variable_frame_rate_is_no_damage_and_is_noted(tmp_path: Path) -> None:
    stamps = [0, 40, 80, 120, 1120, 1160, 5160]
    for suffix in ("mp4", "mkv", "webm"):
        path = tmp_path / f"v.{suffix}"
        written(path, "libvpx" if suffix == "webm" else "mpeg4", stamps)
        assert len(ingested(path, tmp_path / "x.npy", stride=2)) == 4
        assert manifest_of(str(tmp_path / "x.npy")).notes == {
            "stride": 2,
            "time": [{"first": 0.0, "step": 1.04, "constant": False, "longest step": 4.04}],
        }


def test_times_of_appended_videos_follow_those_before(tmp_path: Path) -> None:
    written(tmp_path / "a.mp4", "mpeg4")
    written(tmp_path / "b.mkv", "mpeg4", list(range(0, 600, 20)))
    mm.ingest(mm.Videos(tmp_path / "a.mp4"), tmp_path / "x.npy", progress=False)
    mm.ingest(mm.Videos(tmp_path / "b.mkv"), tmp_path / "x.npy", append=True, progress=False)
    notes = manifest_of(str(tmp_path / "x.npy")).notes
    assert notes is not None and [each["step"] for each in notes["time"]] == [0.04, 0.02]


# --- the stream and the orientation -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("degrees", [0, 90, 180, -90])
@pytest.mark.parametrize("mirrored", [False, True])
def test_frames_stand_upright(tmp_path: Path, degrees: int, mirrored: bool) -> None:
    def turn(stream: Any) -> None:
        stream.set_display_rotation(degrees, hflip=mirrored)

    if not hasattr(av.video.stream.VideoStream, "set_display_rotation"):
        pytest.skip("this PyAV cannot write display matrices")
    written(tmp_path / "x.mp4", "mpeg4", setup=turn)
    stored = decoded(tmp_path / "x.mp4")
    shown = np.rot90(stored, degrees // 90 % 4, axes=(1, 2))  # counter-clockwise, then mirrored
    shown = shown[:, :, ::-1] if mirrored else shown
    np.testing.assert_array_equal(ingested(tmp_path / "x.mp4", tmp_path / "x.npy"), shown)
    scaled = ingested(tmp_path / "x.mp4", tmp_path / "y.npy", size=(32, 16))
    assert scaled.shape == (_FRAMES, 32, 16, 3)
    corner = np.argmax([scaled[0, y, x, 0] for y, x in ((4, 2), (4, 13), (27, 2), (27, 13))])
    assert corner == np.argmax([shown[0, y, x, 0] for y, x in ((4, 4), (4, -4), (-4, 4), (-4, -4))])


@pytest.mark.skipif(not hasattr(av.stream, "Disposition"), reason="this PyAV cannot write dispositions")
def test_the_stream_that_players_choose(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "x.mkv"), "w") as container:
        streams = []
        for size in ((32, 16), (64, 48)):
            stream = container.add_stream("mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = *size, "yuv420p"
            streams.append(stream)
        streams[0].disposition, streams[1].disposition = 0, av.stream.Disposition.default
        for picture in pictures(10):
            for stream in streams:
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture[: stream.height, : stream.width]), "rgb24")
                container.mux(stream.encode(frame))
        for stream in streams:
            container.mux(stream.encode())
    np.testing.assert_array_equal(ingested(tmp_path / "x.mkv", tmp_path / "x.npy"), decoded(tmp_path / "x.mkv", 1))


def test_files_without_pictures_are_named(tmp_path: Path) -> None:
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        sound = container.add_stream("aac", rate=44100)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        frame.sample_rate = 44100
        container.mux(sound.encode(frame))
        container.mux(sound.encode())
    with pytest.raises(InvalidTypeError, match="holds no pictures"):
        mm.Videos(tmp_path / "x.mp4")
