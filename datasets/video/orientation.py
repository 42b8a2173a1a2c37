"""How decoded frames are turned and mirrored for display."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from av.sidedata.sidedata import Type as SideData
from numpy.typing import NDArray


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
