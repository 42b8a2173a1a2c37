"""A backbone whose blocks have low-rank updates of peft's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.backbone import Backbone, WrappedBackbone


class LowRankBackbone(WrappedBackbone):
    """A frozen backbone with trainable low-rank updates in its blocks, merged at inference if ``merge``."""

    def __init__(self, inner: Backbone, rank: int, alpha: int, targets: str, *, merge: bool) -> None:
        super().__init__(inner)
        self.merge = merge
        blocks = inner.token_blocks()
        if blocks is None:
            raise InputError(f"strategy lora: {type(inner).__name__} has no transformer blocks")
        for module in blocks.modules():
            if callable(split := getattr(module, "split_projections", None)):
                split()
        linear = [name for name, module in blocks.named_modules() if isinstance(module, nn.Linear)]
        wanted = linear if targets == "all-linear" else [n for n in linear if n.endswith((".q", ".v"))]
        config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=wanted)
        inner.requires_grad_(False)
        # Created without storage, then filled by peft: it would otherwise move them to where they are, which
        # cannot be traced on tensors without data.
        with torch.device("meta"):
            inject_adapter_in_model(config, blocks)
        for layer in self._low_rank_layers():
            device = layer.get_base_layer().weight.device
            for part in (layer.lora_A, layer.lora_B):
                for linear in part.values():
                    linear.weight = nn.Parameter(torch.empty_like(linear.weight, device=device))
            for name in layer.lora_A:
                layer.reset_lora_parameters(name, init_lora_weights=True)

    def upstream(self) -> nn.Module:
        return self.inner

    def _low_rank_layers(self) -> list[Any]:
        return [module for module in self.inner.modules() if isinstance(module, LoraLayer)]

    @contextlib.contextmanager
    def for_inference(self) -> Iterator[None]:
        """Return the context in which the updates are part of the weights, if the strategy merges them."""
        with self.inner.for_inference():
            if not self.merge:
                yield
                return
            layers, before = self._low_rank_layers(), []
            try:
                for layer in layers:
                    weight: Tensor = layer.get_base_layer().weight
                    before.append(weight.detach().to("cpu", copy=True))
                    layer.merge()
                yield
            finally:
                with torch.no_grad():
                    for layer, weight in zip(layers, before, strict=False):  # those that were merged
                        # Subtracting the update, as peft does, would leave the rounding of a sum.
                        if layer.merged:
                            layer.unmerge()
                        layer.get_base_layer().weight.copy_(weight)
