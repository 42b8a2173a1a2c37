"""LoSA (Gupta et al., WACV 2025, arXiv 2404.01282): long- and short-range adapters beside a frozen backbone.

Based on the paper's abstract and summaries: the backbone runs without gradient; adapters tap its
intermediate layers and run parallel to it; a short-range adapter reduces a layer's spatial dimensions
by a convolutional block and applies multi-head cross-attention within the clip; a long-range adapter
relates clips across the untrimmed video; a gated fusion combines all of them with the backbone's feature.
Details that the sources do not specify are marked ``Chosen:`` and are fields of the strategy.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

from strategies.base import Rule, Stage, layer_indices

if TYPE_CHECKING:
    from bench.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class LoSA:
    """Train long- and short-range side adapters and the head; the backbone runs without a graph.

    Differs: clips touch, unless the protocol's ``clip_stride`` lets them overlap; the paper's clips overlap,
    by an amount that no source states.
    """

    name: ClassVar[str] = "losa"
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    adapter_lr: float = 1.0
    """Adapter learning rate, in multiples of the protocol's."""
    taps: tuple[int, ...] = ()
    """Chosen: indices of the tapped layers, negative ones from the end; empty taps every layer."""
    grid: int = 4
    """Chosen: tapped tokens are average-pooled to at most grid x grid cells before the adapter."""
    width: int | None = None
    """Chosen: channels inside an adapter; None means 1/4 of the backbone's width, at least 32."""
    heads: int = 4
    """Chosen: attention heads of both adapters."""
    short_range: bool = True
    long_range: bool = True
    gated: bool = True
    """Chosen: tanh gates per channel that start at zero (the gate is in the abstract's third version)."""

    def __post_init__(self) -> None:
        if self.width is not None and (self.width < 2 or self.width % (2 * self.heads)):
            raise ValueError(f"width is a multiple of twice the heads ({2 * self.heads}), got {self.width}")
        if not (self.short_range or self.long_range):
            raise ValueError("short_range and long_range cannot both be false")

    def adapt(self, backbone: Backbone) -> Backbone:
        # Imported here, so that commands that only read the settings do not load torch.
        from strategies.side_adapters import SideAdaptedBackbone, SideAdapterConfig

        shape = {field.name: getattr(self, field.name) for field in dataclasses.fields(SideAdapterConfig)}
        count = len(backbone.geometry.layer_widths)
        shape["taps"] = layer_indices(self, "taps", count, range(count))
        return SideAdaptedBackbone(backbone, SideAdapterConfig(**shape))

    def stages(self) -> tuple[Stage, ...]:
        rules = (Rule(r"backbone\.adapters\..*", self.adapter_lr), Rule(r"head\..*", self.lr))
        return (Stage("adapters", rules),)
