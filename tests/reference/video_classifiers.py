"""The convolutional networks of MMAction2 0.24.1 and E2E-TAD, written anew to trace their training.

Read from ``mmaction/models`` on MMAction2's branch ``0.x`` (``resnet_tsm.py``, ``mobilenet_v2_tsm.py``,
``resnet3d.py``, ``conv2plus1d.py``) and from ``models/video_encoder_archs/tsm.py`` of E2E-TAD; no line is
copied. Rectifiers work in place, no stage is frozen, nothing is recomputed, norms use batch statistics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.efficientnet import mobilenetv2_100
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from bench.models.backbones.frozen_batch_norm import StoredBatchNorm
from tests.reference.old_formulas import OldReLU6

CLASSES = 400
Triple = tuple[int, int, int]


def shift(x: Tensor, frames: int) -> Tensor:
    """Return ``x`` (N*frames, C, h, w): 1/8 of the channels from the next frame, 1/8 from the last."""
    share = x.shape[1] // 8
    series = x.unflatten(0, (-1, frames))
    later, earlier, rest = series[:, :, :share], series[:, :, share : 2 * share], series[:, :, 2 * share :]
    blank = torch.zeros_like(later[:, :1])
    moved = (torch.cat((later[:, 1:], blank), 1), torch.cat((blank, earlier[:, :-1]), 1), rest)
    return torch.cat(moved, 2).flatten(0, 1)


class Shifted(nn.Module):
    """A module whose input is shifted first."""

    def __init__(self, inner: nn.Module, frames: int) -> None:
        super().__init__()
        self.inner, self.frames = inner, frames

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(shift(x, self.frames))


class FrameFeatures(nn.Module):
    """A timm network without its classifier, on the frames of videos."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, videos: Tensor) -> Tensor:
        """Return (N*T, D, h, w) of (N, T, 3, H, W)."""
        return self.network.forward_features(videos.flatten(0, 1))


class FrameClassifier(nn.Module):
    """Class scores of frames, averaged over the frames of a video."""

    def __init__(self, features: FrameFeatures, width: int) -> None:
        super().__init__()
        self.features, self.classifier = features, nn.Linear(width, CLASSES)

    def forward(self, videos: Tensor) -> Tensor:
        """Return scores (N, classes) of (N, T, 3, H, W)."""
        features = self.features(videos).mean(dim=(2, 3))
        scores = self.classifier(F.dropout(features, 0.5))
        return scores.unflatten(0, videos.shape[:2]).mean(dim=1)


def shifted_resnet(block: Any, depths: Sequence[int], frames: int, norm: Any) -> FrameFeatures:
    """Return a ResNet that shifts the input of the first convolution of every block."""
    network: Any = ResNet(block, tuple(depths), num_classes=0, norm_layer=norm)
    for stage in (network.layer1, network.layer2, network.layer3, network.layer4):
        for each in stage:
            each.conv1 = Shifted(each.conv1, frames)
    return FrameFeatures(network)


def tsm_r50(frames: int) -> nn.Module:
    return FrameClassifier(shifted_resnet(Bottleneck, (3, 4, 6, 3), frames, nn.BatchNorm2d), 2048)


def tsm_mobilenet_v2(frames: int) -> nn.Module:
    """The input of the expansion is shifted in every block with a shortcut."""
    network: Any = mobilenetv2_100(num_classes=0)
    for stage in network.blocks:
        for block in stage:
            if hasattr(block, "conv_pwl") and block.has_skip:
                block.conv_pw = Shifted(block.conv_pw, frames)
    return FrameClassifier(FrameFeatures(network), 1280)


def tsm_mobilenet_v2_of_its_time(frames: int) -> nn.Module:
    """The same, with the rectifier of the PyTorch that its log was written with."""
    network = tsm_mobilenet_v2(frames)
    for module in list(network.modules()):
        if isinstance(getattr(module, "act", None), nn.ReLU6):
            module.act = OldReLU6()
    return network


def e2e_encoder(depth: int, frames: int) -> FrameFeatures:
    """E2E-TAD's encoder: norms use stored statistics and do not train, all else trains."""
    kinds = {18: (BasicBlock, (2, 2, 2, 2)), 50: (Bottleneck, (3, 4, 6, 3))}
    features = shifted_resnet(*kinds[depth], frames, StoredBatchNorm)
    for module in features.modules():
        if isinstance(module, StoredBatchNorm):
            module.requires_grad_(False)
    return features


