"""The families of backbones: their models by name, constructors and checkpoint layouts."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from bench.models.backbones import frame_vit, i3d, tsm, tsm_mobilenet, vit, vit_config
from bench.models.state_dict_layouts import (
    FRAME_VIT_LAYOUT,
    I3D_LAYOUT,
    MOBILENETV2_LAYOUT,
    TSM_LAYOUT,
    VIT_LAYOUT,
    Layout,
)

Loadable = vit.VideoViT | tsm.ShiftedNetwork | i3d.I3D | frame_vit.FrameViT


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of backbones."""

    configs: Mapping[str, Any]
    """The configuration of each model: a frozen dataclass with ``image_size`` and ``clip_frames``."""
    network: Callable[[Any], Loadable]
    layout: Layout

    def build(self, name: str, **changes: Any) -> Loadable:
        """Return the model ``name`` with newly initialised weights; fields that are None keep their values.

        Fields that the family does not have are ignored.
        """
        config = self.configs[name]
        known = {field.name for field in dataclasses.fields(config)}
        given = {key: value for key, value in changes.items() if value is not None and key in known}
        return self.network(dataclasses.replace(config, **given))


FAMILIES = (
    Family(vit_config.CONFIGS, vit.VideoViT, VIT_LAYOUT),
    Family(tsm.CONFIGS, tsm.TSMResNet, TSM_LAYOUT),
    Family(tsm_mobilenet.CONFIGS, tsm_mobilenet.TSMMobileNetV2, MOBILENETV2_LAYOUT),
    Family(i3d.CONFIGS, i3d.I3D, I3D_LAYOUT),
    Family(frame_vit.CONFIGS, frame_vit.FrameViT, FRAME_VIT_LAYOUT),
)


def family_of(name: str) -> Family:
    """Return the family of a known model name."""
    return next(family for family in FAMILIES if name in family.configs)
