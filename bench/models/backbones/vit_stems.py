"""The first layers of video vision transformers: from pixels to tokens.

Shape legend: N clips, T frames, H W pixels, t h w the token grid, D channels.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.backbones.vit_config import ViTConfig


class LinearStem(nn.Module):
    """A linear map of each tubelet (a strided ``Conv3d``), the patch embedding of VideoMAE."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        size = (config.tubelet_size, config.patch_size, config.patch_size)
        self.proj = nn.Conv3d(3, config.width, kernel_size=size, stride=size)

    def forward(self, clips: Tensor) -> Tensor:
        """Return (N, t, h, w, D) of normalised clips (N, 3, T, H, W)."""
        embedded: Tensor = self.proj(clips)
        return embedded.permute(0, 2, 3, 4, 1)


class DifferenceStem(nn.Module):
    """Three convolutions over the frames of a tubelet and their temporal differences.

    A linear map of raw colours does not learn motion from a small set of small clips; with the differences,
    the same network does. The input of a tubelet of n frames is their colours minus the clip's mean, in units
    of 60 grey levels, and the n - 1 differences between them, in units of 30. No difference crosses a tubelet
    border, so that clips of which only some tubelets are kept show the same motion.
    """

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        if config.patch_size % 4:
            raise InputError(f"patch_size {config.patch_size}: the difference stem needs a multiple of 4")
        self.tubelet_size = config.tubelet_size
        # Clips are in units of std; these gains convert them to the units of grey levels above.
        grey_levels = 255 * sum(config.std) / 3
        self.colour_gain = grey_levels / 60
        self.difference_gain = grey_levels / 30
        channels = 3 * (2 * config.tubelet_size - 1)
        self.conv1 = nn.Conv2d(channels, 32, kernel_size=3, stride=config.patch_size // 4, padding=1)
        self.conv2 = nn.Conv2d(32, 48, kernel_size=3, stride=2, padding=1)
        self.conv3 = nn.Conv2d(48, config.width, kernel_size=3, stride=2, padding=1)

    def forward(self, clips: Tensor) -> Tensor:
        """Return (N, t, h, w, D) of normalised clips (N, 3, T, H, W)."""
        clip_count, _, _, height, width = clips.shape
        colour = (clips - clips.mean(dim=(2, 3, 4), keepdim=True)) * self.colour_gain
        frames = clips.unflatten(2, (-1, self.tubelet_size))
        difference = (frames[:, :, :, 1:] - frames[:, :, :, :-1]) * self.difference_gain
        joined = torch.cat((colour.unflatten(2, (-1, self.tubelet_size)), difference), dim=3)
        tubelets = joined.transpose(1, 2).reshape(-1, self.conv1.in_channels, height, width)
        hidden = F.gelu(self.conv1(tubelets))
        hidden = F.gelu(self.conv2(hidden))
        embedded: Tensor = self.conv3(hidden)
        tokens: Tensor = embedded.permute(0, 2, 3, 1).unflatten(0, (clip_count, -1))
        return tokens
