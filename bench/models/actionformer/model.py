"""The detection head: ActionFormer (Zhang, Wu and Li, ECCV 2022), with the names of its release.

A convolutional stem and a transformer pyramid turn a window's features into levels, each at half the rate of
the level before; two small convolutional heads, shared by all levels, predict class scores and distances to
start and end at every point.

Shape legend: B windows, C channels of the feature, T its steps, T_l steps of level l, K classes, P points.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.actionformer.config import HeadConfig
from bench.models.actionformer.decoding import Detections, LevelScores, decode
from bench.models.actionformer.joined_levels import JoinedLevels, join_levels
from bench.models.actionformer.layers import LayerNorm, MaskedConv1D, Scale, TransformerBlock, drop_channels
from bench.models.actionformer.losses import Losses, head_losses
from bench.models.actionformer.points import HeadTargets, assign, level_points
from bench.models.position_encoding import sequence_positions

if TYPE_CHECKING:
    from bench.models.pretrained import LoadAudit

Outputs = tuple[tuple[Tensor, Tensor, Tensor], ...]


class ConvTransformerBackbone(nn.Module):
    """Projection and stem at full rate, then one downsampling block per further level."""

    pos_embd: Tensor | None

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        projections, stems, branches = config.backbone_arch
        width, train = config.embd_dim, config.train_cfg
        self.max_len = config.max_seq_len
        table = sequence_positions(self.max_len, width) if config.use_abs_pe else None
        self.register_buffer("pos_embd", table, persistent=False)
        self.embd = nn.ModuleList(
            MaskedConv1D(
                config.input_dim if index == 0 else width,
                width,
                config.embd_kernel_size,
                bias=not config.embd_with_ln,
            )
            for index in range(projections)
        )
        self.embd_norm = nn.ModuleList(
            LayerNorm(width) if config.embd_with_ln else nn.Identity() for _ in range(projections)
        )

        def block(level: int) -> TransformerBlock:
            return TransformerBlock(
                width,
                config.n_head,
                stride=config.scale_factor if level else 1,
                window=config.windows[level],
                relative=config.use_rel_pe,
                dropout=train.dropout,
                drop_path=train.droppath,
            )

        self.stem = nn.ModuleList(block(0) for _ in range(stems))
        self.branch = nn.ModuleList(block(level + 1) for level in range(branches))

    def forward(self, x_BCT: Tensor, mask_BT: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Return (B, D, T_l) and its mask for every level, finest first."""
        for convolution, norm in zip(self.embd, self.embd_norm, strict=True):
            x_BCT, mask_BT = convolution(x_BCT, mask_BT)
            x_BCT = F.relu(norm(x_BCT))
        if self.pos_embd is not None:
            table, steps = self.pos_embd, x_BCT.shape[2]
            if steps > self.max_len:
                table = F.interpolate(table, steps, mode="linear", align_corners=False)
            x_BCT = x_BCT + (table[:, :, :steps] * mask_BT[:, None]).to(x_BCT.dtype)
        for stem in self.stem:
            x_BCT, mask_BT = stem(x_BCT, mask_BT)
        levels = [(x_BCT, mask_BT)]
        for branch in self.branch:
            levels.append(branch(*levels[-1]))
        return levels


class IdentityNeck(nn.Module):
    """A norm per level, without connections between levels."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.start = config.fpn_start_level
        self.fpn_norms = nn.ModuleList(
            LayerNorm(config.fpn_dim) if config.fpn_with_ln else nn.Identity() for _ in config.strides
        )

    def forward(self, levels: list[tuple[Tensor, Tensor]]) -> list[tuple[Tensor, Tensor]]:
        """Return the levels from the first one used, normalised."""
        used = levels[self.start :]
        return [(norm(x_BCT), mask) for norm, (x_BCT, mask) in zip(self.fpn_norms, used, strict=True)]


class _Tower(nn.Module):
    """The convolutions before an output layer, shared by all levels."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        depth, width = config.head_num_layers - 1, config.head_dim
        self.head = nn.ModuleList(
            MaskedConv1D(
                width if index else config.fpn_dim,
                width,
                config.head_kernel_size,
                bias=not config.head_with_ln,
            )
            for index in range(depth)
        )
        self.norm = nn.ModuleList(
            LayerNorm(width) if config.head_with_ln else nn.Identity() for _ in range(depth)
        )

    def tower(self, x_BCT: Tensor, mask_BT: Tensor) -> Tensor:
        for convolution, norm in zip(self.head, self.norm, strict=True):
            x_BCT = F.relu(norm(convolution(x_BCT, mask_BT)[0]))
        return x_BCT

    def joined_tower(self, levels: JoinedLevels, output: MaskedConv1D) -> list[Tensor]:
        """Return (B, T_l, O) of every level, after the convolution ``output``."""
        x_BTC = levels.features
        for convolution, norm in zip(self.head, self.norm, strict=True):
            x_BCT = levels.convolution(x_BTC, convolution).transpose(1, 2)
            x_BTC = F.relu(norm(x_BCT).transpose(1, 2))
        return levels.split(levels.convolution(x_BTC, output))


