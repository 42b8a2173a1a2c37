"""One optimizer step of a detector on a batch of windows, and the setup of a stage."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from bench.config.protocol import Protocol
from bench.data.frame_store import FrameStore
from bench.data.time_grid import head_steps_per_clip
from bench.data.windows import TrainingSampler, Window, window_mask
from bench.features.cache import MEMORY_ONLY, EncodingCache, EncodingStorage, batch_clips
from bench.features.encode import ClipPasses, autocast, encode_frozen
from bench.features.fidelity import TemporalFidelity
from bench.features.streamed import ClipSample, encode_sampled, encode_streamed
from bench.memory.meter import Meter
from bench.models.actionformer.losses import Losses
from bench.models.backbone import Encoded
from bench.models.random_state import BatchSlice, batch_slice_context, random_state, set_random_state
from bench.training.detector import Detector, freeze_except
from bench.training.distributed.fsdp import local_shards, reshard, sync_requires_grad, unshard
from bench.training.distributed.processes import ALONE, World
from bench.training.nonfinite import check_finite_losses
from bench.training.optimizer import AveragedWeights, StageOptimizer, make_optimizer
from strategies.base import FULL, Fidelity, Stage

HOST = torch.device("cpu")


@dataclasses.dataclass(frozen=True)
class Trainer:
    """The objects that the steps of all stages share."""

    detector: Detector
    protocol: Protocol
    sampler: TrainingSampler
    device: torch.device
    host: torch.device = HOST
    """The device of tensors that are not on ``device``."""
    fused_for: str | None = None
    """For forecasts: the type of device whose optimizer kernels are used, if it is not that of ``device``."""
    run_at_most: int | None = None
    """For forecasts: number of passes of clips that are run (``bench.features.encode.ClipPasses``)."""
    make_gradients: Callable[[], None] | None = None
    """For forecasts: creates the gradients that a streamed pass expects (``bench.features.streamed``)."""
    storage: EncodingStorage = MEMORY_ONLY
    """Where encodings are kept."""
    world: World = ALONE
    """The processes that share every batch."""
    sample: ClipSample | None = None
    """The clips whose gradient reaches the backbone in the steps of the current stage; None: all clips."""

    def for_stage(self, stage: Stage) -> Trainer:
        """Return the trainer of the steps of a stage."""
        share = stage.backward_share
        sample = ClipSample(share, stage.backward_scaled) if share < 1 else None
        return dataclasses.replace(self, sample=sample)

    @property
    def streams(self) -> bool:
        """Whether a trained backbone is run in passes of a few clips."""
        return self.sample is not None or self.protocol.backward == "streamed"

    @property
    def store(self) -> FrameStore:
        return self.sampler.store

    @property
    def head_steps(self) -> int:
        geometry = self.detector.backbone.geometry
        return self.protocol.window_clips * head_steps_per_clip(self.protocol, geometry)

    def temporal(self, fidelity: Fidelity) -> TemporalFidelity:
        """Return what the steps at a fidelity see of a window, in time."""
        protocol, geometry = self.protocol, self.detector.backbone.geometry
        return TemporalFidelity(fidelity.temporal, protocol.window_clips, geometry, protocol.snippet)

    def passes(self, clips: int, fidelity: Fidelity = FULL) -> ClipPasses:
        """Return the settings of passes through the backbone, with ``clips`` clips per pass."""
        return ClipPasses(clips, fidelity.spatial, self.protocol.precision, self.run_at_most)

    def inputs(
        self, windows: Sequence[Window], fidelity: Fidelity, cache: EncodingCache | None
    ) -> Tensor | Encoded:
        """Return the input of a step: cached encodings on the device, or uint8 clips (B, S, 3, T, H, W).

        ``cache`` is None if the upstream part is trained. Clips stay on the host if the protocol moves them
        for each pass.
        """
        if cache is not None and cache.keep and fidelity == FULL:
            return cache.batch(windows, self.device)
        clips = self.temporal(fidelity).keep(batch_clips(self.store, windows))
        in_passes = cache is not None or self.streams
        return clips if in_passes and self.protocol.lean.move_per_pass else clips.to(self.device)

    def features(
        self, inputs: Tensor | Encoded, mask: Tensor, fidelity: Fidelity, *, frozen: bool
    ) -> tuple[Tensor, Callable[[], None]]:
        """Return features (B, D, S*t) for the head's steps, and a function to complete the backward pass."""
        backbone, protocol = self.detector.backbone, self.protocol
        finish: Callable[[], None] = _nothing_left
        if isinstance(inputs, Tensor):
            windows, clips = inputs.shape[:2]
            flat = inputs.flatten(0, 1)
            # A pass takes as many frames as at full fidelity, also where clips are single snippets.
            size = protocol.frozen_clips if frozen else protocol.micro_batch_clips
            snippets = 1 if fidelity.temporal == 1 else backbone.geometry.clip_frames // inputs.shape[3]
            passes = self.passes(size * snippets, fidelity)
            if frozen:
                encoded = encode_frozen(backbone, flat, passes, clips)
            elif self.sample is not None:
                encoded, finish = encode_sampled(
                    backbone, flat, passes, windows, self.sample, self.make_gradients
                )
            elif protocol.backward == "streamed":
                encoded, finish = encode_streamed(backbone, flat, passes, self.make_gradients)
            else:
                encoded = self.passes(len(flat), fidelity).encode(backbone, flat, clips)
            inputs = tuple(part.unflatten(0, (windows, clips)) for part in encoded)
        temporal = self.temporal(fidelity)
        with autocast(self.device, protocol.precision):
            fused = backbone.fuse(inputs, temporal.mask(mask))
            return temporal.to_head_steps(fused, self.head_steps), finish

    def step(
        self,
        number: int,
        fidelity: Fidelity,
        cache: EncodingCache | None,
        optimizer: StageOptimizer,
        meter: Meter,
    ) -> tuple[float, float]:
        """Run one optimizer step; return the classification and the regression loss of the whole batch.

        Raises NonFiniteLossError before the weights are changed.
        """
        batch = self.sampler.windows(number)
        share, windows = self.world.share(len(batch)), self.world.part(batch)
        size = self.protocol.micro_batch_windows or len(batch)
        if cache is None or not cache.keep or fidelity != FULL:
            self.store.expect(self.sampler.ahead(number, self.world.part))
        elif ahead := self.sampler.windows_ahead(number, self.world.part):
            cache.expect(ahead)
        mask, segments, labels = self._targets(windows)
        divided = size < len(windows) or self.world.size > 1
        reporting = None
        if divided:
            reporting = self.world.all_reduce_sum(self.detector.head.reporting_points(mask, segments, labels))
        before = (random_state(self.device), self.detector.head.loss_normalizer) if divided else None
        parts = []
        for first in range(0, len(windows), size):
            some = slice(first, first + size)
            part, truth = windows[some], (mask[some], segments[some], labels[some])
            if first and before:  # all parts of a batch use the same draws and weights
                set_random_state(before[0], self.device)
                self.detector.head.loss_normalizer = before[1]
            of_batch = BatchSlice(
                share.before + first, len(part), len(batch) - share.before - first - len(part)
            )
            with batch_slice_context(of_batch):
                parts.append(
                    self._forward_and_backward(number, part, truth, fidelity, cache, meter, reporting)
                )
        classification, regression = self.world.all_reduce_sums(
            [sum(column) for column in zip(*parts, strict=True)]
        )
        losses = check_finite_losses(classification, regression, number)
        if self.world.size > 1:
            with meter.phase("backward"):
                self.world.add_gradients(optimizer.parameters)
        if self.world.sharded:
            optimizer.take_gradients()
            meter.gradients_ready(optimizer.parameters)
        with meter.phase("optimizer"):
            optimizer.step()
            meter.optimizer_stepped(optimizer)
        return losses

    def _targets(self, windows: Sequence[Window]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
        """Return the masks (B, T) of windows, and their segments and labels, on the device."""
        masks = [window_mask(window, self.store.clips[window.video]) for window in windows]
        targets = [self.sampler.targets(window) for window in windows]
        return (
            torch.stack(masks).to(self.device),
            [target.segments.to(self.device) for target in targets],
            [target.labels.to(self.device) for target in targets],
        )

    def _forward_and_backward(
        self,
        number: int,
        windows: Sequence[Window],
        truth: tuple[Tensor, list[Tensor], list[Tensor]],
        fidelity: Fidelity,
        cache: EncodingCache | None,
        meter: Meter,
        reporting: Tensor | None,
    ) -> tuple[float, float]:
        """Accumulate the gradient of some windows of a batch; return their part of the losses."""
        mask, segments, labels = truth
        with meter.phase("load"):
            inputs = self.inputs(windows, fidelity, cache)
        with meter.phase("forward"):
            features, finish = self.features(inputs, mask, fidelity, frozen=cache is not None)
            with autocast(self.device, self.protocol.precision):
                outputs = self.detector.head(features, mask)
                losses = self.detector.head.loss(outputs, segments, labels, reporting)
        parts = values_of(losses)
        if self.world.size == 1:  # several processes check the sum, and so stop together
            check_finite_losses(*parts, number)
        with meter.phase("backward"):
            total = losses.total
            del losses, outputs, inputs, features
            total.backward()
            del total
            finish()
        return parts


def _nothing_left() -> None:
    pass


def values_of(losses: Losses) -> tuple[float, float]:
    """Return the classification and the regression loss."""
    if isinstance(losses.cls, FakeTensor):
        return (0.0, 0.0)  # a traced step computes no values
    return float(losses.cls.detach()), float(losses.reg.detach())


@dataclasses.dataclass(frozen=True)
class StageSetup:
    """The objects that the steps of one stage share."""

    optimizer: StageOptimizer
    average: AveragedWeights | None
    cache: EncodingCache | None
    """Cached encodings; None if the upstream part is trained."""
    uncached: EncodingCache | None
    """Like ``cache``, but encodings are computed anew each time."""

    def cache_at(self, fidelity: Fidelity) -> EncodingCache | None:
        """Return the cache of steps at a fidelity; None where the backbone runs in every step."""
        return self.cache if self.cache is not None and self.cache.keep and fidelity == FULL else None

    def close(self) -> None:
        """Remove the optimizer's hooks, and free the cached encodings."""
        self.optimizer.close()
        if self.cache:
            self.cache.clear()

    def parameters_beside(self, detector: Detector) -> list[Tensor]:
        """Return the tensors with weights besides the detector's own: local shards, averages."""
        return [*local_shards(detector), *(self.average.average if self.average else ())]


def setup_stage(trainer: Trainer, stage: Stage) -> StageSetup:
    """Freeze all parameters that the stage does not train; return its optimizer, average and caches.

    ``trainer`` is that of the stage (``Trainer.for_stage``).
    """
    assert (trainer.sample is None) == (stage.backward_share == 1)
    detector, protocol, world = trainer.detector, trainer.protocol, trainer.world
    upstream = detector.backbone.upstream()
    if world.sharded:
        reshard(upstream)
    factors = freeze_except(detector, stage)
    trains = any(p.requires_grad for p in upstream.parameters())
    if world.sharded:
        sync_requires_grad(upstream)
        if not trains:
            unshard(upstream)
    detector.backbone.set_checkpointing(
        protocol.backward == "checkpointed"
        or (protocol.backward == "streamed" and protocol.streamed_checkpointing)
    )
    passes = trainer.passes(protocol.frozen_clips)
    cache, uncached = (
        None
        if trains
        else EncodingCache(detector.backbone, trainer.store, passes, keep=keep, storage=trainer.storage)
        # Encodings of augmented frames cannot be cached: they differ every time.
        for keep in (protocol.cache and protocol.augmentation == "none", False)
    )
    fused = protocol.lean.fused_on(trainer.fused_for or trainer.device.type)
    optimizer = make_optimizer(detector, factors, protocol, fused=fused, world=world)
    where = trainer.host if protocol.lean.average_on_host else trainer.device
    average = AveragedWeights(detector, protocol.ema_decay, where) if protocol.ema_decay else None
    return StageSetup(optimizer, average, cache, uncached)
