"""Annotations: what one XML file says, which image it belongs to; and both as samples, from a tree like that of ImageNet DET."""

from __future__ import annotations

from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from image_examples import photograph, read_all
from PIL import Image

import mmapstore as mm
from mmapstore.operations.ingest.contract import Position
from mmapstore.operations.ingest.images.annotations import category_numbers, inside, read_annotation
from mmapstore.plain.errors import DamagedFileError, InvalidValueError, NotFoundError, SourceWarning, UnsafeFileError


def xml(objects=(), size=(90, 120), filename="", extra=""):
    """An annotation with objects (name, (ymin, xmin, ymax, xmax)) of an image of (height, width)."""
    written = "".join(
        f"<object><name>{escape(name)}</name><bndbox><xmin>{box[1]}</xmin><ymin>{box[0]}</ymin>"
        f"<xmax>{box[3]}</xmax><ymax>{box[2]}</ymax></bndbox></object>"
        for name, box in objects
    )
    dimensions = f"<size><width>{size[1]}</width><height>{size[0]}</height><depth>3</depth></size>" if size else ""
    return f"<annotation><filename>{filename}</filename>{dimensions}{extra}{written}</annotation>"


# --- one file --------------------------------------------------------------------------------------------------------------


def read(tmp_path, text, first_pixel=0):
    path = tmp_path / "a.xml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_annotation(str(path), first_pixel)


def test_what_pascal_voc_writes(tmp_path):
    found = read(
        tmp_path,
        """<annotation><folder>VOC2007</folder><filename>000005.jpg</filename><source><database>The VOC2007</database></source>
        <size><width>500</width><height>375</height><depth>3</depth></size><segmented>0</segmented>
        <object><name>chair</name><pose>Rear</pose><truncated>0</truncated><difficult>0</difficult>
          <bndbox><xmin>263</xmin><ymin>211</ymin><xmax>324</xmax><ymax>339.0</ymax></bndbox>
          <part><name>leg</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>500</xmax><ymax>375</ymax></bndbox></part></object>
        <object><name> person </name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>500</xmax><ymax>375</ymax></bndbox></object>
        </annotation>""",
        first_pixel=1,
    )
    assert found.filename == "000005.jpg"
    assert found.size == (375, 500)
    assert [(one.name, one.box) for one in found.objects] == [("chair", (210, 262, 339, 324)), ("person", (0, 0, 375, 500))]
    assert found.largest.name == "person"


def test_the_first_of_equals_is_the_largest(tmp_path):
    found = read(tmp_path, xml([("a", (0, 0, 2, 3)), ("b", (1, 1, 4, 3)), ("c", (0, 0, 1, 1))]))
    assert found.largest.name == "a"
    assert read(tmp_path, xml()).largest is None


@pytest.mark.parametrize("size", [None, (0, 0)])
def test_annotations_that_do_not_know_the_size(tmp_path, size):
    assert read(tmp_path, xml([("a", (0, 0, 9999, 9999))], size)).size is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not an XML annotation"),
        ("<annotation>", "is not an XML annotation"),
        ("<html/>", "holds <html>; expected <annotation>"),
        (b"<?xml version='1.0' encoding='nonsense'?><annotation/>", "is not an XML annotation"),
        (
            xml([("cat", (0, 0, "many", 3))]),
            r"object 1 \(cat\) has the box ymin 0, xmin 0, ymax many, xmax 3; expected four numbers",
        ),
        (xml([("cat", (0, 0, "nan", 3))]), "expected four numbers"),
        (xml([("cat", (0, 0, "", 3))]), "ymax missing"),
        (xml([("cat", (0, 0, 3, 3)), ("dog", (5, 0, 4, 3))]), r"object 2 \(dog\) has the box .*; expected ymin up to ymax"),
        (xml([("cat", (0, 0, 92, 3))]), r"object 1 \(cat\) .* reaches out of its image of 90 x 120 pixels"),
        (xml([("cat", (0, -1.5, 9, 3))]), "reaches out of its image"),
        (xml([("cat", (0, 0, 9, 122))]), "reaches out of its image"),
        (xml([("", (0, 0, 9, 9))]), "object 1 has no <name>"),
        ("<annotation><object><name>cat</name></object></annotation>", r"object 1 \(cat\) has no <bndbox>"),
        (xml([], ("tall", 3)), "its <size> is 'tall' by '3'"),
        (xml([], (-4, 3)), "its <size> is '-4' by '3'"),
        (xml([], (4.5, 3)), "its <size> is '4.5' by '3'; expected whole numbers"),
        (xml([], ("inf", 3)), "its <size> is 'inf' by '3'"),
        (xml([("cat", (0, 120, 9, 121))]), "which lies outside its image of 90 x 120"),
        (b"<?xml version='1.0' encoding='gb2312'?><annotation>\xff</annotation>", "is not an XML annotation"),
        (b"<?xml version='1.0' encoding='hex'?><annotation/>", "is not an XML annotation"),
    ],
)
def test_annotations_that_are_broken(tmp_path, text, message):
    with pytest.raises(DamagedFileError, match=rf"a\.xml.*{message}"):
        read(tmp_path, text)