class ClassHead(_Tower):
    """Class scores of every point."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.cls_head = MaskedConv1D(config.head_dim, config.num_classes, config.head_kernel_size)
        bias = self.cls_head.conv.bias
        assert bias is not None
        # Almost every point is background: start from this prior, so that the first steps need not learn it.
        prior = config.train_cfg.cls_prior_prob
        if prior > 0:
            nn.init.constant_(bias, -math.log((1 - prior) / prior))
        for index in config.train_cfg.head_empty_cls:
            nn.init.constant_(bias[index : index + 1], -math.log((1 - 1e-6) / 1e-6))

    def forward(self, levels: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Return (B, T_l, K) logits per level."""
        if joined := join_levels(levels, self.cls_head.conv.kernel_size[0]):
            return self.joined_tower(joined, self.cls_head)
        return [self.cls_head(self.tower(x_BCT, mask), mask)[0].transpose(1, 2) for x_BCT, mask in levels]


class OffsetHead(_Tower):
    """Distances to start and end of every point, in units of the level's stride, at least 0."""

    def __init__(self, config: HeadConfig) -> None:
        super().__init__(config)
        self.scale = nn.ModuleList(Scale() for _ in config.strides)
        self.offset_head = MaskedConv1D(config.head_dim, 2, config.head_kernel_size)

    def forward(self, levels: list[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Return (B, T_l, 2) per level."""
        if joined := join_levels(levels, self.offset_head.conv.kernel_size[0]):
            parts = self.joined_tower(joined, self.offset_head)
            return [F.relu(scale(part)) for scale, part in zip(self.scale, parts, strict=True)]
        return [
            F.relu(scale(self.offset_head(self.tower(x_BCT, mask), mask)[0])).transpose(1, 2)
            for scale, (x_BCT, mask) in zip(self.scale, levels, strict=True)
        ]


class ActionFormer(nn.Module):
    """The head. ``loss_normalizer`` is its only state besides parameters; no checkpoint contains it."""

    loss_normalizer: Tensor
    load_audit: LoadAudit | None = None

    def __init__(self, config: HeadConfig) -> None:
        super().__init__()
        self.config = config
        self.backbone = ConvTransformerBackbone(config)
        self.neck = IdentityNeck(config)
        self.cls_head = ClassHead(config)
        self.reg_head = OffsetHead(config)
        self.register_buffer("loss_normalizer", torch.tensor(0.0), persistent=False)
        self.reset_loss_normalizer()

    def reset_loss_normalizer(self) -> None:
        """Reset the running mean of the number of positive points, as at the start of training."""
        self.loss_normalizer = torch.full_like(self.loss_normalizer, self.config.train_cfg.init_loss_norm)

    def forward(self, features: Tensor, mask: Tensor) -> Outputs:
        """Return per level logits (B, T_l, K), offsets (B, T_l, 2) and mask (B, T_l).

        ``features`` is (B, C, T), ``mask`` (B, T) bool. They are padded here, as the released code does: to
        ``max_seq_len`` if T is at most that, else to the next multiple of ``config.divisor``. So T_0 is the
        padded length; masks are false in the padding.
        """
        if features.ndim != 3 or features.shape[1] != self.config.input_dim:
            raise InputError(
                f"features of shape {tuple(features.shape)}: allowed is (B, {self.config.input_dim}, T)"
            )
        if mask.shape != (features.shape[0], features.shape[2]) or mask.dtype != torch.bool:
            raise InputError(
                f"mask {mask.dtype} {tuple(mask.shape)}: allowed is bool "
                f"{(features.shape[0], features.shape[2])}"
            )
        missing = self.config.padded_length(features.shape[2]) - features.shape[2]
        if self.config.mask_input:
            features = features * mask[:, None].to(features.dtype)
        features = drop_channels(features, self.config.train_cfg.input_dropout if self.training else 0.0)
        features, mask = F.pad(features, (0, missing)), F.pad(mask, (0, missing))
        levels = self.neck(self.backbone(features, mask))
        logits, offsets = self.cls_head(levels), self.reg_head(levels)
        return tuple(
            (scores, distances, level_mask)
            for scores, distances, (_, level_mask) in zip(logits, offsets, levels, strict=True)
        )

    def points(self, outputs: Outputs) -> list[Tensor]:
        """Return per level (T_l, 4): position, regression range, stride, in steps of the feature grid."""
        steps = [logits.shape[1] for logits, _, _ in outputs]
        config = self.config
        return level_points(steps, config.strides, config.regression_range, outputs[0][0].device)

    def _targets(
        self, points: list[Tensor], segments: Sequence[Tensor], labels: Sequence[Tensor]
    ) -> HeadTargets:
        train = self.config.train_cfg
        return assign(
            torch.cat(points),
            segments,
            labels,
            self.config.num_classes,
            train.center_sample,
            train.center_sample_radius,
        )

    @torch.no_grad()
    def reporting_points(self, mask: Tensor, segments: Sequence[Tensor], labels: Sequence[Tensor]) -> Tensor:
        """Return the number of positive points, as a scalar tensor, from the mask (B, T) of features."""
        config = self.config
        mask = F.pad(mask, (0, config.padded_length(mask.shape[1]) - mask.shape[1]))
        masks = [mask[:, ::stride] for stride in config.strides]
        steps = [each.shape[1] for each in masks]
        points = level_points(steps, config.strides, config.regression_range, mask.device)
        reports = self._targets(points, segments, labels).classes.sum(dim=-1) > 0
        return (reports & torch.cat(masks, dim=1)).sum()

    def loss(
        self,
        outputs: Outputs,
        segments: Sequence[Tensor],
        labels: Sequence[Tensor],
        reporting: Tensor | None = None,
    ) -> Losses:
        """Return the losses of a batch, and update ``loss_normalizer``.

        ``segments`` and ``labels`` hold, per window, (n_i, 2) in steps of the feature grid and (n_i,).
        ``reporting`` is the ``reporting_points`` of the whole batch if these windows are a part of it.
        """
        targets = self._targets(self.points(outputs), segments, labels)
        losses, normalizer = head_losses(
            torch.cat([logits for logits, _, _ in outputs], dim=1).float(),
            torch.cat([offsets for _, offsets, _ in outputs], dim=1).float(),
            torch.cat([mask for _, _, mask in outputs], dim=1),
            targets,
            self.loss_normalizer,
            self.config.train_cfg,
            reporting,
        )
        # Replaced, not changed in place: a later backward pass still needs the old tensor.
        self.loss_normalizer = normalizer
        return losses

    @torch.no_grad()
    def scored(self, outputs: Outputs) -> list[LevelScores]:
        """Return the scores of every level: what of ``detections`` is computed on the device."""
        return [
            LevelScores(level, logits.float().sigmoid() * mask[..., None], offsets.float())
            for level, (logits, offsets, mask) in zip(self.points(outputs), outputs, strict=True)
        ]

    def detections(self, outputs: Outputs) -> list[Detections]:
        """Return per window segments (n, 2) in steps of the feature grid, scores (n,) and labels (n,).

        Per level the best ``pre_nms_topk`` pairs of point and class above ``pre_nms_thresh`` are decoded, and
        those longer than ``duration_thresh`` are kept. NMS is done by ``bench.detection``.
        """
        return decode([level.on_host() for level in self.scored(outputs)], self.config.test_cfg)
