"""Weights and inputs that are functions of a seed and a name: tests/golden/README.md defines them."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.models.backbones.vit_config import ViTConfig

GOLDEN = Path(__file__).parents[2] / "golden"


def case(name: str) -> dict[str, Any]:
    """Return seed, configuration and shapes of one case."""
    cases: dict[str, Any] = json.loads((GOLDEN / "models.json").read_text())
    return dict(cases[name])


def vit_config(name: str) -> ViTConfig:
    """Return the configuration of a case of VideoMAE."""
    given = case(name)["config"]
    return ViTConfig(
        width=given["embed_dim"],
        depth=given["depth"],
        heads=given["num_heads"],
        image_size=given["img_size"],
        patch_size=given["patch_size"],
        tubelet_size=given["tubelet_size"],
        clip_frames=given["all_frames"],
        mlp_ratio=given["mlp_ratio"],
    )


def arrays(name: str) -> dict[str, np.ndarray]:
    """Return the arrays of one case."""
    with np.load(GOLDEN / f"{name}.npz") as stored:
        return {key: stored[key] for key in stored}


def weights(seed: int, shapes: dict[str, list[int]]) -> dict[str, torch.Tensor]:
    """Return the state dict of a seed."""
    return {name: torch.from_numpy(weight(seed, name, tuple(shape))) for name, shape in shapes.items()}


def weight(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return one tensor of a seed."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()[:8]
    generator = np.random.Generator(np.random.PCG64(int.from_bytes(digest, "little")))
    values = np.asarray(generator.standard_normal(shape), dtype=np.float32)
    if len(shape) <= 1 or (len(shape) == 3 and shape[0] == 1):
        around = 1.0 if name.endswith(("weight", "scale")) else 0.0
        return np.asarray(around + np.float32(0.1) * values, dtype=np.float32)
    return (values / math.sqrt(math.prod(shape[1:]))).astype(np.float32)


def inputs(seed: int, shape: tuple[int, ...]) -> torch.Tensor:
    """Return the input of a seed."""
    generator = np.random.Generator(np.random.PCG64(seed))
    return torch.from_numpy(generator.standard_normal(shape).astype(np.float32))
