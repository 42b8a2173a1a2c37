"""ActionFormer's settings, with the names and defaults of its release.

Lengths are in steps of the feature grid.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from bench.io.errors import InputError


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """``train_cfg``: settings of training only. The head does not use ``clip_grad_l2norm``."""

    center_sample: str = "radius"
    center_sample_radius: float = 1.5
    loss_weight: float = 1.0
    cls_prior_prob: float = 0.01
    init_loss_norm: float = 2000.0
    clip_grad_l2norm: float = -1.0
    head_empty_cls: tuple[int, ...] = ()
    dropout: float = 0.0
    droppath: float = 0.1
    label_smoothing: float = 0.0
    input_dropout: float = 0.0
    """Probability of dropping a channel of the features of a window. OpenTAD has it, the release does not."""


@dataclasses.dataclass(frozen=True)
class TestConfig:
    """``test_cfg``: settings of decoding and NMS."""

    __test__ = False  # pytest would collect a class of this name as tests

    pre_nms_thresh: float = 0.001
    pre_nms_topk: int = 5000
    iou_threshold: float = 0.1
    min_score: float = 0.01
    max_seg_num: int = 1000
    nms_method: str = "soft"
    nms_sigma: float = 0.5
    duration_thresh: float = 0.05
    multiclass_nms: bool = True
    ext_score_file: str | None = None
    """Accepted for compatibility, not used: the release too fuses an external classifier's scores later."""
    voting_thresh: float = 0.75


