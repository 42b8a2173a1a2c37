"""Prompt tokens of a transformer's blocks as modules.

Shape legend: N clips, L tokens of a clip, P prompts, D channels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.backbone import Backbone


class PromptedBlock(nn.Module):
    """A block with its own prompts, which are put before the tokens and dropped after the block."""

    def __init__(self, block: nn.Module, prompts: int, width: int, bound: float) -> None:
        super().__init__()
        self.block = block
        self.prompts = nn.Parameter(nn.init.uniform_(torch.empty(prompts, width), -bound, bound))

    def forward(self, tokens: Tensor, draws: Tensor | None = None) -> Tensor:
        """Return (N, L, D) of (N, L, D)."""
        prompts = self.prompts.to(tokens.dtype).expand(len(tokens), -1, -1)
        joined: Tensor = self.block(torch.cat((prompts, tokens), dim=1), draws)
        return joined[:, len(self.prompts) :].contiguous()


def insert_prompts(backbone: Backbone, prompts: int) -> Backbone:
    """Return the backbone, frozen, with ``prompts`` trainable tokens in each of its blocks.

    As in the authors' code, prompts are uniform in ±sqrt(6 / (3 p^2 + D)), the Xavier bound of a patch
    embedding of one frame: p is the patch's side in pixels, ``geometry.size_multiple``.
    """
    blocks = backbone.token_blocks()
    if blocks is None:
        raise InputError(f"strategy vpt: {type(backbone).__name__} has no transformer blocks")
    geometry = backbone.geometry
    bound = math.sqrt(6 / (3 * geometry.size_multiple**2 + geometry.width))
    backbone.requires_grad_(False)
    for index, block in enumerate(blocks):
        blocks[index] = PromptedBlock(block, prompts, geometry.width, bound)
    return backbone
