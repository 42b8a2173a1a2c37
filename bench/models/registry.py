"""The families of backbones: their models by name, constructors and checkpoint layouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from bench.models.backbones import i3d, tsm, vit
from bench.models.state_dict_layouts import I3D_LAYOUT, TSM_LAYOUT, VIT_LAYOUT, Layout

Loadable = vit.VideoViT | tsm.TSMResNet | i3d.I3D


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of backbones."""

    configs: Mapping[str, Any]
    """The configuration of each model: a frozen dataclass with ``image_size`` and ``clip_frames``."""
    network: Callable[[Any], Loadable]
    layout: Layout

    def build(self, name: str, image_size: int | None, clip_frames: int | None) -> Loadable:
        """Return the model ``name`` with newly initialised weights; None keeps the model's own size."""
        given = {"image_size": image_size, "clip_frames": clip_frames}
        sizes = {key: value for key, value in given.items() if value is not None}
        return self.network(dataclasses.replace(self.configs[name], **sizes))


FAMILIES = (
    Family(vit.CONFIGS, vit.VideoViT, VIT_LAYOUT),
    Family(tsm.CONFIGS, tsm.TSMResNet, TSM_LAYOUT),
    Family(i3d.CONFIGS, i3d.I3D, I3D_LAYOUT),
)


def family_of(name: str) -> Family:
    """Return the family of a known model name."""
    return next(family for family in FAMILIES if name in family.configs)