def test_an_object_of_several_boxes_is_several_objects(tmp_path):
    """As torchvision's VOCDetection keeps all of them. The boxes of an object's parts are not its own."""
    box = "<bndbox><xmin>{0}</xmin><ymin>{0}</ymin><xmax>{1}</xmax><ymax>{1}</ymax></bndbox>".format
    part = f"<part><name>wheel</name>{box(0, 90)}</part>"
    found = read(tmp_path, xml([("dog", (0, 0, 20, 20))], extra=f"<object><name>car</name>{part}{box(1, 5)}{box(10, 50)}</object>"))
    assert [(each.name, each.box) for each in found.objects] == [
        ("car", (1, 1, 5, 5)), ("car", (10, 10, 50, 50)), ("dog", (0, 0, 20, 20)),
    ]  # fmt: skip
    assert found.largest.name == "car"


edges = st.floats(-3, 123, width=32)


@given(top=edges, left=edges, bottom=edges, right=edges, clip=st.sampled_from([0, 1, 2.5, float("inf")]), known=st.booleans())
def test_boxes_are_clipped_as_detectors_clip_them(tmp_path_factory, top, left, bottom, right, clip, known):
    """The judge is what detectors do, min(max(x, 0), width); beyond `clip` pixels, and for boxes wholly outside, an error."""
    top, bottom = sorted((top, bottom))
    left, right = sorted((left, right))
    expected = tuple(min(max(edge, 0), most) for edge, most in zip((top, left, bottom, right), (90, 120, 90, 120), strict=True))
    over = max(abs(one - other) for one, other in zip(expected, (top, left, bottom, right), strict=True))
    text = xml([("cat", (top, left, bottom, right))], (90, 120) if known else None)
    path = tmp_path_factory.mktemp("a") / "a.xml"
    path.write_text(text)

    def found():
        return inside(read_annotation(str(path), 0, clip), (90, 120), str(path), clip)

    wholly = bottom < 0 or right < 0 or top > 90 or left > 120
    if over > clip or wholly:
        with pytest.raises(DamagedFileError, match="its image of"):
            found()
    elif over < 1 or min(expected[2] - expected[0], expected[3] - expected[1]) > 0:
        assert found().largest.box == expected
        assert found().clipped == (over > 0)


@pytest.mark.parametrize("encoding", ["gb2312", "GBK", "shift_jis", "big5", "euc-kr", "windows-1252", "utf-16"])
def test_encodings_of_other_tools(tmp_path, encoding):
    name = {"gb2312": "汽车", "GBK": "汽車", "shift_jis": "車", "big5": "汽車", "euc-kr": "차"}.get(encoding, "Äpfel")
    declared = f"<?xml version='1.0' encoding='{encoding}'?>"
    assert read(tmp_path, (declared + xml([(name, (0, 0, 9, 9))])).encode(encoding)).largest.name == name


