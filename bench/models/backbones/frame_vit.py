"""Image transformers of timm as encoders of frames, such as DINOv2 (Oquab et al., TMLR 2024).

Frames are encoded independently. As in TSM, the feature of a step is the mean over the frames of its snippet;
chosen: a snippet is one frame, because averaging k frames costs k times as much, and the protocol's
``frames_per_second`` says how densely videos are seen. Features are those of the patches: the class token
and other tokens that are no patches take part in attention and are left out of the output.

Differs from the video transformers: the last layer includes the network's final norm, as the released
features of DINOv2 do. Positions of other sizes than the weights' are interpolated by timm (bicubic,
antialiased; the DINOv2 repository interpolates without antialiasing).

Shape legend: N clips, T frames, S snippets of a clip, h w the grid of patches, L tokens of a frame, D
channels.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import timm
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import unset_fake_temporarily

from bench.io.errors import InputError
from bench.models.backbone import Backbone, BackboneGeometry

if TYPE_CHECKING:
    from bench.models.pretrained import LoadAudit


@dataclasses.dataclass(frozen=True)
class FrameViTConfig:
    """The configuration of an image transformer; sizes are in pixels and frames."""

    architecture: str
    """timm's name of a ``VisionTransformer``."""
    image_size: int = 224
    clip_frames: int = 8
    snippet_frames: int = 1
    checkpointing: bool = False
    """Recompute each block's activations in the backward pass instead of keeping them."""
    changes: tuple[tuple[str, Any], ...] = ()
    """Arguments of timm's constructor that differ from the architecture's, for small networks."""


CONFIGS = {"dinov2-s": FrameViTConfig("vit_small_patch14_dinov2")}


NEW_SCALE = 0.1
"""Initial value of the layer scales of a new network. Chosen: with DINOv2's 1e-5 no block would affect it."""


def _new_network(config: FrameViTConfig) -> Any:
    """Return timm's network, newly initialised.

    timm reads values of a tensor when it builds the network, and truncates normal distributions, which a
    forecast cannot trace: the network is built without storage, then filled.
    """
    changes: dict[str, Any] = dict(config.changes)
    with unset_fake_temporarily(), torch.device("meta"):
        network: Any = timm.create_model(
            config.architecture,
            pretrained=False,
            num_classes=0,
            dynamic_img_size=True,
            **changes,
        )
    for module in network.modules():
        for name, value in module.named_parameters(recurse=False):
            setattr(module, name, nn.Parameter(torch.empty(value.shape)))
        if isinstance(module, nn.Conv2d | nn.LayerNorm):
            module.reset_parameters()
        elif hasattr(module, "gamma"):  # a layer scale
            nn.init.constant_(module.gamma, NEW_SCALE)
        elif isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.02)
            nn.init.zeros_(module.bias)
    for value in (network.cls_token, network.pos_embed, getattr(network, "reg_token", None)):
        if value is not None:
            nn.init.normal_(value, std=0.02)
    return network


class FrameViT(Backbone):
    """An encoder of frames. The layers to tap are its blocks, of which the last includes the final norm."""

    load_audit: LoadAudit | None = None

    def __init__(self, config: FrameViTConfig) -> None:
        super().__init__()
        self.network = _new_network(config)
        patch = self.network.patch_embed.patch_size[0]
        if config.snippet_frames < 1 or config.clip_frames < 1 or config.clip_frames % config.snippet_frames:
            raise InputError(
                f"clip_frames {config.clip_frames}: allowed are multiples of a snippet "
                f"({config.snippet_frames})"
            )
        if config.image_size < patch:
            raise InputError(f"image_size {config.image_size}: allowed is {patch} (a patch) or more")
        self.config = config
        self.checkpointing = config.checkpointing
        width, depth = self.network.embed_dim, len(self.network.blocks)
        self.geometry = BackboneGeometry(
            clip_frames=config.clip_frames,
            frames_per_step=config.snippet_frames,
            image_size=config.image_size,
            size_multiple=patch,
            width=width,
            layer_widths=(width,) * depth,
            mean=self.network.pretrained_cfg["mean"],
            std=self.network.pretrained_cfg["std"],
            independent_frames=config.snippet_frames,
        )

    def blocks_in_order(self) -> tuple[nn.Module, ...]:
        return tuple(self.network.blocks)

    def layer_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        *blocks, last = self.network.blocks
        return (*((block,) for block in blocks), (last, self.network.norm))

    def layers(self, clips: Tensor, taps: Sequence[int], window_clips: int = 1) -> list[Tensor]:
        """Return the outputs (N, S, h, w, D) of the blocks ``taps``; later blocks do not run.

        T is a multiple of the snippet. Pixels beyond the last whole patch are not seen, as in the video
        transformers.
        """
        patch = self.geometry.size_multiple
        _, _, frames, height, width = clips.shape
        if frames % self.config.snippet_frames or min(height, width) < patch:
            raise InputError(
                f"clips of {frames} frames of {height} x {width} pixels: allowed are multiples of a snippet "
                f"({self.config.snippet_frames}) and at least {patch} pixels"
            )
        depth = len(self.network.blocks)
        if not taps or list(taps) != sorted(set(taps)) or taps[0] < 0 or taps[-1] >= depth:
            raise InputError(f"taps {tuple(taps)}: allowed are ascending indices from 0 to {depth - 1}")
        grid = (height // patch, width // patch)
        whole = clips[..., : grid[0] * patch, : grid[1] * patch]
        # From here on as timm's forward_features.
        embedded = self.network.patch_embed(whole.transpose(1, 2).flatten(0, 1))
        tokens = self.network.norm_pre(self.network._pos_embed(embedded))
        outputs = []
        for index in range(taps[-1] + 1):
            tokens = self.checkpointed(self._layer, index, tokens, (clips.shape[0], *grid), window_clips)
            if index in taps:
                cells = self._cells(tokens, (clips.shape[0], *grid))
                outputs.append(cells.unflatten(1, (-1, self.config.snippet_frames)).mean(dim=2))
        return outputs

    def _cells(self, tokens: Tensor, shape: tuple[int, int, int]) -> Tensor:
        """Return (N, T, h, w, D): the patches of tokens (N*T, L, D); ``shape`` is (N, h, w)."""
        clips, height, width = shape
        patches = tokens[:, self.network.num_prefix_tokens :]
        cells: Tensor = patches.unflatten(1, (height, width)).unflatten(0, (clips, -1))
        return cells

    def _layer(self, index: int, tokens: Tensor, shape: tuple[int, int, int], window_clips: int) -> Tensor:
        """Return tokens (N*T, L, D) after a block and the module inserted after it; steps are frames."""
        tokens = self.network.blocks[index](tokens)
        if index == len(self.network.blocks) - 1:
            tokens = self.network.norm(tokens)
        if str(index) in self.inserted:
            changed = self.after_layer(index, self._cells(tokens, shape), window_clips)
            prefix = tokens[:, : self.network.num_prefix_tokens]
            tokens = torch.cat((prefix, changed.flatten(2, 3).flatten(0, 1)), dim=1)
        return tokens


def tiny_frame_vit() -> FrameViT:
    """Return a small image transformer of DINOv2's kind with random weights, for tests of strategies."""
    small = (("embed_dim", 32), ("depth", 3), ("num_heads", 2), ("img_size", 56))
    return FrameViT(FrameViTConfig("vit_small_patch14_dinov2", image_size=42, clip_frames=8, changes=small))
