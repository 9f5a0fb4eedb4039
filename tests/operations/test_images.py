"""Images as a source: folders, globs, lists and tables, in order, with labels; what is broken is named, or left out and listed."""

from __future__ import annotations

import contextlib
import json
import os

import numpy as np
import pytest
from image_examples import PACKAGED, PHOTOGRAPHS, by_pillow, class_folders, photograph, read_all
from PIL import Image

import mmapstore as mm
from mmapstore.operations.ingest.contract import Position
from mmapstore.operations.ingest.images.tables import path_inside
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    InvalidValueError,
    KeyNotFoundError,
    NotFoundError,
    SourceWarning,
    UnsafeFileError,
)

CLASSES = {"dog": ["chelsea.png", "coffee.png"], "cat": ["rocket.jpg"] * 11, "ant": ["astronaut.png"] * 3}


@pytest.fixture
def folder(tmp_path):
    return class_folders(tmp_path / "photos", CLASSES)


# --- folders ---------------------------------------------------------------------------------------------------------------


def test_a_folder_of_classes(folder):
    source = mm.Images(folder, size=(24, 36), order="sorted")  # not so small that JPEG is decoded smaller
    assert source.notes["label"] == {"classes": ["ant", "cat", "dog"]}
    assert (source.samples, source.guess) == (16, 16)
    assert source.specs["image"].shape == (16, 24, 36, 3)
    assert source.specs["image"].layout == "NHWC"
    assert (source.specs["label"].shape, source.specs["label"].dtype) == ((16,), np.dtype(np.int64))
    fields, skipped = read_all(source)
    assert skipped == []
    assert fields["label"].tolist() == [0] * 3 + [1] * 11 + [2] * 2
    names = [f"ant/{n}.jpg" for n in (1, 2, 3)] + [f"cat/{n}.jpg" for n in range(1, 12)] + ["dog/1.jpg", "dog/2.jpg"]
    for number, name in enumerate(names):
        image = by_pillow(folder / name)
        left, width = (image.width - image.height * 1.5) / 2, image.height * 1.5
        top, height = 0.0, float(image.height)
        if width > image.width:
            left, width, height = 0.0, float(image.width), image.width / 1.5
            top = (image.height - height) / 2
        expected = image.resize((36, 24), Image.Resampling.BILINEAR, box=(left, top, left + width, top + height))
        assert np.array_equal(fields["image"][number], np.asarray(expected)), name


def test_what_lies_deeper_belongs_to_the_class_and_other_files_do_not(folder):
    (folder / "cat" / "more" / ".cache").mkdir(parents=True)
    photograph(size=(120, 90)).save(folder / "cat" / "more" / "x.PNG")
    photograph(size=(120, 90)).save(folder / "cat" / "more" / ".cache" / "y.png")
    (folder / "cat" / "Thumbs.db").write_bytes(b"none")
    (folder / ".DS_Store").write_bytes(b"none")
    (folder / "read me.txt").write_text("none")
    (folder / "bird").mkdir()
    with pytest.warns(SourceWarning, match=r"skipped 1 \.txt file, read me\.txt"):
        source = mm.Images(folder)
    assert source.notes["label"] == {"classes": ["ant", "bird", "cat", "dog"]}
    assert np.bincount(read_all(source)[0]["label"]).tolist() == [3, 0, 12, 2]


def test_a_flat_folder_has_no_labels(folder):
    source = mm.Images(folder / "cat")
    assert set(source.specs) == {"image"}
    assert "label" not in source.notes
    assert read_all(source)[0]["image"].shape == (11, 90, 120, 3)
    with pytest.raises(InvalidValueError, match="tells no classes, so there are no labels='one-hot'"):
        mm.Images(folder / "cat", labels="one-hot")


def test_files_are_counted_as_people_count(tmp_path):
    for number in (1, 2, 10):
        Image.new("L", (4, 4), number).save(tmp_path / f"frame{number}.png")
    assert read_all(mm.Images(tmp_path))[0]["image"][:, 0, 0, 0].tolist() == [1, 2, 10]


def test_one_hot(folder):
    source = mm.Images(folder, labels="one-hot", order="sorted")
    assert (source.specs["label"].shape, source.specs["label"].dtype, source.specs["label"].layout) == (
        (16, 3),
        np.dtype(np.uint8),
        "NC",
    )
    label = read_all(source)[0]["label"]
    assert np.array_equal(label, np.eye(3, dtype=np.uint8)[[0] * 3 + [1] * 11 + [2] * 2])


