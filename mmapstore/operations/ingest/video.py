"""Video files through PyAV: each file an episode of RGB frames, decoded once, in order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...plain.array_spec import ArraySpec
from ...plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, MissingPackageError, NotFoundError
from .sources import Piece, stamp

VIDEO_SUFFIXES = (
    ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv", ".ts", ".ogv", ".3gp", ".gif", ".mjpeg",
)  # fmt: skip
_THREADS = 2  # each holds frames of its own; two decode faster than frames are written on any disk we met
_FRAMES_HELD = 40  # frames in YUV that a decoder may keep: 16 references, those being decoded, and those waiting for their turn


def _import_av(path: str) -> Any:
    try:
        import av
    except ImportError as error:
        raise MissingPackageError(
            f"{path} is a video; reading it needs PyAV. Install it with: pip install 'mmapstore[video]'"
        ) from error
    return av


class VideoSource:
    """Frames of video files, (height, width, 3) uint8.

    How many frames a file has shows when it ends: the number in its header is a guess. All files are looked at first,
    so that one whose frame size differs is named before anything is written.
    """

    gives_from_any_sample = True

    def __init__(self, paths: list[str], source_layout: str | None) -> None:
        if source_layout is not None and source_layout.upper() not in ("THWC", "NHWC"):
            raise InvalidValueError(
                f"Video frames come as 'THWC' (time, height, width, RGB); got source_layout={source_layout!r}. Leave it out."
            )
        self._av = _import_av(paths[0])
        self.paths = [os.path.abspath(path) for path in paths]
        self.name = paths[0] if len(paths) == 1 else f"{len(paths)} videos, {paths[0]} to {paths[-1]}"
        sizes, guesses = [], []
        for path in self.paths:
            with self._opened(path) as (_, stream):
                sizes.append((int(stream.codec_context.height), int(stream.codec_context.width)))
                guesses.append(int(stream.frames or 0))
            if sizes[-1] != sizes[0]:
                raise InvalidValueError(
                    f"{path} has frames of {sizes[-1][1]}x{sizes[-1][0]} pixels, {self.paths[0]} {sizes[0][1]}x{sizes[0][0]}. "
                    "Videos in one array have to be alike: scale it first "
                    "(ffmpeg -i in.mp4 -vf scale=W:H out.mp4), or ingest it on its own."
                )
        self._height, self._width = sizes[0]
        self.spec = ArraySpec((0, self._height, self._width, 3), np.dtype(np.uint8), "NHWC")
        self.samples: int | None = None
        self.guess = sum(guesses) if all(guesses) else 0
        self.fingerprint: dict[str, Any] = {
            "kind": "video",
            "files": len(paths),
            "stamp": stamp(self.paths),
            "frame": [self._height, self._width],
        }

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[tuple[Any, Any]]:
        try:
            with self._av.open(path) as container:
                if not container.streams.video:
                    raise InvalidTypeError(
                        f"{path} holds no pictures: {len(container.streams)} streams, none of them video. Choose another file."
                    )
                yield container, container.streams.video[0]
        except FileNotFoundError as error:
            raise NotFoundError(f"{path} does not exist. Check the path.") from error
        except self._av.error.FFmpegError as error:
            raise DamagedFileError(
                f"{path} cannot be decoded as video ({error.strerror or error}). Check it in a player, or copy it again."
            ) from error

    def pieces(self, start: int, begun: Sequence[int], at_most: int) -> Iterator[Piece]:
        number = max(0, len(begun) - 1)
        skip = start - (begun[-1] if begun else 0)
        for path in self.paths[number:]:
            yield from self._frames(path, skip)
            skip = 0

    def _frames(self, path: str, skip: int) -> Iterator[Piece]:
        seen = 0
        with self._opened(path) as (container, stream):
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = _THREADS
            to_rgb = self._av.video.reformatter.VideoReformatter()
            for frame in container.decode(stream):
                if (frame.height, frame.width) != (self._height, self._width):
                    raise InvalidValueError(
                        f"Frame {seen} of {path} has {frame.width}x{frame.height} pixels, "
                        f"those before it {self._width}x{self._height}. "
                        "Scale the video to one size first (ffmpeg -i in.mp4 -vf scale=W:H out.mp4)."
                    )
                if seen >= skip:
                    yield Piece(to_rgb.reformat(frame, format="rgb24").to_ndarray()[None], (0,) if seen == 0 else ())
                seen += 1
        if seen == 0:
            raise DamagedFileError(f"{path} holds no frame that can be decoded. Check it in a player, or copy it again.")

    def memory(self, at_most: int) -> dict[str, int]:
        pixels = self._height * self._width
        return {"video decoder": _FRAMES_HELD * pixels * 3 // 2 + 8_000_000, "RGB frames": 3 * pixels * 3}
