"""Forecasts as rows: asked in plain values, made in processes of their own, a few side by side.

Importing this module loads no torch, so that the process that asks stays small.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class ForecastRequest:
    """What is to be trained, and on what device."""

    model: str
    strategy: str
    settings: dict[str, str]
    protocol: dict[str, str]
    """Fields that differ from the model's protocol, as text."""
    device: str = "cuda"
    workspace_bytes: int | None = None
    """cuBLAS workspaces; None for PyTorch's default."""
    classes: int = 20
    instances: int = 8
    timeline: bool = False
    processes: int = 1
    """Processes that share every batch; the first one's memory is asked for."""
    sharded: bool = False


def run_forecast(question: ForecastRequest) -> dict[str, Any]:
    """Return the row: predicted bytes in all, by kind, by phase and by stage."""
    import gc

    from bench.config.overrides import override
    from bench.config.presets import default_protocol
    from bench.plan.forecast import CPU, CUDA, TraceSettings, forecast
    from bench.training.distributed.processes import World
    from strategies import build_strategy

    started = time.perf_counter()
    target = CPU if question.device == "cpu" else CUDA
    if question.workspace_bytes is not None:
        target = dataclasses.replace(target, workspace_bytes=question.workspace_bytes)
    protocol = override(default_protocol(question.model, question.device), question.protocol)
    # What was imported is not looked through again by every collection while millions of objects pass.
    gc.freeze()
    try:
        found = forecast(
            question.model,
            build_strategy(question.strategy, question.settings),
            protocol,
            TraceSettings(
                question.classes,
                question.instances,
                target,
                timeline=question.timeline,
                world=World(0, question.processes, question.sharded, has_peers=False),
            ),
        )
    finally:
        gc.unfreeze()
    highest = found.highest
    return {
        "model": question.model,
        "strategy": question.strategy,
        "settings": question.settings,
        "backward": protocol.backward,
        "precision": protocol.precision,
        "frames": protocol.window_clips * found.clip_frames,
        "clips": protocol.window_clips,
        "image_size": protocol.image_size,
        "batch_size": protocol.batch_size,
        "processes": question.processes,
        "sharded": question.sharded,
        "device": question.device,
        "predicted_peak_bytes": found.peak_bytes,
        "predicted_reserved_bytes": found.reserved_bytes,
        "kinds": highest.kinds,
        "phases": highest.phases,
        "stages": [
            {
                "stage": stage.stage,
                "fidelity": dataclasses.asdict(stage.fidelity),
                "predicted_peak_bytes": stage.peak_bytes,
                "kinds": stage.kinds,
            }
            for stage in found.stages
        ],
        "trace_seconds": round(time.perf_counter() - started, 2),
        **({"timeline": thinned(highest.timeline)} if question.timeline else {}),
    }


def thinned(timeline: Sequence[tuple[str, int]], points: int = 800) -> list[tuple[str, int]]:
    """Return about ``points`` of a timeline's points, of each stretch the highest: no peak is lost."""
    length = max(1, len(timeline) // points)
    kept: list[tuple[str, int]] = []
    for _, phase in itertools.groupby(timeline, lambda point: point[0]):
        within = list(phase)
        for first in range(0, len(within), length):
            kept.append(max(within[first : first + length], key=lambda point: point[1]))
    return kept
