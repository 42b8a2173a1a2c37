"""Seeds of their own for every purpose, and the states of the generators that they start."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch


def derived_seed(seed: int, *names: object) -> int:
    """Return a seed for one purpose, so that what one part draws never shifts what another draws."""
    text = ":".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")


def random_values(device: torch.device) -> dict[str, Any]:
    """Return the states of all generators as plain values and tensors."""
    name, keys, *rest = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": [str(name), np.asarray(keys).tolist(), *rest],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
    }


def restore_random(values: Mapping[str, Any], device: torch.device) -> None:
    """Put back the states that ``random_values`` returned."""
    name, keys, *rest = values["numpy"]
    random.setstate(values["python"])
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(values["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(values["cuda"], device)
