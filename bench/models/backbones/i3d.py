"""Inception-I3D on RGB (Carreira and Zisserman, CVPR 2017): GoogLeNet with all its filters inflated to 3-D.

Modules and tensors are named as in the usual PyTorch port (``Mixed_4f.b1b.conv3d.weight``), padding is
TensorFlow's "SAME", norms have eps 1e-3 and use their stored statistics in training too
(``bench.models.backbones.frozen_batch_norm``). Input is in [-1, 1]. The network's stride is 8 frames and 32
pixels.

Chosen: clips of 64 frames, as in the network's training; shorter clips are mostly padding for the last layer,
whose receptive field is 99 frames. Any other multiple of 8 is possible, down to one step of 8.

Shape legend: N clips, T frames, t = T/8 steps, h w the grid, D channels.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.backbone import Backbone, BackboneGeometry
from bench.models.backbones.frozen_batch_norm import StoredBatchNorm

if TYPE_CHECKING:
    from bench.models.pretrained import LoadAudit

Triple = tuple[int, int, int]
Branches = tuple[int, int, int, int, int, int]
FRAMES_PER_STEP = 8
TAPS = ("Conv3d_2c_3x3", "Mixed_3c", "Mixed_4f", "Mixed_5c")
"""The layers to tap: the last one before each spatial pooling, and the last layer."""
UNITS: dict[str, tuple[int, int, int]] = {  # channels, kernel, stride
    "Conv3d_1a_7x7": (64, 7, 2),
    "Conv3d_2b_1x1": (64, 1, 1),
    "Conv3d_2c_3x3": (192, 3, 1),
}
POOLS: dict[str, tuple[Triple, Triple]] = {  # kernel, stride
    "MaxPool3d_2a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_3a_3x3": ((1, 3, 3), (1, 2, 2)),
    "MaxPool3d_4a_3x3": ((3, 3, 3), (2, 2, 2)),
    "MaxPool3d_5a_2x2": ((2, 2, 2), (2, 2, 2)),
}
MIXED: dict[str, Branches] = {  # 1x1; 1x1, 3x3; 1x1, 3x3; 1x1 after a pooling
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
ORDER = (
    *("Conv3d_1a_7x7", "MaxPool3d_2a_3x3", "Conv3d_2b_1x1", "Conv3d_2c_3x3", "MaxPool3d_3a_3x3"),
    *("Mixed_3b", "Mixed_3c", "MaxPool3d_4a_3x3"),
    *("Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f", "MaxPool3d_5a_2x2"),
    *("Mixed_5b", "Mixed_5c"),
)


@dataclasses.dataclass(frozen=True)
class I3DConfig:
    """The configuration of an I3D; sizes are in pixels and frames."""

    image_size: int = 224
    clip_frames: int = 64
    narrowing: int = 1
    """All channel counts are divided by this (1, 2, 4 or 8); 1 is the published network."""
    checkpointing: bool = False
    """Recompute each layer's activations in the backward pass instead of keeping them."""


