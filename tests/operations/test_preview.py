"""`mmapstore preview`: what is drawn is what is there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mmapstore.cli import main
from mmapstore.operations.preview import preview
from mmapstore.operations.preview.colours import NAN_COLOUR, change, most_change, painted, range_of, reduced
from mmapstore.operations.preview.selection import Look, numbers_to_show
from mmapstore.plain.array_spec import ArraySpec
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, MemoryBudgetError, OutOfRangeError, WriteError
from mmapstore.plain.manifest import ArrayManifest, Manifest

# --- arithmetic ------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 10), st.integers(1, 400))
def test_scales(height: int, width: int, channels: int, pictures: int) -> None:
    look = Look.of(ArraySpec((1, channels, height, width), np.dtype("f4"), "NCHW"), pictures)
    longest = {**dict.fromkeys(range(1, 10), 256), **dict.fromkeys(range(10, 25), 192), **dict.fromkeys(range(25, 65), 128)}
    longest = min(longest.get(pictures, 96), 1200 // look.panels)
    assert 1 <= look.height <= height and 1 <= look.width <= width
    assert max(look.height, look.width) <= longest
    assert look.down == 1 or look.up[0] == look.up[1] == 1 or min(look.height, look.width) < 12
    tall, wide = look.height * look.up[0], look.width * look.up[1]
    assert min(tall, wide) >= 12 and max(tall, wide) <= longest and look.pixels == tall * wide * look.panels


NONE = np.zeros(0, np.int64)


@given(st.integers(1, 40), st.sets(st.integers(0, 39)), st.integers(1, 50))
def test_what_is_left_out_is_never_shown(total: int, left_out: set[int], wanted: int) -> None:
    last = np.array(sorted(number for number in left_out if number < total), np.int64)
    kept = [number for number in range(total) if number not in left_out]
    if kept:
        assert numbers_to_show("0:40", None, 0, total, last) == kept
    drawn = numbers_to_show(None, wanted, 1, total, last)
    assert drawn == sorted(set(drawn)) and set(drawn) <= set(kept) and len(drawn) == min(wanted, len(kept))


def test_what_is_asked_for() -> None:
    assert numbers_to_show(None, None, 0, 10**12, NONE) == list(range(16))
    assert numbers_to_show("-3:", None, 0, 10**12, NONE) == [10**12 - 3, 10**12 - 2, 10**12 - 1]
    assert numbers_to_show([4, 2], None, 0, 10**12, NONE) == [4, 2]
    random = numbers_to_show(None, 5, 1, 10**12, NONE)
    assert random == sorted(set(random)) == numbers_to_show(None, 5, 1, 10**12, NONE)
    assert random != numbers_to_show(None, 5, 2, 10**12, NONE)
    for samples, message in (("x", "is not understood"), ("1:2:3:4", "is not understood"), ("0:10:0", "is not understood")):
        with pytest.raises(InvalidValueError, match=message):
            numbers_to_show(samples, None, 0, 10**12, NONE)
    with pytest.raises(InvalidValueError, match="are too many for one picture"):
        numbers_to_show(":", None, 0, 10**12, NONE)
    with pytest.raises(InvalidValueError, match="give one of them"):
        numbers_to_show("0:3", 3, 0, 10**12, NONE)
    with pytest.raises(OutOfRangeError, match="there is no sample 10 to show"):
        numbers_to_show("10", None, 0, 10, NONE)
    with pytest.raises(OutOfRangeError, match="holds no sample to show"):
        numbers_to_show("10:12", None, 0, 10, NONE)


def test_colours() -> None:
    values = np.array([[0.0, 255.0], [np.nan, 127.5]])
    shown = range_of(values, np.dtype("u1"))
    assert painted(values[None], shown).tolist() == [[[0] * 3, [255] * 3], [list(NAN_COLOUR), [128] * 3]]
    opaque = np.array([[[255.0, 255]], [[0, 0]], [[0, 0]], [[255, 0]]])
    assert painted(opaque, shown).tolist() == [[[255, 0, 0], [255, 255, 255]]]  # what is transparent is paper
    assert change(np.array([[0.0, np.nan]]), 0.0).tolist() == [[[138] * 3, list(NAN_COLOUR)]]
    assert most_change(np.array([0.0] * 999 + [5.0])) == 5.0 and most_change(np.array([np.nan, np.inf])) == 0.0


def test_ranges() -> None:
    values = np.append(np.linspace(0, 1, 1001), [1e9, np.nan, -np.inf])
    found = range_of(values, np.dtype("f4"))
    assert found.low == pytest.approx(0.01, abs=2e-3) and found.high == pytest.approx(0.99, abs=2e-3)
    assert painted(np.full((1, 1, 1), 3.0), range_of(np.full(4, 3.0), np.dtype("f4"))).tolist() == [[[128] * 3]]
    assert range_of(np.full(4, 3.0), np.dtype("f4")).why == "one value"


@given(st.integers(1, 30), st.integers(1, 30), st.data())
def test_reduced(height: int, width: int, data: st.DataObject) -> None:
    low, narrow = data.draw(st.integers(1, height)), data.draw(st.integers(1, width))
    frame = np.random.default_rng(height).random((2, height, width))
    found = reduced(frame, low, narrow)
    assert found.shape == (2, low, narrow)
    assert found.min() >= frame.min() - 1e-12 and found.max() <= frame.max() + 1e-12
    if height % low == 0 and width % narrow == 0:
        blocks = frame.reshape(2, low, height // low, narrow, width // narrow)
        np.testing.assert_allclose(found, blocks.mean(axis=(2, 4)))


# --- pictures --------------------------------------------------------------------------------------------------------------


def drawn(tmp_path: Path, array: np.ndarray[Any, Any], **options: Any) -> tuple[np.ndarray[Any, Any], Any]:
    np.save(tmp_path / "x.npy", array)
    made = preview(tmp_path / "x.npy", tmp_path / "x.png", **options)
    with Image.open(tmp_path / "x.png") as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert (made.width, made.height) == pixels.shape[1::-1]
    assert not list(tmp_path.glob("*.partial"))
    return pixels, made


def has(pixels: np.ndarray[Any, Any], colour: tuple[int, int, int], least: int = 500) -> bool:
    return int((pixels == colour).all(axis=-1).sum()) >= least


@pytest.mark.parametrize("layout", ["NCHW", "NHWC", "NWHC"])
def test_colours_of_a_picture_stay(tmp_path: Path, layout: str) -> None:
    colours = [(200, 10, 30), (10, 180, 40), (20, 30, 220)]
    array = np.zeros((3, 3, 20, 30), np.uint8)
    for number, colour in enumerate(colours):
        array[number] = np.array(colour)[:, None, None]
    pixels, made = drawn(tmp_path, array.transpose(["NCHW".index(letter) for letter in layout]), layout=layout)
    assert all(has(pixels, colour, 20 * 30) for colour in colours)
    assert made.samples == (0, 1, 2)


def test_dark_on_light_with_even_margins(tmp_path: Path) -> None:
    pixels, _ = drawn(tmp_path, np.zeros((5, 40, 60), np.uint8))
    for edge in (pixels[:18], pixels[-18:], pixels[:, :18], pixels[:, -18:]):
        assert (edge > 240).all()


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((4, 1, 8, 8), "f4", "enlarged 32 times"),
        ((4, 2, 8, 8), "f2", "2 channels side by side"),
        ((4, 12, 8, 8), "i2", "channels 0 to 7 of 12 side by side"),
        ((4, 4, 8, 8), "u1", "4 samples of (4, 8, 8) uint8"),
        ((4, 4, 8, 8), "f8", "4 channels side by side"),
        ((4, 2, 9, 8, 8), "f4", "slice 4 of 9"),
        ((2, 700, 900), "u2", "reduced 4 times"),
        ((2, 1, 500), "u1", "shown: 0 to 1"),
        ((20, 28, 28), "?", "enlarged 6 times"),
    ],
)
def test_forms(tmp_path: Path, shape: tuple[int, ...], dtype: str, words: str) -> None:
    array = (np.random.default_rng(0).random(shape) * 2).astype(dtype)
    _, made = drawn(tmp_path, array)
    assert words in made.lines[0]


def test_nan_and_ranges_are_stated(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((4, 2, 16, 16)).astype(np.float32)
    array[:, 1] += 100
    array[2, 0, 3:6, 3:6] = np.nan
    pixels, made = drawn(tmp_path, array)
    assert has(pixels, NAN_COLOUR)
    assert made.lines[1] == "values, from black to white: percentiles 1 to 99 of what is shown" and made.lines[-1] == "pink: NaN"
    low, high = (float(word) for word in made.lines[2].partition("channel 1 ")[2].split(" to "))
    assert 100 <= low < 100.1 and 100.9 < high <= 101


def test_next_frames(tmp_path: Path) -> None:
    array = np.full((6, 1, 20, 20), 100, np.uint8)
    array[3:, :, 5:10, 5:10] = 140
    array[5:, :, 5:10, 5:10] = 100
    pixels, made = drawn(tmp_path, array, next_frame=True)
    assert made.samples == (0, 1, 2, 3, 4)
    assert made.lines[-1] == "change: -40 to +40"
    assert has(pixels, (138, 138, 138)) and has(pixels, (255, 236, 170)) and has(pixels, (170, 226, 255))


def test_no_next_frame_behind_an_episode(tmp_path: Path) -> None:
    array = np.random.default_rng(0).random((3, 4, 8, 8))
    _, made = drawn(tmp_path, array, layout="NTHW", next_frame=True)
    assert made.samples == (0, 1, 2, 4, 5, 6, 8, 9, 10)
    with pytest.raises(OutOfRangeError, match="the last of an episode has no next frame"):
        preview(tmp_path / "x.npy", tmp_path / "y.png", layout="NTHW", next_frame=True, samples="3,7")
    with pytest.raises(InvalidValueError, match="every episode has one sample"):
        np.save(tmp_path / "one.npy", np.zeros((1, 8, 8)))
        preview(tmp_path / "one.npy", tmp_path / "y.png", next_frame=True)


def test_labels_are_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = tmp_path / "store"
    store.mkdir()
    fields = {
        "image": (np.zeros((3, 3, 20, 20), np.uint8), None),
        "label": (np.array([1, 0, 7]), {"classes": ["cat", "dog"]}),
        "one_hot": (np.eye(3, 2, dtype=np.float32), {"classes": ["cat", "dog"]}),
        "text": (np.array([b"a", b"", b"caf\xc3\xa9"]), None),
        "score": (np.array([0.5, 1, 2.25]), None),
        "vector": (np.zeros((3, 5)), None),
    }
    entries = {}
    for name, (array, notes) in fields.items():
        np.save(store / f"{name}.npy", array)
        layout = {1: "N", 2: "NC", 4: "NCHW"}[array.ndim]
        entries[name] = ArrayManifest(f"{name}.npy", "", array.shape, array.dtype.str, layout, (0, 3), 3, ("0",), notes=notes)
    (store / "mmapstore.json").write_text(Manifest(entries).to_json())
    seen: list[Any] = []
    save = preview.__globals__["sheet"].save
    monkeypatch.setattr(preview.__globals__["sheet"], "save", lambda sheet, path: (seen.append(sheet), save(sheet, path))[1])
    preview(store, tmp_path / "x.png")
    assert seen[0].captions == [("0", "dog, cat, a, 0.5"), ("1", "cat, dog, , 1"), ("2", "7, no class, café, 2.25")]
    assert seen[0].title == "store, field image"


def test_refusals(tmp_path: Path) -> None:
    def refused(error: type[Exception], message: str, array: np.ndarray[Any, Any], out: str = "x.png", **options: Any) -> None:
        np.save(tmp_path / "x.npy", array)
        with pytest.raises(error, match=message):
            preview(tmp_path / "x.npy", tmp_path / out, **options)
        assert not (tmp_path / out).exists()

    pictures = np.zeros((4, 8, 8))
    refused(InvalidTypeError, "are no pictures", np.zeros((4, 8)))
    refused(InvalidTypeError, "are no pictures", np.zeros((4, 8, 8), np.complex64))
    refused(InvalidValueError, r"does not end in \.png", pictures, "x.jpg")
    refused(InvalidValueError, "columns=0", pictures, columns=0)
    refused(MemoryBudgetError, "Show fewer samples", pictures, max_memory="1MB")
    refused(WriteError, "cannot be written", pictures, "none/x.png")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.save(tmp_path / "x.npy", np.zeros((40, 8, 8), np.uint8))
    out = str(tmp_path / "x.png")
    assert main(["preview", str(tmp_path / "x.npy"), out, "--random", "6", "--columns", "2"]) == 0
    assert "6 at random (seed 0), enlarged" in capsys.readouterr().out
    assert main(["preview", str(tmp_path / "x.npy"), out, "--samples", "3:5", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["samples"] == [3, 4]
    assert main(["preview", str(tmp_path / "x.npy"), out, "--samples", "50"]) == 1
