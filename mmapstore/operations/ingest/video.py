"""Video files through PyAV: each file an episode of RGB frames, decoded once, in order."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ...plain.array_spec import ArraySpec
from ...plain.errors import DamagedFileError, InvalidTypeError, InvalidValueError, MissingPackageError, NotFoundError
from .contract import ONLY, Piece, Position
from .files import files_of
from .images.form import checked_size
from .sources import stamp
from .video_container import Packets, Turn, broken, packets_of, video_stream

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

    The number of frames of a file shows when the file ends: the number in its header is a guess. All files are looked at first,
    so that one whose frame size differs is named before anything is written.
    """

    gives_from_any_sample = True

    def __init__(
        self,
        paths: list[str],
        source_layout: str | None,
        stride: int = 1,
        size: tuple[int, int] | None = None,
        skip_broken: bool = False,
    ) -> None:
        if source_layout is not None and source_layout.upper() not in ("THWC", "NHWC"):
            raise InvalidValueError(
                f"Video frames come as 'THWC' (time, height, width, RGB); got source_layout={source_layout!r}. Leave it out."
            )
        self._av = _import_av(paths[0])
        self.paths = [os.path.abspath(path) for path in paths]
        self.name = paths[0] if len(paths) == 1 else f"{len(paths)} videos, {paths[0]} to {paths[-1]}"
        self._stride, self._skip_broken, self._unopened = stride, skip_broken, set[str]()
        headers = self._headers()
        first, self._size = next(iter(headers)), size or next(iter(headers.values()))[0]
        for path, (found, _) in headers.items():
            if size is None and found != self._size:
                raise InvalidValueError(
                    f"{path} has frames of {found[1]}x{found[0]} pixels, {first} {self._size[1]}x{self._size[0]}. Videos in one "
                    f"array have to be alike: scale them with Videos(..., size={self._size}) "
                    f"(--size {self._size[0]}x{self._size[1]}, height and width), or ingest it on its own."
                )
        self._largest = max(height * width for (height, width), _ in headers.values())
        self._packets: dict[str, Packets] = {}
        self.specs = {ONLY: ArraySpec((0, *self._size, 3), np.dtype(np.uint8), "NHWC")}
        self.samples: int | None = None
        guesses = [-(-frames // stride) for _, frames in headers.values()]
        self.guess = sum(guesses) if all(guesses) else 0
        done = {"stride": stride} if stride > 1 else {}
        self.notes: Mapping[str, Mapping[str, Any]] = {ONLY: {**done, "scaled to": list(size)} if size else done}
        self.fingerprint: dict[str, Any] = {
            "kind": "video",
            "files": len(paths),
            "stamp": stamp(self.paths),
            "frame": list(self._size),
            "stride": stride,
        }

    def _headers(self) -> dict[str, tuple[tuple[int, int], int]]:
        """Yield (height, width) of the upright picture and the announced number of frames of each file that can be opened."""
        found = {}
        failed: DamagedFileError | None = None
        for path in self.paths:
            try:
                with self._opened(path) as (container, stream):
                    frame = next(container.decode(stream), None)
                    if frame is None:
                        raise _without_frames(path)
                    found[path] = (Turn.of(frame).sides(frame.height, frame.width), int(stream.frames or 0))
            except DamagedFileError as error:
                if not self._skip_broken:
                    raise
                self._unopened.add(path)
                failed = error
        if failed is not None and not found:
            raise failed
        return found

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[tuple[Any, Any]]:
        try:
            with self._av.open(path) as container:
                stream = video_stream(container)
                if stream is None and container.streams.audio:
                    raise InvalidTypeError(
                        f"{path} holds no pictures: {len(container.streams)} streams, none of them video. Choose another file."
                    )
                if stream is None or stream.codec_context is None:
                    raise broken(path, "none of its streams is video of a kind that FFmpeg knows")
                yield container, stream
        except FileNotFoundError as error:
            raise NotFoundError(f"{path} does not exist. Check the path.") from error
        except self._av.error.FFmpegError as error:
            raise DamagedFileError(
                f"{path} cannot be decoded as video ({error.strerror or error}). Check it in a player, or copy it again."
            ) from error

    def pieces(self, after: Position, at_most: int) -> Iterator[Piece]:
        number, told = self._number_of(after)
        skip = after.samples - (after.starts[-1] if after.starts else 0)
        left_out: list[str] = []
        for path in self.paths[number:]:
            if path in told or (not skip and self._is_broken(path)):
                left_out += [path] if path not in told else []
                continue
            for piece in self._frames(path, skip):
                yield replace(piece, skipped=left_out) if left_out else piece
                left_out = []
            skip = 0
        if left_out:
            yield Piece({ONLY: np.empty((0, *self._size, 3), np.uint8)}, (), left_out)

    def _number_of(self, after: Position) -> tuple[int, set[str]]:
        """Return the file that a position is in, and the files behind it that are known to be skipped."""
        told = list(after.skipped)
        begun = 0
        for number, path in enumerate(self.paths if after.starts else ()):
            if told and told[0] == path:
                told.pop(0)
                continue
            begun += 1
            if begun == len(after.starts):
                return number, set(told)
        return 0, set(told)

    def _is_broken(self, path: str) -> bool:
        """Return True if a file has to be skipped: all of it is decoded, since its first frames may be right."""
        if path in self._unopened:
            return True
        if not self._skip_broken:
            return False
        try:
            return not sum(1 for _ in self._decoded(path))
        except DamagedFileError:
            return True

    def _decoded(self, path: str) -> Iterator[Any]:
        """Yield all frames of a file. Raises DamagedFileError, at the end of the file at the latest, if a whole file gives more."""
        with self._opened(path) as (container, stream):
            missing = set(self._packets_of(path).needed)
            first: int | None = None
            stream.thread_type = "AUTO"
            stream.codec_context.thread_count = _THREADS
            for number, frame in enumerate(container.decode(stream)):
                if frame.is_corrupt:
                    raise broken(path, f"its frame {number} is damaged")
                first = frame.pts if first is None else first
                missing.discard(frame.pts)
                yield frame
            if first is None:
                raise _without_frames(path)
            # Frames before the first are those that a cut left without the frames that they are made of: nobody shows them.
            lost = sum(stamp > first for stamp in missing)
            if lost:
                raise broken(path, f"{lost} of its frames could not be decoded")

    def _packets_of(self, path: str) -> Packets:
        if path not in self._packets:
            with self._opened(path):  # whose errors are explained
                self._packets[path] = packets_of(self._av, path)
        return self._packets[path]

    def times(self, skipped: Collection[str]) -> list[dict[str, Any] | None]:
        """Return the seconds at which the frames of each file that was not skipped are shown; None without time stamps."""
        return [self._packets_of(path).times(self._stride) for path in self.paths if path not in skipped]

    def _frames(self, path: str, skip: int) -> Iterator[Piece]:
        """Yield the frames that are taken from a file, without the first `skip`."""
        height, width = self._size
        decoded = 0
        to_rgb = self._av.video.reformatter.VideoReformatter()
        turn: Turn | None = None
        for frame in self._decoded(path):
            # Containers turn a stream as a whole; and a frame that PyAV was asked for its side data lives until a collection.
            turn = turn or Turn.of(frame)
            sides = turn.sides(frame.height, frame.width)
            same = sides == self._size
            if not same and "scaled to" not in self.notes[ONLY]:
                raise InvalidValueError(
                    f"Frame {decoded} of {path} has {sides[1]}x{sides[0]} pixels, those before it {width}x{height}. "
                    f"Scale all to one size: Videos(..., size={self._size}) (--size {height}x{width})."
                )
            number, over = divmod(decoded, self._stride)
            decoded += 1
            if over or number < skip:
                continue
            # Reducing by means of all pixels leaves no patterns that are not there; enlarging by curves no steps.
            how = {} if same else {"interpolation": "AREA" if sides[0] > height and sides[1] > width else "BICUBIC"}
            lying = turn.sides(height, width)
            rgb = to_rgb.reformat(frame, width=lying[1], height=lying[0], format="rgb24", **how).to_ndarray()
            yield Piece({ONLY: turn.upright(rgb)[None]}, (0,) if number == 0 else ())

    def memory(self, at_most: int) -> dict[str, int]:
        height, width = self._size
        frames = 3 * max(self._largest, height * width) * 3
        return {"video decoder": _FRAMES_HELD * self._largest * 3 // 2 + 8_000_000, "RGB frames": frames}


def _without_frames(path: str) -> DamagedFileError:
    return DamagedFileError(f"{path} holds no frame that can be decoded. Check it in a player, or copy it again.")


class Videos(VideoSource):
    """Video files for `mmapstore.ingest`: RGB frames, each file an episode. Needs `mmapstore[video]`.

    Parameters
    ----------
    source : a file, a list of files, a glob, or a directory, in natural order
    stride : every how many-th frame is taken, from the first of each file on. All are decoded: frames build on each other
    size : (height, width) that frames are scaled to, or one number for both; proportions change if they are others. None: as they
        are, in all files the same
    skip_broken : leave out files that cannot be decoded as a whole, and list them in the manifest: those that hold fewer frames or
        seconds than their header says, or damaged packets or frames. Each file is decoded twice for that

    The stream is the one that players choose, and frames stand upright as players turn them. The manifest notes for each video when
    its frames are shown ("time"): seconds of the first, from one to the next, and whether the steps are alike; if not, the longest.

    Raises
    ------
    NotFoundError, DamagedFileError, MissingPackageError, InvalidValueError, InvalidTypeError
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        stride: int = 1,
        size: int | Sequence[int] | None = None,
        skip_broken: bool = False,
    ) -> None:
        if isinstance(stride, bool) or not isinstance(stride, int):
            raise InvalidTypeError(f"stride={stride!r} is not a number of frames; expected an int.")
        if stride < 1:
            raise InvalidValueError(f"stride={stride} is less than 1; expected every how many-th frame to take.")
        super().__init__(files_of(source, VIDEO_SUFFIXES, "Videos"), None, stride, checked_size(size), bool(skip_broken))
