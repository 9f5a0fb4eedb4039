"""Images through `ingest` and its command: read back by the formats' own libraries, resumed, and within the memory predicted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from image_examples import PACKAGED, PHOTOGRAPHS, class_folders, photograph, read_all
from ingest_results import fields_of, manifest_of, read
from PIL import Image
from private_memory import measured, needs_counts

import mmapstore as mm
from mmapstore.cli import main
from mmapstore.operations.ingest.images.options import size_of
from mmapstore.plain.errors import DamagedFileError, InvalidValueError, StateMismatchError

CLASSES = {"cat": ["chelsea.png"] * 9, "rocket": ["rocket.jpg", "astronaut.png"] * 3}


@pytest.fixture
def folder(tmp_path):
    return class_folders(tmp_path / "photos", CLASSES)


@pytest.mark.parametrize("out", ["out", "x.h5", "x.h5::/group", "x.zarr"])
def test_folders_of_classes(folder, tmp_path, out):
    expected = read_all(mm.Images(folder, size=(16, 24)))[0]
    path = mm.ingest(mm.Images(folder, size=(16, 24)), tmp_path / out, progress=False)
    found = fields_of(path, ["image", "label"])
    assert np.array_equal(found["image"], expected["image"].transpose(0, 3, 1, 2))
    assert np.array_equal(found["label"], expected["label"])
    assert manifest_of(path, "label").notes == {"classes": ["cat", "rocket"]}
    assert manifest_of(path, "image").layout == "NCHW"
    opened = mm.open(path)
    assert len(opened) == 15
    assert np.array_equal(opened["label"][:], expected["label"])


@pytest.mark.parametrize("kind", ["folder", "glob", "list", "file", "table"])
def test_paths_of_images_are_recognised(folder, tmp_path, kind):
    paths = [str(folder / "cat" / f"{number}.jpg") for number in (1, 2)]
    (folder / "t.csv").write_text("path\ncat/1.jpg\ncat/2.jpg\n")
    source = {
        "folder": folder / "cat", "glob": str(folder / "cat" / "[12].jpg"), "list": paths, "file": paths[0],
        "table": folder / "t.csv",
    }[kind]  # fmt: skip
    path = mm.ingest(source, tmp_path / "out.npy", progress=False)
    found = read(path)
    assert found.shape == ({"folder": 9, "file": 1}.get(kind, 2), 3, 90, 120)
    assert np.array_equal(found[0].transpose(1, 2, 0), read_all(mm.Images(paths[0]))[0]["image"][0])
    with pytest.raises(InvalidValueError, match="is for arrays; images come as 'NHWC'"):
        mm.ingest(source, tmp_path / "other.h5", source_layout="NHWC")


def test_broken_files_are_listed_in_the_manifest(folder, tmp_path):
    for name in ("cat/9.jpg", "rocket/6.jpg"):
        (folder / name).write_bytes((folder / name).read_bytes()[:1000])
    with pytest.raises(DamagedFileError, match=r"9\.jpg"):
        mm.ingest(mm.Images(folder, size=16), tmp_path / "out", progress=False)
    path = mm.ingest(mm.Images(folder, size=16, skip_broken=True, order="sorted"), tmp_path / "out", progress=False)
    assert fields_of(path, ["label"])["label"].tolist() == [0] * 8 + [1] * 5
    text = (tmp_path / "out" / "mmapstore.json").read_text()
    assert str(folder / "cat/9.jpg") in text
    assert str(folder / "rocket/6.jpg") in text
    assert str(folder / "cat/1.jpg") not in text


class Stopped(Exception):
    pass


@pytest.mark.parametrize("skip_broken", [False, True])
@pytest.mark.parametrize("out", ["out", "x.h5"])
def test_stopped_and_resumed(folder, tmp_path, monkeypatch, out, skip_broken):
    """Interrupted at several places: the second call goes on, and the result is that of one call."""
    if skip_broken:
        for name in ("cat/2.jpg", "cat/3.jpg", "rocket/6.jpg"):
            (folder / name).write_bytes((folder / name).read_bytes()[:1000])

    def source():
        return mm.Images(folder, size=(90, 120), skip_broken=skip_broken, workers=2)

    whole = mm.ingest(source(), tmp_path / "whole" if out == "out" else tmp_path / "whole.h5", progress=False)
    options = {"chunk_samples": 1} if out != "out" else {}
    for stop in (1, 4, 9):
        seen = []

        def stopping(done, total, stop=stop, seen=seen):
            seen.append(done)
            if done >= stop:
                raise Stopped

        target = tmp_path / f"{stop}{out}"
        # A quarter of this is the size of a block: a few images.
        with pytest.raises(Stopped):
            mm.ingest(source(), target, progress=stopping, max_memory="60MB", **options)
        path = mm.ingest(source(), target, progress=False, max_memory="60MB", **options)
        for name, array in fields_of(whole, ["image", "label"]).items():
            assert np.array_equal(fields_of(path, ["image", "label"])[name], array)


def test_another_folder_does_not_resume(folder, tmp_path):
    def stopping(done, total):
        if done:
            raise Stopped

    with pytest.raises(Stopped):
        mm.ingest(mm.Images(folder, size=16), tmp_path / "out", progress=stopping)
    if (tmp_path / "out.partial").exists():
        (folder / "cat" / "9.jpg").unlink()
        with pytest.raises(StateMismatchError):
            mm.ingest(mm.Images(folder, size=16), tmp_path / "out", progress=False)


def test_statistics_of_images(folder, tmp_path):
    path = mm.ingest(mm.Images(folder, size=16, scale="unit"), tmp_path / "out", progress=False)
    image = fields_of(path, ["image"])["image"]
    assert image.dtype == np.float32
    found = mm.open(path)["image"].statistics()
    np.testing.assert_allclose(found.mean, image.mean(axis=(0, 2, 3)), rtol=1e-4)


# --- the command -----------------------------------------------------------------------------------------------------------


def test_command(folder, tmp_path, capsys):
    code = main(["ingest", str(folder), str(tmp_path / "out"), "--size", "16x24", "--fit", "pad", "--labels", "one-hot", "--json"])
    assert code == 0
    assert json.loads(capsys.readouterr().out)["fields"]["image"]["shape"] == [3, 16, 24]
    expected = read_all(mm.Images(folder, size=(16, 24), fit="pad", labels="one-hot"))[0]
    found = fields_of(str(tmp_path / "out"), ["image", "label"])
    assert np.array_equal(found["image"], expected["image"].transpose(0, 3, 1, 2))
    assert np.array_equal(found["label"], expected["label"])


def test_command_scales_images_and_not_labels(folder, tmp_path):
    arguments = ["--size", "16", "--scale", "0.5,0.5,0.5/0.25,0.25,0.25", "--dtype", "float16", "--channels", "3", "--json"]
    assert main(["ingest", str(folder), str(tmp_path / "out.h5"), *arguments]) == 0
    found = fields_of(str(tmp_path / "out.h5"), ["image", "label"])
    assert found["image"].dtype == np.float16
    assert found["label"].dtype == np.int64
    expected = read_all(mm.Images(folder, size=16, dtype="float16", scale=(0.5, 0.25)))[0]["image"]
    assert np.array_equal(found["image"], expected.transpose(0, 3, 1, 2))


def test_command_leaves_out_what_is_broken(folder, tmp_path, capsys):
    (folder / "cat" / "1.jpg").write_bytes(b"none")
    assert main(["ingest", str(folder), str(tmp_path / "out"), "--size", "16"]) == 1
    assert "--skip-broken" in capsys.readouterr().err
    assert main(["ingest", str(folder), str(tmp_path / "out"), "--size", "16", "--skip-broken", "--labels", "none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fields"].keys() == {"image"}


def test_command_for_annotated_images(tmp_path, capsys):
    (tmp_path / "Data").mkdir()
    (tmp_path / "Annotations").mkdir()
    for number, name in enumerate("abc"):
        photograph(size=(60, 60)).save(tmp_path / "Data" / f"{name}.png")
        box = "<bndbox><xmin>1</xmin><ymin>1</ymin><xmax>60</xmax><ymax>30</ymax></bndbox>"
        objects = f"<object><name>kind {number}</name>{box}</object>" if number else ""
        (tmp_path / "Annotations" / f"{name}.xml").write_text(f"<annotation>{objects}</annotation>")
    (tmp_path / "train.txt").write_text("c 1\na 1\n")
    (tmp_path / "categories.txt").write_text("kind 2\nkind 1\n")
    arguments = [
        "--annotations", tmp_path / "Annotations", "--subset", tmp_path / "train.txt", "--categories", tmp_path / "categories.txt",
        "--size", "30x30", "--first-pixel", "1", "--background", "nothing", "--unmatched", "skip",
    ]  # fmt: skip
    assert main(["ingest", str(tmp_path / "Data"), str(tmp_path / "out"), *map(str, arguments), "--json"]) == 0
    found = fields_of(str(tmp_path / "out"), ["image", "label", "box"])
    assert found["label"].tolist() == [0, 2]
    assert found["box"][0].tolist() == [0, 0, 15, 30]
    assert np.isnan(found["box"][1]).all()
    assert manifest_of(str(tmp_path / "out"), "label").notes["classes"] == ["kind 2", "kind 1", "nothing"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "big"], "--size big is not understood; expected HEIGHTxWIDTH"),
        (["--size", "1x2x3"], "is not understood"),
        (["--scale", "1/2/3"], "--scale 1/2/3 is not understood"),
        (["--subset", "x.txt"], "--subset is for annotated images. Name the folder of their annotations with --annotations"),
        (["--max-pixels", "0"], "--max-pixels 0"),
    ],
)
def test_options_that_cannot_be_meant(folder, tmp_path, capsys, arguments, message):
    assert main(["ingest", str(folder), str(tmp_path / "out"), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_options_of_images_for_something_else(tmp_path, capsys):
    np.save(tmp_path / "a.npy", np.zeros((2, 3, 4, 4), np.uint8))
    assert main(["ingest", str(tmp_path / "a.npy"), str(tmp_path / "b.npy"), "--fit", "pad"]) == 2
    assert "--fit is for images, which" in capsys.readouterr().err
    assert main(["ingest", str(tmp_path / "a.npy"), str(tmp_path / "b.npy")]) == 0
    assert np.array_equal(read(str(tmp_path / "b.npy")), np.load(tmp_path / "a.npy"))


def test_more_pixels_on_request(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    Image.new("L", (50, 50)).save(tmp_path / "a.png")
    assert main(["ingest", str(tmp_path / "a.png"), str(tmp_path / "out.h5")]) == 1
    assert "--max-pixels" in capsys.readouterr().err
    assert main(["ingest", str(tmp_path / "a.png"), str(tmp_path / "out.h5"), "--max-pixels", "2500"]) == 0


def test_sizes_are_height_and_width():
    assert size_of("64x48") == (64, 48)
    assert size_of("7") == (7, 7)


# --- memory ----------------------------------------------------------------------------------------------------------------

CHILD = """
import mmapstore as mm

