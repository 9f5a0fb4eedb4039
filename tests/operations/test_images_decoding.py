"""One image file to one array: every form that images come in, what cannot be meant, and files that are broken."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from image_examples import PACKAGED, PHOTOGRAPHS, by_pillow, photograph
from PIL import Image, ImageOps

from mmapstore.operations.ingest.images.decoding import ImageDecoder
from mmapstore.operations.ingest.images.form import Values, values_for
from mmapstore.operations.ingest.images.header import image_suffixes, read_header
from mmapstore.plain.errors import (
    DamagedFileError,
    InvalidTypeError,
    InvalidValueError,
    NotFoundError,
    NotReadableError,
    UnsafeFileError,
)

U8 = Values(np.dtype(np.uint8))


def decoded(path, size=None, fit="crop", channels=3, values=U8):
    return ImageDecoder(size, fit, channels, values).decode(str(path), read_header(str(path)))


def saved(folder, image, suffix=".png", **options):
    path = folder / f"image{suffix}"
    image.save(path, **options)
    return path


# --- what is stored comes out ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_photographs_come_out_as_pillow_decodes_them(name):
    found = decoded(PACKAGED / name)
    assert np.array_equal(found, np.asarray(by_pillow(PACKAGED / name)))


@pytest.mark.parametrize(
    "suffix", [".png", ".bmp", ".tif", ".gif", ".ppm", ".webp", ".tga", ".jp2", ".jpg", ".avif", ".ico", ".pcx"]
)
def test_formats(tmp_path, suffix):
    if suffix not in image_suffixes():
        pytest.skip(f"this Pillow was built without {suffix}")
    image = photograph(size=(64, 48))
    options = {"lossless": True} if suffix == ".webp" else {"quality": 95} if suffix in (".jpg", ".avif") else {}
    path = saved(tmp_path, image.quantize(64) if suffix == ".gif" else image, suffix, **options)
    header = read_header(str(path))
    found = decoded(path)
    assert found.shape == (*header.size, 3)
    assert header.colour
    assert not header.is_reduced
    assert np.array_equal(found, np.asarray(by_pillow(path)))
    if suffix != ".ico":
        assert np.abs(found.astype(int) - np.asarray(image)).mean() < 8


@pytest.mark.parametrize(
    ("mode", "colour", "alpha"),
    [("1", False, False), ("L", False, False), ("LA", False, True), ("P", True, False), ("RGB", True, False), ("RGBA", True, True)],
)
def test_modes(tmp_path, mode, colour, alpha):
    picture = photograph(size=(40, 30)).convert("RGBA")
    picture.putalpha(Image.linear_gradient("L").resize(picture.size))
    image = picture.convert("RGB").quantize(32) if mode == "P" else picture.convert(mode)
    path = saved(tmp_path, image)
    header = read_header(str(path))
    assert (header.colour, header.alpha, header.dtype) == (colour, alpha, "uint8")
    for channels, other in ((1, "L"), (2, "LA"), (3, "RGB"), (4, "RGBA")):
        expected = np.asarray(by_pillow(path, "RGBA" if colour else "LA").convert(other)).reshape(30, 40, channels)
        found = decoded(path, channels=channels)
        assert np.abs(found.astype(int) - expected).max() <= 1, channels
        assert decoded(path, size=(11, 13), channels=channels).shape == (11, 13, channels)


def test_cmyk_jpeg(tmp_path):
    path = saved(tmp_path, photograph(size=(64, 48)).convert("CMYK"), ".jpg", quality=95)
    assert read_header(str(path)).colour
    assert np.array_equal(decoded(path), np.asarray(by_pillow(path)))
    assert np.abs(decoded(path).astype(int) - np.asarray(photograph(size=(64, 48)))).mean() < 8


def test_palette_with_transparency(tmp_path):
    image = Image.new("P", (4, 4))
    image.putpalette([200, 100, 50, 0, 0, 255] + [0] * 750)
    image.putpixel((1, 1), 1)
    path = saved(tmp_path, image, transparency=1)
    assert read_header(str(path)).alpha
    assert decoded(path, channels=4)[1, 1].tolist() == [0, 0, 255, 0]
    assert decoded(path, channels=4)[0, 0].tolist() == [200, 100, 50, 255]
    assert decoded(path, channels=3)[0, 0].tolist() == [200, 100, 50]


def test_transparent_colour_of_a_header(tmp_path):
    path = saved(tmp_path, Image.new("RGB", (4, 4), (1, 2, 3)), transparency=(1, 2, 3))
    assert read_header(str(path)).alpha
    assert decoded(path, channels=4)[0, 0].tolist() == [1, 2, 3, 0]


@pytest.mark.parametrize("suffix", [".png", ".tif", ".pgm", ".jp2"])
def test_16_bit_grey_keeps_every_bit(tmp_path, suffix):
    values = np.arange(0, 65536, 23, dtype=np.uint16)[:2700].reshape(45, 60)
    path = saved(tmp_path, Image.fromarray(values), suffix)
    header = read_header(str(path))
    assert (header.dtype, header.colour) == ("uint16", False)
    found = decoded(path, channels=1, values=Values(np.dtype(np.uint16)))
    assert found.dtype == np.uint16
    assert np.array_equal(found[:, :, 0], values)
    assert np.array_equal(decoded(path, channels=3, values=Values(np.dtype(np.uint16))), np.repeat(values[:, :, None], 3, 2))


def test_16_bit_grey_big_endian(tmp_path):
    values = (np.arange(600) * 109).astype(">u2").reshape(20, 30)
    path = tmp_path / "big.tif"
    entries = [(256, 30), (257, 20), (258, 16), (259, 1), (262, 1), (273, 8), (277, 1), (278, 20), (279, values.nbytes)]
    directory = struct.pack(">H", len(entries)) + b"".join(struct.pack(">HHII", tag, 4, 1, value) for tag, value in entries)
    path.write_bytes(b"MM\0*" + struct.pack(">I", 8 + values.nbytes) + values.tobytes() + directory + b"\0\0\0\0")
    found = decoded(path, channels=1, values=Values(np.dtype(np.uint16)))
    assert found.dtype == np.dtype("=u2")
    assert np.array_equal(found[:, :, 0], values)


def test_16_bit_grey_resized_stays_within_its_range(tmp_path):
    values = np.zeros((40, 40), np.uint16)
    values[:, 20:] = 65535
    path = saved(tmp_path, Image.fromarray(values))
    found = decoded(path, (10, 10), channels=1, values=Values(np.dtype(np.uint16)))[:, :, 0]
    assert found.dtype == np.uint16
    assert set(found[:, :4].ravel()) == {0}
    assert set(found[:, 6:].ravel()) == {65535}
    eight = Image.fromarray((values >> 8).astype(np.uint8)).resize((10, 10), Image.Resampling.BILINEAR)
    assert np.abs(found.astype(int) // 257 - np.asarray(eight)).max() <= 1


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_measurements_keep_their_values(tmp_path, dtype):
    values = (np.arange(600).reshape(20, 30) * 1000 - 70_000).astype(dtype)
    path = saved(tmp_path, Image.fromarray(values), ".tif")
    assert read_header(str(path)).dtype == dtype
    assert np.array_equal(decoded(path, channels=1, values=Values(np.dtype(dtype)))[:, :, 0], values)


def png_of_16_bit_colour(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(range(6)) * width for _ in range(height))
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_16_bit_colour_is_noticed(tmp_path):
    path = tmp_path / "deep.png"
    path.write_bytes(png_of_16_bit_colour(5, 4))
    assert read_header(str(path)).is_reduced
    assert decoded(path)[0, 0].tolist() == [0, 2, 4]
    ppm = tmp_path / "deep.ppm"
    ppm.write_bytes(b"P6 2 2 65535\n" + bytes(24))
    assert read_header(str(ppm)).is_reduced


@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("codec", ["jp2", "j2k"])
def test_deep_colour_of_jpeg_2000_is_noticed(tmp_path, bits, codec):
    """Pillow shifts it down to 8 bits, and tells it from 8 by nothing."""
    imagecodecs = pytest.importorskip("imagecodecs")
    pixels = np.random.default_rng(0).integers(0, 2**bits, (16, 16, 3)).astype(np.uint8 if bits == 8 else np.uint16)
    path = tmp_path / f"a.{codec}"
    path.write_bytes(imagecodecs.jpeg2k_encode(pixels, level=0, reversible=True, bitspersample=bits, codecformat=codec))
    assert read_header(str(path)).is_reduced == (bits > 8)


def test_deep_colour_of_sgi_is_noticed(tmp_path):
    photograph(size=(8, 8)).save(tmp_path / "a.sgi", bpc=2)
    assert read_header(str(tmp_path / "a.sgi")).is_reduced


def test_first_picture_of_several(tmp_path):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "lime", "blue")]
    path = saved(tmp_path, frames[0], ".gif", save_all=True, append_images=frames[1:])
    assert decoded(path)[0, 0].tolist() == [255, 0, 0]
    assert np.array_equal(decoded(PACKAGED / "multipage.tif"), np.asarray(by_pillow(PACKAGED / "multipage.tif")))


# --- upright ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
def test_exif_orientation(tmp_path, suffix, orientation):
    image = photograph("rocket.jpg", (96, 64))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, image, suffix, exif=exif, **({"lossless": True} if suffix == ".webp" else {}))
    with Image.open(path) as image:
        expected = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    header = read_header(str(path))
    assert header.size == expected.shape[:2] == ((64, 96) if orientation < 5 else (96, 64))
    assert np.array_equal(decoded(path), expected)
    upright = Image.fromarray(expected)
    for fit, size in (("stretch", (20, 30)), ("pad", (30, 30)), ("crop", (20, 20))):
        upright.save(tmp_path / "upright.png")
        # Resized before it is turned: the two passes of the filter round in another order.
        assert np.abs(decoded(path, size, fit).astype(int) - decoded(tmp_path / "upright.png", size, fit)).max() <= 1


def test_exif_that_cannot_be_read_turns_nothing(tmp_path):
    path = saved(tmp_path, photograph(size=(32, 24)), ".jpg", exif=b"Exif\0\0garbage")
    assert read_header(str(path)).orientation == 1
    assert decoded(path).shape == (24, 32, 3)


def test_orientation_told_behind_the_pixels_is_refused(tmp_path):
    stream = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    photograph(size=(32, 24)).save(stream, "png", exif=exif)
    data = stream.getvalue()
    at = data.index(b"eXIf") - 4
    length = struct.unpack(">I", data[at : at + 4])[0] + 12
    late = data[:at] + data[at + length : -12] + data[at : at + length] + data[-12:]
    path = tmp_path / "late.png"
    path.write_bytes(late)
    with pytest.raises(
        InvalidValueError, match=r"late\.png is 32 x 24 pixels with orientation 6 once decoded.*tells its orientation"
    ):
        decoded(path)


# --- one size --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_crop_is_the_middle(name):
    image = by_pillow(PACKAGED / name)
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    expected = image.resize((48, 48), Image.Resampling.BILINEAR, box=(left, top, left + side, top + side))
    found = decoded(PACKAGED / name, (48, 48))
    # JPEG may be decoded smaller first: another filter, which one would not see.
    assert np.abs(found.astype(int) - np.asarray(expected)).mean() <= (1.5 if name.endswith(".jpg") else 0)


def test_pad_shows_all_of_it_and_nothing_else():
    image = photograph()
    found = decoded(PACKAGED / "chelsea.png", (60, 60), "pad")
    height = round(60 * image.height / image.width)
    top = (60 - height) // 2
    assert np.array_equal(found[top : top + height], np.asarray(image.resize((60, height), Image.Resampling.BILINEAR)))
    assert found[:top].max() == found[top + height :].max() == 0
    assert decoded(PACKAGED / "chelsea.png", (60, 60), "pad", 4)[0, 0].tolist() == [0, 0, 0, 0]


def test_stretch():
    expected = np.asarray(photograph().resize((33, 77), Image.Resampling.BILINEAR))
    assert np.array_equal(decoded(PACKAGED / "chelsea.png", (77, 33), "stretch"), expected)


@pytest.mark.parametrize("size", [(8, 8), (20, 35), (64, 64), (90, 90)])
@pytest.mark.parametrize("orientation", [1, 6])
def test_jpeg_decoded_smaller_looks_the_same(tmp_path, size, orientation):
    image = photograph("hubble_deep_field.jpg")
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, image.crop((0, 0, 871, 613)), ".jpg", quality=95, exif=exif)
    lossless = tmp_path / "same.png"
    by_pillow(path).save(lossless, exif=exif)
    for fit in ("crop", "pad", "stretch"):
        difference = np.abs(decoded(path, size, fit).astype(int) - decoded(lossless, size, fit))
        assert difference.mean() < 1.0, fit  # of 255; shifted by a pixel it would be 5 and more
        assert np.quantile(difference, 0.99) <= 8, fit


def test_transparent_pixels_do_not_bleed(tmp_path):
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 20, 40))
    found = decoded(saved(tmp_path, image), (9, 9), channels=4)
    seen = found[found[:, :, 3] > 0]
    assert seen[:, 0].max() == 0


# --- values ----------------------------------------------------------------------------------------------------------------


def test_scales():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3)).astype(np.uint8)
    unit = Values(np.dtype(np.float32), "unit").of(pixels)
    assert np.array_equal(unit, pixels.astype(np.float32) / np.float32(255))
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    normal = values_for("float32", (mean, deviation), [("uint8", "a")], 3).of(pixels)
    np.testing.assert_allclose(normal, (pixels / 255 - mean) / deviation, rtol=1e-5, atol=1e-5)
    each = Values(np.dtype(np.float32), "each").of(pixels)
    np.testing.assert_allclose(each, (pixels - pixels.mean()) / pixels.std(), rtol=1e-5, atol=1e-5)
    assert abs(each.mean()) < 1e-5
    assert each.std() == pytest.approx(1, abs=1e-5)
    assert Values(np.dtype(np.float16), "unit").of(pixels).dtype == np.float16
    assert np.array_equal(Values(np.dtype(np.float32)).of(pixels), pixels.astype(np.float32))


def test_each_is_what_tensorflow_does_with_a_picture_of_one_colour():
    assert not Values(np.dtype(np.float32), "each").of(np.full((4, 4, 3), 9, np.uint8)).any()


def test_white_stays_white_between_8_and_16_bits():
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16, 1)
    sixteen = Values(np.dtype(np.uint16)).of(eight)
    assert sixteen[0, 0, 0] == 0
    assert sixteen[-1, -1, 0] == 65535
    assert np.array_equal(Values(np.dtype(np.uint8)).of(sixteen), eight)
    every = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    assert np.array_equal(U8.of(every), np.rint(every / 257).astype(np.uint8))
    assert Values(np.dtype(np.float32), "unit").of(every).max() == 1


@pytest.mark.parametrize(
    ("dtype", "scale", "stored", "error", "message"),
    [
        ("int64", None, ["uint8"], InvalidValueError, "dtype='int64' is not what images are written as"),
        ("int32", None, ["uint8"], InvalidValueError, "dtype='int32' is not what images are written as"),
        ("nonsense", None, ["uint8"], InvalidTypeError, "'nonsense' is not a dtype"),
        ("uint8", "unit", ["uint8"], InvalidValueError, "makes fractions, which uint8 cannot hold"),
        (None, "double", ["uint8"], InvalidValueError, "scale='double' is not understood"),
        (None, (0.5,), ["uint8"], InvalidValueError, "is not understood; expected 'unit', 'each' or"),
        (None, (0.5, "x"), ["uint8"], InvalidTypeError, "is not understood"),
        (None, (0.5, 0), ["uint8"], InvalidValueError, "every deviation has to be more than 0"),
        (None, ((0, 0), 1), ["uint8"], InvalidValueError, "does not fit images of 3 channels"),
        (None, (float("nan"), 1), ["uint8"], InvalidValueError, "does not fit"),
        (None, None, ["uint8", "uint16"], InvalidValueError, "0.png holds uint8 values and 1.png uint16"),
        ("float32", None, ["uint8", "uint16"], InvalidValueError, r"Say dtype='uint8' \(--dtype uint8\) or 'uint16'"),
        ("float32", "each", ["uint8", "float32"], InvalidValueError, "Ingest them apart"),
        ("float16", None, ["uint16"], InvalidValueError, "which float16 cannot hold"),
        ("float32", "unit", ["float32"], InvalidValueError, "nothing says what is white"),
        ("uint8", None, ["int32"], InvalidValueError, "dtype='uint8' cannot be meant"),
    ],
)
def test_values_that_cannot_be_meant(dtype, scale, stored, error, message):
    with pytest.raises(error, match=message):
        values_for(dtype, scale, [(name, f"{number}.png") for number, name in enumerate(stored)], 3)


# --- broken files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".gif", ".bmp", ".tif", ".webp", ".ppm", ".jp2"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_files_cut_off_are_errors_and_not_grey(tmp_path, suffix, part):
    path = saved(tmp_path, photograph(size=(200, 150)), suffix)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * part)])
    with pytest.raises(DamagedFileError, match=rf"image{suffix} (cannot be decoded|is no image).*--skip-broken"):
        decoded(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"text, no image", "is no image that Pillow can read"),
        (b"II*\0" + bytes(9), "it is TIFF, which tifffile may read"),
        (b"\x89PNG\r\n\x1a\n", "."),
    ],
)
def test_files_that_are_no_images(tmp_path, content, message):
    path = tmp_path / "x.png"
    path.write_bytes(content)
    with pytest.raises(DamagedFileError, match=rf"x\.png.*{message}"):
        read_header(str(path))


def test_postscript_is_not_handed_to_ghostscript(tmp_path):
    path = tmp_path / "x.jpg"
    photograph(size=(20, 20)).save(path, "EPS")
    with pytest.raises(DamagedFileError, match="is no image that Pillow can read"):
        read_header(str(path))
    assert ".eps" not in image_suffixes()
    assert {".jpg", ".jpeg", ".png", ".tif", ".bmp", ".gif", ".webp"} <= image_suffixes()


@pytest.mark.parametrize("times", [1, 3])
def test_more_pixels_than_the_limit_are_refused(tmp_path, monkeypatch, times):
    """Up to twice Pillow's limit it warns, beyond it raises: both are refused, and say how to allow it."""
    path = saved(tmp_path, Image.new("L", (100, 10 * times)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    for _ in range(2):
        with pytest.raises(UnsafeFileError, match=r"over Pillow's limit of 900 pixels.*PIL\.Image\.MAX_IMAGE_PIXELS"):
            read_header(str(path))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_header(str(path)).size == (10 * times, 100)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_the_limit_holds_where_warnings_are_off(tmp_path, monkeypatch):
    path = saved(tmp_path, Image.new("L", (100, 10)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    with pytest.raises(UnsafeFileError, match="declares 100 x 10 pixels"):
        read_header(str(path))


def test_a_header_that_declares_far_too_much(tmp_path):
    path = tmp_path / "bomb.png"
    data = bytearray(png_of_16_bit_colour(4, 4))
    data[16:24] = struct.pack(">II", 400_000, 400_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    path.write_bytes(data)
    with pytest.raises(UnsafeFileError, match=r"bomb\.png declares"):
        read_header(str(path))


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(NotFoundError, match="does not exist"):
        read_header(str(tmp_path / "none.png"))
    with pytest.raises(DamagedFileError, match="is a directory; expected a file"):
        read_header(str(tmp_path))
    path = saved(tmp_path, photograph(size=(8, 8)))
    path.chmod(0)
    try:
        path.read_bytes()
    except PermissionError:
        with pytest.raises(NotReadableError, match="may not be read"):
            read_header(str(path))


def test_every_bit_flipped_is_decoded_or_refused(tmp_path):
    """Of a small PNG and a small JPEG: an array of the right shape or an error of ours, never anything else."""
    for suffix in (".png", ".jpg"):
        path = saved(tmp_path, photograph(size=(12, 9)), suffix)
        header, data = read_header(str(path)), path.read_bytes()
        decoder = ImageDecoder(None, "crop", 3, U8)
        refused = 0
        for at in range(0, len(data), 3):
            path.write_bytes(data[:at] + bytes([data[at] ^ (1 << at % 8)]) + data[at + 1 :])
            try:
                assert decoder.decode(str(path), header).shape == (9, 12, 3)
            except (DamagedFileError, UnsafeFileError, InvalidValueError):
                refused += 1
        assert refused > 10
