"""The packets of a video file compared with the header of its container, and the orientation in which players show the frames."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...plain.errors import DamagedFileError

_log_lock = threading.Lock()
# A transport stream has no header that says how long it is, but packets of one length (with a time code, with error correction).
_PACKET_NBYTES = {"mpegts": (188, 192, 204)}
_CONSTANT = ("mpeg1video", "mpeg2video")  # codecs whose frames come at one rate; a field may be shown twice
_NO_DURATION = 0x0200 | 0x0080  # AVFMT_TS_DISCONT, AVFMT_NOTIMESTAMPS: PyAV names them in some versions
_SECONDS = 0.1  # by which durations in headers are rounded
_PLACEHOLDER_NBYTES = 8  # a packet of so few bytes repeats the frame before it, and decoders may give nothing for it


@dataclass(frozen=True)
class Packets:
    """The packets of the video stream."""

    # when the frames of packets are shown, in units of `time_base` seconds, sorted; empty where the container does not say
    stamps: np.ndarray[Any, np.dtype[Any]]
    needed: frozenset[int]  # those of `stamps` that a decoder has to give a frame for; empty where that is not certain
    time_base: float

    def times(self, stride: int) -> dict[str, Any] | None:
        """When every `stride`-th frame is shown: seconds of the first, from one to the next, and whether these steps are alike."""
        if len(self.stamps) == 0:
            return None
        steps = np.diff(self.stamps[::stride]) * self.time_base
        found: dict[str, Any] = {"first": round(float(self.stamps[0]) * self.time_base, 6)}
        if len(steps):
            typical, longest, rounding = float(np.median(steps)), float(steps.max()), 2.01 * max(self.time_base, 1e-6)
            found |= {"step": round(typical, 6), "constant": bool(longest - steps.min() <= rounding)}
            found |= {} if found["constant"] else {"longest step": round(longest, 6)}
        return found


def video_stream(container: Any) -> Any:
    """The stream that players show, by its disposition and by what it holds; None where there is no video."""
    return container.streams.best("video")


def packets_of(av: Any, path: str) -> Packets:
    """Read a file to its end without decoding it.

    Raises DamagedFileError if the file is shorter than its header says, and if the demultiplexer finds damage. Durations that
    libavformat estimates are not compared.
    """
    with av.open(path) as container:
        with _log_of(av, container.format.name) as log:
            read = _Read(container)
        if log:
            raise broken(path, f"it is damaged ({log[0]})")
        if read.corrupt:
            raise broken(path, f"{read.corrupt} of its packets are not whole")
        if read.lacks_frames:
            with av.open(path, options={"ignore_editlist": "1"}) as unedited:  # the header counts hidden frames too
                whole = _Read(unedited)
            if whole.lacks_frames:
                raise broken(path, f"its header says {whole.frames} frames, and the file holds {whole.count}")
        if read.codec in _CONSTANT and read.longest_step > 2.5 * read.typical_step:
            raise broken(
                path, f"{read.longest_step:.2f} seconds lie between two of its frames, and {read.typical_step:.2f} elsewhere"
            )
        duration = (container.duration or 0) / 1_000_000
        is_estimate = int(container.format.flags) & _NO_DURATION
        if not read.frames and not is_estimate and read.end + _SECONDS + 2 * read.longest_step < duration:
            raise broken(path, f"its header says {duration:.2f} seconds, and the file ends after {read.end:.2f}")
        lengths = _PACKET_NBYTES.get(container.format.name)
        if lengths and all(os.path.getsize(path) % length for length in lengths):
            raise broken(path, "its last packet is cut off")
        # AVI stores no time stamps: libavformat counts, and frames that are shown in another order are counted wrongly.
        is_certain = read.frames and container.format.name != "avi"
        return Packets(read.stamps, frozenset(read.needed if is_certain else ()), read.time_base)


class _Read:
    """The packets of a container, counted.

    Attributes
    ----------
    frames, count : of the video stream, as the header says (0 where it says nothing), and found; `corrupt` of them are not whole
    stamps, needed, time_base : as in Packets
    codec, typical_step, longest_step : of the video stream; seconds
    end : seconds from zero, or from the start of the first stream if that is before, to the end of the last
    """

    def __init__(self, container: Any) -> None:
        stream = video_stream(container)
        self.frames, self.time_base = int(stream.frames or 0), float(stream.time_base)
        self.codec = stream.codec_context.name if stream.codec_context else ""
        self.count = self.corrupt = 0
        self.needed: list[int] = []
        stamps: list[int] = []
        begin, last, self.end = 0, 0, 0.0
        for packet in container.demux():
            stamp = packet.pts if packet.pts is not None else packet.dts
            if stamp is None and not packet.size:
                continue  # the end, which PyAV gives as an empty packet of each stream
            if stamp is not None and packet.time_base:
                self.end = max(self.end, float((stamp + (packet.duration or 0)) * packet.time_base))
            if packet.stream_index != stream.index:
                continue
            self.count += 1
            self.corrupt += packet.is_corrupt
            if stamp is not None:
                begin, last = min(begin, stamp), max(last, stamp + (packet.duration or 0))
                stamps += [] if packet.is_discard else [stamp]
                self.needed += [] if packet.is_discard or packet.size <= _PLACEHOLDER_NBYTES else [stamp]
        self.end -= min(0, container.start_time or 0) / 1_000_000
        self.stamps = np.unique(np.array(stamps, np.int64))
        steps = np.diff(self.stamps) if len(self.stamps) > 1 else np.zeros(1)
        self.longest_step, self.typical_step = float(steps.max()) * self.time_base, float(np.median(steps)) * self.time_base
        # Frames that repeat the one before may be left out. A file that ends when it should has all others.
        ends_early = not stream.duration or last - begin + np.median(steps) / 2 < stream.duration
        self.lacks_frames = self.count < self.frames and bool(ends_early)


@contextlib.contextmanager
def _log_of(av: Any, format_name: str) -> Iterator[list[str]]:
    """Collect the errors that a demultiplexer logs in this thread: it skips unreadable parts without any other sign."""
    found: list[str] = []
    with _log_lock:
        level, repeats = av.logging.get_level(), av.logging.get_skip_repeated()
        av.logging.set_level(av.logging.ERROR)
        av.logging.set_skip_repeated(False)  # what is repeated would be told of the next file
        try:
            with av.logging.Capture() as entries:
                yield found
            found += [text.strip() for _, name, text in entries if name == format_name]
        finally:
            av.logging.set_skip_repeated(repeats)
            av.logging.set_level(level)


def broken(path: str, found: str) -> DamagedFileError:
    return DamagedFileError(
        f"{path} cannot be decoded as a whole: {found}. Copy it again, leave it out with mmapstore.Videos(..., skip_broken=True) "
        "(--skip-broken), or encode what is left of it anew, as with ffmpeg -i OLD NEW."
    )


# --- the orientation ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Turn:
    """The turn that sets a decoded picture upright: axes exchanged, then rows and columns reversed."""

    exchanged: bool = False
    rows: bool = False
    columns: bool = False

    @classmethod
    def of(cls, frame: Any) -> Turn:
        """By the display matrix of a frame, as cameras that were held otherwise write it; angles go to the nearest right one."""
        data = frame.side_data.get("DISPLAYMATRIX")
        if data is None:
            return cls()
        a, b, _, c, d = (int(n) for n in np.frombuffer(bytes(data), np.int32)[:5])
        if abs(a) + abs(d) >= abs(b) + abs(c):
            return cls(False, d < 0, a < 0)
        return cls(True, b < 0, c < 0)

    def sides(self, height: int, width: int) -> tuple[int, int]:
        """Height and width before or after."""
        return (width, height) if self.exchanged else (height, width)

    def upright(self, picture: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
        """A view of (height, width, 3)."""
        turned = picture.swapaxes(0, 1) if self.exchanged else picture
        return turned[:: -1 if self.rows else 1, :: -1 if self.columns else 1]
