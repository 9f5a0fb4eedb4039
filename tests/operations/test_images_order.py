"""Labelled images are written in an order mixed by a seed; frames in that of their names; and each sample says its file."""

from __future__ import annotations

import json
import os
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from image_examples import read_all
from ingest_results import fields_of, manifest_of
from PIL import Image

import mmapstore as mm
from mmapstore.cli import main
from mmapstore.operations.ingest.images.decoding import PictureFiles
from mmapstore.operations.ingest.images.order import WantedOrder, are_numbered_frames
from mmapstore.plain.errors import InvalidTypeError, InvalidValueError, SourceWarning, StateMismatchError

COUNTS = {"ant": 9, "cat": 30, "dog": 12}
CLASSES = "label: 3 classes, ant 9, cat 30, dog 12"


def folders(path: Path, counts: dict[str, int], name: str = "{}.png", first: int = 1) -> Path:
    """Class folders of small images, no two alike."""
    for label, (folder, count) in enumerate(counts.items()):
        (path / folder).mkdir(parents=True)
        for number in range(first, first + count):
            values = np.random.default_rng([label, number]).integers(0, 255, (6, 5, 3)).astype(np.uint8)
            Image.fromarray(values).save(path / folder / name.format(number))
    return path


@pytest.fixture
def pets(tmp_path):
    return folders(tmp_path / "pets", COUNTS)


def names_in(source) -> list[str]:
    return [name.decode() for name in read_all(source)[0]["source"]]


def all_fields(path) -> dict[str, np.ndarray]:
    ds = mm.open(path)
    return {name: np.array(field[:]) for name, field in ds.fields.items()}


# --- the order itself ------------------------------------------------------------------------------------------------------


def test_the_order_spreads_classes_as_chance_does():
    """300 cats and 60 dogs for 400 seeds: runs of a class, and its share of the first 80 %, are distributed as of random orders."""
    labels = np.repeat([0, 1], [300, 60])
    runs, dogs = [], []
    for seed in range(400):
        order = WantedOrder.of("mixed", seed, None).places(360)
        assert np.array_equal(np.sort(order), np.arange(360))
        runs.append(1 + int((np.diff(labels[order]) != 0).sum()))
        dogs.append(int(labels[order][:288].sum()))
    expected = 1 + 2 * 300 * 60 / 360
    variance = (expected - 1) * (expected - 2) / 359
    assert abs(np.mean(runs) - expected) < 4 * np.sqrt(variance / 400)
    assert 0.8 < np.var(runs) / variance < 1.25
    shares = scipy.stats.hypergeom(360, 60, 288)
    assert abs(np.mean(dogs) - shares.mean()) < 4 * shares.std() / 20
    assert 0.8 < np.var(dogs) / shares.var() < 1.25
    low, high = shares.ppf([1e-6, 1 - 1e-6])
    assert low <= min(dogs) and max(dogs) <= high


def test_samples_are_those_of_the_sorted_list_in_another_order(pets):
    sorted_fields = read_all(mm.Images(pets, order="sorted"))[0]
    assert sorted_fields["label"].tolist() == sorted(sorted_fields["label"].tolist())
    for seed in (0, 7):
        source = mm.Images(pets, seed=seed, workers=1 + seed)
        places = WantedOrder.of("mixed", seed, None).places(51)
        for name, values in read_all(source, at_most=4)[0].items():
            assert np.array_equal(values, sorted_fields[name][places]), name
    assert names_in(mm.Images(pets)) != names_in(mm.Images(pets, seed=7))
    assert names_in(mm.Images(pets)) == names_in(mm.Images(pets, workers=3))


@pytest.mark.parametrize("out", ["out", "x.h5", "x.h5::/group", "x.zarr"])
def test_every_format_holds_the_same_order_and_the_files_of_the_samples(pets, tmp_path, out):
    path = mm.ingest(pets, tmp_path / out, progress=False)
    expected = read_all(mm.Images(pets))[0]
    found = all_fields(path)
    assert list(found) == ["image", "label", "source"]
    for name, values in expected.items():
        assert np.array_equal(found[name], values.transpose(0, 3, 1, 2) if name == "image" else values), name
    for image, label, source in zip(*found.values(), strict=True):
        with Image.open(pets / source.decode()) as file:
            assert np.array_equal(np.asarray(file).transpose(2, 0, 1), image)
        assert list(COUNTS)[label] == source.decode().split("/")[0]
    ds = mm.open(path)
    assert ds.mixed and ds.class_names == list(COUNTS) and ds.split(0.8, 0.2)[1]["label"].class_names == list(COUNTS)
    assert set(fields_of(path, ["source"])["source"].tolist()) == set(expected["source"].tolist())
    assert manifest_of(path, "image").notes["order"] == [{"samples": 51, "order": "mixed", "seed": 0}]
    train, val = ds.split(0.8, 0.2)
    assert all(set(np.unique(part["label"][:])) == {0, 1, 2} for part in (train, val))
    with pytest.raises(InvalidValueError, match=r"holds samples in an order that ingest mixed.*order='sorted'"):
        ds.batches(4, target=mm.NextFrame())