@dataclasses.dataclass(frozen=True)
class HeadConfig:
    """The head's structure, including ``train_cfg`` and ``test_cfg``."""

    input_dim: int
    num_classes: int
    max_seq_len: int = 2304
    max_buffer_len_factor: float = 6.0
    """Accepted for compatibility, not used: points are generated for any length."""
    model_name: str = "LocPointTransformer"
    backbone_type: str = "convTransformer"
    fpn_type: str = "identity"
    backbone_arch: tuple[int, int, int] = (2, 2, 5)
    """Numbers of projections, of blocks at full rate, and of downsampling blocks."""
    scale_factor: int = 2
    regression_range: tuple[tuple[float, float], ...] = (
        (0, 4),
        (4, 8),
        (8, 16),
        (16, 32),
        (32, 64),
        (64, 10000),
    )
    n_head: int = 4
    n_mha_win_size: int | tuple[int, ...] = -1
    """Steps that a step attends to, one value for all levels or one per level; 1 or less: all."""
    embd_kernel_size: int = 3
    embd_dim: int = 512
    embd_with_ln: bool = True
    fpn_dim: int = 512
    fpn_with_ln: bool = True
    fpn_start_level: int = 0
    head_dim: int = 512
    head_kernel_size: int = 3
    head_num_layers: int = 3
    head_with_ln: bool = True
    use_abs_pe: bool = False
    use_rel_pe: bool = False
    mask_input: bool = False
    """Zero features where the mask is false. The release's data loader pads with zeros instead."""
    train_cfg: TrainConfig = TrainConfig()
    test_cfg: TestConfig = TestConfig()

    def __post_init__(self) -> None:
        levels = self.backbone_arch[2] + 1
        _only("model_name", self.model_name, ("LocPointTransformer",))
        _only("backbone_type", self.backbone_type, ("convTransformer",))
        _only("fpn_type", self.fpn_type, ("identity",))
        _only("train_cfg.center_sample", self.train_cfg.center_sample, ("radius", "none"))
        if len(self.windows) != levels:
            raise InputError(
                f"n_mha_win_size: {len(self.windows)} sizes, allowed is one, or {levels} (one a level)"
            )
        if len(self.regression_range) != len(self.strides):
            raise InputError(
                f"regression_range: {len(self.regression_range)} ranges, allowed are {len(self.strides)}"
            )
        if self.embd_dim % self.n_head:
            raise InputError(f"embd_dim {self.embd_dim}: allowed are multiples of n_head ({self.n_head})")
        if self.fpn_dim != self.embd_dim:
            raise InputError(f"fpn_dim {self.fpn_dim}: the identity neck allows embd_dim ({self.embd_dim})")
        # The release also requires whole chunks for its windowed attention; this implementation does not.
        if self.max_seq_len % self.strides[-1]:
            raise InputError(f"max_seq_len {self.max_seq_len}: allowed are multiples of {self.strides[-1]}")

    @property
    def windows(self) -> tuple[int, ...]:
        """The attention window of every level."""
        if isinstance(self.n_mha_win_size, int):
            return (self.n_mha_win_size,) * (self.backbone_arch[2] + 1)
        return self.n_mha_win_size

    @property
    def strides(self) -> tuple[int, ...]:
        """Feature steps between two points, for every level with outputs."""
        return tuple(self.scale_factor**level for level in range(self.fpn_start_level, len(self.windows)))

    @property
    def divisor(self) -> int:
        """Longer sequences are padded to a multiple of this, as in the release: of strides and windows."""
        each = (
            self.scale_factor**level * (window // 2 * 2 if window > 1 else 1)
            for level, window in enumerate(self.windows)
        )
        return math.lcm(*each)

    def padded_length(self, steps: int) -> int:
        """Return the length that a sequence of ``steps`` is padded to."""
        if steps <= self.max_seq_len:
            return self.max_seq_len
        return math.ceil(steps / self.divisor) * self.divisor

    def settings(self) -> dict[str, Any]:
        """Return the settings as arguments of ``build_head``, to be changed where features differ."""
        return dataclasses.asdict(self)


def head_config(settings: Mapping[str, Any]) -> HeadConfig:
    """Return the configuration of ``settings``; raise ``InputError`` for an unknown name.

    ``train_cfg`` and ``test_cfg`` may be mappings; missing settings have their defaults. Their settings may
    also be given at the top level, and then take precedence.
    """
    values = dict(settings)
    for name, kind in (("train_cfg", TrainConfig), ("test_cfg", TestConfig)):
        nested = values.get(name, {})
        nested = dict(nested) if isinstance(nested, Mapping) else dataclasses.asdict(nested)
        direct = [field.name for field in dataclasses.fields(kind) if field.name in values]
        nested |= {each: values.pop(each) for each in direct}
        values[name] = kind(**_known(kind, nested, f"{name}."))
    for name in ("input_dim", "num_classes"):
        if name not in values:
            raise InputError(f"{name}: missing, allowed is a positive integer")
    return HeadConfig(**_known(HeadConfig, values, ""))


def _known(kind: type, values: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    known = [field.name for field in dataclasses.fields(kind)]
    allowed = known
    if kind is HeadConfig:
        inner = (*dataclasses.fields(TrainConfig), *dataclasses.fields(TestConfig))
        allowed = known + [field.name for field in inner]
    for name in values:
        if name not in known:
            raise InputError(f"{prefix}{name}: no such setting, allowed are {', '.join(allowed)}")
    return {name: _frozen(value) for name, value in values.items()}


def _frozen(value: Any) -> Any:
    return tuple(_frozen(each) for each in value) if isinstance(value, list) else value


def _only(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name} {value!r}: allowed is {' or '.join(allowed)}")


THUMOS14 = HeadConfig(
    input_dim=2048,
    num_classes=20,
    n_mha_win_size=19,
    train_cfg=TrainConfig(init_loss_norm=100.0, clip_grad_l2norm=1.0),
    test_cfg=TestConfig(pre_nms_topk=2000, max_seg_num=200, min_score=0.001, voting_thresh=0.7),
)
"""The release's ``thumos_i3d.yaml``: two-stream I3D features of 16 frames at a stride of 4."""

ACTIVITYNET13 = HeadConfig(
    input_dim=512,
    num_classes=1,
    max_seq_len=192,
    max_buffer_len_factor=1.0,
    n_mha_win_size=(7, 7, 7, 7, 7, -1),
    embd_dim=256,
    fpn_dim=256,
    head_dim=256,
    use_abs_pe=True,
    train_cfg=TrainConfig(init_loss_norm=200.0, clip_grad_l2norm=1.0, label_smoothing=0.1, loss_weight=2.0),
    test_cfg=TestConfig(
        pre_nms_topk=2000,
        max_seg_num=100,
        min_score=0.001,
        nms_sigma=0.75,
        duration_thresh=0.001,
        multiclass_nms=False,
        voting_thresh=0.9,
    ),
)
"""The release's ``anet_tsp.yaml``: TSP features resized to 192 steps, one class for all actions.

``anet_i3d.yaml`` differs only in ``input_dim`` (2048). Both use an external classifier for the classes.
"""
