"""A control that gives the head the parameters that LoSA gives its adapters."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from strategies.base import Rule, Stage

if TYPE_CHECKING:
    from bench.models.backbone import Backbone


@dataclasses.dataclass(frozen=True)
class WideHead:
    """Train a wider head on the frozen backbone's features, with as many parameters as LoSA trains in all.

    A gain of LoSA over it is not one of additional parameters. The head's widths grow by one factor.
    """

    name: ClassVar[str] = "wide-head"
    needs: ClassVar[tuple[str, ...]] = ()
    lr: float = 1.0
    """Head learning rate, in multiples of the protocol's."""
    parameters: int | None = None
    """Parameters to add to the head, met as nearly as its widths allow; None means those of ``LoSA()``."""

    def __post_init__(self) -> None:
        if self.parameters is not None and self.parameters < 0:
            raise ValueError(f"parameters: allowed is 0 or more, got {self.parameters}")

    def adapt(self, backbone: Backbone) -> Backbone:
        return backbone

    def head_size(self, size: Any, backbone: Backbone, count: Callable[[Any], int]) -> Any:
        """Return the head's size with about ``parameters`` more than the protocol's has.

        The transformer's width stays a multiple of its heads; the width of the outputs' convolutions, which
        any number may be, makes up for the rest.
        """
        # Imported here, so that commands that only read the settings do not load torch.
        from strategies.controls.feature_blocks import adapter_parameters

        added = adapter_parameters(backbone) if self.parameters is None else self.parameters
        count = functools.cache(count)
        wanted = count(size) + added

        def scaled(heads: int) -> Any:
            width = heads * size.n_head
            outputs = max(1, round(size.head_dim * width / size.embd_dim))
            return dataclasses.replace(size, embd_dim=width, fpn_dim=width, head_dim=outputs)

        nearest = scaled(_nearest(lambda heads: count(scaled(heads)), wanted, size.embd_dim // size.n_head))
        outputs = _nearest(lambda n: count(dataclasses.replace(nearest, head_dim=n)), wanted, 1)
        return dataclasses.replace(nearest, head_dim=outputs)

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("head", (Rule(r"head\..*", self.lr),)),)


def _nearest(count: Callable[[int], int], wanted: int, least: int) -> int:
    """Return the number from ``least`` on whose ``count``, which grows with it, is nearest to ``wanted``."""
    high = least
    while count(high) < wanted:
        high *= 2
    low = least
    while low < high:  # the first number whose count is not below
        middle = (low + high) // 2
        low, high = (middle + 1, high) if count(middle) < wanted else (low, middle)
    return min((n for n in (low - 1, low) if n >= least), key=lambda n: abs(count(n) - wanted))
