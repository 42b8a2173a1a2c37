"""Open a video file; what its container and coded data say of the stream to read and of its pictures."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import av
import numpy as np
from av.sidedata.sidedata import Type as SideData
from av.stream import Disposition
from numpy.typing import NDArray

from bench.io.errors import InputError

FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,asf,ogg,h264,hevc,ivf"
"""Video containers only: no playlists, no image lists, no stream descriptions."""
LIMITS = {"format_whitelist": FORMATS, "protocol_whitelist": "file"}


def open_video(path: Path) -> Any:
    """Return an open container for a `with` block; PyAV raises an error for other than the known formats.

    Without these limits FFmpeg would open a text file of names as a playlist, whatever its name, and a path
    that looks like a URL as a URL.
    """
    return av.open(str(path.absolute()), container_options=LIMITS)


def choose_stream(path: Path, container: Any) -> Any:
    """Return the video stream that players show; all readers read this one.

    Cover pictures are no videos. Of several streams the one marked as default counts, then the largest
    picture, then the choice of FFmpeg's `av_find_best_stream`.
    """
    best = container.streams.best("video")

    def rank(stream: Any) -> tuple[bool, int, bool]:
        default = bool(stream.disposition & Disposition.default)
        return default, stream.codec_context.width * stream.codec_context.height, stream is best

    streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
    if not streams:
        fail(path, "it holds no video stream")
    if not (known := [each for each in streams if each.codec_context is not None]):
        fail(path, "its codec is not known")
    return max(known, key=rank)


def fail(path: Path, problem: str) -> NoReturn:
    """Raise the one-line error of a file that cannot be used."""
    raise InputError(f"{path}: {problem}; a video file with decodable frames is needed") from None


@dataclass(frozen=True)
class Orientation:
    """How a decoded frame is shown: rows and columns exchanged, then mirrored left-right, upside down."""

    transposed: bool = False
    mirrored: bool = False
    flipped: bool = False

    @property
    def rotation(self) -> int | None:
        """Degrees counter-clockwise of the same rotation; None if it is none, as pictures are mirrored."""
        return ROTATIONS.get(self)

    def apply(self, frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a frame (height, width, 3) as it is shown, possibly a view."""
        if self.transposed:
            frame = frame.transpose(1, 0, 2)
        return frame[:: -1 if self.flipped else 1, :: -1 if self.mirrored else 1]


ROTATIONS = {
    Orientation(): 0,
    Orientation(True, False, True): 90,
    Orientation(False, True, True): 180,
    Orientation(True, True, False): 270,
}


def orientation_of(frame: Any) -> Orientation:
    """Return how a frame's display matrix shows it; only multiples of 90 degrees and mirrorings count.

    The matrix (ISO 14496-12, 6.2.2) has rows (a, b, u), (c, d, v), (x, y, w): x' = a x + c y, y' = b x + d y.
    """
    for data in frame.side_data:
        if data.type == SideData.DISPLAYMATRIX:
            a, b, _, c, d = np.frombuffer(bytes(data)[:20], np.int32).tolist()
            if abs(b) < abs(a) > abs(c) and abs(c) < abs(d):
                return Orientation(False, a < 0, d < 0)
            if abs(a) < abs(b) and abs(d) < abs(c):
                return Orientation(True, c < 0, b < 0)
    return Orientation()


UPRIGHT = Orientation()


def is_idr(data: bytes, length_size: int) -> bool:
    """Return whether a packet of H.264 holds a picture that resets the decoder (NAL unit type 5).

    `length_size` is the number of bytes of a NAL unit's length, 0 for start codes (Annex B). Other pictures
    that containers mark as key frames (recovery points, intra refresh) may need earlier frames.
    """
    if length_size == 0:
        return any(data[at + 3] & 31 == 5 for at in _start_codes(data))
    at = 0
    while at + length_size < len(data):
        if data[at + length_size] & 31 == 5:
            return True
        at += length_size + int.from_bytes(data[at : at + length_size], "big")
    return False


def _start_codes(data: bytes, code: int | None = None) -> list[int]:
    """Return the positions of start codes 00 00 01, or of those that are followed by a byte."""
    wanted = b"\0\0\1" if code is None else bytes((0, 0, 1, code))
    found, at = [], data.find(wanted)
    while 0 <= at < len(data) - 3:
        found.append(at)
        at = data.find(wanted, at + 3)
    return found


class PictureCounter:
    """Counts the pictures of packets of MPEG-4, VP8 and VP9, which may be hidden or not coded."""

    def __init__(self, codec: str, extradata: bytes) -> None:
        self.codec = codec
        self.time_bits = _mpeg4_time_bits(extradata) if codec == "mpeg4" else None

    def count(self, data: memoryview) -> int:
        """Return how many pictures a packet gives: 0, 1, or 2 in a packed bitstream."""
        if self.codec == "vp8":
            return data[0] >> 4 & 1
        if self.codec == "vp9":
            # A superframe, whose last byte is its index's marker, has a shown frame.
            if data[0] >> 6 != 2 or data[-1] & 0xE0 == 0xC0:
                return 1
            bits = f"{data[0]:08b}"[4 + (data[0] & 0x30 == 0x30) :]
            return int(bits[0] == "1" or bits[2] == "1")  # show_existing_frame, show_frame
        if self.codec != "mpeg4":
            return 1
        content = bytes(data)
        self.time_bits = _mpeg4_time_bits(content) or self.time_bits
        if self.time_bits is None:
            return 1
        planes = _start_codes(content, 0xB6)
        return sum(_is_coded_vop(content, at, self.time_bits) for at in planes) if planes else 1


def _mpeg4_time_bits(data: bytes) -> int | None:
    """Return the length of `vop_time_increment` by a video object layer header (ISO 14496-2, 6.2.3)."""
    for at in (each for code in range(0x20, 0x30) for each in _start_codes(data, code)):
        bits = "".join(f"{byte:08b}" for byte in data[at + 4 : at + 32])
        place, version = 9, 1
        if bits[place : place + 1] == "1":
            version, place = int(bits[place + 1 : place + 5] or "1", 2), place + 7
        place += 1
        place += 20 if bits[place : place + 4] == "1111" else 4
        if bits[place : place + 1] == "1":  # vol_control_parameters
            place += 83 if bits[place + 4 : place + 5] == "1" else 4
        shape = bits[place + 1 : place + 3]
        place += 3 + (4 if shape == "11" and version != 1 else 0) + 1
        resolution = bits[place : place + 16]
        if len(resolution) == 16:
            return max(1, (int(resolution, 2) - 1).bit_length())
    return None


def _is_coded_vop(data: bytes, at: int, time_bits: int) -> bool:
    """Return whether a video object plane is coded (6.2.5): otherwise the previous picture stays."""
    bits = "".join(f"{byte:08b}" for byte in data[at + 4 : at + 16])
    place = 2
    while bits[place : place + 1] == "1":  # modulo_time_base
        place += 1
    return bits[place + 2 + time_bits + 1 : place + 2 + time_bits + 2] != "0"
