"""Which attention kernels ran in a training step, as PyTorch's profiler saw them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import torch
from torch.autograd.profiler import profile

OPERATION = re.compile(r"\Aaten::_\w*(attention|flash)")
"""PyTorch's operations on one kernel; the public one without an underscore only chooses among them."""
KERNEL = re.compile(r"flash|fmha|sdpa|attention", re.IGNORECASE)
"""CUDA kernels of FlashAttention, of CUTLASS's memory-efficient attention and of cuDNN."""
MAX_LENGTH = 120


def attention_kernels(step: Callable[[], object], device: torch.device) -> set[str]:
    """Run ``step`` under the profiler; return the names of attention's operations and CUDA kernels.

    Arguments of templates are left out. On a CPU the operations are all there is.
    """
    cuda = device.type == "cuda"
    with profile(use_device="cuda" if cuda else None, use_kineto=True) as profiled:
        step()
        if cuda:
            torch.cuda.synchronize(device)
    # The raw results: a step of a streamed ViT-g has 10^6 events, of which ``events()`` would build a tree.
    results = profiled.kineto_results
    assert results is not None
    return attention_names((event.name(), event.device_type().name == "CUDA") for event in results.events())


def attention_names(events: Iterable[tuple[str, bool]]) -> set[str]:
    """Return the shortened names of attention's operations and kernels.

    ``events`` are the profiler's names, and whether each is an event of the device.
    """
    found = set()
    for name, on_device in set(events):
        plain = re.split(r"[<(]", name.removeprefix("void "), maxsplit=1)[0]
        if (KERNEL if on_device else OPERATION).search(plain):
            found.add(plain[:MAX_LENGTH])
    return found
