"""Memory constants that plans, runs and reports share. Does not import torch."""

from __future__ import annotations

from typing import Any

KINDS = ("parameter", "gradient", "optimizer", "activation", "temporary", "input")

UNCACHED, FIRST_CACHED, CACHED = "uncached", "first cached", "cached"
"""Kinds of training steps: the backbone runs on the batch; encodings are computed and kept; they are read."""

GIBIBYTE = 2**30

CARDS = {"16": 16 << 30, "24": 24 << 30, "40": 40 << 30, "80": 80 << 30, "141": 143771 << 20}
"""Bytes of GPUs by their nominal size in GB; the last is what NVML reports for an H200."""

CONTEXT_BYTES = 500_000_000
"""Approximate GPU memory of a CUDA context and loaded kernels, outside of the allocator."""


def needed_bytes(row: dict[str, Any]) -> int:
    """Return the GPU memory that a row's run needs: the allocator's segments and the context."""
    segments = max(row["predicted_reserved_bytes"], row["inference"]["predicted_reserved_bytes"])
    return int(segments) + CONTEXT_BYTES