def test_labels_left_out(folder):
    assert set(mm.Images(folder, labels=None).specs) == {"image"}


def test_images_beside_classes_are_ambiguous(folder):
    photograph(size=(120, 90)).save(folder / "loose.png")
    with pytest.raises(InvalidValueError, match=r"images \(loose\.png \.\.\.\) beside folders of images \(ant \.\.\.\)"):
        mm.Images(folder)


def test_nothing_to_find(tmp_path):
    with pytest.raises(NotFoundError, match="it is empty"):
        mm.Images(tmp_path)
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(NotFoundError, match=r"holds no image that Pillow reads.*a\.txt"):
        mm.Images(tmp_path)
    with pytest.raises(NotFoundError, match="does not exist"):
        mm.Images(tmp_path / "none")
    with pytest.raises(NotFoundError, match=r"No file matches"):
        mm.Images(str(tmp_path / "*.png"))
    with pytest.raises(InvalidTypeError, match="Images of a int"):
        mm.Images(7)
    with pytest.raises(InvalidValueError, match="list of images is empty"):
        mm.Images([])
    with pytest.raises(InvalidValueError, match="is a folder, in a list"):
        mm.Images([tmp_path])


# --- globs and lists -------------------------------------------------------------------------------------------------------


def test_globs_and_lists(folder):
    found, _ = read_all(mm.Images(str(folder / "**" / "*.jpg"), size=8))
    assert found["image"].shape == (16, 8, 8, 3)
    assert set(found) == {"image"}
    paths = [folder / "dog" / "2.jpg", folder / "ant" / "1.jpg"]
    listed, _ = read_all(mm.Images(paths, size=8))
    assert np.array_equal(listed["image"][0], read_all(mm.Images(paths[0], size=8))[0]["image"][0])
    assert len(listed["image"]) == 2


def test_real_photographs_of_all_sizes():
    source = mm.Images([PACKAGED / name for name in PHOTOGRAPHS], size=(64, 64), fit="pad")
    fields, _ = read_all(source)
    assert fields["image"].shape == (len(PHOTOGRAPHS), 64, 64, 3)
    assert all(image.std() > 10 for image in fields["image"])


# --- one size, one form ----------------------------------------------------------------------------------------------------


def test_sizes_that_differ_are_named():
    with pytest.raises(InvalidValueError, match=r"astronaut\.png is 512 x 512 pixels.*coffee\.png 400 x 600.*size=\(512, 512\)"):
        mm.Images([PACKAGED / "astronaut.png", PACKAGED / "coffee.png"])


@pytest.mark.parametrize(
    ("modes", "channels"),
    [
        (["L", "L"], 1),
        (["L", "RGB"], 3),
        (["1", "P"], 3),
        (["RGBA", "RGBA"], 4),
        (["RGBA", "RGB"], 3),
        (["LA", "LA"], 2),
        (["LA", "L"], 1),
    ],
)
def test_channels_are_those_that_all_have(tmp_path, modes, channels):
    for number, mode in enumerate(modes):
        photograph(size=(16, 12)).convert(mode).save(tmp_path / f"{number}.png")
    source = mm.Images(tmp_path)
    assert source.specs["image"].shape[3] == channels
    assert read_all(source)[0]["image"].shape == (2, 12, 16, channels)
    assert read_all(mm.Images(tmp_path, channels=1))[0]["image"].shape == (2, 12, 16, 1)


def test_16_bits(tmp_path):
    values = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    Image.fromarray(values).save(tmp_path / "0.png")
    assert np.array_equal(read_all(mm.Images(tmp_path))[0]["image"][0, :, :, 0], values)
    found = read_all(mm.Images(tmp_path, scale="unit"))[0]["image"]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found[0, :, :, 0], values / 65535, rtol=1e-6)
    with pytest.raises(InvalidValueError, match="channels=4 cannot be had"):
        mm.Images(tmp_path, channels=4)
    Image.new("L", (8, 6), 255).save(tmp_path / "1.png")
    with pytest.raises(InvalidValueError, match=r"0\.png holds uint16 values and .*1\.png uint8"):
        mm.Images(tmp_path)
    both = read_all(mm.Images(tmp_path, dtype="uint8"))[0]["image"]
    assert np.array_equal(both[0, :, :, 0], np.rint(values / 257).astype(np.uint8))
    assert both[1].min() == 255


