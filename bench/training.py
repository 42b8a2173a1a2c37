"""The one training loop: stages in, trained detector out. It knows no strategy by name."""

from __future__ import annotations

import dataclasses
import hashlib
import math
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bench.encoding import EncodingCache, batch_clips, encode_frozen, reduce_clips, reduced_mask, stretch
from bench.memory.meter import MemoryMeter, MemoryReading, Meter, NoMeter
from bench.models.actionformer import ActionFormer
from bench.models.backbone import Backbone, Encoded
from bench.protocol import Protocol
from bench.windows import FrameStore, TrainingSampler, Window, window_mask
from strategies.base import FULL, Fidelity, Stage, check_stages, learning_rates

Progress = Callable[[str, int, int], None]
"""Called with the phase, the steps done and the steps in all."""


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite."""


class Detector(nn.Module):
    """A backbone and a head. Rules match the names of its parameters."""

    def __init__(self, backbone: Backbone, head: ActionFormer) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head


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


def derived_seed(seed: int, *names: object) -> int:
    """Return a seed for one purpose, so that what one part draws never shifts what another draws."""
    text = ":".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "little")


def set_training_mode(module: nn.Module, parent_trains: bool = False) -> None:
    """Put modules with a training parameter in training mode and all others in evaluation mode.

    A module without parameters (dropout, drop path) follows the module that holds it.
    """
    parameters = list(module.parameters())
    trains = any(p.requires_grad for p in parameters) if parameters else parent_trains
    module.training = trains
    for child in module.children():
        set_training_mode(child, trains)


def freeze_but(detector: Detector, stage: Stage) -> dict[str, float]:
    """Let only what the stage's rules name require gradient; return the factors of the learning rate."""
    factors = learning_rates(stage.rules, [name for name, _ in detector.named_parameters()])
    for name, parameter in detector.named_parameters():
        parameter.requires_grad_(name in factors)
        parameter.grad = None
    set_training_mode(detector)
    return factors


def make_optimizer(detector: Detector, factors: dict[str, float], protocol: Protocol) -> torch.optim.AdamW:
    """Return AdamW with a group for each factor; vectors (norms, biases, gates, scales) do not decay."""
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in detector.named_parameters():
        if name in factors:
            groups.setdefault((factors[name], parameter.squeeze().ndim > 1), []).append(parameter)
    return torch.optim.AdamW(
        [
            {
                "params": parameters,
                "lr": protocol.learning_rate * factor,
                "base_lr": protocol.learning_rate * factor,
                "weight_decay": protocol.weight_decay if decays else 0.0,
            }
            for (factor, decays), parameters in groups.items()
        ]
    )


def schedule(step: int, steps: int, warmup: float) -> float:
    """Return the factor of the learning rate: a linear rise, then half a cosine down to zero."""
    rising = max(1, round(steps * warmup))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


class AveragedWeights:
    """An exponential average of what trains, and of nothing else."""

    def __init__(self, detector: Detector, decay: float) -> None:
        self.decay = decay
        self.live = [p for p in detector.parameters() if p.requires_grad]
        self.average = [p.detach().clone() for p in self.live]
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        # Early averages follow quickly, or they would remember the initial weights.
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.live], 1 - decay)

    @torch.no_grad()
    def apply(self) -> None:
        torch._foreach_copy_([p.detach() for p in self.live], self.average)


