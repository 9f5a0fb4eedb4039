"""Where a picture goes in an image: the arithmetic, against pictures that are really cut, resized and turned."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from mmapstore.operations.ingest.images.decoding import ImageDecoder
from mmapstore.operations.ingest.images.form import Values
from mmapstore.operations.ingest.images.header import read_header
from mmapstore.operations.ingest.images.placement import FITS, Placement, draft_scale, upright_box, upright_size

sides = st.integers(1, 400)
fits = st.sampled_from(FITS)


@given(picture=st.tuples(sides, sides), image=st.tuples(sides, sides), fit=fits)
def test_a_placement_lies_in_picture_and_image(picture, image, fit):
    placement = Placement.of(picture, image, fit)
    top, left, bottom, right = placement.box
    assert 0 <= top < bottom <= picture[0]
    assert 0 <= left < right <= picture[1]
    for axis in (0, 1):
        assert placement.size[axis] >= 1
        assert placement.at[axis] >= 0
        assert placement.at[axis] + placement.size[axis] <= image[axis]
    if fit == "stretch":
        assert (placement.box, placement.size) == ((0, 0, *picture), image)
    if fit == "crop":
        assert placement.size == image
        assert (bottom - top) / image[0] == pytest.approx((right - left) / image[1])  # proportions are kept
        assert bottom - top == picture[0] or right - left == picture[1]  # and no more is cut than has to be
        assert top + bottom == pytest.approx(picture[0])
        assert left + right == pytest.approx(picture[1])
    if fit == "pad":
        assert placement.box == (0, 0, *picture)
        assert placement.size[0] == image[0] or placement.size[1] == image[1]
        assert max(2 * placement.at[axis] + placement.size[axis] - image[axis] for axis in (0, 1)) <= 0
        assert min(2 * placement.at[axis] + placement.size[axis] - image[axis] for axis in (0, 1)) >= -1


@given(picture=st.tuples(sides, sides), fit=fits)
def test_without_a_size_nothing_moves(picture, fit):
    placement = Placement.of(picture, None, fit)
    assert placement == Placement((0, 0, *picture), picture, (0, 0))
    assert placement.moved((1, 2, 3, 4)) == (min(1, picture[0]), min(2, picture[1]), min(3, picture[0]), min(4, picture[1]))


@st.composite
def pictures_with_a_box(draw):
    height, width = draw(st.integers(8, 200)), draw(st.integers(8, 200))
    top = draw(st.integers(0, height - 1))
    left = draw(st.integers(0, width - 1))
    return (height, width), (top, left, draw(st.integers(top + 1, height)), draw(st.integers(left + 1, width)))


def edges_of(profile: np.ndarray) -> tuple[float, float]:
    """Where a bright run begins and ends along an axis, to parts of a pixel: its centre of mass, and its width by its mass."""
    mass = profile.sum()
    centre = (profile * (np.arange(len(profile)) + 0.5)).sum() / mass
    return centre - mass / 2, centre + mass / 2


@given(
    drawn=pictures_with_a_box(), image=st.tuples(st.integers(4, 120), st.integers(4, 120)), fit=fits, orientation=st.integers(1, 8)
)
def test_boxes_follow_what_happens_to_the_picture(tmp_path_factory, drawn, image, fit, orientation):
    (height, width), box = drawn
    picture = np.zeros((height, width), np.uint8)
    picture[box[0] : box[2], box[1] : box[3]] = 255
    stored = Image.fromarray(picture)
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = str(tmp_path_factory.getbasetemp() / "rectangle.png")
    stored.save(path, exif=exif)
    header = read_header(path)
    assert header.orientation == orientation
    decoder = ImageDecoder(image, fit, 1, Values(np.dtype(np.uint8)))
    found = decoder.decode(path, header)[:, :, 0] / 255.0
    expected = decoder.placement(header).moved(upright_box(box, (height, width), orientation))
    area = (expected[2] - expected[0]) * (expected[3] - expected[1])
    # The filter spreads light over edges of the image only inwards, so mass tells little where the box is cut: one pixel then.
    assert found.sum() == pytest.approx(area, rel=0.25, abs=2 * (found.shape[0] + found.shape[1]) ** 0.5 + 2)
    if area < 16 or min(expected[2] - expected[0], expected[3] - expected[1]) < 3:
        return
    for axis in (0, 1):
        low, high = expected[axis], expected[axis + 2]
        profile = found.max(axis=1 - axis)
        begin, end = edges_of(profile / profile.max())  # a line one pixel wide has no pixel of full light any more
        assert begin == pytest.approx(low, abs=0.75)
        assert end == pytest.approx(high, abs=0.75)


@given(drawn=pictures_with_a_box(), image=st.tuples(st.integers(1, 300), st.integers(1, 300)), fit=fits)
def test_moved_boxes_are_those_of_nearest_pixels(drawn, image, fit):
    """Against brute force: every pixel of the image looks up the point of the picture that lies under its centre."""
    (height, width), box = drawn
    placement = Placement.of((height, width), image, fit)
    moved = placement.moved(box)
    top, left, bottom, right = placement.box
    rows = top + (np.arange(image[0]) + 0.5 - placement.at[0]) * (bottom - top) / placement.size[0]
    columns = left + (np.arange(image[1]) + 0.5 - placement.at[1]) * (right - left) / placement.size[1]
    for axis, points in ((0, rows), (1, columns)):
        centres = np.arange(image[axis]) + 0.5
        on_picture = (points > placement.box[axis]) & (points < placement.box[axis + 2])
        inside = on_picture & (points > box[axis] + 1e-9) & (points < box[axis + 2] - 1e-9)
        outside = ~on_picture | (points < box[axis] - 1e-9) | (points > box[axis + 2] + 1e-9)
        assert np.all((centres[inside] > moved[axis] - 1e-6) & (centres[inside] < moved[axis + 2] + 1e-6))
        assert np.all((centres[outside] < moved[axis] + 1e-6) | (centres[outside] > moved[axis + 2] - 1e-6))
        assert 0 <= moved[axis] <= moved[axis + 2] <= image[axis]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations_are_those_of_pillow(orientation):
    rng = np.random.default_rng(orientation)
    for _ in range(20):
        height, width = (int(n) for n in rng.integers(2, 30, 2))
        top, bottom = (int(n) for n in sorted(rng.choice(height + 1, 2, replace=False)))
        left, right = (int(n) for n in sorted(rng.choice(width + 1, 2, replace=False)))
        picture = np.zeros((height, width), np.uint8)
        picture[top:bottom, left:right] = 1
        image = Image.fromarray(picture)
        image.getexif()[0x0112] = orientation
        turned = np.asarray(ImageOps.exif_transpose(image))
        rows, columns = np.nonzero(turned)
        assert turned.shape == upright_size((height, width), orientation)
        assert upright_size(turned.shape, orientation) == (height, width)
        expected = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
        assert upright_box((top, left, bottom, right), (height, width), orientation) == expected


@given(picture=st.tuples(sides, sides), image=st.tuples(st.integers(1, 50), st.integers(1, 50)), fit=fits)
def test_drafts_leave_twice_the_pixels_that_are_needed(picture, image, fit):
    placement = Placement.of(picture, image, fit)
    scale = draft_scale(placement)
    needed = [(placement.box[axis + 2] - placement.box[axis]) / placement.size[axis] for axis in (0, 1)]
    assert scale in (1, 2, 4, 8)
    assert scale == 1 or min(needed) / scale >= 2
    assert scale == 8 or min(needed) / (2 * scale) < 2