folder, out, options, small = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]
mm.ingest(mm.Images(small, size=8), out + "-warm", progress=False)
with predictions() as predicted, Rise() as rise:
    mm.ingest(mm.Images(folder, **options), out, progress=False, max_memory="1GB")
print(json.dumps({"measured": rise.nbytes, "predicted": predicted[-1]}))
"""


@pytest.mark.slow
@needs_counts
@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("jpeg", {"size": 64}),
        ("jpeg", {"size": 512, "workers": 4}),
        ("jpeg", {"scale": "each", "workers": 1}),
        ("progressive", {"size": 64}),
        ("turned", {"size": 256, "fit": "pad"}),
        ("png", {"size": 64, "workers": 4}),
        ("palette", {"size": 64}),
        ("rgba", {"size": 64}),
        ("16 bits", {"size": 64}),
        ("16 bits", {"scale": "unit"}),
        ("webp", {"size": 64}),
        ("jpeg 2000", {"size": 64}),
        ("tiff", {"size": 64}),
        ("stack", {"size": 64}),
        ("gif", {"size": 64}),
        ("animated webp", {"size": 64}),
    ],
)
def test_measured_is_at_most_predicted(tmp_path, kind, options):
    size = (2400, 1600)
    for number, name in enumerate(PHOTOGRAPHS[:4]):
        image = photograph(name).resize(size, Image.Resampling.BILINEAR)
        exif = Image.Exif()
        exif[0x0112] = 6
        written = {
            "jpeg": (image, ".jpg", {}),
            "progressive": (image, ".jpg", {"progressive": True}),
            "turned": (image, ".jpg", {"exif": exif}),
            "png": (image, ".png", {"compress_level": 1}),
            "palette": (image.quantize(64), ".png", {"transparency": 0, "compress_level": 1}),
            "rgba": (image.convert("RGBA"), ".png", {"compress_level": 1}),
            "16 bits": (Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257), ".png", {"compress_level": 1}),
            "webp": (image, ".webp", {"method": 0}),
            "jpeg 2000": (image, ".jp2", {}),
            "tiff": (image, ".tif", {"compression": "tiff_deflate"}),
            "stack": (image, ".tif", {"compression": "tiff_deflate", "save_all": True, "append_images": [image] * 2}),
            "gif": (image.quantize(64), ".gif", {"save_all": True, "append_images": [image.rotate(9), image.rotate(5)]}),
            "animated webp": (image, ".webp", {"method": 0, "save_all": True, "append_images": [image.rotate(9)]}),
        }[kind]
        written[0].save(tmp_path / f"{number}{written[1]}", **written[2])
    (tmp_path / "small").mkdir()
    photograph(size=(16, 16)).save(tmp_path / "small" / "1.jpg")
    photograph(size=(16, 16)).save(tmp_path / "small" / "2.png")
    pattern = str(tmp_path / "[0-9].*")
    found = measured(CHILD, pattern, tmp_path / "out.h5", json.dumps(options), tmp_path / "small")
    print(kind, options, {name: round(value / 1e6, 1) for name, value in found.items()})
    assert found["measured"] <= found["predicted"], found


def test_photographs_of_scikit_image(tmp_path):
    paths = [str(PACKAGED / name) for name in PHOTOGRAPHS]
    path = mm.ingest(mm.Images(paths, size=64), tmp_path / "photographs.h5", progress=False)
    assert mm.open(path).shape == (len(PHOTOGRAPHS), 3, 64, 64)