CONFIGS: dict[str, I3DConfig] = {"i3d": I3DConfig()}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the padding before and after one axis (TensorFlow's "SAME").

    It is the least padding that gives ceil(size / stride) outputs; an odd element is added after.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def _paddings(x: Tensor, kernel: Triple, stride: Triple) -> list[tuple[int, int]]:
    return [same_padding(*axis) for axis in zip(x.shape[2:], kernel, stride, strict=True)]


def _pad(x: Tensor, paddings: list[tuple[int, int]]) -> Tensor:
    return F.pad(x, [amount for pair in reversed(paddings) for amount in pair])


class SameConv3d(nn.Conv3d):
    """A convolution with TensorFlow's "SAME" padding. Its parameter names are those of the plain one."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, T', H', W')."""
        kernel, stride = cast("tuple[Triple, Triple]", (self.kernel_size, self.stride))
        paddings = _paddings(x, kernel, stride)
        if all(before == after for before, after in paddings):
            # The convolution pads internally, without a copy that backward would have to keep.
            before = [pair[0] for pair in paddings]
            return F.conv3d(x, self.weight, stride=stride, padding=before)
        return F.conv3d(_pad(x, paddings), self.weight, stride=stride)


class Unit(nn.Module):
    """A convolution, its norm and a ReLU."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.conv3d = SameConv3d(inputs, outputs, kernel, stride, bias=False)
        self.bn = StoredBatchNorm(outputs, eps=1e-3)
        # Without batch statistics, activations of torch's default initialisation vanish over forty layers.
        nn.init.kaiming_normal_(self.conv3d.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, T', H', W')."""
        return F.relu(self.bn(self.conv3d(x)), inplace=True)


class MaxPool(nn.Module):
    """Max pooling of nonnegative values, so that padding with 0 changes no maximum."""

    def __init__(self, kernel: Triple, stride: Triple) -> None:
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, T', H', W')."""
        paddings = _paddings(x, self.kernel, self.stride)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return self._axis_by_axis(x, paddings)
        if all(before == after for before, after in paddings):
            return F.max_pool3d(x, self.kernel, self.stride, padding=[pair[0] for pair in paddings])
        overhangs = zip(paddings, self.stride, strict=True)
        if all(before == 0 and after < stride for (before, after), stride in overhangs):
            # The same windows, the last one truncated at the border: no padded copy.
            return F.max_pool3d(x, self.kernel, self.stride, ceil_mode=True)
        return F.max_pool3d(_pad(x, paddings), self.kernel, self.stride)

    def _axis_by_axis(self, x: Tensor, paddings: list[tuple[int, int]]) -> Tensor:
        """Return the same maxima, bit for bit, 2 to 15 times faster on a CPU.

        The library's pooling also computes indices. With a graph, each axis would have to keep its result.
        """
        for axis in (4, 3, 2):
            kernel, stride = self.kernel[axis - 2], self.stride[axis - 2]
            if kernel == stride == 1:
                continue
            before, after = paddings[axis - 2]
            padded = F.pad(x, [0] * (2 * (4 - axis)) + [before, after])
            last = (padded.shape[axis] - kernel) // stride * stride
            rest = (slice(None),) * axis
            parts = (padded[(*rest, slice(first, first + last + 1, stride))] for first in range(kernel))
            x = functools.reduce(torch.maximum, parts)
        return x


class Inception(nn.Module):
    """Four parallel branches, concatenated: 1x1; 1x1 and 3x3; 1x1 and 3x3; pooling and 1x1."""

    def __init__(self, inputs: int, branches: Branches) -> None:
        super().__init__()
        self.b0 = Unit(inputs, branches[0], 1)
        self.b1a = Unit(inputs, branches[1], 1)
        self.b1b = Unit(branches[1], branches[2], 3)
        self.b2a = Unit(inputs, branches[3], 1)
        self.b2b = Unit(branches[3], branches[4], 3)
        self.b3a = MaxPool((3, 3, 3), (1, 1, 1))
        self.b3b = Unit(inputs, branches[5], 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, sum of the four branches' channels, T, H, W)."""
        branches = (self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(self.b3a(x)))
        return torch.cat(branches, dim=1)


class I3D(Backbone):
    """The I3D encoder. The layers to tap are ``TAPS``. ``checkpointing`` may be changed later."""

    load_audit: LoadAudit | None = None

    def __init__(self, config: I3DConfig) -> None:
        super().__init__()
        if config.clip_frames < 1 or config.clip_frames % FRAMES_PER_STEP:
            raise InputError(f"clip_frames {config.clip_frames}: allowed are multiples of {FRAMES_PER_STEP}")
        if config.image_size < 1:
            raise InputError(f"image_size {config.image_size}: allowed is 1 pixel or more")
        if config.narrowing not in (1, 2, 4, 8):
            raise InputError(f"narrowing {config.narrowing}: allowed are 1, 2, 4 and 8")
        self.config = config
        self.checkpointing = config.checkpointing
        channels, widths = 3, {}
        for name in ORDER:
            if name in UNITS:
                outputs, kernel, stride = UNITS[name]
                unit = Unit(channels, outputs // config.narrowing, kernel, stride)
                self.add_module(name, unit)
                channels = unit.conv3d.out_channels
            elif name in POOLS:
                self.add_module(name, MaxPool(*POOLS[name]))
            else:
                a, b, c, d, e, f = (width // config.narrowing for width in MIXED[name])
                self.add_module(name, Inception(channels, (a, b, c, d, e, f)))
                channels = a + c + e + f
            widths[name] = channels
        self.geometry = BackboneGeometry(
            clip_frames=config.clip_frames,
            frames_per_step=FRAMES_PER_STEP,
            image_size=config.image_size,
            # Any size works. Half of this network's stride keeps 112 of 224 pixels possible.
            size_multiple=16,
            width=channels,
            layer_widths=tuple(widths[name] for name in TAPS),
            mean=(0.5, 0.5, 0.5),
            std=(0.5, 0.5, 0.5),
        )

    def layer_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        ends = [ORDER.index(name) + 1 for name in TAPS]
        parts = zip([0, *ends], ends, strict=False)
        return tuple(tuple(map(self.get_submodule, ORDER[first:end])) for first, end in parts)

    def _layer(self, name: str, x: Tensor, window_clips: int) -> Tensor:
        """Return (N, C, T', h, w) after a module of ``ORDER`` and the one inserted after it."""
        x = self.get_submodule(name)(x)
        if name in TAPS and str(index := TAPS.index(name)) in self.inserted:
            cells = x.permute(0, 2, 3, 4, 1)
            x = self.after_layer(index, cells, window_clips).permute(0, 4, 1, 2, 3)
        return x

    def layers(self, clips: Tensor, taps: Sequence[int], window_clips: int = 1) -> list[Tensor]:
        """Return (N, t, h_i, w_i, D_i) of the layers ``TAPS[i]``; later layers do not run.

        The first two layers have four times as many steps as the last, the third twice: they are averaged.
        H and W are arbitrary, T is a multiple of 8.
        """
        frames = clips.shape[2]
        if frames % FRAMES_PER_STEP:
            raise InputError(f"clips of {frames} frames: allowed are multiples of {FRAMES_PER_STEP}")
        if not taps or list(taps) != sorted(set(taps)) or taps[0] < 0 or taps[-1] >= len(TAPS):
            raise InputError(f"taps {tuple(taps)}: allowed are ascending indices from 0 to {len(TAPS) - 1}")
        wanted = {TAPS[tap] for tap in taps}
        x, outputs = clips, []
        for name in ORDER[: ORDER.index(TAPS[taps[-1]]) + 1]:
            x = self.checkpointed(self._layer, name, x, window_clips)
            if name in wanted:
                steps = x.unflatten(2, (frames // FRAMES_PER_STEP, -1)).mean(dim=3)
                outputs.append(steps.permute(0, 2, 3, 4, 1))
        return outputs


class I3DClassifier(I3D):
    """I3D with the classifier of its pre-training, to verify pre-trained weights.

    No strategy uses it: a backbone has no classifier.
    """

    def __init__(self, config: I3DConfig, classes: int = 400) -> None:
        super().__init__(config)
        self.logits = nn.Module()
        self.logits.conv3d = nn.Conv3d(self.geometry.width, classes, 1)

    def class_logits(self, clips: Tensor) -> Tensor:
        """Return logits (N, classes) of normalised clips (N, 3, T, H, W), where T is at least 16.

        Means over two steps and the whole grid are classified and averaged over time.
        """
        cells = self.tokens(clips).permute(0, 4, 1, 2, 3)
        pooled = F.avg_pool3d(cells, (2, cells.shape[3], cells.shape[4]), stride=1)
        classified: Tensor = self.logits.conv3d(pooled)  # type: ignore[operator]
        return classified.mean(dim=(2, 3, 4))


def load_classifier(weights: str | Path) -> I3DClassifier:
    """Return the Kinetics-400 classifier of a checkpoint; raise ``InputError`` if it does not fit."""
    from bench.models.pretrained import load_model
    from bench.models.state_dict_layouts import I3D_LAYOUT

    model = I3DClassifier(CONFIGS["i3d"])
    model.load_audit = load_model(model, weights, I3D_LAYOUT)
    return model.eval()


def tiny_i3d() -> I3D:
    """Return an I3D of 1/8 of the width with random weights, for tests of strategies."""
    return I3D(I3DConfig(image_size=48, clip_frames=32, narrowing=8))
