"""A control that shows LoSA's adapters no intermediate layer."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

from strategies.losa import LoSA


@dataclasses.dataclass(frozen=True)
class LastLayerCells(LoSA):
    """LoSA with one adapter, on the last layer: the cells of the last feature and nothing below it.

    A gain of LoSA over it is one of the intermediate layers.
    """

    name: ClassVar[str] = "last-layer-cells"
    taps: tuple[int, ...] = (-1,)
    """The tapped layers; other values than the default make a LoSA."""
