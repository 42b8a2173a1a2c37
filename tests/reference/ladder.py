"""Ladder side-tuning on features, one video, step and rung at a time, in NumPy (arXiv 2206.06522, 3.2)."""

from __future__ import annotations

import math

import numpy as np

Arrays = dict[str, np.ndarray]


def normed(values: np.ndarray, weights: Arrays, name: str) -> np.ndarray:
    """Return a layer norm of one vector."""
    centred = values - values.mean()
    scaled = centred / math.sqrt((centred**2).mean() + 1e-5)
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def linear(values: np.ndarray, weights: Arrays, name: str) -> np.ndarray:
    return weights[f"{name}.weight"] @ values + weights[f"{name}.bias"]


def block(states: list[np.ndarray], valid: list[bool], weights: Arrays, name: str) -> list[np.ndarray]:
    """Return the states after norm, temporal convolution of three steps and MLP, plus themselves."""
    inside = [
        normed(state, weights, f"{name}.norm") if shown else np.zeros_like(state)
        for state, shown in zip(states, valid, strict=True)
    ]
    kernel = weights[f"{name}.dwconv.weight"][:, 0]
    result = []
    for time, state in enumerate(states):
        mixed = weights[f"{name}.dwconv.bias"].astype(float)
        for offset in (-1, 0, 1):
            if 0 <= time + offset < len(states):
                mixed = mixed + kernel[:, offset + 1] * inside[time + offset]
        hidden = linear(mixed, weights, f"{name}.expand")
        hidden = np.array([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in hidden])
        result.append(state + linear(hidden, weights, f"{name}.reduce"))
    return result


def features(
    taps: list[np.ndarray], last: np.ndarray, valid: list[bool], weights: Arrays, temperature: float
) -> np.ndarray:
    """Return (T, D): ``last`` (T, D) plus what the ladder makes of the taps (T, D_i) of one window."""
    states: list[np.ndarray] = []
    for number, tap in enumerate(taps):
        taken = [linear(step, weights, f"rungs.{number}.down") for step in tap]
        if number:
            gate = 1 / (1 + math.exp(-weights[f"rungs.{number}.alpha"][0] / temperature))
            taken = [gate * new + (1 - gate) * old for new, old in zip(taken, states, strict=True)]
        states = block(taken, valid, weights, f"rungs.{number}.block")
    return last + np.stack([linear(normed(state, weights, "norm"), weights, "up") for state in states])
