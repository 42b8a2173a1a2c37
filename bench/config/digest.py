"""The digest of a protocol, equal for records of earlier versions that lack later fields."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

DEFAULTS_OF_NEW_FIELDS: Mapping[str, Any] = {
    "classifier": None,
    "classifier_top": 2,
    "augmentation": "none",
    "resampling": "windows",
    "micro_batch_windows": None,
    "epochs": None,
    "schedule_length": 1.0,
    "clip_frames": None,
    "clip_stride": None,
    "clip_seconds": None,
    "steps_per_clip": None,
    "positions": "recomputed",
    "snippet": "step",
    "test_windows": "sliding",
    "crop_ratio": (),
    "warmup_from_zero": False,
    "frame_rate": "protocol",
    "feature_width": None,
    "input_norm": "none",
    "input_scale": 3.0,
    "head.embd_layers": 2,
    "head.use_abs_pe": False,
    "head.input_dropout": 0.0,
    "head.label_smoothing": 0.0,
    "head.loss_weight": 1.0,
    "head.pre_nms_topk": 5000,
    "head.duration_thresh": 0.05,
    "head.mask_input": False,
}
"""Fields added after the first records, with the value that keeps the former behaviour."""
TUNED_FIELDS = ("input_norm", "input_scale")
"""Fields that are tuned for each strategy: they count as settings of the strategy, not of the protocol."""


def with_new_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return a protocol's fields, as in a record, with the former values of fields that it lacks."""
    filled = {name: dict(value) if isinstance(value, Mapping) else value for name, value in fields.items()}
    for name, value in DEFAULTS_OF_NEW_FIELDS.items():
        owner, _, field = name.rpartition(".")
        target = filled.get(owner, {}) if owner else filled
        if isinstance(target, dict):
            target.setdefault(field, list(value) if isinstance(value, tuple) else value)
    return filled


def digest_of(fields: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a protocol's fields in JSON form.

    A field of ``DEFAULTS_OF_NEW_FIELDS`` is included only if it differs from that value, so that older
    records stay comparable. ``TUNED_FIELDS`` are left out.
    """
    shared = {name: value for name, value in fields.items() if name not in TUNED_FIELDS}
    counted = {name: _counted(value, f"{name}.") for name, value in shared.items() if _counts(name, value)}
    return hashlib.sha256(json.dumps(counted, sort_keys=True, allow_nan=False).encode()).hexdigest()


def _counted(value: Any, prefix: str) -> Any:
    if not isinstance(value, Mapping):
        return value
    return {name: inner for name, inner in value.items() if _counts(prefix + name, inner)}


def _counts(name: str, value: Any) -> bool:
    plain = tuple(value) if isinstance(value, list) else value  # a record is JSON, which has no tuples
    return not (name in DEFAULTS_OF_NEW_FIELDS and DEFAULTS_OF_NEW_FIELDS[name] == plain)
