"""Search for the most frames and the largest frame size that fit a card."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from bench.memory.constants import needed_bytes
from bench.plan.request import ForecastRequest, run_forecast


def largest_fitting(
    ask: Callable[[int], int], first: int, step: int, most: int, limit: int, power: int
) -> int | None:
    """Return the largest multiple of ``step``, at most ``most``, that needs at most ``limit``; else None.

    ``ask`` returns the bytes needed, which grow about linearly in the ``power``-th power of the argument, so
    the search follows a line through two known points. The allocator's segments make it a line with steps, so
    after two aims on one side of the limit it halves the interval. The returned value was evaluated and fits.
    """
    most = most // step * step
    known = {argument: ask(argument) for argument in (min(first, most), min(2 * first, most))}
    sides: list[bool] = []
    for _ in range(6):
        if len(known) < 2:
            break
        low = max((a for a, need in known.items() if need <= limit), default=0)
        high = min((a for a, need in known.items() if need > limit), default=most + step)
        if high - low <= step:
            break
        (a, need_a), (b, need_b) = sorted(known.items())[-2:]
        slope = (need_b - need_a) / (b**power - a**power)
        aim = most if slope <= 0 else int(max(0.0, (limit - need_a) / slope + a**power) ** (1 / power))
        if len(sides) > 1 and sides[-1] == sides[-2]:
            aim = (low + high) // 2
        aim = min(max(aim // step * step, low + step), high - step, most)
        known[aim] = ask(aim)
        sides.append(known[aim] <= limit)
    return max((a for a, need in known.items() if need <= limit), default=None)


def max_fitting(question: ForecastRequest, field: str, limit: int, most: int) -> int | None:
    """Return the largest value of ``window_clips`` or ``image_size`` whose forecast fits ``limit`` bytes."""
    import torch

    from bench.models import build_backbone

    protocol = question.resolved_protocol()
    with torch.device("meta"):
        geometry = build_backbone(question.model, clip_frames=protocol.clip_frames).geometry

    def ask(value: int) -> int:
        changed = {**question.protocol, field: str(value)}
        return needed_bytes(run_forecast(dataclasses.replace(question, protocol=changed)))

    if field == "window_clips":
        return largest_fitting(ask, protocol.window_clips, 1, most // geometry.clip_frames, limit, 1)
    step = geometry.size_multiple
    return largest_fitting(ask, max(step, protocol.image_size // step * step), step, most, limit, 2)
