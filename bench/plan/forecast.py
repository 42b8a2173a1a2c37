"""Predict the peak memory of training without the device: real steps on fake tensors and a storage tracker.

The detector, the strategy's stages, the loss and the optimizer are those of a run; only the tensors hold no
data. For a CUDA device, the step is traced on fake CPU tensors (fake CUDA tensors do not support backward
without a GPU), with CUDA's casts and kernel scratch memory added, and every storage passes through a model
of the caching allocator. Host tensors are traced on ``meta``, so that they are not counted. All kinds of
steps of a stage that a run measures are traced, after a first one that creates the optimizer's state; then
inference.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh

from bench.config.protocol import Protocol
from bench.data.windows import Window
from bench.features.cache import EncodingCache
from bench.memory.allocator import CachingAllocator
from bench.memory.constants import UNCACHED
from bench.memory.cuda_autocast import follow_cuda_autocast
from bench.memory.cuda_ops import KEEPS_WORKSPACES, LARGEST_WORKSPACE, kernel_scratch
from bench.memory.tracker import HasState, StorageTracker
from bench.models.actionformer.model import ActionFormer
from bench.models.cpu_kernels import kernels_of
from bench.plan.traced import (
    TracedCache,
    materialize_gradients,
    move_to_device,
    recorded_gradients,
    traced_sampler,
)
from bench.training.detector import Detector, build_detector, lower_frozen_weights
from bench.training.distributed.fsdp import make_mesh, shard, unshard
from bench.training.distributed.processes import ALONE, World
from bench.training.inference import window_outputs
from bench.training.step import Trainer, setup_stage
from bench.training.step_memory import filling, step_kinds
from strategies.base import Fidelity, Stage, Strategy

CPU_DEVICE = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Target:
    """Target device of a forecast."""

    device: str = "cuda"
    workspace_bytes: int = LARGEST_WORKSPACE
    """Bytes of a cuBLAS workspace."""
    keeps_workspaces: bool = KEEPS_WORKSPACES
    """Whether the forward and the backward thread hold one each; else each matrix product allocates one."""


CUDA = Target()
CPU = Target("cpu", 0)


@dataclasses.dataclass(frozen=True)
class TraceSettings:
    """Settings of a forecast in addition to model, strategy and protocol."""

    classes: int = 20
    """Number of classes of the data set."""
    instances: int = 8
    """Number of instances in a window."""
    target: Target = CUDA
    test_clips: int | None = None
    """Clips of a window in inference; None for those of the protocol."""
    timeline: bool = False
    """Whether to return the live bytes after every change."""
    world: World = ALONE
    """The process whose memory is predicted."""
    passes_run: int | None = 2
    """Number of clip passes to trace: later passes do not have higher peaks. None traces all of them."""


@dataclasses.dataclass(frozen=True)
class StepPeak:
    """The peak of a training step or of inference."""

    peak_bytes: int
    """Largest number of bytes held by tensors at the same time."""
    reserved_bytes: int | None
    """Bytes that the caching allocator has reserved on the device by then; None for a CPU."""
    kinds: dict[str, int]
    phases: dict[str, int]
    """The peak of each phase."""
    timeline: tuple[tuple[str, int], ...] = ()
    """The phase and the live bytes after every change."""


@dataclasses.dataclass(frozen=True)
class StageForecast:
    """The peak of one kind of training step of one stage at one fidelity."""

    stage: str
    fidelity: Fidelity
    step: str
    """The kind of step, as in ``bench.training.step_memory``."""
    peak: StepPeak


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Predicted memory of training and of inference after it."""

    stages: tuple[StageForecast, ...]
    inference: StepPeak
    clip_frames: int

    @property
    def highest(self) -> StageForecast:
        return max(self.stages, key=lambda stage: stage.peak.peak_bytes)

    @property
    def peak_bytes(self) -> int:
        """Largest number of bytes held by tensors at the same time in a training step."""
        return self.highest.peak.peak_bytes

    @property
    def reserved_bytes(self) -> int | None:
        """Most bytes that the caching allocator reserves in training; None for a CPU."""
        return max(
            (stage.peak.reserved_bytes for stage in self.stages if stage.peak.reserved_bytes), default=None
        )


class ForecastMeter:
    """A meter for the training step that only forwards events to the tracker."""

    def __init__(self, tracker: StorageTracker) -> None:
        self.tracker = tracker

    def phase(self, name: str) -> contextlib.AbstractContextManager[None]:
        return self.tracker.phase(name)

    def gradients_ready(self, parameters: Sequence[Tensor]) -> None:
        self.tracker.label_gradients(parameters)

    def optimizer_stepped(self, optimizer: HasState) -> None:
        self.tracker.label_optimizer(optimizer)


def make_tracker(target: Target, *, timeline: bool = False) -> StorageTracker:
    """Return a storage tracker for the target; for CUDA, ``follow_cuda_autocast`` changes process state."""
    if target.device == "cpu":
        return StorageTracker(timeline=timeline)
    follow_cuda_autocast()
    workspace = 0 if target.keeps_workspaces else target.workspace_bytes
    scratch = functools.partial(kernel_scratch, workspace=workspace)
    return StorageTracker("cpu", CachingAllocator(), scratch, timeline)


