"""Which steps of a stage run under the memory meter, their peaks, and the time of the others.

A stage has up to three kinds of steps at a fidelity. In ``uncached`` steps the backbone runs on the whole
batch: the first steps, and all steps if the backbone is trained or nothing may be cached. In ``first cached``
steps encodings are computed for the cache, a few clips at a time; ``cached`` steps read them. The peaks of
all kinds are reported, so that the largest is that of the stage. Which steps are measured, and whether they
compute or read encodings, does not depend on what is on disk, as long as memory holds those of one step.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from bench.data.windows import Window
from bench.features.cache import EncodingCache
from bench.memory.constants import CACHED, FIRST_CACHED, UNCACHED
from bench.memory.device import synchronize
from bench.memory.meter import AllocatorPeaks, MemoryMeter, MemoryReading, Meter, NoMeter
from bench.training.history import StageMemory, TrainingHistory, step_clock
from bench.training.step import StageSetup, Trainer
from strategies.base import Fidelity, Stage

UNCACHED_STEPS = 2
"""Uncached steps under the meter, per stage and fidelity: the first one creates the optimizer's state."""


def step_kinds(stage: Stage, setup: StageSetup) -> list[tuple[Fidelity, str]]:
    """Return the fidelities of a stage with the kinds of steps that a run makes at each, in this order."""
    kinds = [(fidelity, UNCACHED) for fidelity in dict.fromkeys(stage.fidelities)]
    for fidelity in dict.fromkeys(stage.fidelities):
        if setup.cache_at(fidelity) is not None:
            kinds += [(fidelity, FIRST_CACHED), (fidelity, CACHED)]
    return kinds


def filling(cache: EncodingCache | None, kind: str) -> contextlib.AbstractContextManager[None]:
    """Return a context in which steps compute the encodings of ``cache``, if ``kind`` is ``first cached``."""
    return cache.computing() if cache and kind == FIRST_CACHED else contextlib.nullcontext()


class StageMeters:
    """The meters of one stage's steps; results go to ``history``.

    On CUDA, the allocator's peaks of all other steps are read too. On a CPU the step whose windows have the
    most instances is measured in addition, as the memory of steps of one kind depends on nothing else.
    """

    def __init__(self, trainer: Trainer, stage: Stage, setup: StageSetup, history: TrainingHistory) -> None:
        self.trainer = trainer
        self.stage = stage
        self.setup = setup
        self.history = history
        self.steady = False
        """Whether the last step ran without the meter and found its encodings in memory."""
        self._busiest: set[int] = set()

    @property
    def all_measured(self) -> bool:
        """Whether steps of every kind at every fidelity of the stage have been measured."""
        return all(kind in self.history.measured for kind in step_kinds(self.stage, self.setup))

    def find_busiest(self, first: int, end: int) -> None:
        """Find the step with the most instances for each fidelity, of the steps ``first`` to ``end - 1``."""
        if self.trainer.device.type == "cuda":
            return
        sampler, most = self.trainer.sampler, dict[Fidelity, tuple[tuple[int, int], int]]()
        for number in range(first, end):
            fidelity = self.stage.fidelity_at(number - first, sampler.steps_per_epoch)
            counts = [len(sampler.targets(window).labels) for window in self._windows(number)]
            found = ((max(counts), sum(counts)), number)
            most[fidelity] = max(most.get(fidelity, found), found)
        self._busiest = {number for _, number in most.values()}

    def step(
        self, number: int, fidelity: Fidelity
    ) -> contextlib.AbstractContextManager[tuple[Meter, EncodingCache | None]]:
        """Return a context with a step's meter and cache, which measures the step's memory or its time."""
        kind = self._next_kind(number, fidelity)
        return self._timed(fidelity) if kind is None else self._measured(number, fidelity, kind)

    @contextlib.contextmanager
    def _measured(
        self, number: int, fidelity: Fidelity, kind: str
    ) -> Iterator[tuple[Meter, EncodingCache | None]]:
        self.history.measured.append((fidelity, kind))
        self.steady = False
        cache = self.setup.uncached if kind == UNCACHED else self.setup.cache_at(fidelity)
        if kind == CACHED and cache is not None:
            cache.load(self._windows(number))
        computed = cache.computed if cache else 0
        with self._meter() as meter, filling(cache, kind):
            yield meter, cache
        if kind == CACHED and cache is not None and cache.computed > computed:
            kind = FIRST_CACHED  # encodings that do not fit into host memory were computed again
        self._add(fidelity, kind, meter.reading())

    @contextlib.contextmanager
    def _timed(self, fidelity: Fidelity) -> Iterator[tuple[Meter, EncodingCache | None]]:
        kept = self.setup.cache_at(fidelity)
        computed, read = (kept.computed, kept.read) if kept else (0, 0)
        peaks, started = AllocatorPeaks(self.trainer.device), step_clock()
        with peaks.watching():
            yield NoMeter(), kept or self.setup.uncached
        synchronize(self.trainer.device)
        for times, now, before in zip(
            (self.history.times, self.history.cpu_times), step_clock(), started, strict=True
        ):
            times.append(now - before)
        self.steady = kept is None or (kept.computed, kept.read) == (computed, read)
        if peaks.allocated is not None:
            kind = UNCACHED if kept is None else FIRST_CACHED if kept.computed > computed else CACHED
            self._add(fidelity, kind, peaks)

    def _windows(self, number: int) -> list[Window]:
        return list(self.trainer.world.part(self.trainer.sampler.windows(number)))

    def _meter(self) -> contextlib.AbstractContextManager[MemoryMeter]:
        detector = self.trainer.detector
        beside = self.setup.parameters_beside(detector)
        return MemoryMeter(self.trainer.device).watching(detector, self.setup.optimizer, parameters=beside)

    def _next_kind(self, number: int, fidelity: Fidelity) -> str | None:
        """Return the kind of the next step at a fidelity if it is measured, else None."""
        measured = self.history.measured
        if measured.count((fidelity, UNCACHED)) < UNCACHED_STEPS:
            return UNCACHED
        if self.setup.cache_at(fidelity) is None:
            return UNCACHED if number in self._busiest else None
        # The busiest step computes: its phases then have the highest peaks of all later steps.
        if (fidelity, FIRST_CACHED) not in measured or number in self._busiest:
            return FIRST_CACHED
        return None if (fidelity, CACHED) in measured else CACHED

    def _add(self, fidelity: Fidelity, kind: str, found: MemoryReading | AllocatorPeaks) -> None:
        """Keep the highest peaks of a new reading and those of the same kind before it."""
        memory, name = self.history.memory, self.stage.name
        for index, each in enumerate(memory):
            if (each.stage, each.fidelity, each.step) == (name, fidelity, kind):
                if isinstance(found, AllocatorPeaks):
                    reading = found.added_to(each.reading)
                else:
                    reading = each.reading.joined(found)
                memory[index] = StageMemory(name, fidelity, kind, reading)
                return
        if isinstance(found, AllocatorPeaks):
            # Memory did not hold the encodings of the step that was to be ``cached``, but those of this one.
            assert kind == CACHED
            self._add(fidelity, FIRST_CACHED, found)
            return
        memory.append(StageMemory(name, fidelity, kind, found))
