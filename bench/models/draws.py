"""Random draws that belong to samples: the same however a batch is divided.

A batch may be split between processes and into parts that pass one after the other. Each part then draws for
all of the batch and uses what belongs to its own samples, so that a window loses the same branches in any
division, and all generators stay in step.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor


@dataclasses.dataclass(frozen=True)
class Share:
    """Where the samples at hand lie in the batch: how many come before them, are they, and follow."""

    before: int
    count: int
    after: int

    def scaled(self, factor: int) -> Share:
        """Return the same where each sample consists of ``factor`` smaller ones."""
        return Share(self.before * factor, self.count * factor, self.after * factor)


_current: contextvars.ContextVar[Share | None] = contextvars.ContextVar("share", default=None)


def current_share() -> Share | None:
    """Return the share that is drawn for, or None where the samples at hand are all there are."""
    return _current.get()


@contextlib.contextmanager
def drawing_for(share: Share | None) -> Iterator[None]:
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