def test_entities_in_other_encodings_are_refused(tmp_path):
    text = '<?xml version="1.0" encoding="gb2312"?><!DOCTYPE a [<!ENTITY x "y">]><annotation>&x;</annotation>'
    with pytest.raises(UnsafeFileError, match="declares a document type or entities"):
        read(tmp_path, text.encode("gb2312"))


def test_sizes_with_a_fraction_of_zero(tmp_path):
    assert read(tmp_path, xml([], ("90.0", "120.00"))).size == (90, 120)


def test_boxes_that_count_from_one_have_no_zero(tmp_path):
    assert read(tmp_path, xml([("cat", (1, 1, 90, 120))]), 1).largest.box == (0, 0, 90, 120)
    with pytest.raises(DamagedFileError, match=r"ymin 0.*reaches out.*first_pixel=1: Pascal VOC counts from 1"):
        read(tmp_path, xml([("cat", (0, 1, 90, 120))]), 1)


@pytest.mark.parametrize(
    "declaration",
    [
        '<!DOCTYPE annotation [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>',
        '<!DOCTYPE annotation SYSTEM "file:///etc/passwd">',
        '<!DOCTYPE annotation [<!ENTITY x SYSTEM "file:///etc/passwd">]>',
        "<!DOCTYPE annotation>",
    ],
)
def test_xml_that_declares_things_is_refused(tmp_path, declaration):
    with pytest.raises(UnsafeFileError, match=r"a\.xml declares a document type or entities"):
        read(tmp_path, f"<?xml version='1.0'?>{declaration}<annotation/>")


def test_xml_of_many_bytes_is_refused(tmp_path):
    path = tmp_path / "a.xml"
    with path.open("wb") as file:
        file.truncate(17 << 20)
    with pytest.raises(UnsafeFileError, match="has more than 16777216 bytes, which no annotation needs"):
        read_annotation(str(path), 0)


def test_categories():
    assert category_numbers(["b", "a"], {}) == {"b": 0, "a": 1}
    with pytest.raises(InvalidValueError, match="names 'a' twice"):
        category_numbers(["a", "b", "a"], {})
    with pytest.raises(InvalidValueError, match="expected the names in order"):
        category_numbers("cat", {})


# --- a tree ----------------------------------------------------------------------------------------------------------------

DET = {
    "train/n01/a": [("cat", (10, 20, 50, 60)), ("dog", (0, 0, 90, 60))],
    "train/n01/b": [("cat", (10, 20, 50, 60))],
    "train/n02/c": [],
    "val/d": [("ant", (0, 0, 10, 10)), ("cat", (0, 0, 5, 5))],
}


@pytest.fixture
def tree(tmp_path):
    """Annotations/DET and Data/DET, with photographs."""
    for number, (name, objects) in enumerate(DET.items()):
        annotation, image = tmp_path / "Annotations" / f"{name}.xml", tmp_path / "Data" / f"{name}.JPEG"
        annotation.parent.mkdir(parents=True, exist_ok=True)
        image.parent.mkdir(parents=True, exist_ok=True)
        annotation.write_text(xml(objects, filename=image.stem))
        photograph(("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")[number], (120, 90)).save(image, "JPEG", quality=95)
    return tmp_path


def source_of(tree, **options):
    return mm.AnnotatedImages(tree / "Data", tree / "Annotations", **{"size": 30, "order": "sorted", **options})


def test_the_largest_object_is_the_label(tree):
    source = source_of(tree)
    assert source.notes["label"] == {"classes": ["ant", "cat", "dog", "background"]}
    assert source.notes["box"]["edges"] == ["ymin", "xmin", "ymax", "xmax"]
    assert {name: (spec.shape, spec.dtype.name, spec.layout) for name, spec in source.specs.items()} == {
        "image": ((4, 30, 30, 3), "uint8", "NHWC"),
        "label": ((4,), "int64", "N"),
        "box": ((4, 4), "float32", "NC"),
        "source": ((4,), "bytes256", "N"),
    }
    fields, skipped = read_all(source)
    assert skipped == []
    assert fields["label"].tolist() == [2, 1, 3, 0]
    # 120 x 90 to 30 x 30: a third of the size, 15 pixels cut on the left and on the right.
    assert fields["box"][0].tolist() == [0, 0, 30, 15]
    np.testing.assert_allclose(fields["box"][1], [10 / 3, 5 / 3, 50 / 3, 15], rtol=1e-6)
    assert np.isnan(fields["box"][2]).all()
    assert fields["box"][3].tolist() == [0, 0, np.float32(10 / 3), 0]  # cut away, but for nothing on the edge
    images = read_all(mm.Images(str(tree / "Data" / "**" / "*.JPEG"), size=30))[0]["image"]
    assert np.array_equal(fields["image"], images)


