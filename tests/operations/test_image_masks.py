"""Label masks: numbers of classes, kept and resized as such, alone and beside their images."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_examples import photograph, read_all
from ingest_results import fields_of, manifest_of
from PIL import Image, ImageDraw

import mmapstore as mm
from mmapstore.cli import main
from mmapstore.operations.ingest.images.masks import voc_colour
from mmapstore.plain.errors import DamagedFileError, InvalidValueError, NotFoundError, SourceWarning

OTHER_COLOURS = [(90 * number % 256, 50 * number % 256, 7 * number % 256) for number in range(256)]


def mask(shape=(12, 12), numbers=(0, 1, 5)) -> np.ndarray:
    """Stripes of classes."""
    found = np.zeros(shape, np.uint8)
    for number, rows in zip(numbers, np.array_split(np.arange(shape[0]), len(numbers)), strict=True):
        found[rows] = number
    return found


def palette_image(numbers, colours=None) -> Image.Image:
    image = Image.fromarray(numbers, "L")
    image = image.copy()
    image.putpalette([band for number in range(256) for band in (colours[number] if colours else voc_colour(number))])
    return image


def save(path, numbers, colours=None, palette=True):
    path.parent.mkdir(exist_ok=True)
    (palette_image(numbers, colours) if palette else Image.fromarray(numbers)).save(path)


def pictures(source):
    return read_all(source)[0]["image"]


# --- decoded ---------------------------------------------------------------------------------------------------------------


@given(
    shape=st.tuples(st.integers(2, 40), st.integers(2, 40)),
    size=st.one_of(st.none(), st.tuples(st.integers(1, 50), st.integers(1, 50))),
    kind=st.sampled_from(["P", "L", "1", "I;16", "RGB"]),
    fit=st.sampled_from(["crop", "stretch"]),
    seed=st.integers(0, 99),
)
def test_masks_as_pillow_resizes_them_by_the_nearest_pixel(tmp_path_factory, shape, size, kind, fit, seed):
    """The judges: NumPy of what Pillow opens, and Pillow's own nearest neighbour. No number is there that was not there before."""
    path = tmp_path_factory.mktemp("a") / "a.png"
    random = np.random.default_rng(seed)
    if kind == "RGB":
        Image.fromarray(random.integers(0, 255, (*shape, 3)).astype(np.uint8)).save(path)
    elif kind == "I;16":
        Image.fromarray(random.integers(0, 60000, shape).astype(np.uint16)).save(path)
    elif kind == "1":
        Image.fromarray(random.integers(0, 2, shape).astype(bool)).save(path)
    else:
        save(path, random.integers(0, 21, shape).astype(np.uint8), OTHER_COLOURS, palette=kind == "P")
    with Image.open(path) as image:
        stored = np.asarray(image)
        rows, columns = size or shape
        part = (0, 0, image.width, image.height)
        if fit == "crop" and size is not None:
            height, width = min(image.height, image.width * rows / columns), min(image.width, image.height * columns / rows)
            part = ((image.width - width) / 2, (image.height - height) / 2, (image.width + width) / 2, (image.height + height) / 2)
        expected = np.asarray(image.convert("I") if kind == "I;16" else image)
        if size is not None:
            resized = image.convert("I") if kind == "I;16" else image
            expected = np.asarray(resized.resize((columns, rows), Image.Resampling.NEAREST, box=part))
    source = mm.Images(path, masks=True, size=size, fit=fit)
    found = pictures(source)[0]
    assert found.dtype == (np.uint16 if kind == "I;16" else np.uint8)
    assert np.array_equal(found.reshape(expected.shape), expected)
    assert set(np.unique(found)) <= set(np.unique(stored))


def test_masks_are_padded_with_background_and_keep_mixed_depths(tmp_path):
    save(tmp_path / "1.png", mask(), palette=False)
    Image.fromarray(mask().astype(np.uint16) * 1000).save(tmp_path / "2.png")
    found = pictures(mm.Images(tmp_path, masks=True, size=(12, 20), fit="pad"))
    assert found.dtype == np.uint16
    assert np.array_equal(found[0, :, 4:16, 0], mask())
    assert np.array_equal(found[1, :, 4:16, 0], mask() * np.uint16(1000))
    assert not found[:, :, :4].any()


