"""What every backbone family offers, so that no strategy and no loop asks which family it holds.

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
    """The sizes of a backbone's input and output that the rest of the bench needs."""

    clip_frames: int
    """Frames of one clip."""
    frames_per_step: int
    """Frames behind one feature step (2 for tubelets of 2)."""
    image_size: int
    """Height and width in pixels of a full-fidelity frame."""
    size_multiple: int
    """Reduced heights and widths are rounded to a multiple of this many pixels."""
    width: int
    """Channels D of the output feature."""
    layer_widths: tuple[int, ...]
    """Channels of every layer that can be tapped, first to last; the last is ``width``."""
    mean: tuple[float, float, float]
    """Mean of the red, green and blue values in [0, 1] that the input is normalised with."""
    std: tuple[float, float, float]
    """Standard deviation of the same."""

    @property
    def steps_per_clip(self) -> int:
        return self.clip_frames // self.frames_per_step


class Backbone(nn.Module):
    """A network that turns each clip, on its own, into tokens.

    A window is a sequence of clips. It is processed in two parts: ``encode`` sees one clip at a time,
    ``fuse`` sees the encodings of a whole window. A strategy that adapts a backbone wraps it in another
    ``Backbone`` and may give both parts a new meaning. What ``upstream`` returns is the module that
    ``encode`` runs: where none of its parameters trains, the loop runs ``encode`` without gradient and
    may keep its result, because no later step can change it.
    """

    geometry: BackboneGeometry
    checkpointing: bool = False
    """Recompute each block's activations in the backward pass instead of keeping them."""

    def set_checkpointing(self, wanted: bool) -> None:
        """Switch ``checkpointing`` of this backbone and of all that it wraps."""
        for module in self.modules():
            if isinstance(module, Backbone):
                module.checkpointing = wanted

    def blocks_in_order(self) -> tuple[nn.Module, ...]:
        """Return the parts that hold most of the weights and run one after the other; none if not known."""
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

    def learned(self) -> dict[str, Any]:
        """Return what a trained backbone has to tell, as JSON has it, for the run's record."""
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
        """Return float clips of (..., 3, T, H, W) values in 0 to 255, normalised per colour."""
        mean = torch.tensor(self.geometry.mean, device=clips.device).view(3, 1, 1, 1) * 255
        std = torch.tensor(self.geometry.std, device=clips.device).view(3, 1, 1, 1) * 255
        # The difference is a new tensor, so that dividing it in place keeps one copy of the clips, not two.
        return torch.sub(clips, mean).div_(std)
