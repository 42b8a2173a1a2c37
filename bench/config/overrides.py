"""Set protocol fields from text, and check their ranges."""

from __future__ import annotations

import dataclasses
import operator
import typing
from collections.abc import Mapping
from typing import Any

from bench.config.arguments import parse_value
from bench.config.digest import DEFAULTS_OF_NEW_FIELDS
from bench.config.protocol import NO_CLIPPING, Protocol
from bench.io.errors import InputError

NESTED = ("head", "nms", "lean")


def layered(*layers: Mapping[str, str]) -> dict[str, str]:
    """Return protocol fields in text merged in order, later ones first.

    ``steps`` without ``epochs`` in a layer replaces an earlier layer's epochs, and the reverse.
    """
    merged: dict[str, str] = {}
    for layer in layers:
        merged |= layer
        if "epochs" in layer and "steps" not in layer and layer["epochs"].lower() != "none":
            merged["steps"] = "0"
        if "steps" in layer and "epochs" not in layer and layer["steps"] != "0":
            merged["epochs"] = "none"
    return merged


def override(protocol: Protocol, changes: Mapping[str, str]) -> Protocol:
    """Return the protocol with fields set from text; nested names are like ``head.levels``.

    ``steps`` and ``epochs`` replace each other (``layered``). Raises InputError that lists the known fields.
    """
    for key, text in layered(changes).items():
        owner, _, name = key.rpartition(".")
        target: Any = getattr(protocol, owner, None) if owner else protocol
        known = (
            [field.name for field in dataclasses.fields(target)] if dataclasses.is_dataclass(target) else []
        )
        if name not in known or name in NESTED:
            fields = ", ".join(f.name for f in dataclasses.fields(protocol) if f.name not in NESTED)
            nested = ", ".join(f"{each}.*" for each in NESTED)
            raise InputError(f"protocol: unknown field '{key}', known are {fields}, {nested}")
        kind = typing.get_type_hints(type(target))[name]
        changed = dataclasses.replace(target, **{name: parse_value(text, kind, f"protocol field '{key}'")})
        protocol = dataclasses.replace(protocol, **{owner: changed}) if owner else changed
    check(protocol)
    return protocol


def check(protocol: Protocol) -> None:
    """Raise InputError if a field is out of its range."""
    limits: tuple[tuple[str, float, float], ...] = (
        ("frames_per_second", 0.01, 1000),
        ("image_size", 1, 4096),
        ("window_clips", 1, 4096),
        ("window_overlap", 0, 0.95),
        ("batch_size", 1, 4096),
        ("steps", 0, 10**8),
        ("schedule_length", 1, 1000),
        ("learning_rate", 0, 1e30),
        ("warmup", 0, 1),
        ("threads", 1, 1024),
        ("frozen_clips", 1, 4096),
        ("micro_batch_clips", 1, 4096),
        ("gradient_clip", 1e-12, 1e30),
        ("head.embd_dim", 1, 65536),
        ("head.head_dim", 1, 65536),
        ("head.fpn_dim", 1, 65536),
        ("head.levels", 1, 16),
        ("head.stem_layers", 0, 64),
        ("head.embd_layers", 1, 16),
        ("head.input_dropout", 0, 0.99),
        ("head.label_smoothing", 0, 0.99),
        ("head.pre_nms_topk", 1, 10**6),
        ("head.duration_thresh", 0, 1e6),
        ("classifier_top", 1, 1000),
        ("epochs", 1e-6, 10**6),
        ("clip_frames", 1, 4096),
        ("clip_stride", 1, 4096),
        ("clip_seconds", 1e-3, 1e6),
        ("steps_per_clip", 1, 4096),
        ("feature_width", 1, 65536),
        ("input_scale", 1e-3, 1e3),
    )
    for name, low, high in limits:
        value = operator.attrgetter(name)(protocol)
        if value is not None and not low <= value <= high:
            raise InputError(f"protocol: field '{name}' is {value}, allowed is {low} to {high}")
    if protocol.classifier is None and protocol.classifier_top != DEFAULTS_OF_NEW_FIELDS["classifier_top"]:
        raise InputError("protocol: field 'classifier_top' is set, allowed only with --classifier")
    if protocol.micro_batch_windows is not None and not 1 <= protocol.micro_batch_windows <= 4096:
        raise InputError(
            f"protocol: field 'micro_batch_windows' is {protocol.micro_batch_windows}, allowed is 1 to 4096"
        )
    check_sampling(protocol)
    if protocol.lean.release_gradients and (
        protocol.gradient_clip < NO_CLIPPING
        or protocol.backward == "streamed"
        or protocol.micro_batch_windows is not None
    ):
        raise InputError(
            "protocol: field 'lean.release_gradients' is true, allowed only with "
            f"gradient_clip={NO_CLIPPING:g} (no clipping), backward plain or checkpointed, and all windows "
            "at once"
        )


def check_feature_fields(protocol: Protocol, model: str) -> None:
    """Raise InputError for fields of features in files with a backbone, and for fields that they lack."""
    if model != "features":
        for name in ("frame_rate", "feature_width"):
            if getattr(protocol, name) != DEFAULTS_OF_NEW_FIELDS[name]:
                raise InputError(f"protocol: field '{name}' is set, allowed only with --model features")
    elif protocol.feature_width is None:
        raise InputError("protocol: field 'feature_width' is none, --model features needs a number")
    elif protocol.augmentation != "none":
        raise InputError(
            f"protocol: field 'augmentation' is {protocol.augmentation}, allowed for features is none"
        )


def check_sampling(protocol: Protocol) -> None:
    """Raise InputError if fields of steps, clips or windows contradict each other."""
    if protocol.steps < 2 and not (protocol.steps == 0 and protocol.epochs is not None):
        raise InputError(
            f"protocol: field 'steps' is {protocol.steps}, allowed is 2 to 100000000, or 0 with epochs"
        )
    if protocol.clip_stride is not None:
        if protocol.resampling == "fixed":
            raise InputError("protocol: field 'clip_stride' is set, allowed only with resampling=windows")
        if protocol.steps_per_clip != 1:
            raise InputError("protocol: field 'clip_stride' is set, allowed only with steps_per_clip=1")
    if protocol.clip_seconds is not None and (protocol.resampling, protocol.steps_per_clip) != ("fixed", 1):
        raise InputError(
            "protocol: field 'clip_seconds' is set, allowed only with resampling=fixed and steps_per_clip=1"
        )
    if protocol.crop_ratio and not (
        len(protocol.crop_ratio) == 2 and 0 < protocol.crop_ratio[0] <= protocol.crop_ratio[1] <= 1
    ):
        raise InputError(
            f"protocol: field 'crop_ratio' is {protocol.crop_ratio}, allowed are two ascending numbers "
            "in (0, 1]"
        )
    windows = protocol.head.n_mha_win_size
    if isinstance(windows, tuple) and len(windows) != protocol.head.levels:
        raise InputError(
            f"protocol: field 'head.n_mha_win_size' has {len(windows)} sizes, "
            f"allowed is one, or {protocol.head.levels} (one a level)"
        )
