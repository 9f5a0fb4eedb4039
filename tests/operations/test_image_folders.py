"""Every file of a folder is a sample, or is named with the reason; and folders are recognised by what lies in them."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
from image_examples import read_all
from ingest_results import manifest_of
from PIL import Image

import mmapstore as mm
from mmapstore.cli import main
from mmapstore.operations.ingest.images import files, header
from mmapstore.operations.ingest.images.files import looks_like_images
from mmapstore.plain.errors import DamagedFileError, NotFoundError, SourceWarning

HEIF = b"\0\0\0\x18ftypheic" + bytes(100)


def encoded(format: str, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).convert("RGB").save(file, format, **options)
    return file.getvalue()


@contextlib.contextmanager
def without_heif(monkeypatch):
    formats = tuple(name for name in header._formats() if name != "HEIF")
    monkeypatch.setattr(header, "_formats", lambda: formats)
    yield


@pytest.mark.parametrize("format", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "JPEG2000", "BMP", "AVIF"])
@pytest.mark.parametrize("name", ["3", "photo.jpg_large", "IMG 1.0001"])
def test_content_tells_where_the_suffix_does_not(tmp_path, format, name):
    """The judge is Pillow: what it opens by content is a sample, but for TIFF by another name, which cameras write."""
    if format == "AVIF" and ".avif" not in header.image_suffixes():
        pytest.skip("this Pillow has no AVIF")
    (tmp_path / name).write_bytes(encoded(format))
    if format == "TIFF" and "." in name:
        assert "cameras write RAW" in files.why_no_image(str(tmp_path / name))
        return
    with Image.open(tmp_path / name) as image:
        expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_all(mm.Images(tmp_path))[0]["image"][0], expected)


def test_every_file_is_a_sample_or_named(tmp_path, monkeypatch):
    """All kinds that lie in folders of classes: samples and named files together are all visible files."""
    jpeg = encoded("JPEG")
    taken = {"cat/1.jpg": jpeg, "cat/2": jpeg, "cat/3.GIF": encoded("GIF"), "dog/a.b/4.jpeg!d": jpeg}
    named = {
        "cat/IMG_1.HEIC": HEIF,
        "cat/IMG_2.heic": HEIF,
        "cat/notes": b"a cat",
        "dog/raw.nef": encoded("TIFF"),
        "dog/half": jpeg[:40],
        "dog/empty": b"",
        "labels.csv": b"a,b",
        **{f"dog/{number}.xml": b"<a/>" for number in range(5)},
    }
    hidden = ["cat/.DS_Store", "cat/._1.jpg", "Thumbs.db", "dog/desktop.ini", "__MACOSX/cat/._1.jpg", "dog/@eaDir/1.jpg/THUMB.jpg"]
    for name, content in {**taken, **named, **dict.fromkeys(hidden, jpeg)}.items():
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(content)
    with without_heif(monkeypatch), pytest.warns(SourceWarning) as warned:
        source = mm.Images(tmp_path / "photos", order="sorted")
    assert source.notes["label"] == {"classes": ["cat", "dog"]}
    assert read_all(source)[0]["label"].tolist() == [0, 0, 0, 1]
    (words,) = {str(each.message) for each in warned}
    for part in ("2 .heic files such as cat/IMG_", "pip install pillow-heif", "1 .nef file, dog/raw.nef (TIFF", "1 .csv",
                 "5 .xml files such as", "JPEG that Pillow cannot read"):  # fmt: skip
        assert part in words, (part, words)
    assert sum(int(each.split()[0]) for each in source.notes["image"]["not taken"]) == len(named)
    assert warned[0].filename == __file__


def test_the_manifest_and_the_command_name_them(tmp_path, capsys):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "cat" / "2.txt").write_text("none")
    arguments = ["ingest", str(tmp_path / "cat"), str(tmp_path / "out.h5")]
    assert main([*arguments, "--dry-run"]) == 0
    expected = f"mmapstore: {tmp_path / 'cat'}: skipped 1 .txt file, 2.txt (not an image that Pillow reads).\n"
    assert expected in capsys.readouterr().err
    assert main(arguments) == 0
    assert expected in capsys.readouterr().err
    assert manifest_of(str(tmp_path / "out.h5")).notes["not taken"] == ["1 .txt file, 2.txt (not an image that Pillow reads)"]


def test_heif_by_pillow_heif(tmp_path):
    pillow_heif = pytest.importorskip("pillow_heif")
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:, 24:] = 200
    for name in ("1.heic", "2.jpg", "3"):
        pillow_heif.from_bytes("RGB", (48, 32), pixels.tobytes()).save(str(tmp_path / name), format="HEIF", quality=-1)
    found = read_all(mm.Images(tmp_path))[0]["image"]
    assert found.shape == (3, 32, 48, 3)
    assert np.abs(found.astype(int) - pixels).max() < 8


def test_heif_by_the_name_of_jpeg_says_what_it_needs(tmp_path, monkeypatch):
    (tmp_path / "1.jpg").write_bytes(HEIF)
    with without_heif(monkeypatch), pytest.raises(DamagedFileError, match="it is HEIF: pip install pillow-heif"):
        mm.Images(tmp_path)


def test_links_and_pipes(tmp_path):
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "1.jpg").write_bytes(encoded("JPEG"))
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    os.symlink(tmp_path / "else", tmp_path / "photos" / "dog")  # a class that lies elsewhere
    os.symlink(tmp_path / "else" / "1.jpg", tmp_path / "photos" / "cat" / "1.jpg")
    os.symlink(tmp_path / "else", tmp_path / "photos" / "cat" / "more")
    os.mkfifo(tmp_path / "photos" / "cat" / "pipe")  # to open it would wait for ever
    with pytest.warns(SourceWarning, match=r"cat/more \(a link to a folder, which is not followed"):
        source = mm.Images(tmp_path / "photos", order="sorted")
    assert read_all(source)[0]["label"].tolist() == [0, 1]
    assert any("pipe" in each for each in source.notes["image"]["not taken"])
    os.mkfifo(tmp_path / "photos" / "cat" / "pipe.jpg")
    os.symlink("circle.jpg", tmp_path / "photos" / "cat" / "circle.jpg")
    with pytest.raises(DamagedFileError, match=r"pipe\.jpg is a pipe"):
        mm.Images(tmp_path / "photos" / "cat" / "pipe.jpg")
    with pytest.warns(SourceWarning):
        source = mm.Images(tmp_path / "photos", skip_broken=True, order="sorted")
    assert read_all(source)[0]["label"].tolist() == [0, 1]


@pytest.mark.parametrize(
    "name", [b"a b.PNG", "\u00fc\u6c7d.png".encode(), b"new\nline.png", b"\xff\xfe.png", b"-x.png", b"%d[1].png"]
)
def test_odd_names(tmp_path, name, capsys):
    """Names that are no UTF-8 too: as samples, in a warning, in the manifest."""
    (tmp_path / "photos").mkdir()
    path = os.path.join(tmp_path / "photos", os.fsdecode(name))
    for each, content in ((path, encoded("PNG")), (path + ".txt", b"text"), (path[:-4] + "2.png", encoded("PNG")[:50])):
        Path(each).write_bytes(content)
    assert main(["ingest", str(tmp_path / "photos"), str(tmp_path / "out.h5"), "--skip-broken"]) == 0
    assert "1 .txt" in capsys.readouterr().err
    assert manifest_of(str(tmp_path / "out.h5")).notes["skipped"] == [path[:-4] + "2.png"]
    assert len(mm.open(tmp_path / "out.h5")) == 1


# --- recognised ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["1.gif", "1", "1.heic"])
def test_classes_of_other_names_are_recognised(tmp_path, name):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / name).write_bytes(HEIF if name.endswith("heic") else encoded("GIF"))
    assert looks_like_images(str(tmp_path))


def test_gif_files_alone_are_videos_and_beside_pictures_pictures(tmp_path):
    (tmp_path / "1.gif").write_bytes(encoded("GIF"))
    assert not looks_like_images(str(tmp_path))
    (tmp_path / "2.png").write_bytes(encoded("PNG"))
    assert looks_like_images(str(tmp_path))
    assert mm.Images(tmp_path).samples == 2
    (tmp_path / "3.mp4").write_bytes(b"none")
    assert not looks_like_images(str(tmp_path))


def test_other_files_beside_arrays_are_named(tmp_path):
    mm.ingest(np.zeros((2, 3)), tmp_path / "a.npy", progress=False)  # with a manifest, which belongs to it
    (tmp_path / "b.png").write_bytes(encoded("PNG"))
    with pytest.warns(SourceWarning, match=r"skipped 1 \.png file, b\.png \(not of the kind of a\.npy"):
        path = mm.ingest(tmp_path, tmp_path / "out.h5", progress=False)
    assert len(mm.open(path)) == 2


def test_a_folder_without_an_image_says_what_it_holds(tmp_path):
    for number in range(3):
        (tmp_path / f"{number}.wav").write_bytes(b"none")
    with pytest.raises(NotFoundError, match=r"holds no image that Pillow reads.*3 \.wav files such as"):
        mm.Images(tmp_path)


def test_annotations_beside_their_images(tmp_path):
    (tmp_path / "1.png").write_bytes(encoded("PNG"))
    (tmp_path / "1.xml").write_text("<annotation></annotation>")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert mm.AnnotatedImages(tmp_path, tmp_path).samples == 1
    (tmp_path / "classes.txt").write_text("cat")
    with pytest.warns(SourceWarning, match=r"1 \.txt file, classes\.txt"):
        mm.AnnotatedImages(tmp_path, tmp_path)
