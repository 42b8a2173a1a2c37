"""Random draws that belong to samples: the same however a batch is divided.

A batch may be split between processes and into parts that pass one after the other. Each part then draws for
all of the batch and uses what belongs to its own samples, so that a window loses the same branches in any
division, and all generators stay in step.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import hashlib
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

RandomState = tuple[Tensor, Tensor | None]


@dataclasses.dataclass(frozen=True)
class BatchSlice:
    """Where the samples at hand lie in the batch: how many come before them, are they, and follow."""

    before: int
    count: int
    after: int

    def scaled(self, factor: int) -> BatchSlice:
        """Return the same where each sample consists of ``factor`` smaller ones."""
        return BatchSlice(self.before * factor, self.count * factor, self.after * factor)


_current: contextvars.ContextVar[BatchSlice | None] = contextvars.ContextVar("share", default=None)


def current_batch_slice() -> BatchSlice | None:
    """Return the share that is drawn for, or None where the samples at hand are all there are."""
    return _current.get()


@contextlib.contextmanager
def batch_slice_context(share: BatchSlice | None) -> Iterator[None]:
    """Let ``uniform`` draw for samples that are a share of a batch."""
    token = _current.set(share)
    try:
        yield
    finally:
        _current.reset(token)


def uniform(
    count: int, *shape: int, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Tensor:
    """Return (count, *shape) draws from [0, 1), a row for each sample at hand.

    ``count`` is a multiple of the current share's: a window's clips, say, are samples too.
    """
    share = _current.get()
    if share is None or share.before == share.after == 0:
        return torch.rand(count, *shape, dtype=dtype, device=device)
    each, rest = divmod(count, share.count)
    assert rest == 0, (count, share)
    whole = share.scaled(each)
    rows = torch.rand(whole.before + whole.count + whole.after, *shape, dtype=dtype, device=device)
    return rows[whole.before : whole.before + whole.count]


def random_state(device: torch.device) -> RandomState:
    """Return the states of the host's and, on CUDA, of the device's generator."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Put the states of ``random_state`` back."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


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
