"""Probe of attention: which kernel runs for each of the models' head sizes, and the memory that it takes."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.measure.attention import attention_kernels
from bench.memory.cuda_ops import kernel_scratch
from bench.models.backbones.vit_config import CONFIGS
from bench.models.random_state import derived_seed

PRECISIONS = (torch.bfloat16, torch.float32)
REACH = 9
"""Steps on each side in the head's local attention: queries attend to a chunk and its neighbours."""


@dataclasses.dataclass(frozen=True)
class Case:
    """The shape of an attention: queries (B, H, L, D), keys and values (B, H, M, D)."""

    batch: int
    heads: int
    queries: int
    keys: int
    channels: int
    masked: bool = False


def cases(device_type: str) -> dict[str, Case]:
    """Return the attentions of the ViTs, of one clip and four, and those of the head and of side adapters.

    On a CPU, clips are of 2 x 2 patches.
    """
    found = {}
    for name, config in CONFIGS.items():
        side = 2 if device_type == "cpu" else config.image_size // config.patch_size
        tokens = config.clip_frames // config.tubelet_size * side**2
        for clips in (1, 4):
            channels = config.width // config.heads
            found[f"{name}, {clips} clips"] = Case(clips, config.heads, tokens, tokens, channels)
    found["head, local"] = Case(43, 4, REACH, 3 * REACH, 128, masked=True)
    found["side adapter, ViT-g"] = Case(48, 4, 8, 128, 88, masked=True)
    return found


def attention(device: torch.device) -> dict[str, Any]:
    """Return for each case and precision the kernels of forward and backward, and their bytes."""
    found = {}
    for (name, case), precision in itertools.product(cases(device.type).items(), PRECISIONS):
        text = str(precision).removeprefix("torch.")
        try:
            found[f"{name}, {text}"] = probe_case(case, precision, device)
        except RuntimeError as error:  # a kernel may refuse a shape
            found[f"{name}, {text}"] = {"message": f"{type(error).__name__}: {str(error)[:300]}"}
    return found


def probe_case(case: Case, precision: torch.dtype, device: torch.device) -> dict[str, Any]:
    """Return one case's kernels, bytes and largest error against a product of plain matrices in float64.

    ``forward_bytes`` are those beside the result; FlashAttention keeps a float per row for the backward pass.
    ``backward_bytes`` are those beside the gradients. None on a CPU, whose allocator has no peaks.
    """
    generator = torch.Generator(device).manual_seed(derived_seed(0, "attention"))
    inputs = [
        # As the models have them: heads split from channels, then moved before the tokens.
        torch.randn(
            case.batch, rows, case.heads, case.channels, device=device, dtype=precision, generator=generator
        )
        .transpose(1, 2)
        .requires_grad_()
        for rows in (case.queries, case.keys, case.keys)
    ]
    mask = None
    if case.masked:
        mask = torch.rand(case.batch, 1, case.queries, case.keys, device=device, generator=generator) > 0.3
        mask[..., 0] = True
    weights = torch.randn(inputs[0].shape, device=device, generator=generator).to(precision)

    def run() -> tuple[Tensor, ...]:
        return torch.autograd.grad(_attend(inputs, mask), inputs, weights)

    kernels = sorted(attention_kernels(run, device))
    memory = _bytes_beside(inputs, mask, weights, device) if device.type == "cuda" else (None, None)
    query = inputs[0]
    arguments = (None, query)
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default
    with torch.no_grad():
        output = _attend(inputs, mask)
        error = (output[:1].double() - _plain(inputs, mask)).abs().max()
    return {
        "shape": dataclasses.asdict(case),
        "kernels": kernels,
        "forward_bytes": memory[0],
        "backward_bytes": memory[1],
        "forecast_backward_bytes": sum(kernel_scratch(backward, arguments)) if mask is None else None,
        "largest_error": float(error),
        "finite": all(bool(gradient.isfinite().all()) for gradient in run()),
    }


def _attend(inputs: list[Tensor], mask: Tensor | None) -> Tensor:
    query, key, value = inputs
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask)


def _plain(inputs: list[Tensor], mask: Tensor | None) -> Tensor:
    query, key, value = (part[:1].double() for part in inputs)
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask[:1], -torch.inf)
    attended: Tensor = scores.softmax(-1) @ value
    return attended


def _bytes_beside(
    inputs: list[Tensor], mask: Tensor | None, weights: Tensor, device: torch.device
) -> tuple[int, int]:
    """Return the forward pass's peak beside its result, and the backward pass's beside the gradients."""
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    output = _attend(inputs, mask)
    torch.cuda.synchronize(device)
    forward = torch.cuda.max_memory_allocated(device) - before - output.nbytes
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    gradients = torch.autograd.grad(output, inputs, weights)
    torch.cuda.synchronize(device)
    backward = torch.cuda.max_memory_allocated(device) - before - sum(each.nbytes for each in gradients)
    return forward, backward
