"""The one training loop: stages in, trained detector out. It knows no strategy by name."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

import torch

from bench.encoding_cache import DiskCache
from bench.memory.meter import MemoryMeter, MemoryReading, NoMeter
from bench.models.actionformer import ActionFormer
from bench.optimizer import schedule
from bench.protocol import Protocol
from bench.seeds import derived_seed
from bench.step import Detector, Trainer, begin_stage
from bench.streaming import check_streamable
from bench.windows import TrainingSampler
from strategies.base import Fidelity, Stage, check_stages

Progress = Callable[[str, int, int], None]
"""Called with the phase, the steps done and the steps in all."""


@dataclasses.dataclass(frozen=True)
class StageMemory:
    """The peak of a full training step of one stage at one fidelity."""

    stage: str
    fidelity: Fidelity
    reading: MemoryReading


@dataclasses.dataclass(frozen=True)
class TrainingLog:
    """What training measured."""

    losses: tuple[tuple[float, float], ...]
    """Classification and regression loss of every step."""
    memory: tuple[StageMemory, ...]
    step_seconds: dict[str, float]
    """Median seconds of a step for each stage; the measured and the first steps are left out."""
    trainable_parameters: dict[str, int]
    """For each stage."""
    schedule: tuple[tuple[int, str, Fidelity], ...]
    """The step from which on a stage and a fidelity held, for each of their changes."""


MEASURED_STEPS = 2
"""Steps under the meter for each stage and fidelity; the last is reported, when all states exist."""


def train(
    detector: Detector,
    stages: tuple[Stage, ...],
    protocol: Protocol,
    sampler: TrainingSampler,
    fresh_head: Callable[[], ActionFormer],
    device: torch.device,
    progress: Progress = lambda phase, done, total: None,
    disk: DiskCache | None = None,
) -> TrainingLog:
    """Train ``detector`` in place, stage after stage, and return what was measured.

    The first steps of a stage (of each fidelity of its cycle) run under the memory meter and without the
    cache, so that a frozen backbone's own memory counts; their results are those of any other step.
    """
    check_stages(stages)
    losses: list[tuple[float, float]] = []
    memory: list[StageMemory] = []
    seconds: dict[str, float] = {}
    trainable: dict[str, int] = {}
    held: list[tuple[int, str, Fidelity]] = []
    fused = protocol.lean.fused_on(device.type)
    trainer = Trainer(detector, protocol, sampler, device, fused=fused, disk=disk)
    ends = [round(sum(s.share for s in stages[: i + 1]) * protocol.steps) for i in range(len(stages))]
    for index, (stage, end) in enumerate(zip(stages, ends, strict=True)):
        first = len(losses)
        if stage.fresh_head:
            detector.head = fresh_head().to(device)
        setup = begin_stage(trainer, stage)
        if protocol.backward == "streamed" and setup.cache is None:
            check_streamable(detector.backbone)
        trainable[stage.name] = sum(p.numel() for p in detector.parameters() if p.requires_grad)
        torch.manual_seed(derived_seed(sampler.seed, "stage", index))
        measured: dict[Fidelity, int] = {}
        times: list[float] = []
        for number in range(first, end):
            setup.optimizer.set_factor(schedule(number - first, end - first, protocol.warmup))
            fidelity = stage.fidelity_at(number - first, sampler.steps_per_epoch)
            if not held or held[-1][1:] != (stage.name, fidelity):
                held.append((number, stage.name, fidelity))
            started = time.perf_counter()
            if measured.get(fidelity, 0) < MEASURED_STEPS:
                measured[fidelity] = measured.get(fidelity, 0) + 1
                meter = MemoryMeter(device)
                with meter.watching(detector, setup.optimizer, setup.average):
                    losses.append(trainer.step(number, fidelity, setup.uncached, setup.optimizer, meter))
                if measured[fidelity] == MEASURED_STEPS:
                    memory.append(StageMemory(stage.name, fidelity, meter.reading()))
            else:
                losses.append(trainer.step(number, fidelity, setup.cache, setup.optimizer, NoMeter()))
                times.append(time.perf_counter() - started)
            if setup.average:
                setup.average.update()
            progress(stage.name, number + 1, protocol.steps)
        setup.optimizer.close()
        if setup.average:
            setup.average.apply()
        if times:
            # The first unmeasured steps also fill the cache.
            late = sorted(times[len(times) // 2 :])
            seconds[stage.name] = late[len(late) // 2]
    detector.eval()
    return TrainingLog(tuple(losses), tuple(memory), seconds, trainable, tuple(held))
