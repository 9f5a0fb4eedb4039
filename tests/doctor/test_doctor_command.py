"""`mmapstore doctor` as its user meets it: what it says, to people and to programs, and what it leaves as it was."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from doctor_data import FAULTS, RANDOM, SAMPLES

from mmapstore.cli import main
from mmapstore.doctor import examination
from mmapstore.doctor.examination import examine
from mmapstore.doctor.frameworks import installed
from mmapstore.plain.errors import InvalidValueError


@pytest.fixture
def frames(tmp_path: Path) -> str:
    np.save(tmp_path / "x.npy", RANDOM.astype("f8") / 3)
    return str(tmp_path / "x.npy")


def test_text_is_short_and_json_has_all(frames: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", frames]) == 0
    text = capsys.readouterr().out
    assert text.startswith(
        f"{frames}: {SAMPLES} samples of (16, 16) float64, axes NHW, 1.23 MB; x in batches of 32, y the next frame\n"
    )
    assert "slow: float64, but Keras trains in float32" in text and "[dtype]" in text
    assert "    mend: mmapstore convert " in text and "    gain: 614 kB fewer to read" in text
    assert "read: memory-mapped" in text and "likely bottleneck: " in text and len(text.splitlines()) < 40
    assert main(["doctor", frames, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [each["code"] for each in found["findings"]] == ["dtype"]
    assert found["memory_bytes"] == sum(found["memory"].values()) == examine(frames).memory.total  # type: ignore[union-attr]
    assert found["bottleneck"]["name"] in ("disk", "decoder", "Python", "the step")
    assert found["speeds"]["batch"] > 0 and found["speeds"]["copy"] > 0
    in_ram = next(route["nbytes"] for route in found["routes"] if route["name"] == "array in RAM, fit(x, y)")
    assert in_ram >= RANDOM.astype("f8").nbytes
    assert in_ram == max(route["nbytes"] for route in found["routes"]) or found["routes"][0]["nbytes"] > in_ram
    assert [route["nbytes"] for route in found["routes"]] == sorted((route["nbytes"] for route in found["routes"]), reverse=True)


@pytest.mark.parametrize("name", FAULTS)
def test_nothing_is_changed(tmp_path: Path, name: str) -> None:
    path = FAULTS[name][1](tmp_path)

    def state() -> list[tuple[str, int, int]]:
        files = sorted(each for each in tmp_path.rglob("*") if each.is_file())
        return [(str(each), each.stat().st_size, each.stat().st_mtime_ns) for each in files]

    before = state()
    examine(path)
    assert state() == before


def test_no_framework_is_imported(frames: str) -> None:
    code = (
        "import sys; from mmapstore.cli import main; code = main(['doctor', sys.argv[1]]); "
        "loaded = {'tensorflow', 'keras', 'torch', 'jax', 'h5py', 'zarr'} & set(sys.modules); "
        "sys.exit(f'{loaded}' if loaded else code)"
    )
    done = subprocess.run([sys.executable, "-c", code, frames], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# --- what cannot be judged ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "options", "code", "message"),
    [
        ("no.npy", [], 1, "no.npy does not exist"),
        ("text.txt", [], 1, "that is not .npy, HDF5, Zarr or .npz"),
        ("x.npy", ["--target", "label"], 2, "--target label is not understood; expected next, none."),
        ("x.npy", ["--batch", "0"], 2, "batch_size"),
        ("x.npy", ["--layout", "NQ"], 2, "layout='NQ' is not understood"),
        ("x.npy", ["--max-memory", "much"], 2, "max_memory='much' is not a size"),
        ("x.npy", ["--key", "frames"], 1, "frames"),
        ("names.npy", [], 2, "names.npy holds bytes, and models train on numbers; expected bool, integers or floats."),
        ("", [], 1, "Name several arrays by a pattern, such as '*.npy' in it"),
    ],
)
def test_what_it_cannot_judge(
    frames: str, tmp_path: Path, name: str, options: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text.txt").write_text("no array\n")
    np.save(tmp_path / "names.npy", np.array([b"a", b"bc"]))
    assert main(["doctor", str(tmp_path / name), *options]) == code
    assert message in capsys.readouterr().err


def test_a_video_is_to_be_ingested_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "clips"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"\0\0\0\x18ftypmp42")
    for path in (folder / "a.mp4", folder):
        assert main(["doctor", str(path)]) in (1, 2)
        assert f"mmapstore ingest {path} OUT" in capsys.readouterr().err


def test_damage_is_told_and_not_judged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset("x", data=RANDOM, chunks=(SAMPLES, 16, 16), compression="gzip")
        place = made.id.get_chunk_info(0)
    content = bytearray((tmp_path / "a.h5").read_bytes())
    content[place.byte_offset + 20 : place.byte_offset + 200] = bytes(180)
    (tmp_path / "a.h5").write_bytes(content)
    assert main(["doctor", str(tmp_path / "a.h5")]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert main(["doctor", str(tmp_path / "a.h5"), "--quick"]) == 0


# --- which array --------------------------------------------------------------------------------------------------------


def test_of_several_arrays_the_largest_by_far(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    h5py = pytest.importorskip("h5py")
    path = str(tmp_path / "a.h5")
    with h5py.File(path, "w") as file:
        file["frames"], file["label"], file["text"] = RANDOM, np.arange(SAMPLES), "a text"
    assert main(["doctor", path, "--quick"]) == 0
    assert f"judged was {path}::/frames, the largest array there; --key NAME judges another" in capsys.readouterr().out
    assert examine(path, key="label", quick=True).path == f"{path}::/label"
    with h5py.File(path, "a") as file:
        file["more"] = RANDOM
    assert main(["doctor", path, "--quick"]) == 1
    assert "frames" in capsys.readouterr().err


def test_a_directory_of_fields_takes_the_second_for_y(tmp_path: Path) -> None:
    from mmapstore.operations.ingest import ingest

    fields = {"image": RANDOM, "label": np.arange(SAMPLES)}
    for out in ("store", "store.zarr"):
        path = ingest(fields, str(tmp_path / out))
        found = examine(path, quick=True)
        assert "y the field 'label'" in found.what and found.path == path
    with pytest.raises(ValueError, match=r"expected next, none, or a field \(image, label\)"):
        examine(str(tmp_path / "store"), target="box")
    assert "y the next frame" in examine(str(tmp_path / "store"), target="next", quick=True).what


def test_a_file_that_was_ingested_keeps_its_episodes(tmp_path: Path) -> None:
    from mmapstore.operations.ingest import ingest

    path = ingest(RANDOM.reshape(20, 30, 16, 16), str(tmp_path / "clips.npy"), source_layout="NTHW")
    assert f"{SAMPLES} samples in 20 episodes" in examine(path).what


# --- folders of images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sizes", [((24, 16),), ((24, 16), (32, 20), (32, 20))])
def test_a_folder_of_images(tmp_path: Path, sizes: tuple[tuple[int, int], ...], capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "my photos"
    for number in range(12):
        (folder / f"class{number % 2}").mkdir(parents=True, exist_ok=True)
        image.new("RGB", sizes[number % len(sizes)], (number, 0, 9)).save(folder / f"class{number % 2}" / f"{number}.png")
    found = examine(str(folder))
    (finding,) = found.findings
    assert finding.code == "images" and "12 images in 2 classes" in found.what
    assert finding.seconds is not None and "in all threads of this machine" in finding.found
    assert {route.name for route in found.routes} >= {"image_dataset_from_directory", "ImageDataGenerator"}
    words = shlex.split(finding.mend)[1:]
    assert ("--size" in words) is (len(sizes) > 1)
    assert main(words) == 0, capsys.readouterr().err
    after = examine(words[2], quick=True)
    assert "y the field 'label'" in after.what and "images" not in [each.code for each in after.findings]
    assert finding.nbytes == sum(each.stat().st_size - 128 for each in Path(words[2]).glob("image*.npy"))


def test_images_of_8_and_of_16_bits_in_one_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = pytest.importorskip("PIL.Image")
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(12):
        image.fromarray(np.full((16, 24), number, np.uint16 if number == 5 else np.uint8)).save(folder / f"{number}.png")
    assert main(["ingest", str(folder), str(tmp_path / "scans.npy")]) == 2
    assert "--dtype uint8" in capsys.readouterr().err
    found = examine(str(folder), quick=True)
    (finding,) = found.findings
    assert "uint8" in found.what and "16 bits" in finding.gain
    words = shlex.split(finding.mend)[1:]
    assert words[-2:] == ["--dtype", "uint8"] and main(words) == 0, capsys.readouterr().err
    image.fromarray(np.zeros((16, 24), np.float32)).save(folder / "measured.tif")
    with pytest.raises(InvalidValueError, match="Ingest them apart"):
        examine(str(folder), quick=True)


# --- what is installed --------------------------------------------------------------------------------------------------


def test_settings_of_keras_are_read_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    assert (installed().floatx, installed().backend) == ("float32", "tensorflow") and os.listdir(tmp_path) == []
    (tmp_path / "keras.json").write_text('{"floatx": "float64", "backend": "jax", "epsilon": 1e-7}')
    assert (installed().floatx, installed().backend) == ("float64", "jax")
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    assert installed().backend == "torch"
    for damaged in ("{", "[]", '{"floatx": "float8"}'):
        (tmp_path / "keras.json").write_text(damaged)
        assert installed().floatx == "float32"


def test_float64_is_right_for_a_keras_of_float64(frames: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(examination, "installed", installed)
    (tmp_path / "keras.json").write_text('{"floatx": "float64"}')
    assert examine(frames, quick=True).findings == ()


# --- files from elsewhere -----------------------------------------------------------------------------------------------


def test_chunks_that_declare_gigabytes_are_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset(
            "x", shape=(40, 64, 64), maxshape=(None, 64, 64), chunks=(100_000, 64, 64), dtype="f4", compression="gzip"
        )
    found = examine(str(tmp_path / "a.h5"))
    assert found.speeds is not None and found.speeds.read is None and found.bottleneck is None
    assert [each.code for each in found.findings] == ["chunks"]


def test_links_that_lead_nowhere_in_a_store(tmp_path: Path) -> None:
    path = FAULTS["a chunk for each sample"][1](tmp_path)
    (Path(path) / "c" / "none").symlink_to("gone")
    assert [each.code for each in examine(path).findings] == ["pieces"]
