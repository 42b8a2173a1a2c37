"""AdaTAD (Liu et al., CVPR 2024, arXiv 2311.17241): temporal adapters inside or beside a frozen backbone.

The temporal-informative adapter of section 3.3 follows ``vit_adapter.py`` and ``vit_ladder.py`` of OpenTAD,
the authors' toolbox. Padded steps at the end of a window take part in its convolution, as there.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, ClassVar

from strategies.base import Rule, Stage, layer_indices

if TYPE_CHECKING:
    from bench.models.backbone import Backbone


def check_adapter(ratio: float, kernel: int) -> None:
    """Raise ValueError if an adapter of these sizes cannot be built."""
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio: allowed is above 0 and at most 1, got {ratio}")
    if kernel < 1 or kernel % 2 == 0:
        raise ValueError(f"kernel: allowed is an odd number of steps, got {kernel}")


@dataclasses.dataclass(frozen=True)
class AdaTAD:
    """Train the head and an adapter after each layer; gradients flow through the frozen backbone.

    The adapters relate all steps of a window, so that clips mix: the streamed backward is refused, and
    encodings are not cached. With the checkpointed backward, an adapter lies inside its block's checkpoint.
    """

    name: ClassVar[str] = "adatad"
    mixes_clips: ClassVar[bool] = True
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    adapter_lr: float = 1.0
    """Adapter learning rate, in multiples of the protocol's (OpenTAD: 2 for ViT-S, 1 for ViT-B to -g)."""
    layers: tuple[int, ...] = ()
    """Layers that an adapter follows, negative ones from the end; empty means every layer, as published."""
    ratio: float = 0.25
    """Channels inside an adapter, in multiples of its layer's, rounded down, at least 1."""
    kernel: int = 3
    """Steps of the depth-wise convolution, an odd number."""

    def __post_init__(self) -> None:
        check_adapter(self.ratio, self.kernel)

    def adapt(self, backbone: Backbone) -> Backbone:
        # Imported here, so that commands that only read the settings do not load torch.
        from strategies.field.temporal_adapters import TemporalAdapter

        count = len(backbone.geometry.layer_widths)
        layers = layer_indices(self, "layers", count, range(count))
        make = functools.partial(TemporalAdapter, ratio=self.ratio, kernel=self.kernel)
        backbone.insert_after_layers(make, layers, mixes=True)
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        rules = (Rule(r"backbone\.inserted\..*", self.adapter_lr), Rule(r"head\..*", self.lr))
        return (Stage("adapters", rules),)


@dataclasses.dataclass(frozen=True)
class AdaTADBeside:
    """Train the head and adapters beside the backbone, which runs without a graph (AdaTAD's parallel form).

    Differs: an adapter's output is averaged over the cells before the convolutions and the up-projection,
    and not after them; all of these are affine and equal at each cell, so the features are the same but for
    rounding. On a network whose layers differ in width, an adapter projects up to the output's width.
    """

    name: ClassVar[str] = "adatad-beside"
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    adapter_lr: float = 1.0
    """Adapter learning rate, in multiples of the protocol's (OpenTAD: 2 for ViT-S and for ViT-g)."""
    taps: tuple[int, ...] = ()
    """Tapped layers, negative ones from the end; empty means the last half (OpenTAD: 6 to 11 of ViT-S,
    20 to 39 of ViT-g)."""
    ratio: float = 0.25
    """Channels inside an adapter, in multiples of its layer's, rounded down, at least 1 (OpenTAD: 1/4 for
    ViT-S, 1/8 for ViT-g)."""
    kernel: int = 3
    """Steps of the depth-wise convolution, an odd number."""

    def __post_init__(self) -> None:
        check_adapter(self.ratio, self.kernel)

    def adapt(self, backbone: Backbone) -> Backbone:
        from strategies.field.temporal_adapters import AdaptersBesideBackbone

        count = len(backbone.geometry.layer_widths)
        taps = layer_indices(self, "taps", count, range(count // 2, count))
        return AdaptersBesideBackbone(backbone, taps, self.ratio, self.kernel)

    def stages(self) -> tuple[Stage, ...]:
        rules = (Rule(r"backbone\.adapters\..*", self.adapter_lr), Rule(r"head\..*", self.lr))
        return (Stage("adapters", rules),)
