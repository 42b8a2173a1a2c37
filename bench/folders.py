"""Where files may be written: in the folders that were named, not where a link in them leads."""

from __future__ import annotations

RESULTS = ("records", "detections", "ground_truth", "checkpoints", "unfinished", "tables", "figures")
WORK = ("locks", "progress", "jobs")
"""Of results, while runs go on."""
