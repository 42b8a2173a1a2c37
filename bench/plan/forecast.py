"""Predict the peak memory of training without the device: real steps on fake tensors and a storage tracker.

The detector, the strategy's stages, the loss and the optimizer are those of a run; only the tensors hold no
data. For a CUDA device, the step is traced on fake CPU tensors (fake CUDA tensors do not support backward
without a GPU), with CUDA's casts and kernel scratch memory added, and every storage passes through a model
of the caching allocator. Host tensors are traced on ``meta``, so that they are not counted. Two steps are run
for each stage and fidelity and the second is reported, as the meter does.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import DeviceMesh

from bench.config.protocol import Protocol
from bench.data.clips import VideoClips
from bench.data.frame_store import FrameStore
from bench.data.time_grid import time_grid
from bench.data.windows import TrainingSampler
from bench.memory.allocator import CachingAllocator
from bench.memory.cuda_autocast import follow_cuda_autocast
from bench.memory.cuda_ops import KEEPS_WORKSPACES, LARGEST_WORKSPACE, kernel_scratch
from bench.memory.tracker import HasState, StorageTracker
from bench.models.actionformer.model import ActionFormer
from bench.training.detector import Detector, build_detector, lower_frozen_weights
from bench.training.distributed.fsdp import make_mesh, shard
from bench.training.distributed.processes import ALONE, World
from bench.training.step import Trainer, setup_stage
from datasets.annotations.dataset import Instance, Video
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
    timeline: bool = False
    """Whether to return the live bytes after every change."""
    world: World = ALONE
    """The process whose memory is predicted."""
    passes_run: int | None = 2
    """Number of clip passes to trace: later passes do not have higher peaks. None traces all of them."""


@dataclasses.dataclass(frozen=True)
class StageForecast:
    """The peak of a training step of one stage at one fidelity."""

    stage: str
    fidelity: Fidelity
    peak_bytes: int
    kinds: dict[str, int]
    phases: dict[str, int]
    """The peak of each phase."""
    timeline: tuple[tuple[str, int], ...] = ()
    """The phase and the live bytes after every change."""


@dataclasses.dataclass(frozen=True)
class Forecast:
    """Predicted memory of training."""

    peak_bytes: int
    """Largest number of bytes held by tensors at the same time in a training step."""
    reserved_bytes: int | None
    """Bytes that the caching allocator has reserved on the device by then; None for a CPU."""
    stages: tuple[StageForecast, ...]
    clip_frames: int

    @property
    def highest(self) -> StageForecast:
        return max(self.stages, key=lambda stage: stage.peak_bytes)


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


def traced_sampler(
    detector: Detector, protocol: Protocol, classes: int, instances: int, host: torch.device
) -> TrainingSampler:
    """Return a sampler of one fake video that fills a window and has ``instances`` instances."""
    geometry = detector.backbone.geometry
    names = tuple(f"class {number}" for number in range(classes))
    frames = torch.empty(
        (protocol.window_clips, 3, geometry.clip_frames, protocol.image_size, protocol.image_size),
        dtype=torch.uint8,
        device=host,
    )
    seconds = protocol.window_clips * geometry.clip_frames / protocol.frames_per_second
    length = seconds / max(1, instances)
    found = tuple(
        Instance(number * length, (number + 0.5) * length, names[number % classes])
        for number in range(instances)
    )
    grid = time_grid(protocol.frames_per_second, geometry)
    clips = VideoClips(frames, protocol.window_clips * geometry.steps_per_clip, grid)
    video = Video("video", protocol.training_subset, seconds, found)
    store = FrameStore({"video": video}, {"video": clips})
    return TrainingSampler(store, protocol, names, 0)


@dataclasses.dataclass(frozen=True)
class GradientLayout:
    """Memory layout of a parameter's gradient, which may be part of a shared storage."""

    parameter: nn.Parameter
    storage: int
    elements: int
    stride: tuple[int, ...]
    offset: int


@contextlib.contextmanager
def recorded_gradients(module: nn.Module) -> Iterator[list[GradientLayout]]:
    """Yield a list to which the layouts of the module's gradients are appended as they are completed."""
    noted: list[GradientLayout] = []

    def note(parameter: Tensor) -> None:
        assert isinstance(parameter, nn.Parameter)
        if parameter.grad is None:  # already released, which no streamed pass does
            return
        storage = parameter.grad.untyped_storage()
        elements = storage.nbytes() // parameter.grad.element_size()
        stride, offset = parameter.grad.stride(), parameter.grad.storage_offset()
        noted.append(GradientLayout(parameter, storage._cdata, elements, stride, int(offset)))

    handles = [
        parameter.register_post_accumulate_grad_hook(note)
        for parameter in module.parameters()
        if parameter.requires_grad
    ]
    try:
        yield noted
    finally:
        for handle in handles:
            handle.remove()


def materialize_gradients(noted: list[GradientLayout], tracker: StorageTracker) -> None:
    """Set an uninitialised gradient with the recorded layout on parameters that have none."""
    storages: dict[int, Tensor] = {}
    for each in noted:
        parameter = each.parameter
        if parameter.grad is None:
            if each.storage not in storages:
                storages[each.storage] = torch.empty(each.elements, dtype=parameter.dtype)
            whole = storages[each.storage]
            parameter.grad = whole.as_strided(parameter.shape, each.stride, each.offset)
            tracker.label(parameter.grad, "gradient")


def forecast_stages(
    detector: Detector,
    fresh_head: Callable[[], ActionFormer],
    stages: tuple[Stage, ...],
    trainer: Trainer,
    tracker: StorageTracker,
) -> Iterator[StageForecast]:
    """Yield the peak of a step for every stage and fidelity. Call it under fake tensors and the tracker."""
    meter = ForecastMeter(tracker)
    for stage in stages:
        if stage.fresh_head:
            detector.head = fresh_head()
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
        for fidelity in dict.fromkeys(stage.fidelities):
            tracker.label_buffers(detector)
            tracker.reset_peaks()
            later.step(1, fidelity, setup.uncached, setup.optimizer, meter)
            highest = max(tracker.peaks.values(), key=lambda moment: moment.total)
            yield StageForecast(
                stage.name,
                fidelity,
                highest.total,
                {kind: size for kind, size in highest.kinds.items() if size},
                {name: moment.total for name, moment in tracker.peaks.items()},
                tuple(tracker.timeline or ()),
            )
        tracker.close()
        setup.optimizer.close()


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
    with FakeTensorMode(allow_non_fake_inputs=True):
        with tracker:
            if build is None:
                detector, fresh_head, _ = build_detector(model, None, strategy, protocol, settings.classes, 0)
            else:
                detector, fresh_head = build()
            lower_frozen_weights(detector, strategy.stages(), protocol)
            if mesh is not None:
                shard(detector, strategy.stages(), mesh)
            workspace = _workspace(target, tracker)
        sampler = traced_sampler(detector, protocol, settings.classes, settings.instances, host)
        trainer = Trainer(detector, protocol, sampler, CPU_DEVICE, host, target.device)
        trainer = dataclasses.replace(trainer, run_at_most=settings.passes_run, world=world)
        with tracker:
            stages = tuple(forecast_stages(detector, fresh_head, strategy.stages(), trainer, tracker))
        del workspace
    clip_frames = detector.backbone.geometry.clip_frames
    reserved = tracker.allocator.reserved if tracker.allocator else None
    return Forecast(max(stage.peak_bytes for stage in stages), reserved, stages, clip_frames)


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