@pytest.mark.parametrize("options", [{"dtype": "float32"}, {"scale": "unit"}])
def test_masks_are_no_pictures(tmp_path, options):
    save(tmp_path / "1.png", mask())
    with pytest.raises(InvalidValueError, match="is for pictures; label masks keep their numbers"):
        mm.Images(tmp_path, masks=True, **options)
    with pytest.raises(InvalidValueError, match="Label masks need the same channels"):
        mm.Images(tmp_path, masks=True, channels=3)


# --- recognised ------------------------------------------------------------------------------------------------------------


def test_the_colours_of_pascal_voc_tell_a_mask(tmp_path):
    save(tmp_path / "a.png", mask())
    with pytest.warns(
        SourceWarning, match=r"taken for label masks, .*palette is that of Pascal VOC; their numbers \(0, 1, 5\) are kept"
    ) as warned:
        source = mm.Images(tmp_path, channels=1)
    assert warned[0].filename == __file__
    assert np.array_equal(pictures(source)[0, :, :, 0], mask())
    assert source.notes["image"]["label masks"]
    with pytest.warns(SourceWarning, match="palette is that of"):
        assert np.array_equal(pictures(mm.Images(tmp_path))[0, :, :, 0], mask())
    assert pictures(mm.Images(tmp_path, masks=False)).shape == (1, 12, 12, 3)
    assert pictures(mm.Images(tmp_path, channels=3))[0, 4, 0].tolist() == [128, 0, 0]


def test_few_small_numbers_in_flat_areas_tell_a_mask(tmp_path):
    save(tmp_path / "a.png", mask((60, 80), (0, 1, 5, 255)), palette=False)
    with pytest.warns(SourceWarning, match=r"taken for label masks, .*few numbers \(0, 1, 5, 255\) in flat areas"):
        assert set(np.unique(pictures(mm.Images(tmp_path, size=7)))) <= {0, 1, 5, 255}
    assert np.array_equal(pictures(mm.Images(tmp_path))[0, :, :, 0], mask((60, 80), (0, 1, 5, 255)))
    assert len(np.unique(pictures(mm.Images(tmp_path, size=7, masks=False)))) > 4


def test_other_palettes_in_flat_areas_ask(tmp_path):
    save(tmp_path / "a.png", mask(), OTHER_COLOURS)
    with pytest.raises(
        InvalidValueError, match=r"label mask or a picture in grey. For label masks pass masks=True \(--masks yes\)"
    ):
        mm.Images(tmp_path, channels=1)
    assert set(np.unique(pictures(mm.Images(tmp_path, channels=1, masks=True)))) == {0, 1, 5}
    with Image.open(tmp_path / "a.png") as image:
        grey = np.asarray(image.convert("L"))
    assert np.array_equal(pictures(mm.Images(tmp_path, channels=1, masks=False))[0, :, :, 0], grey)
    with pytest.warns(SourceWarning, match=r"few numbers \(0, 1, 5\) in flat areas, .*resizing makes others between them"):
        assert mm.Images(tmp_path, size=7).specs["image"].sample_shape == (7, 7, 3)
    assert pictures(mm.Images(tmp_path)).shape == (1, 12, 12, 3)  # its colours, as ever


def test_black_and_white_is_resized_and_said(tmp_path):
    save(tmp_path / "a.png", mask(numbers=(0, 255)), palette=False)
    with pytest.warns(SourceWarning, match=r"few numbers \(0, 255\) in flat areas"):
        mm.Images(tmp_path, size=7)