def test_names_that_are_no_text_and_links(tmp_path):
    folders(tmp_path / "pets", {"cat": 2})
    odd = os.path.join(tmp_path / "pets" / "cat", os.fsdecode("\u00fc\u6c7d".encode() + b"\xff.png"))
    shutil.copy(tmp_path / "pets" / "cat" / "1.png", odd)
    (tmp_path / "pets" / "cat" / ("x" * 60)).mkdir()
    shutil.copy(odd, tmp_path / "pets" / "cat" / ("x" * 60) / "1.png")
    source = mm.Images(tmp_path / "pets", order="sorted")
    assert source.specs["source"].dtype == "S96"
    names = read_all(source)[0]["source"].tolist()
    assert names == [b"cat/1.png", b"cat/2.png", b"cat/" + b"x" * 60 + b"/1.png", "cat/\u00fc\u6c7d".encode() + b"\xff.png"]


def test_names_that_count_alike_have_one_order(tmp_path):
    """A directory lists its files in any order; so the order of names alone decides between 1, 01 and 001."""
    for name in ("001", "1", "01"):
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
    assert names_in(mm.Images(tmp_path, source_field=True)) == ["001.png", "01.png", "1.png"]


def test_the_field_of_names_is_a_choice(pets, tmp_path):
    assert list(mm.Images(pets, source_field=False).specs) == ["image", "label"]
    assert list(mm.Images(pets, labels=None).specs) == ["image"]
    assert names_in(mm.Images(pets / "cat", source_field=True))[:2] == ["1.png", "2.png"]
    assert main(["ingest", str(pets), str(tmp_path / "x.h5"), "--no-source", "--json"]) == 0
    assert list(mm.open(tmp_path / "x.h5").fields) == ["image", "label"]
    path = mm.ingest(pets, tmp_path / "y.h5", dtype="float32", progress=False)  # of numbers
    assert [str(field.dtype) for field in mm.open(path).fields.values()] == ["float32", "float32", "|S32"]


# --- which sources are mixed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["walk/0001", "walk/0002", "run/0001", "run/0002"], True),
        (["walk/a/007", "walk/a/008", "walk/b/000", "run/001"], True),
        (["walk/0998", "walk/0999", "walk/1000", "walk/1001"], True),
        (["walk/frame0", "walk/frame1", "walk/Frame_2"], True),
        (["walk/frame_9", "walk/frame_10", "run/frame_1"], True),
        (["cat/0", "cat/1", "dog/0", "dog/1"], False),  # Microsoft's cats and dogs
        (["0/1", "0/21", "1/3", "1/6"], False),  # MNIST as files
        (["0/00001", "0/00021", "1/00003"], False),
        (["cat/0001", "cat/0002", "dog/0001", "dog/0003"], False),
        (["cat/img_0001", "cat/img_0002"], False),
        (["n1/n1_10026", "n1/n1_10027"], False),  # ImageNet
        (["cat/001", "cat/2"], False),
        (["cat/01", "dog/01"], False),  # nothing follows anything
        (["walk/0001", "walk/0002", "walk/x"], False),
    ],
)
def test_names_of_frames(tmp_path, names, expected):
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png")
    paths = [str(tmp_path / f"{name}.png") for name in names]
    assert are_numbered_frames(paths, PictureFiles(paths, (), False).headers) is expected
    with pytest.warns(SourceWarning, match="numbered as frames") if expected else warnings.catch_warnings():
        warnings.simplefilter("always" if expected else "error")
        assert mm.Images(tmp_path).notes["image"]["order"]["order"] == ("sorted" if expected else "mixed")
    Image.new("L", (4, 5)).save(paths[-1])  # no video has frames of two sizes
    assert not (are_numbered_frames(paths, PictureFiles(paths, (), False).headers) and names[-1].split("/")[0] == "walk")


