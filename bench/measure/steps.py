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

from bench.config.protocol import Protocol
from bench.data.clips import VideoClips
from bench.data.windows import TrainingSampler
from bench.measure.attention import attention_kernels
from bench.memory.constants import UNCACHED
from bench.memory.device import note_used_bytes, synchronize
from bench.memory.meter import AllocatorPeaks, MemoryMeter, MemoryReading, NoMeter
from bench.models.actionformer.model import ActionFormer
from bench.plan.request import ForecastRequest
from bench.plan.traced import traced_sampler
from bench.records.environment import describe
from bench.records.failure import failure
from bench.training.detector import Detector, build_detector, lower_frozen_weights
from bench.training.inference import detect_all
from bench.training.step import HOST, StageSetup, Trainer, setup_stage
from bench.training.step_memory import filling, step_kinds
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
    """Memory of the second step of a kind, in a stage at a fidelity, and the median time of later ones."""

    stage: str
    fidelity: Fidelity
    step: str
    """The kind of step, as in ``bench.training.step_memory``."""
    reading: MemoryReading
    seconds_per_step: float | None
    """None for steps with cached encodings: random frames say nothing of how often they are cached."""


@dataclasses.dataclass(frozen=True)
class Measurement:
    """The measurements of all stages and fidelities, and the attention kernels that ran."""

    stages: list[StageMeasurement]
    inference: MemoryReading
    kernels: list[str] | None
    """None if the profiled step failed."""
    kernels_message: str | None
    """Why it failed."""


def build(question: ForecastRequest) -> BuiltModel:
    """Return a configuration's model with random weights and a window of random frames, on the host."""
    protocol = question.resolved_protocol()
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
        trainer = trainer.for_stage(stage)
        if stage.fresh_head:
            detector.head = built.fresh_head().to(device)
        setup = setup_stage(trainer, stage)
        for fidelity, kind in step_kinds(stage, setup):
            reading = metered(trainer, setup, fidelity, kind)
            median = None
            if kind == UNCACHED:
                peaks, seconds = AllocatorPeaks(device), []
                for number in range(TIMED_STEPS):
                    started = time.perf_counter()
                    with peaks.watching():
                        trainer.step(number, fidelity, setup.uncached, setup.optimizer, NoMeter())
                    synchronize(device)
                    seconds.append(time.perf_counter() - started)
                reading = peaks.added_to(reading)
                median = sorted(seconds)[len(seconds) // 2]
            found.append(StageMeasurement(stage.name, fidelity, kind, reading, median))
        try:
            kernels |= attention_kernels(
                lambda fidelity=stage.fidelities[0], setup=setup, trainer=trainer: trainer.step(  # type: ignore[misc]
                    0, fidelity, setup.uncached, setup.optimizer, NoMeter()
                ),
                device,
            )
        except RuntimeError as error:  # the profiler's buffers may not fit beside the step
            message = failure(error)[1]
        setup.close()
        del setup
    _, inference = detect_all(detector, built.sampler.store, built.protocol, device)
    assert inference is not None
    return Measurement(found, inference, None if message else sorted(kernels), message)


def metered(trainer: Trainer, setup: StageSetup, fidelity: Fidelity, kind: str) -> MemoryReading:
    """Run two steps of a kind under the meter, and return the reading of the second one."""
    cache = setup.uncached if kind == UNCACHED else setup.cache
    with filling(cache, kind):
        for number in range(2):
            meter = MemoryMeter(trainer.device)
            parameters = setup.parameters_beside(trainer.detector)
            with meter.watching(trainer.detector, setup.optimizer, parameters=parameters):
                trainer.step(number, fidelity, cache, setup.optimizer, meter)
    return meter.reading()


def measure(question: ForecastRequest, built: BuiltModel | Exception, device: torch.device) -> dict[str, Any]:
    """Return a row's fields besides the forecast: the measurements or the reason for their absence.

    ``built`` is the model, or the error with which its building ended.
    """
    row: dict[str, Any] = {"status": "ok", "message": None, "weights": "random", "measured": None}
    started = time.perf_counter()
    note_used_bytes(device)
    try:
        if isinstance(built, Exception):
            raise built
        found = measure_steps(built, device)
        highest = max(found.stages, key=lambda stage: stage.reading.peak_allocated_bytes)
        slowest = max(stage.seconds_per_step for stage in found.stages if stage.seconds_per_step is not None)
        clips = built.protocol.window_clips * built.protocol.batch_size
        row["measured"] = {
            **dataclasses.asdict(highest.reading),
            "step": highest.step,
            "inference": {
                name: value
                for name, value in dataclasses.asdict(found.inference).items()
                if name not in ("meter", "phases")
            },
            "seconds_per_step": slowest,
            "clips_per_second": clips / slowest,
            "stages": [
                {
                    "stage": stage.stage,
                    "fidelity": dataclasses.asdict(stage.fidelity),
                    "step": stage.step,
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
