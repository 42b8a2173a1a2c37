"""Activation checkpointing recomputes layers, and so changes no gradient."""

from typing import Any

import torch
from torch import Tensor


def check_checkpointing(model: Any, clips: Tensor, atol: float = 1e-10) -> list[Tensor]:
    """Compare the gradients of ``model`` with and without checkpointing; return those without."""
    gradients = []
    for model.checkpointing in (False, True):
        model.zero_grad()
        model.tokens(clips).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-5, atol=atol)
    return gradients[0]
