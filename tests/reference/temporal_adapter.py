"""AdaTAD's adapter, one window, cell and step at a time, in NumPy: section 3.3 of arXiv 2311.17241."""

from __future__ import annotations

import math

import numpy as np

Arrays = dict[str, np.ndarray]


def gelu(values: np.ndarray) -> np.ndarray:
    """Return x times the normal distribution function of x."""
    return values * np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in values])


def change(tokens: np.ndarray, window_clips: int, weights: Arrays) -> np.ndarray:
    """Return gamma up(z + conv(dwconv(z))), z = GELU(down x), of tokens (clips, t, h, w, D)."""
    clips, steps, height, width, _ = tokens.shape
    kernel = weights["dwconv.weight"].shape[2]
    result = np.empty((*tokens.shape[:4], len(weights["up_proj.bias"])))
    for first in range(0, clips, window_clips):
        for row in range(height):
            for column in range(width):
                series = [
                    gelu(
                        weights["down_proj.weight"] @ tokens[clip, step, row, column]
                        + weights["down_proj.bias"]
                    )
                    for clip in range(first, first + window_clips)
                    for step in range(steps)
                ]
                for time, hidden in enumerate(series):
                    mixed = weights["dwconv.bias"].astype(float)
                    for offset in range(kernel):
                        other = time + offset - kernel // 2
                        if 0 <= other < len(series):
                            mixed = mixed + weights["dwconv.weight"][:, 0, offset] * series[other]
                    mixed = weights["conv.weight"][:, :, 0] @ mixed + weights["conv.bias"]
                    expanded = weights["up_proj.weight"] @ (hidden + mixed) + weights["up_proj.bias"]
                    clip, step = first + time // steps, time % steps
                    result[clip, step, row, column] = weights["gamma"][0] * expanded
    return result
