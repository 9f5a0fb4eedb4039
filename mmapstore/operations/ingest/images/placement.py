"""The place of a picture of any size in an image of one size: arithmetic on numbers, no pixels.

Edges are counted in pixels from the top left corner, so 0 to `width` is the whole of a row, and a box may end within a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass

FITS = ("crop", "pad", "stretch")
_SWAPPED = (5, 6, 7, 8)  # EXIF orientations in which rows and columns change places
_DRAFT_SCALES = (8, 4, 2)

Box = tuple[float, float, float, float]  # top, left, bottom, right


@dataclass(frozen=True)
class Placement:
    """The part `box` of a picture, resized to `size`, put with its corner at `at` of an image."""

    box: Box
    size: tuple[int, int]  # (height, width)
    at: tuple[int, int] = (0, 0)  # (top, left)

    @classmethod
    def of(cls, picture: tuple[int, int], image: tuple[int, int] | None, fit: str) -> Placement:
        """Fit a picture of (height, width) into an image of (height, width); None takes the picture as it is.

        "crop" fills the image and leaves out what is over, the same on both sides; "pad" shows the whole picture with a margin;
        "stretch" resizes height and width by factors of their own.

        >>> Placement.of((100, 300), (50, 50), "crop")
        Placement(box=(0.0, 100.0, 100.0, 200.0), size=(50, 50), at=(0, 0))
        >>> Placement.of((100, 300), (60, 60), "pad")
        Placement(box=(0.0, 0.0, 100.0, 300.0), size=(20, 60), at=(20, 0))
        """
        height, width = picture
        whole = (0.0, 0.0, float(height), float(width))
        if image is None or fit == "stretch":
            return cls(whole, image or picture)
        rows, columns = image
        if fit == "crop":
            # The part of the picture with the image's proportions, exact, instead of a rounded size that is cut afterwards.
            if height * columns > width * rows:
                part = width * rows / columns
                return cls(((height - part) / 2, 0.0, (height + part) / 2, float(width)), image)
            part = height * columns / rows
            return cls((0.0, (width - part) / 2, float(height), (width + part) / 2), image)
        if height * columns > width * rows:
            size = (rows, max(1, round(width * rows / height)))
        else:
            size = (max(1, round(height * columns / width)), columns)
        return cls(whole, size, ((rows - size[0]) // 2, (columns - size[1]) // 2))

    def moved(self, box: Box) -> Box:
        """Return a box of the picture in the image, cut where the picture is cut.

        A box that is cut away as a whole has no area, and lies on the edge that it was behind.

        >>> Placement.of((100, 300), (50, 50), "crop").moved((0, 50, 100, 150))
        (0.0, 0.0, 50.0, 25.0)
        """
        top, bottom = (self._moved(edge, 0) for edge in (box[0], box[2]))
        left, right = (self._moved(edge, 1) for edge in (box[1], box[3]))
        return top, left, bottom, right

    def _moved(self, edge: float, axis: int) -> float:
        low, high = self.box[axis], self.box[axis + 2]
        return self.at[axis] + min(max((edge - low) * self.size[axis] / (high - low), 0.0), float(self.size[axis]))


def draft_scale(placement: Placement) -> int:
    """Return 1, 2, 4 or 8, by which a JPEG may be decoded smaller: twice the pixels that are needed are left even so.

    libjpeg then leaves out frequencies that the resizing would take away, and most of the work. With less than twice the pixels
    one would see the difference between its filter and ours.

    >>> [draft_scale(Placement.of((size, size), (64, 64), "crop")) for size in (64, 255, 256, 512, 4000)]
    [1, 1, 2, 4, 8]
    """
    top, left, bottom, right = placement.box
    reduction = min((bottom - top) / placement.size[0], (right - left) / placement.size[1])
    return next((scale for scale in _DRAFT_SCALES if reduction >= 2 * scale), 1)


def upright_size(stored: tuple[int, int], orientation: int) -> tuple[int, int]:
    """Return the upright (height, width) of a picture stored with this EXIF orientation. The function is its own inverse."""
    return (stored[1], stored[0]) if orientation in _SWAPPED else stored


def upright_box(box: Box, stored: tuple[int, int], orientation: int) -> Box:
    """Return a box of the picture as stored, (height, width), in the upright picture.

    >>> upright_box((0, 0, 1, 2), (10, 20), 6)  # to be turned clockwise: its top left is at the top right
    (0, 9, 2, 10)
    """
    height, width = stored
    top, left, bottom, right = box
    if orientation in (2, 3, 7, 8):
        left, right = width - right, width - left
    if orientation in (3, 4, 6, 7):
        top, bottom = height - bottom, height - top
    return (left, top, right, bottom) if orientation in _SWAPPED else (top, left, bottom, right)
