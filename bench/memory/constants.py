"""Memory constants that plans, runs and reports share. Does not import torch."""

from __future__ import annotations

from typing import Any

KINDS = ("parameter", "gradient", "optimizer", "activation", "temporary", "input")

UNCACHED, FIRST_CACHED, CACHED = "uncached", "first cached", "cached"
"""Kinds of training steps: the backbone runs on the batch; encodings are computed and kept; they are read."""

GIBIBYTE = 2**30

CARDS = {
    name: int(gibibytes * GIBIBYTE)
    for name, gibibytes in (("16", 14.56), ("24", 22.03), ("40", 39.38), ("80", 79.10), ("141", 139.72))
}
"""Bytes of GPUs by their nominal size in GB, as PyTorch reports them ("GPU 0 has a total capacity of ...").

The smallest for a size in public out-of-memory messages, in GiB to two decimals, with others in brackets:
T4 14.56 (14.74; V100 15.75), L4 22.03 (A10 22.06, RTX 4090 23.64), A100 39.38 (39.50), H100 79.10 (A100
79.14 to 79.25), H200 139.72 (139.80). Sources with a link: github.com/Zheng-Chong/CatVTON/issues/133 (T4),
TianheWu/CoSeR/issues/10 (A100, 39.50), lianqi1008/Control-GIC/issues/6 (A100, 79.14).
"""

CONTEXT_BYTES = 500_000_000
"""Approximate GPU memory of a CUDA context and loaded kernels, outside of the allocator."""


def larger_peak_bytes(row: dict[str, Any]) -> int:
    """Return the larger one of a row's predicted peaks of training and of inference."""
    return int(max(row["predicted_peak_bytes"], row["inference"]["predicted_peak_bytes"]))


def needed_bytes(row: dict[str, Any]) -> int:
    """Return the GPU memory that a row's run needs: the allocator's segments and the context."""
    segments = max(row["predicted_reserved_bytes"], row["inference"]["predicted_reserved_bytes"])
    return int(segments) + CONTEXT_BYTES
