"""Bytes of a training step of a video classifier, traced on fake tensors as ``bench.plan`` does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.memory.tracker import StorageTracker
from bench.plan.forecast import Target, make_tracker

OLD_CUDA = Target("cuda", 0)
"""PyTorch before 1.13, which takes cuBLAS workspaces from the driver and not from the caching allocator."""


@dataclasses.dataclass(frozen=True)
class Peak:
    allocated: int
    reserved: int


@dataclasses.dataclass(frozen=True)
class Step:
    """One step: videos of one shape on one GPU of several, float32, gradients averaged over the GPUs."""

    build: Callable[[], nn.Module]
    videos: tuple[int, ...]
    """Shape of the input, the videos of one GPU first."""
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]
    loss: Callable[[Tensor], Tensor]
    buckets: bool = True
    """Whether ``DistributedDataParallel`` holds buckets of all trained parameters."""


def momentum_sgd(parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, 0.01, momentum=0.9, weight_decay=1e-4, foreach=False)


def cross_entropy(scores: Tensor) -> Tensor:
    return F.cross_entropy(scores, torch.zeros(len(scores), dtype=torch.long))


def forecast_step(step: Step, target: Target = OLD_CUDA) -> Peak:
    """Return the peak of the second step. Changes the process: use a new one.

    Gradients exist from the first step on and are set to zero before the backward pass, as ``zero_grad`` did
    by default before PyTorch 2.0.
    """
    tracker = make_tracker(target)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = step.build()
        model.train()
        trained = [each for each in model.parameters() if each.requires_grad]
        with tracker:
            tracker.label_module(model)
            buckets = [torch.empty_like(each) for each in trained] if step.buckets else []
            optimizer = step.optimizer(trained)
            for _ in range(2):
                tracker.reset_peaks()
                _run(step, model, optimizer, tracker)
        del buckets
    tracker.close()
    assert tracker.allocator is not None
    return Peak(max(peak.total for peak in tracker.peaks.values()), tracker.allocator.reserved)


def _run(step: Step, model: nn.Module, optimizer: torch.optim.Optimizer, tracker: StorageTracker) -> None:
    with tracker.phase("load"):
        videos = torch.empty(step.videos)
    with tracker.phase("forward"):
        loss = step.loss(model(videos))
        del videos
    optimizer.zero_grad(set_to_none=False)
    with tracker.phase("backward"):
        loss.backward()
    with tracker.phase("optimizer"):
        torch.nn.utils.clip_grad_norm_(model.parameters(), 20, foreach=False)
        optimizer.step()
        tracker.label_optimizer(optimizer)
