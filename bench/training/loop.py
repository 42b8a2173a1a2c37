"""The training loop: trains a detector stage by stage. It is the same for every strategy."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import torch

from bench.features.cache import EncodingCache
from bench.features.streamed import check_streamable
from bench.io.errors import InputError
from bench.models.actionformer.model import ActionFormer
from bench.models.random_state import derived_seed
from bench.training.checkpoints.resume import ResumeCheckpointer
from bench.training.distributed.fsdp import make_mesh, shard, unshard
from bench.training.distributed.processes import check_draws
from bench.training.history import EncodingTime, TrainingHistory, TrainingLog, late_median, step_clock
from bench.training.inference import CurveEvaluation
from bench.training.nonfinite import NonFiniteLossError
from bench.training.optimizer import schedule
from bench.training.step import Trainer, setup_stage
from bench.training.step_memory import StageMeters
from strategies.base import Stage, check_stages, stage_ends

Progress = Callable[[str, int, int], None]
"""Called with the phase, the number of completed steps and the total."""

CHECKED_AFTER = 20
"""Steps of a stage after which every trained parameter must have had a gradient."""
TIMED_PASSES = 4
"""Passes of clips whose time is measured after a stage that caches encodings."""


def train(
    trainer: Trainer,
    stages: tuple[Stage, ...],
    fresh_head: Callable[[], ActionFormer],
    progress: Progress = lambda phase, done, total: None,
    unfinished: ResumeCheckpointer | None = None,
    evaluation: CurveEvaluation | None = None,
) -> TrainingLog:
    """Train the detector of ``trainer`` in place, stage by stage, and return the measurements.

    Some steps of a stage run under the memory meter (``bench.training.step_memory``), the first of them
    without the cache, so that a frozen backbone's memory is included; their results are those of any other
    step. If ``unfinished`` has a checkpoint of this run, training is resumed from it. With ``evaluation``, a
    copy of the detector is evaluated after some steps, which changes no result. Every process of the run
    calls this function and ends with the same weights. Raises NonFiniteLossError that gives the training
    progress, and UnusedParametersError if a trained parameter had no gradient in the measured steps.
    """
    check_stages(stages)
    ends = stage_ends(stages, trainer.protocol.steps)
    trainer = dataclasses.replace(trainer, sampler=dataclasses.replace(trainer.sampler, steps=ends[-1]))
    detector, protocol, sampler = trainer.detector, trainer.protocol, trainer.sampler
    device, world = trainer.device, trainer.world
    state = unfinished.read(detector, stages) if unfinished else None
    history = state.history if state else TrainingHistory()
    losses, changes, times = history.losses, history.schedule, history.times
    evaluated = evaluation.steps(ends[-1]) if evaluation else frozenset()
    for stage in stages:  # before any time is spent on the first, and before blocks are sharded
        _check_passes(trainer.for_stage(stage), stage)
    if world.sharded:
        shard(detector, stages, make_mesh(world, device))
    for index, (stage, end) in enumerate(zip(stages, ends, strict=True)):
        first = ends[index - 1] if index else 0
        if stage.fresh_head:
            detector.head = fresh_head().to(device)
        if state and index < state.stage:
            continue
        if state:
            state.restore_weights(detector)
        else:
            history.begin_stage()
        trainer = trainer.for_stage(stage)
        setup = setup_stage(trainer, stage)
        if world.size > 1:
            check_draws(detector)
        if trainer.sample is not None:
            check_draws(detector.backbone.upstream(), f"stage {stage.name}: backward_share", "in each pass")
        history.trainable[stage.name] = sum(p.numel() for p in detector.parameters() if p.requires_grad)
        torch.manual_seed(derived_seed(sampler.seed, "stage", index))
        if state:
            state.restore_stage(detector, setup, device)
            state = None
        meters = StageMeters(trainer, stage, setup, history)
        meters.find_busiest(first, end)
        checked = False
        for number in range(len(losses), end):
            started = step_clock()
            done, steps, length = number - first, end - first, protocol.schedule_length
            factor = schedule(done, steps, protocol.warmup, length, from_zero=protocol.warmup_from_zero)
            setup.optimizer.set_factor(factor)
            fidelity = stage.fidelity_at(number - first, sampler.steps_per_epoch)
            if not changes or changes[-1][1:] != (stage.name, fidelity):
                changes.append((number, stage.name, fidelity))
            try:
                with meters.step(number, fidelity) as (meter, cache):
                    losses.append(trainer.step(number, fidelity, cache, setup.optimizer, meter))
                    if setup.average:
                        with meter.phase("optimizer"):
                            setup.average.update()
            except NonFiniteLossError as error:
                raise error.with_context(
                    stage.name,
                    setup.optimizer.learning_rate,
                    setup.optimizer.gradient_norm,
                    unfinished.kept() if unfinished else None,
                ) from None
            history.add_step(started, steady=meters.steady)
            if evaluation and number + 1 in evaluated:
                evaluation.add_point(detector, setup.average, stage.name, history)
            # Not earlier, as a module may draw the steps in which it is used.
            if number + 1 == end or (not checked and done >= CHECKED_AFTER and meters.all_measured):
                setup.optimizer.check_gradients(detector)
                checked = True
            if unfinished:
                unfinished.after_step(detector, stages, index, setup, history, device)
            progress(stage.name, number + 1, ends[-1])
        if setup.cache and setup.cache.keep and world.size == 1:
            history.encoding.append(encoding_time(stage.name, setup.cache))
        setup.close()
        if setup.average:
            setup.average.apply()
        if times:
            history.seconds[stage.name] = late_median(times)
            history.cpu_seconds[stage.name] = late_median(history.cpu_times)
    if world.sharded:
        unshard(detector)
    detector.eval()
    return TrainingLog(
        tuple(losses),
        tuple(history.memory),
        history.seconds,
        history.trainable,
        tuple(changes),
        tuple(history.resumed),
        history.cpu_seconds,
        history.timed_curve(),
        tuple(history.dropped),
        tuple(history.encoding),
    )


def encoding_time(stage: str, cache: EncodingCache) -> EncodingTime:
    """Return the time of encoding all training videos once, from that of the first passes.

    They are computed for this alone, after the stage, so that the time does not depend on what was cached.
    """
    total, measured, wall, processor = cache.time_passes(TIMED_PASSES)
    return EncodingTime(stage, wall * total / measured, processor * total / measured, total, measured)


def _check_passes(trainer: Trainer, stage: Stage) -> None:
    """Raise InputError if a stage would run the backbone in passes of a few clips, and cannot."""
    detector, protocol = trainer.detector, trainer.protocol
    upstream = {id(parameter) for parameter in detector.backbone.upstream().parameters()}
    known = dict(detector.named_parameters())
    trains = any(id(known[name]) in upstream for name in detector.learning_rates(stage))
    if trainer.sample is not None and not trains:
        raise InputError(
            f"stage {stage.name}: backward_share is {stage.backward_share:g}, but the stage trains no "
            "parameter that the encodings of clips depend on; allowed is 1"
        )
    if trainer.sample is not None and protocol.lean.release_gradients:
        # The optimizer would step after the first pass.
        raise InputError(
            f"protocol: field 'lean.release_gradients' is true, allowed is false in stage {stage.name}, "
            f"whose backward_share is {stage.backward_share:g}"
        )
    if trainer.streams and trains:
        check_streamable(detector.backbone, protocol.precision, trainer.sample)
