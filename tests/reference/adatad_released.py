"""AdaTAD (arXiv 2311.17241) as released in OpenTAD at commit 3dd7b03, and what its training holds beside it.

Read from ``opentad/models/backbones/vit_adapter.py``, ``configs/adatad/thumos``, ``tools/train.py`` and
``opentad/utils/ema.py``; no line is copied. Nothing here was chosen by its bytes:

- The residual stream is float32: the position table is a float32 buffer, added outside autocast's casts.
- The adapter lies inside the block's checkpoint (re-entrant, the default of the named PyTorch 2.0.1). The
  first block, whose input needs no gradient, is not checkpointed. The scale gamma is trained.
- ``DistributedDataParallel`` wraps the detector before anything is frozen, so its gradient buckets cover all
  parameters. ``ModelEma`` makes a deep copy of the *wrapped* detector. A copy of a wrapped module builds its
  own reducer (``DistributedDataParallel.__setstate__``), hence a second set of buckets.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.checkpoint import checkpoint

from bench.config.presets import STANDARD
from bench.config.protocol import MemoryOptions, Protocol
from bench.features.encode import autocast
from bench.models import build_backbone, build_head
from bench.models.backbone import Backbone
from bench.plan.forecast import Forecast, TraceSettings, forecast, make_tracker
from bench.training.detector import Detector
from strategies.base import Rule, Stage
from tests.reference.adatad import LOGGED_CUDA

FRAMES = 768
CLASSES = 20
COPIES = ("averaged", "buckets", "buckets_of_the_averaged")
"""What training holds of every parameter, beside the parameter itself."""


class Adapter(nn.Module):
    """The temporal-informative adapter: a bottleneck with a convolution over all steps of the window."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = int(width * 0.25)
        self.dwconv = nn.Conv1d(inner, inner, 3, padding=1, groups=inner)
        self.conv = nn.Conv1d(inner, inner, 1)
        self.down_proj = nn.Linear(width, inner)
        self.up_proj = nn.Linear(inner, width)
        self.gamma = nn.Parameter(torch.ones(1))

    def forward(self, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        """Return (S, t*h*w, D) of the same: all clips of one window."""
        hidden = F.gelu(self.down_proj(tokens))
        cells = hidden.unflatten(1, tuple(grid)).flatten(0, 1)
        series = cells.permute(1, 2, 3, 0).flatten(0, 1)
        mixed = self.conv(self.dwconv(series))
        back = mixed.unflatten(0, tuple(grid[1:])).permute(3, 0, 1, 2)
        hidden = hidden + back.reshape(hidden.shape)
        return self.up_proj(hidden) * self.gamma + tokens


class ReleasedBackbone(Backbone):
    """A frozen VideoMAE whose blocks end with an adapter."""

    def __init__(self, inner: Backbone) -> None:
        super().__init__()
        self.inner: Any = inner
        self.geometry = inner.geometry
        self.adapters = nn.ModuleList(Adapter(inner.geometry.width) for _ in self.inner.blocks)

    def tokens(self, clips: Tensor, window_clips: int = 1) -> Tensor:
        embedded = self.inner.patch_embed(clips)
        grid = tuple(embedded.shape[1:4])
        tokens = embedded.flatten(1, 3)
        tokens = tokens + self.inner._positions(grid, tokens.device)
        for index in range(len(self.adapters)):
            tokens = self.run(index, tokens, grid)
        return tokens.unflatten(1, grid)

    def run(self, index: int, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        if not tokens.requires_grad:
            return self.block(index, tokens, grid)
        # The random state is that of the generator, which takes no memory of the device.
        return checkpoint(self.block, index, tokens, grid, use_reentrant=True, preserve_rng_state=False)

    def block(self, index: int, tokens: Tensor, grid: Sequence[int]) -> Tensor:
        block = self.inner.blocks[index]
        tokens = tokens + self.dropped(block.attn(block.norm1(tokens)), block.keep)
        tokens = tokens + self.dropped(block.mlp(block.norm2(tokens)), block.keep)
        return self.adapters[index](tokens, grid)

    def dropped(self, branch: Tensor, keep: float) -> Tensor:
        if keep == 1 or not self.training:
            return branch
        kept = keep + torch.rand(branch.shape[0], 1, 1, dtype=branch.dtype, device=branch.device)
        return branch.div(keep) * kept.floor_()


@dataclasses.dataclass(frozen=True)
class Released:
    """The adapters, their scale among them, and the head train."""

    name: ClassVar[str] = "adatad-released"

    def adapt(self, backbone: Backbone) -> Backbone:
        return ReleasedBackbone(backbone)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("adapters", (Rule(r"backbone\.adapters\..*"), Rule(r"head\..*"))),)


def released_protocol(image_size: int) -> Protocol:
    """Return the released configuration: one window of 768 frames a GPU, AdamW, full attention in the head.

    Differs: bfloat16 for float16, the same bytes; casts of trained weights are not cached by autocast.
    """
    lean = MemoryOptions(
        fused_optimizer=False, low_precision_frozen=False, average_on_host=False, move_per_pass=False
    )
    head = dataclasses.replace(STANDARD.head, n_mha_win_size=-1)
    changes = {"image_size": image_size, "ema_decay": None, "backward": "checkpointed", "lean": lean}
    return dataclasses.replace(STANDARD, head=head, **changes)


def build_released(
    strategy: Released, model: str, protocol: Protocol, copies: Sequence[str] = COPIES
) -> tuple[Detector, Callable[[], Any]]:
    """Return the detector with the copies of its parameters, and a function that makes a head."""
    backbone = strategy.adapt(build_backbone(model, image_size=protocol.image_size))
    keywords = protocol.head.keywords(FRAMES)

    def head() -> Any:
        return build_head(input_dim=backbone.geometry.width, num_classes=CLASSES, **keywords)

    detector = Detector(backbone, head())
    detector.beside = held_beside(tuple(detector.parameters()), copies)
    return detector, head


def held_beside(parameters: Sequence[Tensor], copies: Sequence[str]) -> nn.Module:
    """Return a module with copies of the parameters as buffers: who counts the model counts them."""
    beside = nn.Module()
    for kind in copies:
        for number, parameter in enumerate(parameters):
            beside.register_buffer(f"{kind}_{number}", torch.empty_like(parameter))
    return beside


def forecast_adapters(
    strategy: Released, model: str, image_size: int, copies: Sequence[str] = COPIES
) -> Forecast:
    """Return the forecast of a training step. Changes the process: use a new one."""
    protocol = released_protocol(image_size)
    build = functools.partial(build_released, strategy, model, protocol, copies)
    return forecast(model, strategy, protocol, TraceSettings(target=LOGGED_CUDA), build=build)


def forecast_released(model: str, image_size: int, copies: Sequence[str] = COPIES) -> Forecast:
    return forecast_adapters(Released(), model, image_size, copies)


def forecast_inference(model: str, image_size: int) -> tuple[int, int]:
    """Return allocated and reserved bytes of one window without gradients.

    The window goes through the backbone at once, as in OpenTAD; the detector is not wrapped or copied.
    Changes the process: use a new one.
    """
    protocol = released_protocol(image_size)
    tracker = make_tracker(LOGGED_CUDA)
    with FakeTensorMode(allow_non_fake_inputs=True):
        detector, _ = build_released(Released(), model, protocol, ())
        detector.eval()
        with tracker, torch.no_grad():
            tracker.label_module(detector)
            workspace = torch.empty(LOGGED_CUDA.workspace_bytes, dtype=torch.uint8)
            frames = torch.empty(48, 3, 16, image_size, image_size, dtype=torch.uint8)
            mask = torch.ones(1, FRAMES, dtype=torch.bool)
            with autocast(torch.device("cpu"), protocol.precision):
                (pooled,) = detector.backbone.encode(detector.backbone.normalise(frames))
                features = F.interpolate(pooled.flatten(0, 1).T[None].float(), FRAMES, mode="linear")
                detector.head(features, mask)
            del workspace
    tracker.close()
    assert tracker.allocator is not None
    return max(peak.total for peak in tracker.peaks.values()), tracker.allocator.reserved
