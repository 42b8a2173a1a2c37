"""The losses of ActionFormer's head. Weights replace the release's indexing, so that shapes are fixed."""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.models.actionformer.config import TrainConfig
from bench.models.actionformer.points import HeadTargets

MOMENTUM = 0.9
"""Momentum of the running mean of the number of positive points, as in the release."""


@dataclasses.dataclass(frozen=True)
class Losses:
    """Differentiable scalars: classification loss, regression loss, and the total to minimise."""

    cls: Tensor
    reg: Tensor
    total: Tensor


def sigmoid_focal_loss(logits: Tensor, targets: Tensor, alpha: float = 0.25, gamma: float = 2.0) -> Tensor:
    """Return the focal loss of every element (Lin et al., ICCV 2017, equation 5), targets in [0, 1]."""
    probability = torch.sigmoid(logits)
    entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    right = probability * targets + (1 - probability) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return weight * (1 - right).pow(gamma) * entropy


def center_diou_loss(predicted: Tensor, wanted: Tensor, eps: float = 1e-8) -> Tensor:
    """Return (...): the distance-IoU loss of segments given as (..., 2) distances to start and end.

    Zheng et al., AAAI 2020, equation 7 in one dimension: 1 - IoU + (distance of centres / hull)^2. Both
    segments contain the same point, so they overlap and the hull is the sum of the larger distances.
    """
    left, right = predicted.unbind(dim=-1)
    wanted_left, wanted_right = wanted.unbind(dim=-1)
    overlap = torch.minimum(left, wanted_left) + torch.minimum(right, wanted_right)
    union = (left + right) + (wanted_left + wanted_right) - overlap
    hull = torch.maximum(left, wanted_left) + torch.maximum(right, wanted_right)
    distance = 0.5 * ((right - left) - (wanted_right - wanted_left))
    return 1 - overlap / union.clamp(min=eps) + (distance / hull.clamp(min=eps)).square()


def head_losses(
    logits: Tensor,
    offsets: Tensor,
    valid: Tensor,
    targets: HeadTargets,
    normalizer: Tensor,
    config: TrainConfig,
    reporting: Tensor | None = None,
) -> tuple[Losses, Tensor]:
    """Return the losses and the new normaliser: a running mean of the number of positive points.

    ``logits`` is (B, P, K), ``offsets`` (B, P, 2), ``valid`` (B, P). Both sums are divided by the new
    normaliser. ``config.loss_weight`` weights regression; 0 or less scales it to the size of the
    classification loss. ``reporting`` is the number of positive points of the whole batch if these windows
    are a part of it: the losses of the parts then add up to the batch's.
    """
    positive = (targets.classes.sum(dim=-1) > 0) & valid
    with torch.no_grad():
        count = (positive.sum() if reporting is None else reporting).clamp(min=1).to(normalizer.dtype)
        normalizer = MOMENTUM * normalizer + (1 - MOMENTUM) * count
    smoothing, weight = config.label_smoothing, config.loss_weight
    wanted = targets.classes * (1 - smoothing) + smoothing / (logits.shape[-1] + 1)
    focal = sigmoid_focal_loss(logits, wanted)
    cls = (focal * valid[..., None].to(focal.dtype)).sum() / normalizer
    # At other points both segments are set equal, so that neither value nor gradient can be infinite.
    keep = positive[..., None]
    distance = center_diou_loss(torch.where(keep, offsets, 1.0), torch.where(keep, targets.offsets, 1.0))
    reg = (distance * positive.to(distance.dtype)).sum() / normalizer
    scale = weight if weight > 0 else (cls / reg.clamp(min=0.01)).detach()
    return Losses(cls, reg, cls + reg * scale), normalizer
