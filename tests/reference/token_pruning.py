"""Token pruning by loops over clips, steps and tokens, in NumPy and double precision.

A score is the softmax over the tokens of a step of q k / sqrt(d) with q the mean query of the step, averaged
over heads. An adapter is x + up(h + conv(h)), h = GELU(down x), with a depth-wise 3 x 3 convolution whose
neighbours are the kept tokens.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def scores(query: Array, key: Array) -> Array:
    """Return (k,) of the queries and keys (heads, k, d) of one step's tokens."""
    total = np.zeros(query.shape[1])
    for head in range(query.shape[0]):
        mean = sum(query[head, place] for place in range(query.shape[1])) / query.shape[1]
        found = [
            math.exp(float(mean @ key[head, place]) / math.sqrt(key.shape[2])) for place in range(len(total))
        ]
        total += np.array(found) / sum(found) / query.shape[0]
    return total


def kept(found: Array, count: int) -> list[int]:
    """Return the indices of the ``count`` best scores, ascending."""
    return sorted(sorted(range(len(found)), key=lambda place: -found[place])[:count])


def gelu(x: Array) -> Array:
    return np.array([each * 0.5 * (1 + math.erf(each / math.sqrt(2))) for each in x.ravel()]).reshape(x.shape)


def adapter(tokens: Array, cells: list[int], width: int, weights: dict[str, Array]) -> Array:
    """Return (k, D) of one step's tokens (k, D) at ``cells`` of a grid of ``width`` columns."""
    hidden = gelu(tokens @ weights["down.weight"].T + weights["down.bias"])
    at = {divmod(cell, width): place for place, cell in enumerate(cells)}
    changed = np.zeros_like(tokens)
    for place, cell in enumerate(cells):
        row, column = divmod(cell, width)
        near = weights["conv.bias"].copy()
        for down in (-1, 0, 1):
            for right in (-1, 0, 1):
                if (neighbour := at.get((row + down, column + right))) is not None:
                    near += weights["conv.weight"][:, 0, down + 1, right + 1] * hidden[neighbour]
        changed[place] = weights["up.weight"] @ (hidden[place] + near) + weights["up.bias"]
    return tokens + changed
