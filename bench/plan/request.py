"""Forecast requests in plain values, and their results as rows; used with processes of ``bench.plan.pool``.

Importing this module does not import torch, so that the requesting process stays small.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.config.protocol import Protocol


@dataclasses.dataclass(frozen=True)
class ForecastRequest:
    """Configuration of a forecast: what is trained, and on which device."""

    model: str
    strategy: str
    settings: dict[str, str]
    protocol: dict[str, str]
    """Fields that differ from the model's default protocol, as text."""
    device: str = "cuda"
    workspace_bytes: int | None = None
    """Bytes of a cuBLAS workspace (``bench.memory.cuda_ops.workspace_bytes``); None for the largest."""
    classes: int = 20
    instances: int = 8
    test_clips: int | None = None
    """Clips of a window in inference; None for those of the protocol."""
    timeline: bool = False
    processes: int = 1
    """Number of processes that every batch is split over; the memory of rank 0 is predicted."""
    sharded: bool = False
    dataset: str = ""
    """Name of the data set, which some default protocols depend on."""

    def resolved_protocol(self) -> Protocol:
        """Return the model's default protocol with the fields that differ."""
        from bench.config.overrides import override
        from bench.config.presets import default_protocol

        return override(default_protocol(self.model, self.device, self.dataset), self.protocol)


def run_forecast(question: ForecastRequest) -> dict[str, Any]:
    """Return the row of a forecast: predicted bytes in total, by kind, by phase and by stage."""
    import gc

    from bench.plan.forecast import CPU, CUDA, TraceSettings, forecast
    from bench.training.distributed.processes import World
    from strategies import build_strategy

    started = time.perf_counter()
    target = CPU if question.device == "cpu" else CUDA
    if question.workspace_bytes is not None:
        target = dataclasses.replace(target, workspace_bytes=question.workspace_bytes)
    protocol = question.resolved_protocol()
    # Exclude imported objects from the many garbage collections during the trace.
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
                test_clips=question.test_clips,
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
        "step": highest.step,
        "kinds": highest.peak.kinds,
        "phases": highest.peak.phases,
        "stages": [
            {
                "stage": stage.stage,
                "fidelity": dataclasses.asdict(stage.fidelity),
                "step": stage.step,
                "predicted_peak_bytes": stage.peak.peak_bytes,
                "kinds": stage.peak.kinds,
            }
            for stage in found.stages
        ],
        "inference": {
            "predicted_peak_bytes": found.inference.peak_bytes,
            "predicted_reserved_bytes": found.inference.reserved_bytes,
            "kinds": found.inference.kinds,
        },
        "trace_seconds": round(time.perf_counter() - started, 2),
        **({"timeline": thinned(highest.peak.timeline)} if question.timeline else {}),
    }


def thinned(timeline: Sequence[tuple[str, int]], points: int = 800) -> list[tuple[str, int]]:
    """Return about ``points`` points of a timeline, the highest of each interval, so that no peak is lost."""
    length = max(1, len(timeline) // points)
    kept: list[tuple[str, int]] = []
    for _, phase in itertools.groupby(timeline, lambda point: point[0]):
        within = list(phase)
        for first in range(0, len(within), length):
            kept.append(max(within[first : first + length], key=lambda point: point[1]))
    return kept