class Unit(nn.Sequential):
    """A convolution, its norm and, unless it ends a branch, a rectifier."""

    def __init__(self, convolution: nn.Module, channels: int, *, last: bool = False) -> None:
        super().__init__(convolution, nn.BatchNorm3d(channels), *([] if last else [nn.ReLU(inplace=True)]))


def conv(inputs: int, outputs: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> nn.Conv3d:
    padding = tuple(each // 2 for each in kernel)
    return nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)  # type: ignore[arg-type]


def conv_2plus1d(inputs: int, outputs: int, kernel: Triple, stride: Triple = (1, 1, 1)) -> nn.Module:
    """Return a spatial and a temporal convolution with about the parameters of one over both."""
    cells = inputs * kernel[1] * kernel[2]
    between = 3 * cells * outputs // (cells + 3 * outputs)
    return nn.Sequential(
        Unit(conv(inputs, between, (1, *kernel[1:]), (1, *stride[1:])), between),
        conv(between, outputs, (kernel[0], 1, 1), (stride[0], 1, 1)),
    )


class Residual(nn.Module):
    """A branch and a shortcut, added and rectified."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch, self.shortcut = branch, shortcut

    def forward(self, x: Tensor) -> Tensor:
        return F.relu_(self.branch(x) + self.shortcut(x))


class ClipClassifier(nn.Module):
    """Class scores of one clip: features, their mean, dropout and a linear map."""

    def __init__(self, features: nn.Module, width: int) -> None:
        super().__init__()
        self.features, self.classifier = features, nn.Linear(width, CLASSES)

    def forward(self, clips: Tensor) -> Tensor:
        """Return scores (N, classes) of (N, 3, T, H, W)."""
        return self.classifier(F.dropout(self.features(clips).mean(dim=(2, 3, 4)), 0.5))


def i3d_r50() -> nn.Module:
    """ResNet-50 with temporal convolutions in some blocks; the third stage has one in every other block."""
    inflated = ((1, 1, 1), (1, 0, 1, 0), (1, 0, 1, 0, 1, 0), (0, 1, 0))
    stem = Unit(conv(3, 64, (5, 7, 7), (2, 2, 2)), 64)
    layers: list[nn.Module] = [stem, nn.MaxPool3d((1, 3, 3), (2, 2, 2), (0, 1, 1))]
    inputs = 64
    for number, kinds in enumerate(inflated):
        width = 64 * 2**number
        for place, kind in enumerate(kinds):
            stride = (1, 2, 2) if number and not place else (1, 1, 1)
            branch = nn.Sequential(
                Unit(conv(inputs, width, (3, 1, 1) if kind else (1, 1, 1)), width),
                Unit(conv(width, width, (1, 3, 3), stride), width),
                Unit(conv(width, 4 * width, (1, 1, 1)), 4 * width, last=True),
            )
            shortcut = (
                nn.Identity()
                if place
                else Unit(conv(inputs, 4 * width, (1, 1, 1), stride), 4 * width, last=True)
            )
            layers.append(Residual(branch, shortcut))
            inputs = 4 * width
        if number == 0:
            layers.append(nn.MaxPool3d((2, 1, 1), (2, 1, 1)))
    return ClipClassifier(nn.Sequential(*layers), inputs)


def r2plus1d_r34() -> nn.Module:
    """ResNet-34 of separate spatial and temporal convolutions, in the shortcuts as well.

    Differs: the outer norms share no statistics between processes (SyncBN); they keep the same input.
    """
    stem = Unit(conv_2plus1d(3, 64, (3, 7, 7), (1, 2, 2)), 64)
    layers: list[nn.Module] = [stem, nn.MaxPool3d((1, 3, 3), (1, 2, 2), (0, 1, 1))]
    inputs = 64
    for number, depth in enumerate((3, 4, 6, 3)):
        width = 64 * 2**number
        for place in range(depth):
            stride = (2, 2, 2) if number and not place else (1, 1, 1)
            branch = nn.Sequential(
                Unit(conv_2plus1d(inputs, width, (3, 3, 3), stride), width),
                Unit(conv_2plus1d(width, width, (3, 3, 3)), width, last=True),
            )
            shortcut: nn.Module = nn.Identity()
            if inputs != width:
                shortcut = Unit(conv_2plus1d(inputs, width, (1, 1, 1), stride), width, last=True)
            layers.append(Residual(branch, shortcut))
            inputs = width
    return ClipClassifier(nn.Sequential(*layers), inputs)
