"""The position table of VideoMAE, and its resizing, one number at a time, in double precision.

The formula is that of Vaswani et al. (2017) over the index of the flattened tokens. Bicubic interpolation is
Keys' kernel with a = -0.75, as in PyTorch and OpenCV, with cells' centres kept and the border repeated.
"""

from __future__ import annotations

import math

import numpy as np


def table(steps: int, side: int, width: int) -> np.ndarray:
    """Return (steps, side, side, width): channels 2i and 2i + 1 are sin, cos of index / 10000^(2i/width)."""
    result = np.empty((steps * side * side, width))
    for index in range(len(result)):
        for channel in range(width):
            angle = index / 10000 ** (2 * (channel // 2) / width)
            result[index, channel] = math.cos(angle) if channel % 2 else math.sin(angle)
    return result.reshape(steps, side, side, width)


def cubic(distance: float, a: float = -0.75) -> float:
    """Return Keys' kernel."""
    x = abs(distance)
    if x <= 1:
        return (a + 2) * x**3 - (a + 3) * x**2 + 1
    return a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a if x < 2 else 0.0


def linear(distance: float) -> float:
    """Return the triangle of width 2."""
    return max(0.0, 1 - abs(distance))


def resized(values: np.ndarray, axis: int, size: int, kernel: str) -> np.ndarray:
    """Return ``values`` with ``size`` cells along an axis."""
    source = np.moveaxis(values, axis, 0)
    count = len(source)
    weigh = cubic if kernel == "cubic" else linear
    result = np.zeros((size, *source.shape[1:]))
    for cell in range(size):
        place = (cell + 0.5) * count / size - 0.5
        for near in range(math.floor(place) - 1, math.floor(place) + 3):
            result[cell] += weigh(place - near) * source[min(max(near, 0), count - 1)]
    return np.moveaxis(result, 0, axis)


def positions(grid: tuple[int, int, int], pretrained: tuple[int, int, int], width: int) -> np.ndarray:
    """Return (L, width): the table of the pre-training grid for the tokens of another grid."""
    values = table(pretrained[0], pretrained[1], width)
    for axis, kernel in ((1, "cubic"), (2, "cubic"), (0, "linear")):
        if grid[axis] != pretrained[axis]:
            values = resized(values, axis, grid[axis], kernel)
    return values.reshape(-1, width)
