"""Files of several pictures: pages of TIFF stacks and frames of animations, as tifffile and Pillow give them."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from image_examples import PACKAGED, read_all
from ingest_results import manifest_of, read
from PIL import Image, ImageSequence

import mmapstore as mm
from mmapstore.cli import main
from mmapstore.operations.ingest.contract import Position
from mmapstore.plain.errors import InvalidValueError, SourceWarning


def stack(pages: int = 5, dtype: str = "u2", shape=(8, 9), seed: int = 0):
    values = np.random.default_rng(seed).integers(0, 2 if dtype == "?" else 30000, (pages, *shape))
    return (values * (values.dtype.type(60000) if dtype == "u4" else 1)).astype(dtype)


def write(path, array, **options):
    tifffile.imwrite(path, array, photometric="minisblack", **options)


def samples(source):
    return read_all(source)[0]["image"]


@given(
    pages=st.integers(1, 6),
    dtype=st.sampled_from(["u1", "u2", "i2", "i4", "f4", "?"]),
    compression=st.sampled_from([None, "zlib", "lzw", "packbits"]),
    order=st.sampled_from([(False, "<"), (False, ">"), (True, "<")]),  # of the fourth Pillow says that it is no image
    imagej=st.booleans(),
    tile=st.sampled_from([None, (16, 16)]),
)
def test_stacks_as_tifffile_reads_them(tmp_path_factory, pages, dtype, compression, order, imagej, tile):
    path = tmp_path_factory.mktemp("a") / "a.tif"
    array = stack(pages, dtype, (17, 20))
    bigtiff, byteorder = order
    options = {"compression": compression, "byteorder": byteorder}
    if imagej and dtype in ("u1", "u2", "f4") and not compression:
        options = {"imagej": True}
    else:
        options |= {"bigtiff": bigtiff, "tile": tile}
    tifffile.imwrite(path, array, photometric="minisblack", **options)
    if byteorder == ">" and compression and dtype in ("i2", "i4", "f4"):
        with pytest.raises(InvalidValueError, match=r"big-endian numbers, whose bytes Pillow swaps twice.*tifffile"):
            mm.Images(path)
        return
    expected = np.atleast_3d(tifffile.imread(path).T).T.reshape(pages, 17, 20)
    found = samples(mm.Images(path))[..., 0]
    if dtype == "?":
        expected = expected * np.uint8(255)  # black and white, as Pillow shows them
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("planarconfig", ["contig", "separate"])
def test_stacks_of_colour(tmp_path, planarconfig):
    array = stack(3, "u1", (8, 9, 3)) if planarconfig == "contig" else stack(3, "u1", (3, 8, 9))
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", planarconfig=planarconfig)
    expected = array if planarconfig == "contig" else array.transpose(0, 2, 3, 1)
    assert np.array_equal(samples(mm.Images(tmp_path)), expected)


@pytest.mark.parametrize("format", ["GIF", "WEBP", "PNG", "TIFF"])
def test_animations_as_pillow_gives_them(tmp_path, format):
    """Frames that add to those before, and a first one without colour."""
    frames = [Image.new("L", (12, 10), 200).convert("RGB")]
    for number in range(1, 4):
        frame = frames[-1].copy()
        frame.paste((255, 40 * number, 0), (number, number, number + 3, number + 4))
        frames.append(frame)
    options = {"lossless": True} if format == "WEBP" else {}
    frames[0].save(tmp_path / "a", format, save_all=True, append_images=frames[1:], **options)
    with Image.open(tmp_path / "a") as image:
        expected = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    found = samples(mm.Images(tmp_path / "a", channels=3))
    assert np.array_equal(found, expected)
    assert len(found) == 4
    assert np.array_equal(samples(mm.Images(tmp_path / "a", pages="first", channels=3)), expected[:1])


def test_real_stacks():
    expected = tifffile.imread(PACKAGED / "multipage.tif")
    assert np.array_equal(samples(mm.Images(PACKAGED / "multipage.tif"))[..., 0], expected)


def test_each_file_is_an_episode(tmp_path, capsys):
    folder = tmp_path / "stacks"
    folder.mkdir()
    for number in (1, 2):
        write(folder / f"{number}.tif", stack(number + 2, seed=number))
    assert main(["ingest", str(folder), str(tmp_path / "a.npy")]) == 0
    assert "mmapstore: " not in capsys.readouterr().err
    assert np.array_equal(read(str(tmp_path / "a.npy"))[:, 0], np.concatenate([stack(3, seed=1), stack(4, seed=2)]))
    assert manifest_of(str(tmp_path / "a.npy")).episodes == (0, 3, 7)
    assert main(["ingest", str(folder), str(tmp_path / "b.npy"), "--pages", "first"]) == 0
    assert manifest_of(str(tmp_path / "b.npy")).shape[0] == 2


def test_single_pictures_between_stacks(tmp_path):
    for name, count in (("1", 1), ("2", 1), ("3", 3), ("4", 1), ("5", 1), ("6", 2)):
        write(tmp_path / f"{name}.tif", stack(count, seed=int(name)))
    with pytest.warns(SourceWarning, match=r"2 of 6 files hold several images, such as .*3\.tif; each image is a sample, "):
        source = mm.Images(tmp_path)
    pieces = [piece for at_most in (1, 2, 100) for piece in source.pieces(Position(), at_most)]
    starts, at = [], 0
    for piece in pieces:
        starts += [(at + start) % 9 for start in piece.starts]
        at += len(piece.fields["image"])
    assert starts == [2, 5, 7] * 3


def test_pages_have_the_label_of_their_file(tmp_path):
    for name, count in (("cat", 3), ("dog", 1)):
        (tmp_path / name).mkdir()
        write(tmp_path / name / "a.tif", stack(count))
    with pytest.warns(SourceWarning, match="each image is a sample with the label of its file"):
        assert read_all(mm.Images(tmp_path))[0]["label"].tolist() == [0, 0, 0, 1]
    assert read_all(mm.Images(tmp_path, pages="first", labels="one-hot"))[0]["label"].tolist() == [[1, 0], [0, 1]]
    with pytest.raises(InvalidValueError, match="pages='some' is not understood"):
        mm.Images(tmp_path, pages="some")


def test_annotated_images_take_the_first(tmp_path):
    write(tmp_path / "a.tif", stack(3))
    (tmp_path / "a.xml").write_text("<annotation/>")
    with pytest.warns(SourceWarning, match="the first of each is taken"):
        found = samples(mm.AnnotatedImages(tmp_path, tmp_path))
    assert np.array_equal(found[..., 0], stack(3)[:1])


# --- what is no sample -----------------------------------------------------------------------------------------------------


def test_thumbnails_are_no_samples(tmp_path):
    array = stack(2)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        writer.write(array[0][::2, ::2], subfiletype=1)  # some cameras write it first
        writer.write(array[0], subifds=1)
        writer.write(array[0][::2, ::2], subfiletype=1)
        writer.write(array[1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(samples(mm.Images(tmp_path))[..., 0], array)


def test_pages_of_another_kind_are_named(tmp_path):
    array = stack(2)
    with tifffile.TiffWriter(tmp_path / "a.tif") as writer:
        for page in (array[0], array[0].astype(np.uint8), array[1], array[1][:4], array[0].astype(np.float64)):
            writer.write(page)
    with pytest.warns(SourceWarning, match=r"1 \.tif file, .*a\.tif \(3 of its 5 pages differ from the first in size or kind"):
        source = mm.Images(tmp_path)
    assert np.array_equal(samples(source)[..., 0], array)


@pytest.mark.parametrize(("values", "extra", "read"), [(2, {}, 1), (4, {"photometric": "rgb", "extrasamples": ["unspecified"]}, 3)])
def test_values_that_pillow_passes_over_are_named(tmp_path, values, extra, read):
    options = {"photometric": "minisblack", "planarconfig": "contig", **extra}
    tifffile.imwrite(tmp_path / "a.tif", stack(1, "u1", (8, 9, values))[0], **options)
    with pytest.warns(SourceWarning, match=f"of {values} values per pixel Pillow reads {read}"):
        mm.Images(tmp_path)


def test_stacks_behind_one_page(tmp_path):
    """As ImageJ writes them beyond 4 GB."""
    tifffile.imwrite(tmp_path / "a.tif", stack(5), truncate=True)
    with pytest.raises(InvalidValueError, match=r"says that it holds 5 pictures, and has one page.*tifffile\.memmap"):
        mm.Images(tmp_path)
    tifffile.imwrite(tmp_path / "a.tif", stack(5)[0], description="ImageJ=1.54\nimages=5\n", metadata=None)
    with pytest.raises(InvalidValueError, match="says that it holds 5 pictures"):
        mm.Images(tmp_path)


def test_integers_that_pillow_takes_for_others(tmp_path):
    small, large = stack(2, "i4").astype(np.uint32), stack(2, "i4").astype(np.uint32) + np.uint32(2**31)
    tifffile.imwrite(tmp_path / "a.tif", small)
    assert np.array_equal(samples(mm.Images(tmp_path))[..., 0], small)
    tifffile.imwrite(tmp_path / "a.tif", large)
    with pytest.raises(InvalidValueError, match=r"unsigned integers of 32 bits over 2147483647.*tifffile"):
        samples(mm.Images(tmp_path))
    tifffile.imwrite(tmp_path / "a.tif", np.full((4, 4), -3, np.int8))
    with pytest.raises(InvalidValueError, match=r"signed integers of 8 bits.*tifffile"):
        mm.Images(tmp_path)


# --- broken, and resumed ---------------------------------------------------------------------------------------------------


def broken_stacks(folder):
    """1.tif, whose page 3 of 5 cannot be decoded, and 2.tif, which is whole."""
    for number in (1, 2):
        tifffile.imwrite(folder / f"{number}.tif", stack(5, seed=number), compression="zlib")
    with tifffile.TiffFile(folder / "1.tif") as file:
        at, length = file.pages[2].dataoffsets[0], file.pages[2].databytecounts[0]
    content = bytearray((folder / "1.tif").read_bytes())
    content[at : at + length] = bytes(length)
    (folder / "1.tif").write_bytes(content)
    return [str(folder / "1.tif") + f", page {page}" for page in (3, 4, 5)]


def test_what_is_behind_a_broken_page_is_left_out_with_it(tmp_path):
    named = broken_stacks(tmp_path)
    found, skipped = read_all(mm.Images(tmp_path, skip_broken=True))
    assert np.array_equal(found["image"][..., 0], np.concatenate([stack(5, seed=1)[:2], stack(5, seed=2)]))
    assert skipped == [(2, name) for name in named]


def test_from_any_position(tmp_path):
    """What a journal keeps of a position is enough to go on from it, with the same episodes."""
    broken_stacks(tmp_path)
    tifffile.imwrite(tmp_path / "3.tif", stack(1, seed=3))
    with pytest.warns(SourceWarning):
        source = mm.Images(tmp_path, skip_broken=True)

    def given(after):
        at, arrays, starts, skipped = after.samples, [], list(after.starts), list(after.skipped)
        for piece in source.pieces(after, 2):
            starts += [at + start for start in piece.starts]
            skipped += piece.skipped
            at += len(piece.fields["image"])
            arrays.append(piece.fields["image"].copy())
        return np.concatenate(arrays), starts, skipped

    whole, starts, skipped = given(Position())
    assert starts == [0, 2, 7]
    for samples_ in range(len(whole)):
        for told in [0] if samples_ < 2 else [0, 1, 3] if samples_ == 2 else [3]:
            after = Position(samples_, [start for start in starts if start < samples_], skipped[:told])
            rest, starts_now, skipped_now = given(after)
            assert np.array_equal(rest, whole[samples_:])
            assert (starts_now, skipped_now) == (starts, skipped)
