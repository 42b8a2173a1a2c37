"""TSM-ResNet (Lin, Gan and Han, ICCV 2019), LoFi's encoders: image ResNets with channels shifted in time.

The networks are timm's ResNets with their names, so that image checkpoints load without renaming. In every
residual branch, before its first convolution, 1/8 of the channels is taken from the next frame and 1/8 from
the previous frame; the shortcut is unchanged (the paper's residual placement).

As in LoFi, a snippet of 8 frames is encoded on its own: the shift stays inside it, and the feature of a step
is the mean of its frames' features. Outputs of earlier stages are pooled over the snippet in the same way.
Chosen: a clip is 8 snippets, so that it has as many steps as a clip of the other families; any other number
is possible, including one snippet.

Shape legend: N clips, T frames, S snippets of a clip, h w the grid (1/32 of the input), D channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from timm.models.resnet import BasicBlock, Bottleneck, ResNet
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.backbone import Backbone, BackboneGeometry
from bench.models.backbones.frozen_batch_norm import StoredBatchNorm
from bench.models.backbones.vit_config import IMAGENET_MEAN, IMAGENET_STD

if TYPE_CHECKING:
    from bench.models.pretrained import LoadAudit

BRANCH_GAIN = 0.25
"""Scale of the last norm of a newly initialised residual branch.

Chosen: stored statistics do not normalise a newly initialised network; at 1 its features grow with depth, at
0 no branch, and so no shift, would affect them.
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SnippetConfig:
    """What the configurations of networks of frames have in common; sizes are in pixels and frames."""

    image_size: int = 224
    clip_frames: int = 64
    snippet_frames: int = 8
    shift_divisor: int = 8
    """1/shift_divisor of the channels is shifted forward, and as many backward."""
    checkpointing: bool = False
    """Recompute each stage's activations in the backward pass instead of keeping them."""

    def check(self) -> None:
        """Raise InputError if sizes do not divide."""
        if self.snippet_frames < 1 or self.clip_frames < 1 or self.clip_frames % self.snippet_frames:
            raise InputError(
                f"clip_frames {self.clip_frames}: allowed are multiples of a snippet ({self.snippet_frames})"
            )
        if self.image_size < 1:
            raise InputError(f"image_size {self.image_size}: allowed is 1 pixel or more")


@dataclasses.dataclass(frozen=True)
class TSMConfig(SnippetConfig):
    """The configuration of a TSM-ResNet."""

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, int, int, int]
    channels: tuple[int, int, int, int] = (64, 128, 256, 512)
    """Channels of the stages; a bottleneck's output has four times as many."""


CONFIGS: dict[str, TSMConfig] = {
    "tsm-r18": TSMConfig("basic", (2, 2, 2, 2)),
    "tsm-r34": TSMConfig("basic", (3, 4, 6, 3)),
    "tsm-r50": TSMConfig("bottleneck", (3, 4, 6, 3)),
}


