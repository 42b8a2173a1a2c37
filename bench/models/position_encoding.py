"""Fixed sine-cosine positions of video tokens."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

Grid = tuple[int, int, int]


def flat_positions(grid: Grid, width: int, device: torch.device) -> Tensor:
    """Return (L, width) float32: the sin-cos table over the flattened token index, as VideoMAE adds it.

    Channel j holds sin (even j) or cos (odd j) of index / 10000^(2 * floor(j / 2) / width).
    """
    # Double precision, because an index of 2047 in single precision moves the angle by 1e-4.
    index = torch.arange(math.prod(grid), dtype=torch.float64, device=device)
    pair = torch.arange(-(-width // 2), dtype=torch.float64, device=device)
    angle = index[:, None] * torch.pow(10000.0, -2.0 * pair / width)
    return torch.stack((angle.sin().float(), angle.cos().float()), dim=2).flatten(1)[:, :width]


def interpolated_positions(grid: Grid, pretrained: Grid, width: int, device: torch.device) -> Tensor:
    """Return (L, width) float32: ``flat_positions`` of the pre-training grid, resized to ``grid``.

    Rows and columns are interpolated bicubically in each time step, as AdaTAD does for VideoMAE's weights
    (OpenTAD, ``vit_adapter.py``); then time is interpolated linearly.
    Differs: for clips of another length, OpenTAD and VideoMAE compute the formula for that length (the first
    positions, or further ones). Linear interpolation is that of UMT and VideoMamba.
    """
    table = flat_positions(pretrained, width, device)
    if grid == pretrained:
        return table
    planes = table.reshape(*pretrained, width).permute(0, 3, 1, 2)
    if grid[1:] != pretrained[1:]:
        planes = F.interpolate(planes, size=grid[1:], mode="bicubic", align_corners=False)
    if grid[0] != pretrained[0]:
        lines = planes.permute(1, 2, 3, 0).reshape(1, -1, pretrained[0])
        lines = F.interpolate(lines, size=grid[0], mode="linear", align_corners=False)
        planes = lines.view(width, *grid[1:], grid[0]).permute(3, 0, 1, 2)
    return planes.permute(0, 2, 3, 1).reshape(-1, width)


def grid_positions(grid: Grid, full: Grid, width: int, device: torch.device) -> Tensor:
    """Return (L, width) float32: sin-cos of time, row and column, each in separate channels.

    Coordinates are cell centres measured in cells of ``full``: the tokens of a smaller input cover the same
    range, so that their positions are those of training. Wavelengths range from about four cells to about
    four times the grid. Rows and columns get a third of the channels each (rounded down to an even number),
    time the rest.
    """
    spatial = 2 * (width // 6)
    shares = (width - 2 * spatial, spatial, spatial)
    parts = []
    for axis, (count, whole, channels) in enumerate(zip(grid, full, shares, strict=True)):
        cell = (torch.arange(count, dtype=torch.float64, device=device) + 0.5) * (whole / count)
        pairs = channels // 2
        step = torch.arange(pairs, dtype=torch.float64, device=device) / max(pairs - 1, 1)
        angle = cell[:, None] * (math.pi / 2) * torch.pow(1.0 / max(whole, 2), step)
        shape = [1, 1, 1, channels]
        shape[axis] = count
        parts.append(torch.cat((angle.sin(), angle.cos()), dim=1).view(shape).expand(*grid, channels))
    return torch.cat(parts, dim=3).reshape(-1, width).float()


def sequence_positions(length: int, width: int) -> Tensor:
    """Return (1, width, length): the sin-cos table, divided by sqrt(width) as in the release."""
    index = torch.arange(length, dtype=torch.float64)
    pair = torch.div(torch.arange(width), 2, rounding_mode="floor")
    angle = index[None, :] * torch.pow(10000.0, -2.0 * pair.double() / width)[:, None]
    odd = (torch.arange(width) % 2).bool()[:, None]
    return (torch.where(odd, angle.cos(), angle.sin()) / math.sqrt(width)).float()[None]
