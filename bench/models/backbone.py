"""The interface of backbones, so that strategies and training do not depend on the family.

Shape legend: B windows, N clips, T frames of a clip, H W pixels, t feature steps of a clip,
h w cells of the feature grid, D channels, S clips of a window.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

Encoded = tuple[Tensor, ...]


@dataclasses.dataclass(frozen=True)
class BackboneGeometry:
    """The sizes of a backbone's input and output."""

    clip_frames: int
    """Frames per clip."""
    frames_per_step: int
    """Frames per feature step (2 for tubelets of 2)."""
    image_size: int
    """Height and width in pixels of a full-fidelity frame."""
    size_multiple: int
    """Downscaled heights and widths are rounded to a multiple of this many pixels."""
    width: int
    """Channels D of the output feature."""
    layer_widths: tuple[int, ...]
    """Channels of every layer that can be tapped, first to last; the last is ``width``."""
    mean: tuple[float, float, float]
    """Mean of red, green and blue in [0, 1] for the normalisation of the input."""
    std: tuple[float, float, float]
    """Standard deviation of red, green and blue for the normalisation of the input."""
    independent_frames: int | None = None
    """Frames of a part of a clip that is encoded independently of the other parts; None: the whole clip."""

    @property
    def steps_per_clip(self) -> int:
        return self.clip_frames // self.frames_per_step

    @property
    def snippet_frames(self) -> int:
        """Frames that are encoded together: a snippet, as LoFi calls it."""
        return self.independent_frames or self.clip_frames

    @property
    def steps_per_snippet(self) -> int:
        return self.snippet_frames // self.frames_per_step


class Backbone(nn.Module):
    """A network that turns each clip independently into tokens.

    A window is a sequence of clips. It is processed in two parts: ``encode`` processes one clip at a time,
    ``fuse`` the encodings of a whole window. A strategy that adapts a backbone wraps it in another
    ``Backbone`` and may redefine both parts. ``upstream`` returns the module that ``encode`` runs: if none
    of its parameters is trained, the training loop runs ``encode`` without gradient and may cache its
    result, because no later step can change it.
    """

    geometry: BackboneGeometry
    clip_dtype: torch.dtype = torch.uint8
    """Type of the values of a clip before ``normalise``."""
    checkpointing: bool = False
    """Recompute each block's activations in the backward pass instead of keeping them."""

    @property
    def device(self) -> torch.device:
        """The device of the parameters."""
        return next(self.parameters()).device

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """The shape of a full-fidelity clip: (3, T, H, W) for a backbone of frames."""
        size = self.geometry.image_size
        return (3, self.geometry.clip_frames, size, size)

    def set_checkpointing(self, wanted: bool) -> None:
        """Set ``checkpointing`` of this backbone and of all backbones that it wraps."""
        for module in self.modules():
            if isinstance(module, Backbone):
                module.checkpointing = wanted

    def blocks_in_order(self) -> tuple[nn.Module, ...]:
        """Return the sequential modules that hold most of the weights; empty if not known."""
        return ()

    def tokens(self, clips: Tensor) -> Tensor:
        """Return (N, t, h, w, D): the tokens after the last layer, before any final norm.

        ``clips`` is (N, 3, T, H, W), already normalised.
        """
        return self.layers(clips, (len(self.geometry.layer_widths) - 1,))[0]

    def layers(self, clips: Tensor, taps: Sequence[int]) -> list[Tensor]:
        """Return the outputs of the layers ``taps`` (ascending indices), each (N, t, h_i, w_i, D_i).

        Every output has the t of the last layer: a family whose early layers have more steps pools them.
        """
        raise NotImplementedError

    def upstream(self) -> nn.Module:
        """Return the module whose parameters ``encode`` depends on."""
        return self

    def encode(self, clips: Tensor) -> Encoded:
        """Return per-clip encodings of (N, 3, T, H, W); the first axis of each is N."""
        return (self.tokens(clips).mean(dim=(2, 3)),)

    def fuse(self, encoded: Encoded, mask: Tensor) -> Tensor:
        """Return features (B, D, S*t) from encodings whose first two axes are (B, S).

        ``mask`` is (B, S*t) bool, true where a step shows the video and not padding.
        """
        (pooled,) = encoded
        return pooled.flatten(1, 2).transpose(1, 2)

    def fixed(self) -> dict[str, Tensor]:
        """Return constants that are computed and that some checkpoints contain, by the checkpoints' names."""
        return {}

    def learned(self) -> dict[str, Any]:
        """Return statistics of a trained backbone as JSON values, for the run's record."""
        return {}

    def forward(self, clips: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return features (B, D, S*t) of windows given as (B, S, 3, T, H, W), normalised."""
        encoded = self.encode(clips.flatten(0, 1))
        encoded = tuple(part.unflatten(0, clips.shape[:2]) for part in encoded)
        if mask is None:
            steps = clips.shape[1] * encoded[0].shape[2]
            mask = torch.ones(clips.shape[0], steps, dtype=torch.bool, device=clips.device)
        return self.fuse(encoded, mask)

    def normalise(self, clips: Tensor) -> Tensor:
        """Return float clips of (..., 3, T, H, W) values from 0 to 255, normalised per colour channel."""
        mean = torch.tensor(self.geometry.mean, device=clips.device).view(3, 1, 1, 1) * 255
        std = torch.tensor(self.geometry.std, device=clips.device).view(3, 1, 1, 1) * 255
        # The difference is a new tensor; dividing it in place needs one copy of the clips, not two.
        return torch.sub(clips, mean).div_(std)