def shift(x: Tensor, frames: int, divisor: int) -> Tensor:
    """Return ``x`` (N*S*frames, C, h, w) with shifted channels.

    The first C/divisor channels are the next frame's, the following C/divisor the previous frame's, within
    each snippet; zero where there is no such frame.
    """
    share = x.shape[1] // divisor
    snippets = x.unflatten(0, (-1, frames))
    later = F.pad(snippets[:, 1:, :share], (0, 0, 0, 0, 0, 0, 0, 1))
    earlier = F.pad(snippets[:, :-1, share : 2 * share], (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat((later, earlier, snippets[:, :, 2 * share :]), dim=2).flatten(0, 1)


class ShiftedConv(nn.Conv2d):
    """A convolution that shifts its input first. Its parameter names are those of the plain convolution."""

    def __init__(self, plain: nn.Conv2d, frames: int, divisor: int) -> None:
        assert plain.padding_mode == "zeros"
        assert not isinstance(plain.padding, str)
        super().__init__(
            plain.in_channels,
            plain.out_channels,
            plain.kernel_size,  # type: ignore[arg-type]
            plain.stride,  # type: ignore[arg-type]
            plain.padding,  # type: ignore[arg-type]
            plain.dilation,  # type: ignore[arg-type]
            plain.groups,
            bias=plain.bias is not None,
        )
        self.weight, self.bias = plain.weight, plain.bias
        self.frames, self.divisor = frames, divisor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(shift(x, self.frames, self.divisor))


class ShiftedNetwork(Backbone):
    """An image network with shifted channels. The layers to tap are its four stages, ``layer_modules``.

    Batch norms use their stored statistics in training too (``bench.models.backbones.frozen_batch_norm``).
    ``checkpointing`` may be changed later.
    """

    load_audit: LoadAudit | None = None

    def __init__(self, config: SnippetConfig, widths: tuple[int, ...]) -> None:
        super().__init__()
        config.check()
        self.config = config
        self.checkpointing = config.checkpointing
        self.geometry = BackboneGeometry(
            clip_frames=config.clip_frames,
            frames_per_step=config.snippet_frames,
            image_size=config.image_size,
            # Any size works. Half of these networks' stride keeps LoFi's 112 of 224 pixels possible.
            size_multiple=16,
            width=widths[-1],
            layer_widths=widths,
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            independent_frames=config.snippet_frames,
        )

    def stem(self, images: Tensor) -> Tensor:
        """Return (N*T, C, h, w): what the first stage is given, of images (N*T, 3, H, W)."""
        raise NotImplementedError

    def _layer(self, index: int, x: Tensor, clips: int, window_clips: int) -> Tensor:
        """Return (N*T, C, h, w) after a stage and the module inserted after it, whose steps are frames."""
        for module in self.layer_modules()[index]:
            x = module(x)
        if str(index) in self.inserted:
            frames = x.unflatten(0, (clips, -1)).permute(0, 1, 3, 4, 2)
            x = self.after_layer(index, frames, window_clips).permute(0, 1, 4, 2, 3).flatten(0, 1)
        return x

    def layers(self, clips: Tensor, taps: Sequence[int], window_clips: int = 1) -> list[Tensor]:
        """Return (N, S, h_i, w_i, D_i) of the stages ``taps``; later stages do not run.

        H and W are arbitrary, T is a multiple of the snippet.
        """
        frames = clips.shape[2]
        if frames % self.config.snippet_frames:
            raise InputError(
                f"clips of {frames} frames: allowed are multiples of a snippet ({self.config.snippet_frames})"
            )
        if not taps or list(taps) != sorted(set(taps)) or taps[0] < 0 or taps[-1] > 3:
            raise InputError(f"taps {tuple(taps)}: allowed are ascending indices from 0 to 3")
        images = clips.transpose(1, 2).flatten(0, 1)
        x = self.stem(images)
        outputs = []
        for index in range(taps[-1] + 1):
            x = self.checkpointed(self._layer, index, x, clips.shape[0], window_clips)
            if index in taps:
                snippets = x.unflatten(0, (clips.shape[0], -1, self.config.snippet_frames)).mean(dim=2)
                outputs.append(snippets.permute(0, 1, 3, 4, 2))
        return outputs


class TSMResNet(ShiftedNetwork):
    """The TSM encoder on a ResNet."""

    def __init__(self, config: TSMConfig) -> None:
        # timm's annotation requires an instance where its code needs the class.
        block: Any = BasicBlock if config.block == "basic" else Bottleneck
        super().__init__(config, tuple(width * block.expansion for width in config.channels))
        network = ResNet(
            block,
            config.depths,
            num_classes=0,
            channels=config.channels,
            norm_layer=StoredBatchNorm,
            zero_init_last=False,
        )
        self.conv1, self.bn1 = network.conv1, network.bn1
        self.act1, self.maxpool = network.act1, network.maxpool
        last = "bn2" if config.block == "basic" else "bn3"
        self.layer1 = self._temporal(network.layer1, last)
        self.layer2 = self._temporal(network.layer2, last)
        self.layer3 = self._temporal(network.layer3, last)
        self.layer4 = self._temporal(network.layer4, last)

    def _temporal(self, stage: Any, last: str) -> Any:
        for block in stage:
            block.conv1 = ShiftedConv(block.conv1, self.config.snippet_frames, self.config.shift_divisor)
            nn.init.constant_(getattr(block, last).weight, BRANCH_GAIN)
        return stage

    def layer_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        return ((self.layer1,), (self.layer2,), (self.layer3,), (self.layer4,))

    def stem(self, images: Tensor) -> Tensor:
        features: Tensor = self.maxpool(self.act1(self.bn1(self.conv1(images))))
        return features


def tiny_tsm() -> TSMResNet:
    """Return a narrow TSM-ResNet with snippets of 4 frames and random weights, for tests of strategies."""
    config = TSMConfig("basic", (1, 1, 1, 1), channels=(8, 16, 24, 32), image_size=48)
    return TSMResNet(dataclasses.replace(config, clip_frames=16, snippet_frames=4))
