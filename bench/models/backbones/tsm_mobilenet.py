"""TSM (Lin, Gan and Han, ICCV 2019) on MobileNetV2 (Sandler et al., CVPR 2018).

The network is timm's with its names. As in the TSM repository (``ops/temporal_shift.py``), channels are
shifted before the first convolution of every block that has a shortcut, and in no other block. The layers to
tap are, as in a ResNet, where the grid is 1/4, 1/8, 1/16 and 1/32 of the input; the last has the 1,280
channels after the final convolution.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import timm
import torch
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn

from bench.models.backbones.frozen_batch_norm import StoredBatchNorm
from bench.models.backbones.tsm import BRANCH_GAIN, ShiftedConv, ShiftedNetwork, SnippetConfig

STAGES = ((0, 1), (2,), (3, 4), (5, 6))
"""timm's groups of blocks in each layer."""


@dataclasses.dataclass(frozen=True)
class MobileNetV2Config(SnippetConfig):
    """The configuration of a TSM-MobileNetV2."""

    architecture: str = "mobilenetv2_100"
    """timm's name."""


CONFIGS = {"tsm-mobilenetv2": MobileNetV2Config()}


class StoredBatchNormAct(StoredBatchNorm):
    """``StoredBatchNorm`` with the activation that follows it in timm's network."""

    def __init__(self, plain: BatchNormAct2d) -> None:
        super().__init__(plain.num_features, plain.eps)
        self.act = plain.act

    def forward(self, x: Tensor) -> Tensor:
        """Return the activation of x (N, C, h, w), normalised per channel."""
        activated: Tensor = self.act(super().forward(x))
        return activated


def _store_statistics(module: nn.Module) -> None:
    """Replace every batch norm in a module."""
    for name, child in module.named_children():
        if isinstance(child, BatchNormAct2d):
            setattr(module, name, StoredBatchNormAct(child))
        else:
            _store_statistics(child)


class TSMMobileNetV2(ShiftedNetwork):
    """The TSM encoder on MobileNetV2."""

    def __init__(self, config: MobileNetV2Config) -> None:
        network: Any = timm.create_model(config.architecture, pretrained=False, num_classes=0)
        _store_statistics(network)
        widths = [network.blocks[stage[-1]][-1].conv_pwl.out_channels for stage in STAGES[:-1]]
        super().__init__(config, (*widths, network.conv_head.out_channels))
        self.conv_stem, self.bn1 = network.conv_stem, network.bn1
        self.blocks = network.blocks
        self.conv_head, self.bn2 = network.conv_head, network.bn2
        for stage in network.blocks:
            for block in stage:
                if block.has_skip:
                    block.conv_pw = ShiftedConv(block.conv_pw, config.snippet_frames, config.shift_divisor)
                    nn.init.constant_(block.bn3.weight, BRANCH_GAIN)

    def layer_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        blocks = [tuple(self.blocks[index] for index in stage) for stage in STAGES]
        return (*blocks[:-1], (*blocks[-1], self.conv_head, self.bn2))

    def stem(self, images: Tensor) -> Tensor:
        # Depthwise convolutions are twice as fast on a CPU where a pixel's channels are neighbours in memory.
        features: Tensor = self.bn1(self.conv_stem(images.contiguous(memory_format=torch.channels_last)))
        return features


def tiny_mobilenet() -> TSMMobileNetV2:
    """Return a narrow TSM-MobileNetV2 with snippets of 4 frames and random weights, for tests."""
    return TSMMobileNetV2(
        MobileNetV2Config(architecture="mobilenetv2_035", image_size=48, clip_frames=16, snippet_frames=4)
    )