def test_background(tree):
    assert source_of(tree, background="nothing").notes["label"]["classes"][-1] == "nothing"
    assert read_all(source_of(tree, labels="one-hot"))[0]["label"].tolist()[2] == [0, 0, 0, 1]
    with pytest.raises(InvalidValueError, match=r"c\.xml holds no object, and there is no category for that"):
        source_of(tree, background=False)
    with pytest.raises(InvalidValueError, match="is to be named 'dog', which is also a category"):
        source_of(tree, background="dog")
    (tree / "Annotations" / "train" / "n02" / "c.xml").write_text(xml([("dog", (0, 0, 1, 1))]))
    assert source_of(tree, background=False).notes["label"]["classes"] == ["ant", "cat", "dog"]


def test_categories_given(tree):
    source = source_of(tree, categories=["dog", "cat", "zebra", "ant"])
    assert source.notes["label"]["classes"] == ["dog", "cat", "zebra", "ant", "background"]
    assert read_all(source)[0]["label"].tolist() == [0, 1, 4, 3]
    with pytest.raises(InvalidValueError, match=r"a\.xml holds a 'dog', which is none of the 1 categories given"):
        source_of(tree, categories=["cat"])


@pytest.mark.parametrize(
    ("lines", "labels"),
    [
        ("val/d\ntrain/n01/a\n", [0, 2]),
        ("train/n01/b 1\ntrain/n01/a -1\n\n", [1, 2]),
        ("a\nc.xml\nd.JPEG 5\n", [2, 3, 0]),
        ("a 17\r\n", [2]),
    ],
)
def test_subsets(tree, lines, labels):
    listing = tree / "train.txt"
    listing.write_bytes(lines.encode())
    source = source_of(tree, subset=listing)
    assert source.notes["label"]["classes"] == ["ant", "cat", "dog", "background"]  # of all, so that subsets agree
    assert read_all(source)[0]["label"].tolist() == labels
    assert source.fingerprint != source_of(tree).fingerprint


def test_names_that_a_subset_cannot_mean(tree):
    listing = tree / "train.txt"
    listing.write_text("val/d\nnone 3\n")
    with pytest.raises(NotFoundError, match=r"train\.txt, line 2: there is no annotation 'none 3'"):
        source_of(tree, subset=listing)
    (tree / "Annotations" / "a.xml").write_text(xml())
    (tree / "Annotations" / "val" / "b.xml").write_text(xml())
    listing.write_text("b\n")
    with pytest.raises(InvalidValueError, match=r"line 1: b may be train/n01/b or val/b. Write the folder too"):
        source_of(tree, subset=listing)
    listing.write_text("\n")
    with pytest.raises(InvalidValueError, match="lists no names"):
        source_of(tree, subset=listing)
    with pytest.raises(NotFoundError, match=r"none\.txt does not exist\. Check the path"):
        source_of(tree, subset=tree / "none.txt")


