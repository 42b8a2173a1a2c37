"""The sizes of a backbone's input and output."""

from __future__ import annotations

import dataclasses


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
