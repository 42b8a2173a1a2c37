"""ActionFormer's published configurations: every value, what they build, and that their checkpoints load."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from bench.io.errors import InputError
from bench.models import build_head
from bench.models.actionformer.config import ACTIVITYNET13, THUMOS14, HeadConfig, head_config

# What the release's files say; all else is its default.
THUMOS_FILE: dict[str, Any] = {
    "fpn_type": "identity",
    "max_buffer_len_factor": 6.0,
    "n_mha_win_size": 19,
    "input_dim": 2048,
    "num_classes": 20,
    "max_seq_len": 2304,
    "train_cfg": {
        "init_loss_norm": 100,
        "clip_grad_l2norm": 1.0,
        "cls_prior_prob": 0.01,
        "center_sample": "radius",
        "center_sample_radius": 1.5,
    },
    "test_cfg": {
        "voting_thresh": 0.7,
        "pre_nms_topk": 2000,
        "max_seg_num": 200,
        "min_score": 0.001,
        "multiclass_nms": True,
    },
}
ACTIVITYNET_FILE: dict[str, Any] = {
    "fpn_type": "identity",
    "max_buffer_len_factor": 1.0,
    "n_mha_win_size": [7, 7, 7, 7, 7, -1],
    "n_head": 4,
    "embd_dim": 256,
    "fpn_dim": 256,
    "head_dim": 256,
    "use_abs_pe": True,
    "input_dim": 512,
    "num_classes": 1,
    "max_seq_len": 192,
    "train_cfg": {
        "init_loss_norm": 200,
        "clip_grad_l2norm": 1.0,
        "cls_prior_prob": 0.01,
        "center_sample": "radius",
        "center_sample_radius": 1.5,
        "label_smoothing": 0.1,
        "droppath": 0.1,
        "loss_weight": 2.0,
    },
    "test_cfg": {
        "voting_thresh": 0.9,
        "pre_nms_topk": 2000,
        "max_seg_num": 100,
        "min_score": 0.001,
        "multiclass_nms": False,
        "nms_sigma": 0.75,
        "duration_thresh": 0.001,
    },
}
DEFAULTS: dict[str, Any] = {
    "model_name": "LocPointTransformer",
    "backbone_type": "convTransformer",
    "fpn_type": "identity",
    "backbone_arch": (2, 2, 5),
    "scale_factor": 2,
    "regression_range": [(0, 4), (4, 8), (8, 16), (16, 32), (32, 64), (64, 10000)],
    "n_head": 4,
    "n_mha_win_size": -1,
    "embd_kernel_size": 3,
    "embd_dim": 512,
    "embd_with_ln": True,
    "fpn_dim": 512,
    "fpn_with_ln": True,
    "fpn_start_level": 0,
    "head_dim": 512,
    "head_kernel_size": 3,
    "head_num_layers": 3,
    "head_with_ln": True,
    "max_buffer_len_factor": 6.0,
    "use_abs_pe": False,
    "use_rel_pe": False,
    "max_seq_len": 2304,
    "train_cfg": {
        "center_sample": "radius",
        "center_sample_radius": 1.5,
        "loss_weight": 1.0,
        "cls_prior_prob": 0.01,
        "init_loss_norm": 2000,
        "clip_grad_l2norm": -1,
        "head_empty_cls": [],
        "dropout": 0.0,
        "droppath": 0.1,
        "label_smoothing": 0.0,
    },
    "test_cfg": {
        "pre_nms_thresh": 0.001,
        "pre_nms_topk": 5000,
        "iou_threshold": 0.1,
        "min_score": 0.01,
        "max_seg_num": 1000,
        "nms_method": "soft",
        "nms_sigma": 0.5,
        "duration_thresh": 0.05,
        "multiclass_nms": True,
        "ext_score_file": None,
        "voting_thresh": 0.75,
    },
}


def test_the_defaults_are_the_releases() -> None:
    assert head_config({"input_dim": 5, "num_classes": 2}) == head_config(
        DEFAULTS | {"input_dim": 5, "num_classes": 2}
    )


@pytest.mark.parametrize(("preset", "file"), [(THUMOS14, THUMOS_FILE), (ACTIVITYNET13, ACTIVITYNET_FILE)])
def test_presets_are_the_released_files(preset: HeadConfig, file: dict[str, Any]) -> None:
    assert head_config(file) == preset
    assert head_config(preset.settings()) == preset


@pytest.mark.parametrize(
    ("preset", "levels", "divisor"),
    [
        (THUMOS14, (2304, 1152, 576, 288, 144, 72), 576),
        (ACTIVITYNET13, (192, 96, 48, 24, 12, 6), 96),
    ],
)
def test_a_full_size_head_of_a_preset_loads_its_checkpoint(
    preset: HeadConfig, levels: tuple[int, ...], divisor: int, tmp_path: Path
) -> None:
    assert preset.divisor == divisor
    torch.manual_seed(0)
    settings = preset.settings()
    source = build_head(**settings)
    saved = {f"module.{name}": value for name, value in source.state_dict().items()}
    content = {"epoch": 35, "state_dict": {}, "state_dict_ema": saved, "scheduler": {}, "optimizer": {}}
    torch.save(content, tmp_path / "epoch_035.pth.tar")
    head = build_head(weights=tmp_path / "epoch_035.pth.tar", **settings).eval()
    assert head.load_audit is not None
    assert head.load_audit.container == "state_dict_ema"
    assert head.load_audit.share == 1
    state = source.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in head.state_dict().items())
    features, mask = torch.randn(1, preset.input_dim, 100), torch.ones(1, 100, dtype=torch.bool)
    with torch.no_grad():
        outputs = head(features, mask)
    assert tuple(logits.shape[1] for logits, _, _ in outputs) == levels
    assert all(logits.shape[2] == preset.num_classes for logits, _, _ in outputs)


def test_a_preset_serves_other_features_and_classes() -> None:
    head = build_head(**THUMOS14.settings() | {"input_dim": 16, "num_classes": 3, "head_dim": 8})
    assert dataclasses.replace(THUMOS14, input_dim=16, num_classes=3, head_dim=8) == head.config


def test_other_architectures_of_the_release_are_named_as_missing() -> None:
    for name, value in (("backbone_type", "conv"), ("fpn_type", "fpn"), ("model_name", "Other")):
        with pytest.raises(InputError, match=f"{name} '{value}': allowed is"):
            head_config({"input_dim": 5, "num_classes": 2, name: value})
