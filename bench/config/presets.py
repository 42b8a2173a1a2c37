"""Default protocols of models."""

from __future__ import annotations

import dataclasses

from bench.config.protocol import HeadSize, NmsConfig, Protocol

MINIATURE = Protocol(
    frames_per_second=10.0,
    image_size=32,
    window_clips=16,
    window_overlap=0.5,
    batch_size=2,
    steps=800,
    learning_rate=2e-3,
    weight_decay=0.05,
    warmup=0.1,
    gradient_clip=1.0,
    head=HeadSize(
        embd_dim=64, head_dim=64, fpn_dim=64, n_mha_win_size=9, stem_layers=1, levels=4, init_loss_norm=20.0
    ),
    nms=NmsConfig(max_seg_num=100),
    positions="recomputed",
    snippet="step",
)
"""A run of vit-t on a few dozen short videos takes minutes on one core."""

SYNTHETIC = dataclasses.replace(
    MINIATURE,
    frames_per_second=8.0,
    batch_size=8,
    steps=400,
    learning_rate=4e-3,
    ema_decay=0.98,
    snippet="clip",
)
"""For vit-t on the synthetic data set (docs/synthetic.md): windows of 32 s, steps of 0.25 s."""

STANDARD = Protocol(
    frames_per_second=7.5,
    image_size=224,
    window_clips=48,
    window_overlap=0.5,
    batch_size=1,
    steps=0,
    epochs=60.0,
    schedule_length=100 / 60,
    learning_rate=1e-4,
    weight_decay=0.05,
    warmup=5 / 60,
    gradient_clip=1.0,
    truncation=0.75,
    head=HeadSize(),
    nms=NmsConfig(),
    ema_decay=0.999,
    precision="bfloat16",
    frozen_clips=4,
)
"""For backbones of published size on data without a recipe.

Times are AdaTAD's on THUMOS-14 (the recipe ``thumos14:adatad``): windows of 102.4 s, 768 frames at 7.5 per
second, 60 epochs of a schedule of 100 with 5 of warmup, instances that are 3/4 inside.
Differs: frames of 224 pixels and one window per step, where AdaTAD has 160 and two; the head attends locally.
"""

FEATURES = dataclasses.replace(
    STANDARD,
    frames_per_second=30.0,
    window_clips=2304,
    window_overlap=0.0,
    batch_size=2,
    truncation=0.5,
    epochs=35.0,
    schedule_length=1.0,
    warmup=5 / 35,
    nms=NmsConfig(),
    precision="float32",
    frozen_clips=256,
    clip_frames=16,
    clip_stride=4,
    steps_per_clip=1,
    test_windows="whole",
    crop_ratio=(0.9, 1.0),
    warmup_from_zero=True,
    feature_width=2048,
    head=HeadSize(pre_nms_topk=2000, mask_input=True),
)
"""For features in files on data without a recipe: ActionFormer's ``thumos_i3d.yaml``."""


def default_protocol(model: str, device: str = "cuda", dataset: str = "") -> Protocol:
    """Return the default protocol of a model on a data set, by its name.

    A CPU computes in float32: without hardware support, bfloat16 convolutions take thirty times as long.
    """
    embedded = SYNTHETIC if dataset == "synthetic" else MINIATURE
    protocol = {"vit-t": embedded, "features": FEATURES}.get(model, STANDARD)
    return dataclasses.replace(protocol, precision="float32") if device == "cpu" else protocol
