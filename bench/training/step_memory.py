"""Which steps of a stage run under the memory meter, their peaks, and the time of the others.

A stage has up to three kinds of steps at a fidelity. In ``uncached`` steps the backbone runs on the whole
batch: the first steps, and all steps if the backbone is trained or nothing may be cached. In the ``first
cached`` step encodings are computed for the cache, a few clips at a time; ``cached`` steps read them. The
peaks of all kinds are reported, so that the largest is that of the stage.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import torch

from bench.features.cache import EncodingCache
from bench.memory.meter import AllocatorPeaks, MemoryMeter, MemoryReading, Meter, NoMeter
from bench.training.history import StageMemory, TrainingHistory
from bench.training.step import StageSetup, Trainer
from strategies.base import FULL, Fidelity, Stage

UNCACHED, FIRST_CACHED, CACHED = "uncached", "first cached", "cached"
UNCACHED_STEPS = 2
"""Uncached steps under the meter, per stage and fidelity: the first one creates the optimizer's state."""


class StageMeters:
    """The meters of one stage's steps; results go to ``history``.

    On CUDA, the allocator's peaks of all other steps are read too. On a CPU the step whose windows have the
    most instances is measured in addition, as the memory of a step depends on its number of instances only.
    """

    def __init__(self, trainer: Trainer, stage: Stage, setup: StageSetup, history: TrainingHistory) -> None:
        self.trainer = trainer
        self.stage = stage
        self.setup = setup
        self.history = history
        self._busiest: set[int] = set()

    def find_busiest(self, first: int, end: int) -> None:
        """Find the step with the most instances for each fidelity, of the steps ``first`` to ``end - 1``."""
        if self.trainer.device.type == "cuda":
            return
        sampler, most = self.trainer.sampler, dict[Fidelity, tuple[tuple[int, int], int]]()
        for number in range(first, end):
            fidelity = self.stage.fidelity_at(number - first, sampler.steps_per_epoch)
            windows = self.trainer.world.part(sampler.windows(number))
            counts = [len(sampler.targets(window).labels) for window in windows]
            found = ((max(counts), sum(counts)), number)
            most[fidelity] = max(most.get(fidelity, found), found)
        self._busiest = {number for _, number in most.values()}

    @contextlib.contextmanager
    def step(self, number: int, fidelity: Fidelity) -> Iterator[tuple[Meter, EncodingCache | None]]:
        """Yield the meter and the cache of a step; measure its memory or its time."""
        kind, measured = self._kind(fidelity), self.history.measured
        fills = kind == FIRST_CACHED
        first = measured.count((fidelity, kind)) < (UNCACHED_STEPS if kind == UNCACHED else 1)
        cache = self.setup.uncached if kind == UNCACHED else self.setup.cache
        if first or number in self._busiest:
            measured.append((fidelity, kind))
            with (
                MemoryMeter(self.trainer.device).watching(
                    self.trainer.detector,
                    self.setup.optimizer,
                    parameters=self.setup.parameters_beside(self.trainer.detector),
                ) as meter,
                cache.computing() if cache and fills else contextlib.nullcontext(),
            ):
                yield meter, cache
            self._add(fidelity, kind, meter.reading())
            return
        peaks, started = AllocatorPeaks(self.trainer.device), time.perf_counter()
        with peaks.watching():
            yield NoMeter(), cache
        if self.trainer.device.type == "cuda":
            torch.cuda.synchronize(self.trainer.device)
        self.history.times.append(time.perf_counter() - started)
        self._add(fidelity, kind, peaks)

    def _kind(self, fidelity: Fidelity) -> str:
        """Return the kind of the next step at a fidelity."""
        cache, measured = self.setup.cache, self.history.measured
        if measured.count((fidelity, UNCACHED)) < UNCACHED_STEPS:
            return UNCACHED
        if cache is None or not cache.keep or fidelity != FULL:
            return UNCACHED
        return CACHED if (fidelity, FIRST_CACHED) in measured else FIRST_CACHED

    def _add(self, fidelity: Fidelity, kind: str, found: MemoryReading | AllocatorPeaks) -> None:
        """Keep the higher one of a new reading and those of the same kind before it."""
        memory, name = self.history.memory, self.stage.name
        for index, each in enumerate(memory):
            if (each.stage, each.fidelity, each.step) == (name, fidelity, kind):
                if isinstance(found, AllocatorPeaks):
                    found = found.added_to(each.reading)
                if found.peak_allocated_bytes >= each.reading.peak_allocated_bytes:
                    memory[index] = StageMemory(name, fidelity, kind, found)
                return
        assert isinstance(found, MemoryReading)  # the first step of a kind is measured
        memory.append(StageMemory(name, fidelity, kind, found))