def test_what_has_no_partner(tree):
    (tree / "Annotations" / "val" / "e.xml").write_text(xml([("cat", (0, 0, 9, 9))]))
    with pytest.raises(NotFoundError, match=r"1 of 5 annotations have no image in .*; the first is .*e\.xml"):
        source_of(tree)
    photograph(size=(120, 90)).save(tree / "Data" / "train" / "n01" / "aa.png")
    with pytest.raises(NotFoundError, match=r"1 of 5 images have no annotation in .*; the first is .*aa\.png"):
        source_of(tree, unmatched="skip-annotations")
    with pytest.raises(NotFoundError, match="have no image"):
        source_of(tree, unmatched="skip-images")
    source = source_of(tree, unmatched="skip")
    assert source.samples == 4
    fields, skipped = read_all(source)
    assert fields["label"].tolist() == [2, 1, 3, 0]
    assert skipped == [(1, str(tree / "Data" / "train/n01/aa.png")), (4, str(tree / "Annotations" / "val" / "e.xml"))]
    rest, left = read_all(source, 2, Position(2, (), [skipped[0][1]]))
    assert rest["label"].tolist() == [3, 0]
    assert left == skipped[1:]
    with pytest.raises(InvalidValueError, match="unmatched='ignore' is not understood"):
        source_of(tree, unmatched="ignore")


@pytest.mark.parametrize("filename", ["picture.JPEG", "picture", "train/n01/picture.JPEG", "DET\\picture.JPEG"])
def test_images_of_another_name(tree, filename):
    image = tree / "Data" / "train" / "n01" / "a.JPEG"
    image.rename(image.with_stem("picture"))
    (tree / "Annotations" / "train" / "n01" / "a.xml").write_text(xml(DET["train/n01/a"], filename=filename))
    assert read_all(source_of(tree))[0]["label"].tolist() == [2, 1, 3, 0]


@pytest.mark.parametrize("filename", ["../../secret.png", "/etc/passwd"])
def test_file_names_do_not_lead_out(tree, filename):
    photograph(size=(120, 90)).save(tree / "secret.png")
    (tree / "Data" / "train" / "n01" / "a.JPEG").unlink()
    (tree / "Annotations" / "train" / "n01" / "a.xml").write_text(xml(DET["train/n01/a"], filename=filename))
    with pytest.raises(NotFoundError, match=r"have no image in .*a\.xml"):
        source_of(tree)


def test_partners_that_are_not_clear(tree):
    photograph(size=(120, 90)).save(tree / "Data" / "val" / "d.png")
    with pytest.raises(InvalidValueError, match=r"holds val/d\.JPEG and val/d\.png: which of them"):
        source_of(tree)
    (tree / "Data" / "val" / "d.png").unlink()
    (tree / "Annotations" / "val" / "x.xml").write_text(xml([], filename="d.JPEG"))
    with pytest.raises(InvalidValueError, match=r"d\.xml and .*x\.xml both belong to .*d\.JPEG"):
        source_of(tree)


def test_folders_that_are_none(tree):
    with pytest.raises(NotFoundError, match="does not exist; expected the folder of images"):
        mm.AnnotatedImages(tree / "none", tree / "Annotations")
    with pytest.raises(NotFoundError, match="holds no annotation"):
        mm.AnnotatedImages(tree / "Data", tree / "Data")
    with pytest.raises(NotFoundError, match="is not a folder; expected the folder of annotations"):
        mm.AnnotatedImages(tree / "Data", tree / "Data" / "val" / "d.JPEG")


def test_annotations_of_another_image(tree):
    (tree / "Annotations" / "val" / "d.xml").write_text(xml([("cat", (0, 0, 9, 9))], (300, 400)))
    with pytest.raises(DamagedFileError, match=r"d\.xml was made for an image of 300 x 400 pixels .* is 90 x 120"):
        source_of(tree)
    source = source_of(tree, skip_broken=True)
    fields, skipped = read_all(source)
    assert fields["label"].tolist() == [1, 0, 2]
    assert skipped == [(3, str(tree / "Data" / "val" / "d.JPEG"))]


def test_boxes_of_annotations_without_a_size_are_checked_against_the_image(tree):
    (tree / "Annotations" / "val" / "d.xml").write_text(xml([("ant", (0, 0, 9, 9)), ("cat", (0, 0, 9, 122))], None))
    with pytest.raises(DamagedFileError, match=r"d\.xml: object 2 \(cat\) .* reaches out of its image of 90 x 120"):
        source_of(tree)


