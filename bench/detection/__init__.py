"""From scored segments to mean average precision. Importing this package does not load torch."""

from bench.detection.nms import soft_nms

__all__ = ["soft_nms"]