def test_numbered_frames_stay_in_order_and_their_folders_are_episodes(tmp_path):
    walks = folders(tmp_path / "walks", {"walk": 4, "run": 3}, "{:04d}.png")
    with pytest.warns(SourceWarning, match=r"files are numbered as frames, such as .*run/0001\.png, and stay.*order='mixed'"):
        path = mm.ingest(walks, tmp_path / "frames", progress=False)
    ds = mm.open(path)
    assert ds["source"][:].tolist()[2:5] == [b"run/0003.png", b"walk/0001.png", b"walk/0002.png"]
    assert ds.episodes.tolist() == [0, 3, 7]
    assert not ds.mixed
    assert sum(len(x) for x, _ in ds.batches(2, target=mm.NextFrame())) == 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for options in ({"episodes": "folder"}, {"order": "sorted"}, {"order": "mixed"}):
            source = mm.Images(walks, **options)
            assert (names_in(source) == sorted(names_in(source))) == (options.get("order") != "mixed")
    as_asked = mm.open(mm.ingest(mm.Images(walks, episodes="folder"), tmp_path / "asked", progress=False))
    assert as_asked.episodes.tolist() == [0, 3, 7]


def test_sequences_of_any_names_by_folder(pets, tmp_path):
    source = mm.Images(pets, episodes="folder")
    assert names_in(source)[:10] == [*(f"ant/{n}.png" for n in range(1, 10)), "cat/1.png"]
    ds = mm.open(mm.ingest(source, tmp_path / "out", progress=False))
    assert ds.episodes.tolist() == [0, 9, 39, 51]
    assert ds["image"].batches(2, target=mm.NextFrame()).samples == 48


def test_images_without_labels_stay_as_they_come(pets, tmp_path):
    assert "order" not in mm.Images(pets / "cat").notes["image"]
    listed = [pets / "dog" / "2.png", pets / "cat" / "1.png"]
    assert names_in(mm.Images(listed, source_field=True)) == list(map(str, listed))
    assert names_in(mm.Images(pets, labels=None, source_field=True)) == names_in(mm.Images(pets, order="sorted"))
    mixed = names_in(mm.Images(pets / "cat", order="mixed", source_field=True))
    assert mixed != sorted(mixed) and len(set(mixed)) == 30
    path = mm.ingest(pets / "cat", tmp_path / "a.npy", order="mixed", seed=4, progress=False)
    assert mm.open(path).mixed


def test_tables_are_mixed_and_name_their_classes(pets, tmp_path):
    lines = [f"{kind}/{number}.png,{kind}" for kind in ("cat", "ant") for number in range(1, 6)]
    (pets / "table.csv").write_text("\n".join(["path,label", *lines]))
    in_order = [line.partition(",")[0] for line in lines]
    assert names_in(mm.Images(pets / "table.csv", order="sorted")) == in_order
    ds = mm.open(mm.ingest(pets / "table.csv", tmp_path / "x.zarr", progress=False))
    names = [name.decode() for name in ds["source"][:]]
    assert names == [in_order[place] for place in WantedOrder.of(None, 0, None).places(10)]
    assert [ds.class_names[number] for number in ds["label"][:]] == [name.split("/")[0] for name in names]


def test_pairs_with_masks_are_mixed_together(tmp_path):
    images, masks = folders(tmp_path / "images", {"a": 20}), tmp_path / "masks" / "a"
    masks.mkdir(parents=True)
    for number in range(1, 21):
        Image.new("L", (5, 6), number).save(masks / f"{number}.png")
    found = read_all(mm.Images(images / "a", masks=masks))[0]
    numbers = found["mask"][:, 0, 0, 0].tolist()
    assert [name.decode() for name in found["source"]] == [f"{number}.png" for number in numbers]
    assert numbers == [1 + place for place in WantedOrder.of(None, 0, None).places(20)]


