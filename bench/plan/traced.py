"""Stand-ins for parts of a run in a traced step: a video, encodings, gradients, a move to a device."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from bench.config.protocol import Protocol
from bench.data.clips import VideoClips
from bench.data.frame_store import FrameStore
from bench.data.time_grid import time_grid
from bench.data.windows import TrainingSampler, Window
from bench.features.cache import EncodingCache
from bench.memory.tracker import StorageTracker
from bench.models.backbone import Encoded
from bench.training.detector import Detector
from datasets.annotations.dataset import Instance, Video


def traced_sampler(
    detector: Detector, protocol: Protocol, classes: int, instances: int, host: torch.device
) -> TrainingSampler:
    """Return a sampler of one fake video that fills a window and has ``instances`` instances."""
    geometry = detector.backbone.geometry
    names = tuple(f"class {number}" for number in range(classes))
    shape = (protocol.window_clips, *detector.backbone.clip_shape)
    frames = torch.empty(shape, dtype=detector.backbone.clip_dtype, device=host)
    grid = time_grid(protocol.frames_per_second, geometry, protocol.steps_per_clip, protocol.clip_stride)
    steps = protocol.window_clips * grid.steps_per_clip
    seconds = steps * grid.step_seconds
    length = seconds / max(1, instances)
    found = tuple(
        Instance(number * length, (number + 0.5) * length, names[number % classes])
        for number in range(instances)
    )
    clips = VideoClips(frames, steps, grid)
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


class TracedCache(EncodingCache):
    """Stands in for the cache of a run: its encodings have shapes and no values.

    In a ``computing`` block a batch is computed, of which one pass represents all; else it is read.
    """

    def __init__(self, cache: EncodingCache, host: torch.device) -> None:
        """``host`` is the device that stands in for the host."""
        super().__init__(cache.backbone, cache.store, cache.passes)
        self.host = host
        self.layout: list[tuple[torch.Size, torch.dtype]] = []

    @torch.no_grad()
    def batch(self, windows: Sequence[Window], device: torch.device) -> Encoded:
        if not self._reading:
            clips = self.store.clips[windows[0].video]
            assert isinstance(clips, VideoClips)
            window_clips = windows[0].clips if self.backbone.mixes_clips else 1
            # A pass is padded to its full size, also where the video has fewer clips.
            size = window_clips if self.backbone.mixes_clips else self.passes.size
            shape = (size, *clips.frames.shape[1:])
            part = torch.empty(shape, dtype=clips.frames.dtype, device=self.host)
            encoded = self.passes.encode(self.backbone, part, window_clips)
            del part
            self.layout = [(part.shape[1:], part.dtype) for part in encoded]
            del encoded
        batch = (len(windows), windows[0].clips)
        return tuple(torch.empty((*batch, *rest), dtype=dtype) for rest, dtype in self.layout)


def move_to_device(module: nn.Module, tracker: StorageTracker) -> None:
    """Count a module that was built on the host, in the order in which ``module.to`` moves its tensors."""
    for child in module.children():
        move_to_device(child, tracker)
    for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
        tracker.label(tensor, "parameter")
