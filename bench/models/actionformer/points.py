"""The points of the feature pyramid, and the instance assigned to each of them.

Positions and lengths are in steps of the feature grid. The rules are those of ActionFormer (ECCV 2022,
section 3.3) after FCOS: a point near an instance's centre, on the level whose range contains the distance to
the farther boundary, is assigned the shortest such instance.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

RegressionRange = Sequence[tuple[float, float]]


@dataclasses.dataclass(frozen=True)
class HeadTargets:
    """The targets of the head at each of P points."""

    classes: Tensor
    """(B, P, K) float: 1 where the point is assigned an instance of the class."""
    offsets: Tensor
    """(B, P, 2) float: distances to start and end in units of the level's stride; invalid without a class."""


def level_points(
    steps: Sequence[int], strides: Sequence[int], ranges: RegressionRange, device: torch.device
) -> list[Tensor]:
    """Return per level (T_l, 4) float: position, least and greatest distance to regress, stride."""
    points = []
    for count, stride, (least, greatest) in zip(steps, strides, ranges, strict=True):
        position = torch.arange(count, dtype=torch.float32, device=device) * stride
        rest = (torch.full_like(position, float(value)) for value in (least, greatest, stride))
        points.append(torch.stack((position, *rest), dim=1))
    return points


def assign(
    points: Tensor,
    segments: Sequence[Tensor],
    labels: Sequence[Tensor],
    classes: int,
    center_sample: str = "radius",
    radius: float = 1.5,
) -> HeadTargets:
    """Return the targets of a batch.

    ``points`` is (P, 4) over all levels; ``segments`` and ``labels`` hold (n_i, 2) and (n_i,) per window,
    n_i = 0 allowed. Instances whose lengths differ by at most 1e-3 share a point: it then has both classes.
    Windows are padded to the same number of instances, so shapes do not depend on their content.
    """
    most = max(1, *(len(each) for each in segments))
    device = points.device
    padded = torch.zeros(len(segments), most, 2, device=device)
    kinds = torch.zeros(len(segments), most, dtype=torch.long, device=device)
    real = torch.zeros(len(segments), most, dtype=torch.bool, device=device)
    for index, (each, kind) in enumerate(zip(segments, labels, strict=True)):
        padded[index, : len(each)] = each.to(device, torch.float32)
        kinds[index, : len(each)] = kind.to(device, torch.long)
        real[index, : len(each)] = True

    position, least, greatest, stride = (column[None, :, None] for column in points.unbind(dim=1))
    start, end = padded[:, None, :, 0], padded[:, None, :, 1]
    left, right = position - start, end - position  # (B, P, n)
    if center_sample == "radius":
        middle = 0.5 * (start + end)
        near_left = position - torch.maximum(middle - stride * radius, start)
        near_right = torch.minimum(middle + stride * radius, end) - position
        inside = torch.minimum(near_left, near_right) > 0
    else:
        inside = torch.minimum(left, right) > 0
    farther = torch.maximum(left, right)
    possible = inside & (farther >= least) & (farther <= greatest) & real[:, None]
    length = (end - start).expand_as(left).masked_fill(~possible, math.inf)
    shortest, which = length.min(dim=2, keepdim=True)
    chosen = (length <= shortest + 1e-3) & (length < math.inf)
    one_hot = torch.nn.functional.one_hot(kinds, classes).to(left.dtype)
    reported = torch.bmm(chosen.to(left.dtype), one_hot).clamp(0, 1)
    offsets = torch.cat((left.gather(2, which), right.gather(2, which)), dim=2) / points[None, :, 3:4]
    return HeadTargets(reported, offsets)
