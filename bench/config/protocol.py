"""The protocol: all settings that are equal for every strategy, with one digest."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any, Literal

from bench.config.digest import digest_of

MODES = ("plain", "checkpointed", "streamed")


@dataclasses.dataclass(frozen=True)
class HeadSize:
    """Sizes of the ActionFormer head, by ActionFormer's names; others have their published values."""

    embd_dim: int = 512
    head_dim: int = 512
    fpn_dim: int = 512
    n_head: int = 4
    n_mha_win_size: int | tuple[int, ...] = 19
    """Steps that a step attends to, one value for all levels or one per level; 1 or less: all."""
    stem_layers: int = 2
    levels: int = 6
    """Pyramid levels; their regression ranges double from (0, 4) steps, the last is open."""
    droppath: float = 0.1
    cls_prior_prob: float = 0.01
    init_loss_norm: float = 100.0
    embd_layers: int = 2
    """Convolutions before the transformer."""
    use_abs_pe: bool = False
    input_dropout: float = 0.0
    """Probability of dropping a channel of a window's features in training (OpenTAD's ``input_pdrop``)."""
    label_smoothing: float = 0.0
    loss_weight: float = 1.0
    """Weight of the regression loss."""
    pre_nms_topk: int = 5000
    duration_thresh: float = 0.05
    """Detections of at most this many steps are dropped."""
    mask_input: bool = False
    """Set the features of steps after a video's end to zero, as ActionFormer and OpenTAD do.

    Otherwise the first convolution sees the last clip again there.
    """

    def keywords(self, window_steps: int) -> dict[str, Any]:
        """Return the keyword arguments of ``build_head`` for windows of ``window_steps`` steps."""
        coarsest = 2 ** (self.levels - 1)
        bounds = [0, *(2 ** (level + 2) for level in range(self.levels - 1)), 10000]
        return {
            "embd_dim": self.embd_dim,
            "head_dim": self.head_dim,
            "fpn_dim": self.fpn_dim,
            "n_head": self.n_head,
            "n_mha_win_size": self.n_mha_win_size,
            "backbone_arch": (self.embd_layers, self.stem_layers, self.levels - 1),
            "use_abs_pe": self.use_abs_pe,
            "mask_input": self.mask_input,
            "regression_range": tuple(itertools.pairwise(bounds)),
            # A window whose length the pyramid does not divide is padded.
            "max_seq_len": -(-window_steps // coarsest) * coarsest,
            "train_cfg": {
                "droppath": self.droppath,
                "cls_prior_prob": self.cls_prior_prob,
                "init_loss_norm": self.init_loss_norm,
                "input_dropout": self.input_dropout,
                "label_smoothing": self.label_smoothing,
                "loss_weight": self.loss_weight,
            },
            "test_cfg": {"pre_nms_topk": self.pre_nms_topk, "duration_thresh": self.duration_thresh},
        }


@dataclasses.dataclass(frozen=True)
class NmsConfig:
    """Settings of non-maximum suppression, by ActionFormer's names."""

    nms_method: Literal["soft", "hard", "none"] = "soft"
    multiclass_nms: bool = True
    iou_threshold: float = 0.1
    nms_sigma: float = 0.5
    min_score: float = 0.001
    max_seg_num: int = 200
    voting_thresh: float = 0.7


@dataclasses.dataclass(frozen=True)
class MemoryOptions:
    """Memory optimizations. All are exact: they change no result beyond the order of additions."""

    fused_optimizer: bool = True
    """Use the fused AdamW kernel, which needs no temporary copy of the trained parameters."""
    low_precision_frozen: bool = True
    """Under bfloat16, store frozen weights that autocast would cast at every use in bfloat16."""
    average_on_host: bool = True
    """Keep the averaged weights in host memory."""
    move_per_pass: bool = True
    """Move clips to the device for the pass that needs them, not all clips of a step at once."""
    release_gradients: bool = False
    """Apply each gradient as soon as it is complete, and free it.

    Only without gradient clipping, which needs the norm of all gradients, and without accumulation over
    streamed passes, micro-batches or processes.
    """

    def fused_on(self, device_type: str) -> bool | None:
        """Return whether the optimizer uses the fused kernel; None for PyTorch's default."""
        return self.fused_optimizer if device_type == "cuda" else self.fused_optimizer or None


@dataclasses.dataclass(frozen=True)
class Protocol:
    """Settings of a comparison. Records share a table only if the digests of their protocols are equal."""

    frames_per_second: float
    """Rate at which videos are sampled."""
    image_size: int
    """Height and width in pixels of a full-fidelity frame."""
    window_clips: int
    """Clips per window, in training and at test time."""
    window_overlap: float
    """Fraction by which neighbouring windows overlap at test time."""
    batch_size: int
    """Windows per step."""
    steps: int
    """Optimizer steps of all stages of a strategy together; 0: they follow from ``epochs``."""
    learning_rate: float
    """Base learning rate, multiplied by a strategy's factors."""
    weight_decay: float
    warmup: float
    """Fraction of a stage's steps with linear warmup of the learning rate; cosine decay follows."""
    gradient_clip: float
    """Largest norm of the gradient of all trained parameters."""
    head: HeadSize
    nms: NmsConfig
    ema_decay: float | None = None
    """Decay of the averaged weights that are evaluated; None evaluates the last weights."""
    training_subset: str = "training"
    evaluation_subset: str = "testing"
    tiou: tuple[float, ...] = (0.3, 0.4, 0.5, 0.6, 0.7)
    temporal_crop: bool = True
    """Training windows start at a random clip; otherwise at the first."""
    truncation: float = 0.5
    """Fraction of an instance that must be inside a training window to be kept as ground truth."""
    precision: Literal["float32", "bfloat16"] = "float32"
    backward: Literal["plain", "checkpointed", "streamed"] = "plain"
    """How gradients of a trained backbone are computed.

    "plain" keeps all activations; "checkpointed" recomputes each block's; "streamed" processes a few clips at
    a time (``bench.features.streamed``). All three give the same gradient.
    """
    micro_batch_clips: int = 1
    """Clips per pass under streamed backward."""
    streamed_checkpointing: bool = True
    """Under streamed backward, recompute each block's activations as well."""
    lean: MemoryOptions = MemoryOptions()
    cache: bool = True
    """Compute frozen encodings once and cache them; changes the time, not the result."""
    frozen_clips: int = 8
    """Clips per pass through a backbone where no gradient is recorded."""
    threads: int = 1
    classifier: str | None = None
    """An external classifier of whole videos, by its file's name and digest.

    The head then learns one class, and detections take their classes from the classifier
    (``bench.detection.external_classifier``). If None, the head classifies.
    """
    classifier_top: int = 2
    """Number of classes that each detection gets from the classifier, the best of its video."""
    augmentation: Literal["none", "crop-flip"] = "none"
    """Augmentation of a training window, the same for all its frames.

    "crop-flip" takes a random crop, resizes it to the full frame and flips it horizontally with probability
    1/2 (``bench.data.augmentation``).
    """
    resampling: Literal["windows", "fixed"] = "windows"
    """How a video is sampled.

    With "windows", windows slide over a video that is read at ``frames_per_second``. With "fixed", the frames
    of one window are spread evenly over the whole video, in training and at test time; overlap, crop and rate
    then have no effect.
    """
    micro_batch_windows: int | None = None
    """Windows per forward and backward pass of a process, with gradient accumulation.

    None takes all windows of its part of the batch. Changes no result beyond the order of additions.
    """
    epochs: float | None = None
    """Passes over the training videos, one window of each; sets ``steps`` once the data set is known."""
    schedule_length: float = 1.0
    """Length of warmup and cosine decay in multiples of a stage's steps.

    With more than 1, training stops before the learning rate is zero.
    """
    clip_frames: int | None = None
    """Frames per clip; None takes the model's own number."""
    clip_stride: int | None = None
    """Frames between the starts of neighbouring clips; None for clips that touch.

    With fewer frames than a clip has, clips overlap, and each gives one step of the head
    (``steps_per_clip`` is 1).
    """
    clip_seconds: float | None = None
    """With "fixed" resampling, the seconds over which the frames of a clip are spread around its middle.

    None spreads the frames of all clips evenly.
    """
    steps_per_clip: int | None = None
    """Steps of the head per clip; None takes the backbone's number.

    Fewer are means over the backbone's steps, more are interpolated linearly.
    """
    positions: Literal["interpolated", "recomputed"] = "interpolated"
    """Positions of ViTs for other sizes than that of the weights.

    "interpolated" resizes the table of the pre-training grid, as published models do; "recomputed" applies
    the formula to the new grid.
    """
    snippet: Literal["clip", "step"] = "clip"
    """Unit that a lower temporal fidelity keeps or leaves out.

    "clip": the frames that are encoded together. "step" is the rule of earlier versions, kept for their
    records: the frames of one step, from which new clips are put together, with features half a step off.
    """
    test_windows: Literal["sliding", "whole"] = "sliding"
    """Windows at test time: sliding ones, or one that covers the whole video."""
    crop_ratio: tuple[float, ...] = ()
    """Shortest and longest part of a video that a training window shows where it covers it; empty: all."""
    warmup_from_zero: bool = False
    """Begin the warmup with a learning rate of zero, as ActionFormer and OpenTAD do.

    Otherwise the first of n steps of warmup has 1/n of the rate.
    """
    frame_rate: Literal["protocol", "video"] = "protocol"
    """With ``--model features``, whose frames per second clip and stride count in: ``frames_per_second`` for
    all videos, or each video's own in the annotations."""
    feature_width: int | None = None
    """Channels of the features with ``--model features``; None with a backbone."""
    input_norm: Literal["none", "scale"] = "none"
    """What maps the features before the head: nothing, or one learnable factor.

    This and ``input_scale`` are tuned for each strategy, so they count in a run's settings of its strategy
    and not in ``digest``.
    """
    input_scale: float = 3.0
    """Initial value of the factor of ``input_norm`` "scale"."""

    def steps_per_epoch(self, videos: int) -> int:
        """Return the steps of one pass over so many training videos, without an incomplete batch."""
        return max(1, videos // self.batch_size)

    def with_steps(self, videos: int) -> Protocol:
        """Return the protocol with ``steps`` for so many training videos, if they follow from ``epochs``."""
        if self.steps or self.epochs is None:
            return self
        steps = max(2, round(self.epochs * self.steps_per_epoch(videos)))
        return dataclasses.replace(self, steps=steps)

    def tuned(self) -> dict[str, Any]:
        """Return the fields that are tuned for each strategy, as in its record; empty at their defaults."""
        if self.input_norm == "none":
            return {}
        return {"input_norm": self.input_norm, "input_scale": self.input_scale}

    def digest(self) -> str:
        """Return the SHA-256 of all fields but those that are tuned for each strategy (``digest_of``)."""
        return digest_of(dataclasses.asdict(self))


NO_CLIPPING = 1e30
"""A ``gradient_clip`` of this much or more clips nothing."""
