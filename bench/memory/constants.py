"""Names and sizes of memory that plans, runs and reports share. Imports no torch."""

from __future__ import annotations

from typing import Any

KINDS = ("parameter", "gradient", "optimizer", "activation", "temporary", "input")

GIBIBYTE = 2**30

CARDS = {"16": 16 << 30, "24": 24 << 30, "40": 40 << 30, "80": 80 << 30, "141": 143771 << 20}
"""Bytes of cards by the number on their box; the last is what NVML says of an H200."""

CONTEXT_BYTES = 500_000_000
"""What a CUDA context and loaded kernels take of a card outside of the allocator, about."""


def needed_bytes(row: dict[str, Any]) -> int:
    """Return what a row's run takes of a card: the allocator's segments and the context."""
    return int(row["predicted_reserved_bytes"]) + CONTEXT_BYTES