def test_16_bits_of_colour_have_to_be_accepted(tmp_path):
    (tmp_path / "a.ppm").write_bytes(b"P6 2 2 65535\n" + bytes(range(24)))
    with pytest.raises(InvalidValueError, match=r"a\.ppm has 16 bits per colour, of which Pillow reads 8"):
        mm.Images(tmp_path)
    assert mm.Images(tmp_path, dtype="uint8").specs["image"].dtype == np.uint8


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"size": 0}, InvalidValueError, "size=0 is not a size"),
        ({"size": (1, 2, 3)}, InvalidTypeError, r"size=\(1, 2, 3\) is not understood"),
        ({"size": "64x64"}, InvalidTypeError, "size='64x64' is not understood"),
        ({"size": (64, 64.0)}, InvalidValueError, "is not a size"),
        ({"fit": "cover"}, InvalidValueError, "fit='cover' is not understood; expected one of 'crop', 'pad', 'stretch'"),
        ({"channels": 5}, InvalidValueError, "channels=5 is not understood"),
        ({"labels": "names"}, InvalidValueError, "labels='names' is not understood"),
        ({"workers": 0}, InvalidValueError, "workers=0"),
        ({"dtype": "int64"}, InvalidValueError, "dtype='int64' is not what images are written as"),
    ],
)
def test_what_cannot_be_meant(folder, options, error, message):
    with pytest.raises(error, match=message):
        mm.Images(folder, **options)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("at_most", [1, 3, 1000])
def test_the_same_from_any_number_of_workers(folder, workers, at_most):
    expected = read_all(mm.Images(folder, size=32))[0]
    found = read_all(mm.Images(folder, size=32, workers=workers), at_most)[0]
    for name, array in expected.items():
        assert np.array_equal(found[name], array)


def test_from_any_sample(folder):
    source = mm.Images(folder, size=16)
    whole = read_all(source)[0]
    for start in range(17):
        found = read_all(source, 4, Position(start))[0]
        for name in whole:
            assert (found[name] is None and start == 16) or np.array_equal(found[name], whole[name][start:])


# --- broken files ----------------------------------------------------------------------------------------------------------


def break_file(path, how):
    if how == "cut off":  # its header is whole: that shows when it is decoded
        path.write_bytes(path.read_bytes()[:1500])
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()
        path.symlink_to("nowhere")


@pytest.mark.parametrize("how", ["cut off", "empty"])
def test_a_broken_file_is_named(folder, how):
    break_file(folder / "cat" / "5.jpg", how)
    with pytest.raises(DamagedFileError, match=r"cat.5\.jpg"):
        read_all(mm.Images(folder, size=16))


@pytest.mark.parametrize("how", ["cut off", "empty"])
def test_broken_files_are_left_out_and_listed(folder, how):
    whole = read_all(mm.Images(folder, size=16, order="sorted"))[0]
    broken = ["ant/1.jpg", "cat/2.jpg", "cat/3.jpg", "dog/2.jpg"]
    for name in broken:
        break_file(folder / name, how)
    source = mm.Images(folder, size=16, skip_broken=True, order="sorted")
    assert source.samples is None
    assert source.guess in (12, 16)
    kept = [number for number in range(16) if number not in (0, 4, 5, 15)]
    for at_most in (1, 5, 100):
        fields, skipped = read_all(source, at_most)
        assert skipped == [(at, str(folder / name)) for at, name in zip((0, 3, 3, 12), broken, strict=True)]
        for name, array in fields.items():
            assert np.array_equal(array, whole[name][kept])


def test_going_on_behind_files_that_were_left_out(folder):
    broken = ["ant/1.jpg", "cat/2.jpg", "cat/3.jpg", "dog/2.jpg"]
    for name in broken:
        break_file(folder / name, "cut off")
    source = mm.Images(folder, size=16, skip_broken=True)
    whole, skipped = read_all(source)
    for start in range(13):
        # A position is told with those left out before the sample it stands at, or those known of a piece that ended before them.
        for before in (sum(at <= start for at, _ in skipped), sum(at < start for at, _ in skipped)):
            after = Position(start, (), [name for _, name in skipped[:before]])
            fields, rest = read_all(source, 3, after)
            assert rest == skipped[before:]
            for name in whole:
                assert (fields[name] is None and start == 12) or np.array_equal(fields[name], whole[name][start:])


def test_nothing_but_broken_files(tmp_path):
    (tmp_path / "a.png").write_bytes(b"none")
    with pytest.raises(DamagedFileError, match=r"none of 1 images can be read, beginning with .*a\.png"):
        mm.Images(tmp_path, skip_broken=True)


