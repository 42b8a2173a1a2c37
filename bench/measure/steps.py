"""Measure peak memory and time of real training steps, on random weights and random frames.

Neither depends on the values. The model is built on the host first, so that many are built beside each other
while one of them is measured. A measurement and a forecast (``bench.plan.request``) are a row together.
"""

from __future__ import annotations

import dataclasses
import gc
import time
from collections.abc import Callable
from typing import Any

import torch

from bench.config.overrides import override
from bench.config.presets import default_protocol
from bench.config.protocol import Protocol
from bench.data.clips import VideoClips
from bench.data.windows import TrainingSampler
from bench.measure.attention import attention_kernels
from bench.memory.meter import MemoryMeter, MemoryReading, NoMeter
from bench.models.actionformer.model import ActionFormer
from bench.plan.forecast import traced_sampler
from bench.plan.request import ForecastRequest
from bench.records.environment import describe
from bench.records.failure import failure
from bench.training.detector import Detector, build_detector, lower_frozen_weights
from bench.training.step import HOST, Trainer, setup_stage
from strategies import build_strategy
from strategies.base import Fidelity, Strategy

TIMED_STEPS = 3


@dataclasses.dataclass(frozen=True)
class BuiltModel:
    """All that a configuration's steps need, in host memory."""

    protocol: Protocol
    strategy: Strategy
    detector: Detector
    fresh_head: Callable[[], ActionFormer]
    sampler: TrainingSampler


@dataclasses.dataclass(frozen=True)
class StageMeasurement:
    """Memory of the second step of one stage at one fidelity, and the median time of later steps."""

    stage: str
    fidelity: Fidelity
    reading: MemoryReading
    seconds_per_step: float


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The measurements of all stages and fidelities, and the attention kernels that ran."""

    stages: list[StageMeasurement]
    kernels: list[str] | None
    """None if the profiled step failed."""
    kernels_message: str | None
    """Why it failed."""


def build(question: ForecastRequest) -> BuiltModel:
    """Return a configuration's model with random weights and a window of random frames, on the host."""
    protocol = override(default_protocol(question.model, question.device), question.protocol)
    torch.set_num_threads(protocol.threads)
    strategy = build_strategy(question.strategy, question.settings)
    detector, fresh_head, _ = build_detector(question.model, None, strategy, protocol, question.classes, 0)
    lower_frozen_weights(detector, strategy.stages(), protocol)
    sampler = traced_sampler(detector, protocol, question.classes, question.instances, HOST)
    for clips in sampler.store.clips.values():
        assert isinstance(clips, VideoClips)
        clips.frames.random_(0, 256)
    return BuiltModel(protocol, strategy, detector, fresh_head, sampler)


def measure_steps(built: BuiltModel, device: torch.device) -> Measurement:
    """Return the measurements of every stage and fidelity; errors, such as out of memory, propagate."""
    detector = built.detector.to(device)
    trainer = Trainer(detector, built.protocol, built.sampler, device)
    found: list[StageMeasurement] = []
    kernels: set[str] = set()
    message = None
    for stage in built.strategy.stages():
        if stage.fresh_head:
            detector.head = built.fresh_head().to(device)
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
        try:
            kernels |= attention_kernels(
                lambda fidelity=stage.fidelities[0], setup=setup: trainer.step(  # type: ignore[misc]
                    0, fidelity, setup.uncached, setup.optimizer, NoMeter()
                ),
                device,
            )
        except RuntimeError as error:  # the profiler's buffers may not fit beside the step
            message = failure(error)[1]
        setup.optimizer.close()
    return Measurement(found, None if message else sorted(kernels), message)


def measure(question: ForecastRequest, built: BuiltModel | Exception, device: torch.device) -> dict[str, Any]:
    """Return a row's fields besides the forecast: the measurements or the reason for their absence.

    ``built`` is the model, or the error with which its building ended.
    """
    row: dict[str, Any] = {"status": "ok", "message": None, "weights": "random", "measured": None}
    started = time.perf_counter()
    try:
        if isinstance(built, Exception):
            raise built
        found = measure_steps(built, device)
        highest = max(found.stages, key=lambda stage: stage.reading.peak_allocated_bytes)
        slowest = max(stage.seconds_per_step for stage in found.stages)
        clips = built.protocol.window_clips * built.protocol.batch_size
        row["measured"] = {
            **dataclasses.asdict(highest.reading),
            "seconds_per_step": slowest,
            "clips_per_second": clips / slowest,
            "stages": [
                {
                    "stage": stage.stage,
                    "fidelity": dataclasses.asdict(stage.fidelity),
                    "peak_allocated_bytes": stage.reading.peak_allocated_bytes,
                    "seconds_per_step": stage.seconds_per_step,
                }
                for stage in found.stages
            ],
        }
        row["attention_kernels"] = found.kernels
        if found.kernels_message is not None:
            row["attention_kernels_message"] = found.kernels_message
    except Exception as error:
        row["status"], row["message"] = failure(error)
    row["device_seconds"] = round(time.perf_counter() - started, 2)
    gc.collect()
    return {**row, "environment": describe(device)}