@dataclasses.dataclass
class Trainer:
    """What the steps of all stages share."""

    detector: Detector
    protocol: Protocol
    sampler: TrainingSampler
    device: torch.device

    @property
    def store(self) -> FrameStore:
        return self.sampler.store

    def inputs(
        self, windows: Sequence[Window], fidelity: Fidelity, cache: EncodingCache | None
    ) -> Tensor | Encoded:
        """Return what the step needs on the device: cached encodings, or uint8 clips (B, S, 3, T, H, W).

        ``cache`` is None where the upstream part trains.
        """
        if cache is not None and cache.keep and fidelity == FULL:
            return cache.batch(windows, self.device)
        clips = batch_clips(self.store, windows).to(self.device)
        return reduce_clips(clips, fidelity, self.detector.backbone.geometry)

    def features(self, inputs: Tensor | Encoded, mask: Tensor, *, frozen: bool) -> Tensor:
        """Return features (B, D, S*t) for the head's steps from ``inputs``."""
        backbone = self.detector.backbone
        if isinstance(inputs, Tensor):
            clips = inputs
            mask_at_fidelity = reduced_mask(mask, clips.shape[1] * backbone.geometry.steps_per_clip)
            if not frozen:
                return stretch(backbone(backbone.normalise(clips), mask_at_fidelity), mask.shape[1])
            encoded = encode_frozen(backbone, clips.flatten(0, 1), self.protocol.frozen_clips)
            inputs = tuple(part.unflatten(0, clips.shape[:2]) for part in encoded)
            mask = mask_at_fidelity
        return stretch(backbone.fuse(inputs, mask), self.head_steps)

    @property
    def head_steps(self) -> int:
        return self.protocol.window_clips * self.detector.backbone.geometry.steps_per_clip

    def step(
        self,
        number: int,
        fidelity: Fidelity,
        cache: EncodingCache | None,
        optimizer: torch.optim.Optimizer,
        meter: Meter,
    ) -> tuple[float, float]:
        """Run one optimizer step; return the classification and the regression loss.

        Raises NonFiniteLossError before the weights are touched.
        """
        windows = self.sampler.windows(number)
        targets = [self.sampler.targets(window) for window in windows]
        masks = [window_mask(w, self.store.clips[w.video], self.store.grid) for w in windows]
        mask = torch.stack(masks).to(self.device)
        low = self.protocol.precision == "bfloat16"
        with meter.phase("load"):
            inputs = self.inputs(windows, fidelity, cache)
        with meter.phase("forward"), torch.autocast(self.device.type, torch.bfloat16, enabled=low):
            outputs = self.detector.head(self.features(inputs, mask, frozen=cache is not None), mask)
            losses = self.detector.head.loss(
                outputs,
                [target.segments.to(self.device) for target in targets],
                [target.labels.to(self.device) for target in targets],
            )
        parts = (float(losses.cls.detach()), float(losses.reg.detach()))
        if not all(map(math.isfinite, parts)):
            raise NonFiniteLossError(f"loss is not finite at step {number}: cls {parts[0]}, reg {parts[1]}")
        with meter.phase("backward"):
            losses.total.backward()
        del losses, outputs, inputs
        with meter.phase("optimizer"):
            trained = [p for group in optimizer.param_groups for p in group["params"]]
            nn.utils.clip_grad_norm_(trained, self.protocol.gradient_clip)
            optimizer.step()
            meter.optimizer_stepped(optimizer)
            optimizer.zero_grad(set_to_none=True)
        return parts


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
    trainer = Trainer(detector, protocol, sampler, device)
    ends = [round(sum(s.share for s in stages[: i + 1]) * protocol.steps) for i in range(len(stages))]
    for index, (stage, end) in enumerate(zip(stages, ends, strict=True)):
        first = len(losses)
        if stage.fresh_head:
            detector.head = fresh_head().to(device)
        factors = freeze_but(detector, stage)
        trainable[stage.name] = sum(p.numel() for p in detector.parameters() if p.requires_grad)
        upstream_trains = any(p.requires_grad for p in detector.backbone.upstream().parameters())
        cache, bypass = (
            None
            if upstream_trains
            else EncodingCache(detector.backbone, sampler.store, protocol.frozen_clips, keep=keep)
            for keep in (protocol.cache, False)
        )
        optimizer = make_optimizer(detector, factors, protocol)
        average = AveragedWeights(detector, protocol.ema_decay) if protocol.ema_decay else None
        torch.manual_seed(derived_seed(sampler.seed, "stage", index))
        measured: dict[Fidelity, int] = {}
        times: list[float] = []
        for number in range(first, end):
            factor = schedule(number - first, end - first, protocol.warmup)
            for group in optimizer.param_groups:
                group["lr"] = group["base_lr"] * factor
            fidelity = stage.fidelity_at(number - first, sampler.steps_per_epoch)
            started = time.perf_counter()
            if measured.get(fidelity, 0) < MEASURED_STEPS:
                measured[fidelity] = measured.get(fidelity, 0) + 1
                meter = MemoryMeter(device)
                with meter.watching(detector, optimizer):
                    losses.append(trainer.step(number, fidelity, bypass, optimizer, meter))
                if measured[fidelity] == MEASURED_STEPS:
                    memory.append(StageMemory(stage.name, fidelity, meter.reading()))
            else:
                losses.append(trainer.step(number, fidelity, cache, optimizer, NoMeter()))
                times.append(time.perf_counter() - started)
            if average:
                average.update()
            progress(stage.name, number + 1, protocol.steps)
        if average:
            average.apply()
        if times:
            # The first unmeasured steps also fill the cache.
            late = sorted(times[len(times) // 2 :])
            seconds[stage.name] = late[len(late) // 2]
    detector.eval()
    return TrainingLog(tuple(losses), tuple(memory), seconds, trainable)
