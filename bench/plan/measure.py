"""Measure peak memory and time of real training steps, on random weights and random frames.

Neither depends on the values. A row is that of a forecast (``bench.plan.request``) with the measurements.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from typing import Any

import torch

from bench.config.overrides import override
from bench.config.presets import default_protocol
from bench.data.clips import VideoClips
from bench.memory.device import note_used_bytes
from bench.memory.meter import MemoryMeter, MemoryReading, NoMeter
from bench.plan.request import ForecastRequest, run_forecast
from bench.plan.traced import traced_sampler
from bench.records.environment import describe
from bench.records.failure import failure
from bench.training.detector import build_detector, lower_frozen_weights
from bench.training.step import HOST, Trainer, setup_stage
from strategies import build_strategy
from strategies.base import Fidelity

TIMED_STEPS = 3


@dataclasses.dataclass(frozen=True)
class StageMeasurement:
    """Memory of the second step of one stage at one fidelity, and the median time of later steps."""

    stage: str
    fidelity: Fidelity
    reading: MemoryReading
    seconds_per_step: float


def measure_steps(question: ForecastRequest, device: torch.device) -> list[StageMeasurement]:
    """Return the measurements of every stage and fidelity; errors, such as out of memory, propagate."""
    note_used_bytes(device)
    protocol = override(default_protocol(question.model, question.device), question.protocol)
    torch.set_num_threads(protocol.threads)
    strategy = build_strategy(question.strategy, question.settings)
    detector, fresh_head, _ = build_detector(question.model, None, strategy, protocol, question.classes, 0)
    lower_frozen_weights(detector, strategy.stages(), protocol)
    detector.to(device)
    sampler = traced_sampler(detector, protocol, question.classes, question.instances, HOST)
    for clips in sampler.store.clips.values():
        assert isinstance(clips, VideoClips)
        clips.frames.random_(0, 256)
    trainer = Trainer(detector, protocol, sampler, device)
    found = []
    for stage in strategy.stages():
        if stage.fresh_head:
            detector.head = fresh_head().to(device)
        setup = setup_stage(trainer, stage)
        for fidelity in dict.fromkeys(stage.fidelities):
            for number in range(2):
                meter = MemoryMeter(device)
                with meter.watching(detector, setup.optimizer, parameters=setup.parameters_beside(detector)):
                    trainer.step(number, fidelity, setup.uncached, setup.optimizer, meter)
            seconds = []
            for number in range(TIMED_STEPS):
                started = time.perf_counter()
                trainer.step(number, fidelity, setup.uncached, setup.optimizer, NoMeter())
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                seconds.append(time.perf_counter() - started)
            median = sorted(seconds)[len(seconds) // 2]
            found.append(StageMeasurement(stage.name, fidelity, meter.reading(), median))
        setup.optimizer.close()
    return found


def measure(question: ForecastRequest, device_name: str) -> dict[str, Any]:
    """Return the row of a request: the forecast, and the measurements or the reason for their absence."""
    device = torch.device(device_name)
    row = {**run_forecast(question), "status": "ok", "message": None, "weights": "random", "measured": None}
    try:
        stages = measure_steps(question, device)
        highest = max(stages, key=lambda stage: stage.reading.peak_allocated_bytes)
        slowest = max(stage.seconds_per_step for stage in stages)
        row["measured"] = {
            **dataclasses.asdict(highest.reading),
            "seconds_per_step": slowest,
            "clips_per_second": row["clips"] * row["batch_size"] / slowest,
            "stages": [
                {
                    "stage": stage.stage,
                    "fidelity": dataclasses.asdict(stage.fidelity),
                    "peak_allocated_bytes": stage.reading.peak_allocated_bytes,
                    "seconds_per_step": stage.seconds_per_step,
                }
                for stage in stages
            ],
        }
    except Exception as error:
        row["status"], row["message"] = failure(error)
    gc.collect()
    return {**row, "environment": describe(device)}