@pytest.mark.parametrize("kind", ["grey", "dark", "palette", "night", "16 bits", "glow", "detail", "strokes"])
def test_photographs_are_no_masks(tmp_path, kind):
    for number, name in enumerate(("chelsea.png", "rocket.jpg", "astronaut.png")):
        grey = np.asarray(photograph(name, (120, 90)).convert("L"))
        glow = 20 * np.exp(-((np.mgrid[:90, :120] - 50) ** 2).sum(0) / 600)  # a cell, in a dark field
        detail = np.pad(grey[:40, :40] // 10, ((20, 30), (50, 30)))
        strokes = Image.new("L", (120, 90))
        ImageDraw.Draw(strokes).text((40, 40), name)  # smoothed at their edges
        image = {
            "grey": Image.fromarray(grey),
            "dark": Image.fromarray(grey // 10),  # 26 numbers, all small
            "night": Image.fromarray(np.random.default_rng(number).poisson(grey / 100).astype(np.uint8)),
            "palette": photograph(name, (120, 90)).quantize(32),
            "16 bits": Image.fromarray(grey.astype(np.uint16)),
            "glow": Image.fromarray(glow.astype(np.uint8)),
            "detail": Image.fromarray(detail),
            "strokes": strokes,
        }[kind]
        image.save(tmp_path / f"{number}.png")
    source = mm.Images(tmp_path, size=(45, 60), channels=1)
    assert "label masks" not in source.notes["image"]
    assert read_all(source)[0]["image"].shape == (3, 45, 60, 1)


# --- beside their images ---------------------------------------------------------------------------------------------------


@pytest.fixture
def pairs(tmp_path):
    """Two photographs in one class, one in another, and their masks: red things are class 3."""
    for number, name in enumerate(("cat/1", "cat/2", "dog/1")):
        image = photograph(size=(60, 40))
        numbers = np.zeros((40, 60), np.uint8)
        numbers[10 : 20 + number, 20:40] = 3
        image.paste((255, 0, 0), (20, 10, 40, 20 + number))
        for folder, each, suffix in (("images", image, ".bmp"), ("masks", palette_image(numbers, OTHER_COLOURS), ".png")):
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            each.save(tmp_path / folder / f"{name}{suffix}")
    return tmp_path


@pytest.mark.parametrize("kind", ["VOC", "other palette", "grey", "black and white", "grey images"])
def test_folders_of_images_and_of_their_masks_are_no_classes(tmp_path, kind, capsys):
    folders = [tmp_path / "two words", tmp_path / "SegmentationClass", tmp_path / "Annotations"]
    for folder in folders:
        folder.mkdir()
    for number in range(3):
        shape = (40, 60 + number)
        image = photograph(size=shape[::-1])
        image.convert("L" if kind == "grey images" else "RGB").save(folders[0] / f"{number}.png")
        if number < 2:  # Pascal VOC has masks for some images alone
            numbers = mask(shape, (0, 255) if kind == "black and white" else (0, 1, 5))
            colours = OTHER_COLOURS if kind == "other palette" else None
            save(folders[1] / f"{number}.png", numbers, colours, kind in ("VOC", "other palette"))
    images, masks = map(str, folders[:2])
    with pytest.raises(InvalidValueError, match="they are pairs, not classes") as raised:
        mm.Images(tmp_path, scale="unit")
    assert f"mm.Images({images!r}, masks={masks!r})" in str(raised.value)
    assert main(["ingest", str(tmp_path), str(tmp_path / "out.h5")]) == 2
    assert f"mmapstore ingest '{images}' --masks {masks}" in capsys.readouterr().err
    assert mm.Images(images, masks=masks, size=16, unmatched="skip-images").specs["mask"].sample_shape == (16, 16, 1)
    assert mm.Images(tmp_path, masks=False, size=16).notes["label"] == {"classes": sorted(each.name for each in folders)}


@pytest.mark.parametrize("kind", ["photographs", "masks", "one has another name", "one has another size"])
def test_classes_that_number_their_files_alike(tmp_path, kind):
    for name in ("cat", "dog"):
        for number in range(2):
            is_other = name == "dog" and number == 1
            file = tmp_path / name / f"{7 if is_other and kind == 'one has another name' else number}.png"
            shape = (30, 20) if is_other and kind == "one has another size" else (20, 30)
            if kind == "masks" or (name == "dog" and kind != "photographs"):
                save(file, mask(shape), palette=False)
            else:
                file.parent.mkdir(exist_ok=True)
                photograph(size=(30, 20)).convert("L").save(file)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SourceWarning)
        assert mm.Images(tmp_path, size=16).notes["label"] == {"classes": ["cat", "dog"]}


@pytest.mark.parametrize(("size", "fit"), [(None, "crop"), ((20, 20), "crop"), ((50, 30), "pad"), ((13, 31), "stretch")])
def test_images_and_masks_are_two_fields(pairs, size, fit):
    source = mm.Images(pairs / "images", masks=pairs / "masks", size=size, fit=fit, order="sorted")
    fields, skipped = read_all(source)
    assert skipped == []
    assert fields["label"].tolist() == [0, 0, 1]
    assert np.array_equal(fields["mask"], pictures(mm.Images(pairs / "masks", masks=True, size=size, fit=fit, order="sorted")))
    assert np.array_equal(fields["image"], pictures(mm.Images(pairs / "images", size=size, fit=fit, order="sorted")))
    red = (fields["image"] == (255, 0, 0)).all(axis=-1)
    assert (fields["mask"][..., 0][red] == 3).all()
    assert (fields["mask"] == 3).sum() >= red.sum() > 0


def test_the_command_writes_both(pairs):
    arguments = ["ingest", str(pairs / "images"), str(pairs / "out"), "--masks", str(pairs / "masks"), "--scale", "unit", "--json"]
    assert main(arguments) == 0
    found = fields_of(str(pairs / "out"), ["image", "label", "mask"])
    assert (found["image"].dtype, found["mask"].dtype) == (np.float32, np.uint8)
    assert set(np.unique(found["mask"])) == {0, 3}
    assert manifest_of(str(pairs / "out"), "mask").notes["label masks"]
    assert main(["ingest", str(pairs / "masks" / "cat"), str(pairs / "m.npy"), "--masks", "yes", "--size", "10"]) == 0
    assert set(np.unique(np.load(pairs / "m.npy"))) == {0, 3}
    assert main(["ingest", str(pairs / "masks"), str(pairs / "p.h5"), "--unmatched", "skip"]) == 2


def test_what_has_no_partner(pairs):
    (pairs / "masks" / "cat" / "2.png").rename(pairs / "masks" / "cat" / "9.png")

    def source(**options):
        return mm.Images(pairs / "images", masks=pairs / "masks", order="sorted", **options)

    with pytest.raises(NotFoundError, match=r"1 of 3 images have no mask of their name.*2\.bmp.*unmatched='skip-images'"):
        source()
    with pytest.raises(NotFoundError, match=r"1 of 3 masks have no image of their name.*9\.png.*unmatched='skip-masks'"):
        source(unmatched="skip-images")
    with pytest.raises(InvalidValueError, match="unmatched='skip-annotations' is not understood"):
        source(unmatched="skip-annotations")
    with pytest.warns(SourceWarning, match=r"9\.png \(no image has its name"):
        fields, skipped = read_all(source(unmatched="skip"))
    assert fields["label"].tolist() == [0, 1]
    assert skipped == [(1, str(pairs / "images" / "cat" / "2.bmp"))]
    with pytest.raises(InvalidValueError, match="is to be a folder, beside a folder of images"):
        mm.Images([pairs / "images" / "cat" / "1.bmp"], masks=pairs / "masks")


def test_masks_of_other_sizes(pairs):
    path = pairs / "masks" / "dog" / "1.png"
    with Image.open(path) as image:
        small = image.resize((30, 20), Image.Resampling.NEAREST)
    small.save(path)

    def source(**options):
        return mm.Images(pairs / "images", masks=pairs / "masks", order="sorted", **options)

    with pytest.raises(DamagedFileError, match=r"1\.png has 20 x 30 pixels; its image .*1\.bmp has 40 x 60"):
        source()
    assert read_all(source(size=(20, 30)))[0]["mask"].shape == (3, 20, 30, 1)  # half as large in both: the same part of it
    fields, skipped = read_all(source(skip_broken=True))
    assert fields["label"].tolist() == [0, 0]
    assert skipped == [(2, str(pairs / "images" / "dog" / "1.bmp"))]


def test_broken_masks_leave_their_image_out(pairs):
    path = pairs / "masks" / "cat" / "1.png"
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DamagedFileError, match=r"masks/cat/1\.png"):
        read_all(mm.Images(pairs / "images", masks=pairs / "masks"))
    fields, skipped = read_all(mm.Images(pairs / "images", masks=pairs / "masks", skip_broken=True, order="sorted"))
    assert fields["label"].tolist() == [0, 1]
    assert skipped == [(0, str(pairs / "images" / "cat" / "1.bmp"))]


def test_stacks_of_masks(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 12, 12)).astype(np.uint8)
    for folder, array in (("images", images), ("masks", np.stack([mask(numbers=(0, number)) for number in (1, 2, 3)]))):
        (tmp_path / folder).mkdir()
        first, *rest = map(Image.fromarray, array)
        first.save(tmp_path / folder / "a.tif", save_all=True, append_images=rest)
    found = read_all(mm.Images(tmp_path / "images", masks=tmp_path / "masks", size=6))[0]
    assert found["mask"].max(axis=(1, 2, 3)).tolist() == [1, 2, 3]
    assert read_all(mm.Images(tmp_path / "images", masks=tmp_path / "masks", pages="first"))[0]["mask"].shape == (1, 12, 12, 1)
    Image.fromarray(mask()).save(tmp_path / "masks" / "a.tif")
    with pytest.raises(DamagedFileError, match=r"its image .* has 12 x 12 in 3 pages"):
        mm.Images(tmp_path / "images", masks=tmp_path / "masks")
