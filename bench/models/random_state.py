"""Random draws per sample that do not depend on how a batch is divided.

A batch may be split between processes and into micro-batches. Each part then draws for the whole batch and
uses the draws of its own samples, so that the same branches of a window are dropped in any division, and all
generators stay synchronized.
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
    """The position of some samples in the batch: how many come before them, their count, how many follow."""

    before: int
    count: int
    after: int

    def scaled(self, factor: int) -> BatchSlice:
        """Return the same slice if each sample consists of ``factor`` smaller ones."""
        return BatchSlice(self.before * factor, self.count * factor, self.after * factor)


@dataclasses.dataclass(frozen=True)
class BatchRows:
    """Some samples of a batch, by their indices; ``total`` is the size of the batch."""

    rows: tuple[int, ...]
    total: int


_current: contextvars.ContextVar[BatchSlice | BatchRows | None] = contextvars.ContextVar(
    "share", default=None
)


def current_batch_slice() -> BatchSlice | None:
    """Return the current batch slice, or None if the samples are the whole batch."""
    share = _current.get()
    assert not isinstance(share, BatchRows)
    return share


@contextlib.contextmanager
def batch_slice_context(share: BatchSlice | BatchRows | None) -> Iterator[None]:
    """Set the samples of the batch for which ``uniform`` draws."""
    token = _current.set(share)
    try:
        yield
    finally:
        _current.reset(token)


def checkpoint_contexts() -> tuple[
    contextlib.AbstractContextManager[None], contextlib.AbstractContextManager[None]
]:
    """Return the contexts of a checkpointed forward pass and of its repetition in the backward pass.

    The repetition draws for the same samples, although it runs later, and on CUDA in another thread.
    """
    return contextlib.nullcontext(), batch_slice_context(_current.get())


def uniform(
    count: int, *shape: int, dtype: torch.dtype | None = None, device: torch.device | None = None
) -> Tensor:
    """Return (count, *shape) draws from [0, 1), one row per sample of the current slice.

    ``count`` is a multiple of the current slice's: the clips of a window, for example, are samples too.
    """
    share = _current.get()
    if isinstance(share, BatchRows):
        each, rest = divmod(count, len(share.rows))
        assert rest == 0, (count, share)
        drawn = torch.rand(share.total, each, *shape, dtype=dtype, device=device)
        return torch.cat([drawn[row] for row in share.rows])
    if share is None or share.before == share.after == 0:
        return torch.rand(count, *shape, dtype=dtype, device=device)
    each, rest = divmod(count, share.count)
    assert rest == 0, (count, share)
    whole = share.scaled(each)
    rows = torch.rand(whole.before + whole.count + whole.after, *shape, dtype=dtype, device=device)
    return rows[whole.before : whole.before + whole.count]


def random_state(device: torch.device) -> RandomState:
    """Return the states of the host's generator and, on CUDA, of the device's."""
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Restore the states that ``random_state`` returned."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)


def derived_seed(seed: int, *names: object) -> int:
    """Return a seed for one purpose, so that the draws of different parts are independent."""
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
    """Restore the states that ``random_values`` returned."""
    name, keys, *rest = values["numpy"]
    random.setstate(values["python"])
    np.random.set_state((name, np.array(keys, dtype=np.uint32), *rest))
    torch.set_rng_state(values["torch"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(values["cuda"], device)