def test_broken_annotations_are_left_out_and_listed(tree):
    (tree / "Annotations" / "train" / "n01" / "b.xml").write_text(xml([("cat", (0, 0, 9, 122))]))
    with pytest.raises(DamagedFileError, match=r"b\.xml: object 1 \(cat\)"):
        source_of(tree)
    (tree / "Data" / "val" / "d.JPEG").write_bytes(b"none")
    fields, skipped = read_all(source_of(tree, skip_broken=True))
    assert fields["label"].tolist() == [2, 3]
    assert skipped == [(1, str(tree / "Annotations" / "train/n01/b.xml")), (2, str(tree / "Data" / "val/d.JPEG"))]


@pytest.mark.parametrize("size", [(90, 120), None])
def test_clipped_boxes_are_counted(tree, size):
    objects = [("cat", (0, 0, 90.0000004, 121)), ("ant", (-0.5, 3, 4, 5)), ("dog", (1, 1, 2, 2))]
    (tree / "Annotations" / "val" / "d.xml").write_text(xml(objects, size))
    with pytest.warns(SourceWarning, match=r"clipped 2 boxes to the image, first in .*d\.xml \(clip_boxes="):
        source = source_of(tree, size=None)
    assert read_all(source)[0]["box"][3].tolist() == [0, 0, 90, 120]
    assert source.notes["box"]["clipped"] == 2
    with pytest.raises(DamagedFileError, match=r"or clip it with clip_boxes= \(--clip-boxes\)"):
        source_of(tree, clip_boxes=0.75)
    with pytest.raises(InvalidValueError, match="clip_boxes=-1 is not understood"):
        source_of(tree, clip_boxes=-1)


@pytest.mark.parametrize(("says", "turned"), [((90, 120), False), ((120, 90), True)])
def test_boxes_turn_with_their_image(tree, says, turned):
    """A picture stored lying, 120 rows of 90, that EXIF turns: told by the size that its annotation gives."""
    image = photograph("rocket.jpg", (90, 120))
    exif = Image.Exif()
    exif[0x0112] = 6
    image.save(tree / "Data" / "val" / "d.JPEG", "JPEG", exif=exif)
    (tree / "Annotations" / "val" / "d.xml").write_text(xml([("ant", (10, 20, 50, 70))], says))
    source = source_of(tree, size=None)
    assert source.specs["image"].sample_shape == (90, 120, 3)
    # Turned clockwise: what is y from the top is then y from the right.
    assert read_all(source)[0]["box"][3].tolist() == ([20, 70, 70, 110] if turned else [10, 20, 50, 70])


sides = st.integers(12, 90)


@given(
    height=sides,
    width=sides,
    image=st.tuples(st.integers(8, 60), st.integers(8, 60)),
    fit=st.sampled_from(["crop", "pad", "stretch"]),
    data=st.data(),
)
def test_boxes_find_what_was_drawn(tmp_path_factory, height, width, image, fit, data):
    """A rectangle in a picture, through files and all, is found again where its box says."""
    top, left = data.draw(st.integers(0, height - 6)), data.draw(st.integers(0, width - 6))
    bottom, right = data.draw(st.integers(top + 6, height)), data.draw(st.integers(left + 6, width))
    folder = Path(tmp_path_factory.mktemp("drawn"))
    (folder / "Data").mkdir()
    (folder / "Annotations").mkdir()
    picture = np.zeros((height, width), np.uint8)
    picture[top:bottom, left:right] = 255
    Image.fromarray(picture).save(folder / "Data" / "a.png")
    (folder / "Annotations" / "a.xml").write_text(xml([("x", (top, left, bottom, right))], (height, width)))
    fields, _ = read_all(source_of(folder, size=image, fit=fit))
    box = fields["box"][0]
    lit = fields["image"][0, :, :, 0] > 127
    if box[2] - box[0] < 2 or box[3] - box[1] < 2:
        return
    for axis in (0, 1):
        found = np.flatnonzero(lit.any(axis=1 - axis))
        assert found.min() == pytest.approx(box[axis], abs=1.01)
        assert found.max() + 1 == pytest.approx(box[axis + 2], abs=1.01)