def forecast_stages(
    detector: Detector,
    fresh_head: Callable[[], ActionFormer],
    stages: tuple[Stage, ...],
    trainer: Trainer,
    tracker: StorageTracker,
) -> Iterator[StageForecast]:
    """Yield the peak of every kind of step, for every stage and fidelity. Call it under fake tensors."""
    meter = ForecastMeter(tracker)
    for stage in stages:
        trainer = trainer.for_stage(stage)
        if stage.fresh_head:
            head = fresh_head()
            move_to_device(head, tracker)
            detector.head = head
        if tracker.allocator is not None:
            tracker.allocator.empty_cache()  # as the meter of a run does
        with tracker:
            setup = setup_stage(trainer, stage)
            for tensor in setup.average.average if setup.average else ():
                tracker.label(tensor, "parameter")
            tracker.label_module(detector)
            # The first step creates the optimizer states; one pass of clips is enough to get every gradient.
            first = dataclasses.replace(trainer, run_at_most=trainer.run_at_most and 1)
            with recorded_gradients(detector.backbone) as noted:
                first.step(0, stage.fidelities[0], setup.uncached, setup.optimizer, meter)
            later = trainer
            if trainer.run_at_most and not trainer.world.sharded:
                make_gradients = functools.partial(materialize_gradients, noted, tracker)
                later = dataclasses.replace(trainer, make_gradients=make_gradients)
        cache = TracedCache(setup.cache, trainer.host) if setup.cache else None
        for fidelity, kind in step_kinds(stage, setup):
            used = setup.uncached if kind == UNCACHED else cache
            with tracker, filling(used, kind):
                tracker.label_buffers(detector)
                tracker.reset_peaks()
                later.step(1, fidelity, used, setup.optimizer, meter)
                if setup.average:
                    with meter.phase("optimizer"):
                        setup.average.update()
            yield StageForecast(stage.name, fidelity, kind, peak_of(tracker))
        tracker.close()
        setup.close()


def forecast_inference(
    detector: Detector, trainer: Trainer, tracker: StorageTracker, clips: int | None = None
) -> StepPeak:
    """Return the peak of inference on a window of a video. Call it under fake tensors, after training.

    Longer videos do not take more unless a window covers a whole video, of ``clips`` clips: the device holds
    one pass of clips, or the encodings of one window.
    """
    if trainer.world.sharded:
        unshard(detector)
    detector.eval()
    passes = trainer.passes(trainer.protocol.frozen_clips)
    cache = TracedCache(EncodingCache(detector.backbone, trainer.store, passes), trainer.host)
    if tracker.allocator is not None:
        tracker.allocator.empty_cache()
    inference = detector.backbone.for_inference()
    with inference, tracker, tracker.phase("inference"), cache.computing():
        tracker.label_module(detector)
        tracker.reset_peaks()
        tracker.label_buffers(detector)
        [name] = trainer.store.videos
        window = Window(name, 0, clips or trainer.protocol.window_clips)
        outputs = window_outputs(detector, trainer.protocol, cache, window, CPU_DEVICE)
        detector.head.scored(outputs)
    tracker.close()
    return peak_of(tracker)


def peak_of(tracker: StorageTracker) -> StepPeak:
    """Return the highest peak since the tracker's peaks were reset."""
    highest = max(tracker.peaks.values(), key=lambda moment: moment.total)
    return StepPeak(
        highest.total,
        tracker.allocator.reserved if tracker.allocator else None,
        {kind: size for kind, size in highest.kinds.items() if size},
        {name: moment.total for name, moment in tracker.peaks.items()},
        tuple(tracker.timeline or ()),
    )


def forecast(
    model: str,
    strategy: Strategy,
    protocol: Protocol,
    settings: TraceSettings = TraceSettings(),
    build: Callable[[], tuple[Detector, Callable[[], ActionFormer]]] | None = None,
) -> Forecast:
    """Return the predicted peak memory of training ``strategy`` under ``protocol``.

    ``build`` replaces the construction of the detector. For a CUDA target, call it in a separate process.
    """
    target, world = settings.target, settings.world
    tracker = make_tracker(target, timeline=settings.timeline)
    host = torch.device("cpu" if target.device == "cpu" else "meta")
    mesh = fake_mesh(world) if world.sharded else None
    with FakeTensorMode(allow_non_fake_inputs=True), kernels_of(target.device):
        # Built and cast on the host, then moved, as in a run: the allocator sees only the final tensors.
        if build is None:
            detector, fresh_head, _ = build_detector(model, None, strategy, protocol, settings.classes, 0)
        else:
            detector, fresh_head = build()
        lower_frozen_weights(detector, strategy.stages(), protocol)
        move_to_device(detector, tracker)
        with tracker:
            if mesh is not None:
                shard(detector, strategy.stages(), mesh)
            workspace = _workspace(target, tracker)
        sampler = traced_sampler(detector, protocol, settings.classes, settings.instances, host)
        trainer = Trainer(detector, protocol, sampler, CPU_DEVICE, host, target.device)
        trainer = dataclasses.replace(trainer, run_at_most=settings.passes_run, world=world)
        stages = tuple(forecast_stages(detector, fresh_head, strategy.stages(), trainer, tracker))
        inference = forecast_inference(detector, trainer, tracker, settings.test_clips)
        del workspace
    return Forecast(stages, inference, detector.backbone.geometry.clip_frames)


def fake_mesh(world: World) -> DeviceMesh:
    """Return a device mesh in which only this process exists; initialises a fake process group."""
    # The only process group that needs no peers; importing the module registers it.
    from torch.testing._internal.distributed.fake_pg import FakeStore

    if not dist.is_initialized():
        dist.init_process_group("fake", store=FakeStore(), rank=world.rank, world_size=world.size)
    return make_mesh(world, CPU_DEVICE)


def _workspace(target: Target, tracker: StorageTracker) -> Tensor | None:
    """Return a tensor of the size of both threads' workspaces, or None if they hold none."""
    if not (target.workspace_bytes and target.keeps_workspaces):
        return None
    workspace = torch.empty(2 * target.workspace_bytes, dtype=torch.uint8)
    tracker.label(workspace, "temporary")
    return workspace
