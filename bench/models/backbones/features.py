"""Features in files in place of a backbone: the clips are their own encodings."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.backbone import Backbone, BackboneGeometry, Encoded


class FeatureBackbone(Backbone):
    """A backbone without parameters whose clips are features, (N, t, D) float32."""

    clip_dtype = torch.float32
    place: Tensor

    def __init__(
        self, width: int | None = None, clip_frames: int | None = None, steps_per_clip: int | None = None
    ) -> None:
        """Make a clip of ``steps_per_clip`` steps (None: 1) of ``clip_frames`` frames (None: one a step).

        ``width`` is D (None: 2048, two-stream I3D).
        """
        super().__init__()
        steps = steps_per_clip or 1
        width = width or 2048
        frames = clip_frames or steps
        if frames % steps:
            raise InputError(
                f"protocol: field 'steps_per_clip' is {steps}, allowed are divisors of clip_frames ({frames})"
            )
        self.geometry = BackboneGeometry(
            clip_frames=frames,
            frames_per_step=frames // steps,
            image_size=1,
            size_multiple=1,
            width=width,
            layer_widths=(width,),
            mean=(0.0, 0.0, 0.0),
            std=(1.0, 1.0, 1.0),
        )
        self.register_buffer("place", torch.empty(0), persistent=False)

    @property
    def device(self) -> torch.device:
        """The device to which the module was moved."""
        return self.place.device

    @property
    def clip_shape(self) -> tuple[int, ...]:
        """The shape of a clip, (t, D)."""
        return (self.geometry.steps_per_clip, self.geometry.width)

    def layer_modules(self) -> tuple[tuple[nn.Module, ...], ...]:
        return ((),)

    def layers(self, clips: Tensor, taps: Sequence[int], window_clips: int = 1) -> list[Tensor]:
        """Return the features as tokens of one cell, (N, t, 1, 1, D)."""
        return [clips[:, :, None, None] for _ in taps]

    def encode(self, clips: Tensor, window_clips: int = 1) -> Encoded:
        """Return the features (N, t, D) unchanged."""
        return (clips,)

    def normalise(self, clips: Tensor) -> Tensor:
        """Return the features unchanged."""
        return clips