def test_bombs_are_left_out_too(folder, monkeypatch):
    Image.new("L", (400, 400)).save(folder / "cat" / "0.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 120 * 90)
    with pytest.raises(UnsafeFileError, match=r"0\.png.*--max-pixels"):
        mm.Images(folder, size=16)
    _, skipped = read_all(mm.Images(folder, size=16, skip_broken=True, order="sorted"))
    assert skipped == [(3, str(folder / "cat" / "0.png"))]


def test_closing_ends_the_threads(folder):
    pieces = mm.Images(folder, size=16, workers=3).pieces(Position(), 1)
    next(pieces)
    pieces.close()  # the fixtures look for threads and open files that are left


# --- what a resumed call compares ------------------------------------------------------------------------------------------


def test_fingerprints(folder):
    def mark(**options):
        return json.dumps(mm.Images(folder, **{"size": 16, **options}).fingerprint)

    first = mark()
    assert mark() == first
    assert mark(workers=3) == first
    for options in ({"size": 17}, {"fit": "pad"}, {"channels": 1}, {"scale": "unit"}, {"labels": None}, {"labels": "one-hot"}):
        assert mark(**options) != first, options
    os.utime(folder / "dog" / "1.jpg", (1, 1))
    assert mark() != first


def test_paths_are_the_folders(folder):
    assert mm.Images(folder).paths == [str(folder / name) for name in ("ant", "cat", "dog")]


# --- tables ----------------------------------------------------------------------------------------------------------------


def table(folder, text, name="train.csv"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_csv_of_names(folder):
    path = table(folder, '\ufeffpath,label,rest\ndog/1.jpg,zebra,1\n\ncat/1.jpg,"a, b",2\n./dog/2.jpg, zebra ,3\n')
    with pytest.warns(SourceWarning, match=r"not read are the columns 'rest'; labels are those of 'label'"):
        source = mm.Images(path, size=8, order="sorted")
    assert source.notes["label"] == {"classes": ["a, b", "zebra"]}
    fields, _ = read_all(source)
    assert fields["label"].tolist() == [1, 0, 1]
    (folder / "train.csv").unlink()
    whole = read_all(mm.Images(folder, size=8, order="sorted"))[0]["image"]
    assert np.array_equal(fields["image"], whole[[14, 3, 15]])
    assert source.paths == [str(folder / "cat"), str(folder / "dog"), str(folder / "train.csv")]


def test_whole_numbers_stay(folder):
    source = mm.Images(table(folder, "path,label\ncat/1.jpg,7\ncat/2.jpg,-2\n"), size=8)
    assert "label" not in source.notes
    assert read_all(source)[0]["label"].tolist() == [7, -2]
    with pytest.raises(InvalidValueError, match="labels go from -2 to 7; one-hot rows need numbers from 0"):
        mm.Images(folder / "train.csv", size=8, labels="one-hot")
    table(folder, "path,label\ncat/1.jpg,3\ncat/2.jpg,0\n")
    assert read_all(mm.Images(folder / "train.csv", size=8, labels="one-hot"))[0]["label"].tolist() == [[0, 0, 0, 1], [1, 0, 0, 0]]


def test_fractions_are_numbers_and_not_classes(folder):
    source = mm.Images(table(folder, "path,label\ncat/1.jpg,0.5\ncat/2.jpg,2\n"), size=8)
    assert source.specs["label"].dtype == np.float32
    assert read_all(source)[0]["label"].tolist() == [0.5, 2]
    with pytest.raises(InvalidValueError, match=r"fractions, such as 0\.5, which have no one-hot form"):
        mm.Images(folder / "train.csv", size=8, labels="one-hot")


def test_json_lines_tabs_and_other_columns(folder):
    lines = [{"file": "cat/1.jpg", "kind": "x"}, {"kind": "w", "file": "dog/1.jpg", "more": [1]}]
    path = table(folder, "\n".join(map(json.dumps, lines)) + "\n\n", "train.jsonl")
    with pytest.warns(SourceWarning, match=r"not read are the columns 'more'; labels are those of 'kind'"):
        source = mm.Images(path, size=8, path_column="file", label_column="kind")
    with pytest.raises(KeyNotFoundError, match=r"line 1: there is no column 'klass' of labels, only 'file', 'kind'"):
        mm.Images(path, size=8, path_column="file", label_column="klass")
    assert source.notes["label"] == {"classes": ["w", "x"]}
    assert read_all(source)[0]["label"].tolist() == [1, 0]
    tabs = table(folder, "path\tlabel\ncat/1.jpg\ta,b\n", "train.tsv")
    assert mm.Images(tabs, size=8).notes["label"] == {"classes": ["a,b"]}
    assert set(mm.Images(table(folder, "path\ncat/1.jpg\n"), size=8).specs) == {"image"}
    mixed = table(folder, '{"path": "cat/1.jpg", "label": 1}\n{"path": "cat/2.jpg", "label": "b"}\n', "mixed.jsonl")
    assert mm.Images(mixed, size=8).notes["label"] == {"classes": ["1", "b"]}


def test_absolute_paths_are_taken_as_they_are(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere.png"
    photograph(size=(10, 10)).save(elsewhere)
    assert mm.Images(table(folder, f"path,label\n{elsewhere},a\n")).samples == 1


@pytest.mark.parametrize("path", ["../outside.png", "cat/../../outside.png", "..\\outside.png"])
def test_paths_stay_in_the_directory_of_the_table(folder, path):
    photograph(size=(10, 10)).save(folder.parent / "outside.png")
    with pytest.raises(UnsafeFileError, match=r"train\.csv, line 2: .*leads out of the table's directory"):
        mm.Images(table(folder, f"path,label\n{path},a\n"))


def test_paths_inside():
    assert path_inside("a", "b/./c.png") == os.path.join("a", "b", "c.png")
    for outside in ("/etc/passwd", "..", "b/../../c", "b\0c", "\\\\server\\share"):
        assert path_inside("a", outside) is None, outside


@pytest.mark.parametrize(
    ("text", "name", "error", "message"),
    [
        (
            "file,label\na.jpg,b\n",
            "t.csv",
            KeyNotFoundError,
            r"t\.csv, line 2: there is no 'path', only 'file', 'label'.*path_column=",
        ),
        ("path,label\ncat/1.jpg\n", "t.csv", DamagedFileError, "line 2: it has 1 values, and the header 2"),
        ('path,label\n"cat/1.jpg,b\n', "t.csv", DamagedFileError, "cannot be read as a table"),
        ("path,label\n,b\n", "t.csv", InvalidValueError, "line 2: its path is ''"),
        ("path,label\ncat/1.jpg,\n", "t.csv", InvalidValueError, "line 2: its 'label' is ''"),
        ("path,label\n", "t.csv", InvalidValueError, "names no images"),
        ("", "t.csv", InvalidValueError, "names no images"),
        ('{"path": "a"\n', "t.jsonl", DamagedFileError, "line 1: it is not JSON"),
        ("[1]\n", "t.jsonl", DamagedFileError, r"line 1: it is \[1\]; expected an object"),
        ('{"path": 3}\n', "t.jsonl", InvalidValueError, "its path is 3"),
        ('{"path": "cat/1.jpg", "label": null}\n', "t.jsonl", InvalidValueError, "its 'label' is None"),
        (
            '{"path": "a", "label": 1}\n{"path": "b"}\n',
            "t.jsonl",
            InvalidValueError,
            "line 2: 'label' is missing, and in the lines before it was there",
        ),
        (
            '{"path": "a"}\n{"path": "b", "label": 1}\n',
            "t.jsonl",
            InvalidValueError,
            "line 2: 'label' is there, and in the lines before it is not",
        ),
        ('{"path": "a", "label": 99999999999999999999}\n', "t.jsonl", InvalidValueError, "does not fit 64 bits"),
        ("path,label\nnone.jpg,b\n", "t.csv", NotFoundError, r"none\.jpg does not exist"),
    ],
)
def test_tables_that_cannot_be_meant(folder, text, name, error, message):
    with pytest.raises(error, match=message):
        mm.Images(table(folder, text, name), size=8)


def test_tables_in_another_encoding(folder):
    (folder / "t.csv").write_bytes("path,label\ncat/1.jpg,K\xe4fer\n".encode("latin-1"))
    with pytest.raises(DamagedFileError, match=r"t\.csv is not UTF-8 text"):
        mm.Images(folder / "t.csv")


def test_files_that_a_table_names_and_that_are_gone_are_left_out(folder):
    source = mm.Images(table(folder, "path,label\ncat/1.jpg,a\nnone.jpg,b\n"), size=8, skip_broken=True)
    fields, skipped = read_all(source)
    assert fields["label"].tolist() == [0]
    assert skipped == [(1, str(folder / "none.jpg"))]


def test_pieces_are_not_begun_by_looking(folder):
    with contextlib.closing(mm.Images(folder, size=8).pieces(Position(), 2)):
        pass
