"""A replica of AdaTAD (arXiv 2311.17241), fitted to the memory that two public training logs name.

Temporal-informative adapters inside a frozen, checkpointed VideoMAE: after each block a residual bottleneck
whose depth-wise convolution runs over all time steps of the window, so that clips mix. Beside the model the
logged runs held an averaged copy of it and the gradient buckets of distributed training.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from bench.config.presets import STANDARD
from bench.config.protocol import MemoryOptions, Protocol
from bench.memory.cuda_ops import SMALL_WORKSPACE
from bench.models import build_backbone, build_head
from bench.models.backbone import Backbone
from bench.plan.forecast import Target, TraceSettings, forecast
from bench.training.detector import Detector
from strategies.base import Rule, Stage

LOGGED_CUDA = Target(workspace_bytes=SMALL_WORKSPACE, keeps_workspaces=True)
"""The PyTorch of the logs, which was older than 2.11: each thread keeps a small cuBLAS workspace."""


class TemporalAdapter(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width // 4
        self.down = nn.Linear(width, inner)
        self.temporal = nn.Conv1d(inner, inner, 3, padding=1, groups=inner)
        self.point = nn.Conv1d(inner, inner, 1)
        self.up = nn.Linear(inner, width)
        self.gamma = nn.Parameter(torch.ones(1))
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Return (S, t*h*w, D) of the same: the clips of one window."""
        steps, cells = grid[0], grid[1] * grid[2]
        hidden = F.gelu(self.down(tokens))
        series = hidden.unflatten(1, (steps, cells)).flatten(0, 1).permute(1, 2, 0)
        mixed = self.point(self.temporal(series)).permute(2, 0, 1).unflatten(0, (-1, steps)).flatten(1, 2)
        return tokens + self.up(hidden + mixed) * self.gamma.to(tokens.dtype)


class AdaTADBackbone(Backbone):
    def __init__(self, inner: Backbone) -> None:
        super().__init__()
        self.inner: Any = inner
        self.geometry = inner.geometry
        self.adapters = nn.ModuleList(TemporalAdapter(inner.geometry.width) for _ in self.inner.blocks)

    def tokens(self, clips: Tensor, window_clips: int = 1) -> Tensor:
        embedded = self.inner.patch_embed(clips)
        grid = tuple(embedded.shape[1:4])
        tokens = embedded.flatten(1, 3)
        tokens = tokens + self.inner._positions(grid, tokens.device).to(tokens.dtype)
        for block, adapter in zip(self.inner.blocks, self.adapters, strict=True):
            # Without a graph behind it, the first block has nothing to recompute.
            tokens = checkpoint(block, tokens, use_reentrant=False) if tokens.requires_grad else block(tokens)
            tokens = adapter(tokens, grid)
        return tokens.unflatten(1, grid)


@dataclasses.dataclass(frozen=True)
class AdaTAD:
    name: ClassVar[str] = "adatad"

    def adapt(self, backbone: Backbone) -> Backbone:
        return AdaTADBackbone(backbone)

    def stages(self) -> tuple[Stage, ...]:
        # Fitted: the scale stays out, for training it keeps one more tensor for each block than was logged.
        adapters = Rule(r"backbone\.adapters\..*\.(weight|bias)")
        return (Stage("adapters", (adapters, Rule(r"head\..*"))),)


def logged_protocol(image_size: int) -> Protocol:
    """Return the logged configuration: 768 frames as 48 clips of 16, half precision, nothing made lean.

    Half precision is bfloat16 here and float16 there: the same bytes.
    """
    lean = MemoryOptions(
        fused_optimizer=False, low_precision_frozen=False, average_on_host=False, move_per_pass=False
    )
    return dataclasses.replace(
        STANDARD, image_size=image_size, ema_decay=None, backward="checkpointed", lean=lean
    )


def logged_build(model: str, protocol: Protocol) -> Callable[[], tuple[Detector, Callable[[], Any]]]:
    """Return what builds the detector together with its averaged copy and its buckets."""

    def build() -> tuple[Detector, Callable[[], Any]]:
        backbone = AdaTAD().adapt(build_backbone(model, image_size=protocol.image_size))
        keywords = protocol.head.keywords(768)

        def head() -> Any:
            return build_head(input_dim=backbone.geometry.width, num_classes=20, **keywords)

        detector = Detector(backbone, head())
        # Wrapped before anything is frozen, so that the buckets cover all parameters. Whoever loads the
        # frames holds them in float32 throughout the step.
        held = [torch.empty_like(p) for _ in range(2) for p in detector.parameters()]
        beside = nn.Module()
        for number, tensor in enumerate((*held, torch.empty(1, 3, 768, 160, 160))):
            beside.register_buffer(f"held_{number}", tensor)
        detector.held_beside = beside
        return detector, head

    return build


def forecast_mebibytes(model: str, image_size: int) -> float:
    """Return the predicted allocated peak of the logged configuration. Changes the process: use a new one."""
    protocol = logged_protocol(image_size)
    settings = TraceSettings(target=LOGGED_CUDA)
    found = forecast(model, AdaTAD(), protocol, settings, build=logged_build(model, protocol))
    return found.peak_bytes / 2**20