def test_pages_of_a_file_stay_together(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(4):
            pages = [Image.new("L", (4, 4), 10 * number + page) for page in range(3)]
            pages[0].save(tmp_path / name / f"{number}.tif", save_all=True, append_images=pages[1:])
    with pytest.warns(SourceWarning, match="each image is a sample"):
        source = mm.Images(tmp_path)
    pages = read_all(source, 2)[0]["image"][:, 0, 0, 0].reshape(8, 3)
    assert (np.diff(pages, axis=1) == 1).all()
    assert pages[:, 0].tolist() != sorted(pages[:, 0].tolist())
    ds = mm.open(mm.ingest(source, tmp_path / "out", progress=False))
    assert ds.episodes.tolist() == list(range(0, 25, 3))
    assert not ds.mixed  # within the episodes, which are in mixed order, pages follow each other
    assert ds.batches(2, target=mm.NextFrame()).samples == 16


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"order": "random"}, InvalidValueError, "order='random' is not understood; expected one of 'mixed', 'sorted', None"),
        ({"episodes": "file"}, InvalidValueError, "episodes='file' is not understood; expected one of 'folder', None"),
        ({"seed": 0.5}, InvalidTypeError, "seed=0.5 is not a whole number"),
        ({"seed": True}, InvalidTypeError, "seed=True is not a whole number"),
        ({"order": "mixed", "episodes": "folder"}, InvalidValueError, "would take apart the sequences"),
    ],
)
def test_orders_that_cannot_be_meant(pets, options, error, match):
    with pytest.raises(error, match=match):
        mm.Images(pets, **options)


def test_an_order_for_what_has_none(pets, tmp_path, capsys):
    for source in (np.zeros((2, 3)), [np.zeros(3)], mm.Images(pets)):
        with pytest.raises(InvalidValueError, match=r"are for paths of images, and the source is a .*leave them out"):
            mm.ingest(source, tmp_path / "out", order="sorted")
    np.save(tmp_path / "a.npy", np.zeros((2, 3)))
    for name, options in (("a.npy", []), ("a.mp4", ["--stride", "2"]), ("a.pkl", []), ("a.raw", ["--raw-dtype", "u1"])):
        assert main(["ingest", str(tmp_path / name), str(tmp_path / "b.npy"), "--order", "mixed", *options]) == 2
        assert "--order is" in capsys.readouterr().err
    path = mm.ingest(pets, tmp_path / "out", order="sorted", progress=False)
    assert mm.open(path)["label"][:].tolist() == sorted(mm.open(path)["label"][:].tolist())


def test_images_beside_other_sources(pets, tmp_path):
    """In a dict each source has one field, and images without labels stay in their order."""
    path = mm.ingest({"x": pets / "cat", "t": np.arange(30)}, tmp_path / "out", progress=False)
    found = all_fields(path)
    assert np.array_equal(found["x"].transpose(0, 2, 3, 1), read_all(mm.Images(pets / "cat"))[0]["image"])
    with pytest.raises(InvalidValueError, match=r"field 'x', .*pets, gives the fields image, label, source; .*labels=None"):
        mm.ingest({"x": pets, "t": np.arange(51)}, tmp_path / "other")


# --- resumed and appended --------------------------------------------------------------------------------------------------


class Stopped(Exception):
    pass


@pytest.mark.parametrize("out", ["out", "x.h5", "x.zarr"])
def test_a_resumed_call_has_the_same_order_and_another_seed_is_an_error(pets, tmp_path, out):
    def stopping(done, total):
        if done >= 8:
            raise Stopped

    options = {"max_memory": "60MB"} | ({} if out == "out" else {"chunk_samples": 4})
    source = mm.Images(pets, size=256, seed=3)  # large, so that there are several blocks
    with pytest.raises(Stopped):
        mm.ingest(source, tmp_path / out, progress=stopping, **options)
    with pytest.raises(StateMismatchError, match="begun by another call"):
        mm.ingest(mm.Images(pets, size=256), tmp_path / out, progress=False, **options)
    path = mm.ingest(mm.Images(pets, size=256, seed=3, workers=1), tmp_path / out, progress=False, **options)
    whole = read_all(source)[0]
    for name, values in all_fields(path).items():
        assert np.array_equal(values, whole[name].transpose(0, 3, 1, 2) if name == "image" else whole[name])


@pytest.mark.parametrize("out", ["out", "x.h5", "x.zarr"])
def test_append_mixes_the_new_samples_alone(pets, tmp_path, out):
    more = folders(tmp_path / "more", dict.fromkeys(COUNTS, 6), "{}-seen-later.png", first=100)
    path = mm.ingest(pets, tmp_path / out, seed=1, progress=False)
    before = all_fields(path)
    mm.ingest(more, tmp_path / out, seed=2, append=True, progress=False)
    after = all_fields(path)
    new = read_all(mm.Images(more, seed=2))[0]
    for name, values in after.items():
        assert np.array_equal(values[:51], before[name])
        assert np.array_equal(values[51:], new[name].transpose(0, 3, 1, 2) if name == "image" else new[name])
    orders = [{"samples": 51, "order": "mixed", "seed": 1}, {"samples": 18, "order": "mixed", "seed": 2}]
    assert manifest_of(path, "image").notes["order"] == orders
    assert mm.open(path).mixed and mm.open(path).class_names == list(COUNTS)
    assert main(["verify", str(path)]) == 0


