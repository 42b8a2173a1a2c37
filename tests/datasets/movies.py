"""Small video files with what real ones have wrong: made on the spot, each frame spelling its number."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

BITS = 8
MILLISECOND = Fraction(1, 1000)


def numbered(index: int, width: int = 64, height: int = 64) -> NDArray[np.uint8]:
    """A picture that spells its number: column k is bright where bit k is set. Its upper left is dark."""
    columns = np.array([(index >> bit) & 1 for bit in range(BITS)], dtype=np.uint8) * 180 + 40
    row = np.repeat(columns, -(-width // BITS))[:width]
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def spelled(picture: NDArray[np.uint8]) -> int:
    """The number that a picture spells."""
    width = -(-picture.shape[1] // BITS)
    means = [picture[:, bit * width : (bit + 1) * width].mean() for bit in range(BITS)]
    return sum(1 << bit for bit, mean in enumerate(means) if mean > 130)


def write(
    path: Path,
    frames: int = 60,
    codec: str = "libx264",
    size: tuple[int, int] = (64, 64),
    pixels: str = "yuv420p",
    milliseconds: Sequence[int] | None = None,
    turn: int | None = None,
    key_frames: int = 20,
    **movie: str,
) -> Path:
    """A file of numbered frames, ten a second or at the given times; `turn` goes into its display matrix."""
    options = {"bf": "3", "g": str(key_frames), "threads": "1"} if codec == "libx264" else {}
    with av.open(str(path), "w", options=movie) as container:
        stream: Any = container.add_stream(codec, rate=10, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pixels
        if turn is not None:
            stream.set_display_rotation(turn)
        if milliseconds is not None:
            stream.time_base = stream.codec_context.time_base = MILLISECOND
        for index in range(frames):
            frame = av.VideoFrame.from_ndarray(numbered(index, *size), format="rgb24")
            if milliseconds is not None:
                frame.pts, frame.time_base = milliseconds[index], MILLISECOND
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def damage(path: Path, begin: float, end: float) -> Path:
    """Overwrite a part of a file, given as fractions of its length, with zeros."""
    content = bytearray(path.read_bytes())
    first, last = int(begin * len(content)), int(end * len(content))
    content[first:last] = bytes(last - first)
    path.write_bytes(content)
    return path