def test_append_to_what_lies_in_order(pets, tmp_path):
    path = mm.ingest(pets, tmp_path / "out", order="sorted", progress=False)
    assert not mm.open(path).mixed
    longer = folders(tmp_path / "longer", COUNTS, "{}" + 40 * "x" + ".png")
    with pytest.raises(InvalidTypeError, match=r"holds source as \|S32, and this would append \|S64"):
        mm.ingest(longer, path, append=True, progress=False)
    with pytest.raises(InvalidValueError, match="source_field=False, --no-source"):
        mm.ingest(mm.Images(pets, source_field=False), path, append=True, progress=False)
    mm.ingest(pets, path, append=True, progress=False)
    assert mm.open(path).mixed
    assert [each["order"] for each in manifest_of(path, "image").notes["order"]] == ["sorted", "mixed"]


def test_copies_of_a_store_know_its_classes_and_that_it_is_mixed(pets, tmp_path, capsys):
    store = mm.ingest(pets, tmp_path / "x.h5", progress=False)
    assert main(["ingest", store, str(tmp_path / "y.zarr")]) == 0
    assert "samples in the mixed order of their source" in capsys.readouterr().out
    part = mm.open(store).split(0.8, 0.2)[0]
    for path in (tmp_path / "y.zarr", mm.ingest(part, tmp_path / "z", progress=False)):
        assert mm.open(path).class_names == list(COUNTS)
        assert mm.open(path).mixed
    for name in ("image", "label"):
        mm.convert(f"{store}::/{name}", tmp_path / f"{name}.npy", progress=False)
    assert mm.open(tmp_path / "label.npy").class_names == list(COUNTS)
    assert mm.open(tmp_path / "image.npy").mixed
    more = mm.ingest(mm.open(store)["label"], tmp_path / "label.npy", append=True, progress=False)
    assert mm.open(more).class_names == list(COUNTS)


# --- what is said ----------------------------------------------------------------------------------------------------------


def test_the_summary_says_the_order_and_how_to_change_it(pets, tmp_path, capsys):
    words = "samples in an order mixed by seed 5; order='sorted' (--order sorted) keeps the order of names"
    arguments = ["ingest", str(pets), str(tmp_path / "x.h5"), "--seed", "5"]
    assert main([*arguments, "--dry-run"]) == 0
    assert words in capsys.readouterr().out
    assert main([*arguments, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["order"] == words
    assert main(arguments) == 0
    assert {words, CLASSES} <= set(capsys.readouterr().out.splitlines())
    assert main([*arguments, "--overwrite", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["order"] == {"samples": 51, "order": "mixed", "seed": 5, "words": words}
    assert found["classes"] == {"field": "label", "counts": COUNTS, "words": CLASSES}
    assert main([*arguments, "--overwrite", "--order", "sorted"]) == 0
    assert "samples in the order of names; order='mixed' (--order mixed) mixes them" in capsys.readouterr().out
    assert words in repr(mm.Images(pets, seed=5))
    assert main(["ingest", str(pets / "cat"), str(tmp_path / "y.npy")]) == 0
    assert "order" not in capsys.readouterr().out


def test_info_and_preview_name_classes_and_the_order(pets, tmp_path, capsys):
    mm.ingest(pets, tmp_path / "x.h5", progress=False)
    assert main(["info", str(tmp_path / "x.h5")]) == 0
    text = capsys.readouterr().out
    assert f"note: {CLASSES}" in text
    assert "note: ingest mixed the order of samples: contiguous parts are random parts" in text
    assert "samples in mixed order" in repr(mm.open(tmp_path / "x.h5"))
    preview = ["preview", str(tmp_path / "x.h5"), str(tmp_path / "sheet.png")]
    assert main(preview) == 0
    assert main([*preview, "--next-frame"]) == 2
    assert "in an order that ingest mixed" in capsys.readouterr().err


def test_doctor_asks_for_no_next_frame_of_mixed_samples(pets, tmp_path, capsys):
    path = mm.ingest(mm.Images(pets / "cat", order="mixed", source_field=True), tmp_path / "x.h5", progress=False)
    assert main(["doctor", path, "--quick"]) == 0
    assert "x in batches of 32" in capsys.readouterr().out
