"""Forecast requests from the options of ``bench.plan``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.config.protocol import MODES
from bench.io.errors import InputError
from bench.plan.request import ForecastRequest

if TYPE_CHECKING:
    from strategies.base import Strategy


def forecast_requests(options: argparse.Namespace) -> list[ForecastRequest]:
    """Return the forecast requests: every model with every number of frames, size and strategy.

    Raises InputError for an invalid combination. Imports torch.
    """
    from bench.config.arguments import numbers
    from bench.models import INPUT_NAMES

    models = [name.strip() for name in options.model.split(",") if name.strip()]
    for name in models:
        if name not in INPUT_NAMES:
            raise InputError(f"--model: unknown '{name}', known are {', '.join(INPUT_NAMES)}")
    lengths = numbers(options.frames, "--frames") if options.frames else [None]
    sizes = numbers(options.size, "--size") if options.size else [None]
    return [
        question
        for model in models
        for names in [possible_names(options, model)]
        for frames in lengths
        for size in sizes
        for question in model_requests(options, model, names, frames, size)
    ]


def possible_names(options: argparse.Namespace, model: str) -> list[str]:
    """Return the strategies that can be applied to a model; print a line for each of the others."""
    from strategies import reason_against, strategy_names, supported_names

    names, streamed = strategy_names(options.strategy, "--strategy"), options.backward == "streamed"
    for name in names:
        if reason := reason_against(name, model, streamed=streamed):
            print(f"{name} is left out: {reason}", file=sys.stderr)
    return supported_names(names, model, "--strategy", streamed=streamed)


def model_requests(
    options: argparse.Namespace, model: str, names: Sequence[str], frames: int | None, size: int | None
) -> list[ForecastRequest]:
    """Return the forecast requests of one model at one number of frames and one size."""
    import torch

    from bench.config.arguments import check_division, check_processes, pairs
    from bench.config.overrides import layered, override
    from bench.config.presets import default_protocol
    from bench.models import build_backbone
    from datasets.recipes.recipes import NO_RECIPE, named_recipe
    from strategies import build_strategy, settings_of

    recipe = None if options.recipe in (None, NO_RECIPE) else named_recipe(options.recipe)
    changes = layered(recipe.changes(options.device) if recipe else {}, pairs(options.protocol, "--protocol"))
    preset = default_protocol(model, options.device, options.dataset)
    if frames is not None:
        clip_frames = override(preset, changes).clip_frames
        with torch.device("meta"):
            clip = build_backbone(model, clip_frames=clip_frames).geometry.clip_frames
        if frames < clip or frames % clip:
            raise InputError(f"--frames: got {frames}, allowed are multiples of {clip} for {model}")
        changes["window_clips"] = str(frames // clip)
    given = {"image_size": size, "batch_size": options.batch, "precision": options.precision}
    changes |= {field: str(value) for field, value in given.items() if value is not None}
    protocol = override(preset, changes)
    check_processes(options.processes, options.sharded)
    check_division(protocol, options.processes, options.sharded)
    settings = {
        name: {**(recipe.settings(name, model) if recipe else {}), **own}
        for name, own in settings_of(options.set, names).items()
    }
    return [
        ForecastRequest(
            model,
            name,
            settings[name],
            {**changes, "backward": mode},
            options.device,
            None,
            options.classes,
            timeline=options.timeline,
            processes=options.processes,
            sharded=options.sharded,
            dataset=options.dataset,
        )
        for name in names
        for mode in modes(model, build_strategy(name, settings[name]), options.backward, protocol.backward)
    ]


def modes(model: str, strategy: Strategy, wanted: str, given: str) -> Sequence[str]:
    """Return the backward modes to forecast: all that differ in memory, or only ``wanted``.

    If only the head trains, all modes are the same; if the clip encoder is frozen, nothing is streamed, and
    the streamed mode equals the checkpointed one; where clips mix, it is refused. A stage that samples clips
    runs in passes in every mode: the streamed one then equals one of the others. Imports torch.
    """
    import torch

    from bench.models import build_backbone, build_head
    from bench.training.detector import Detector

    if wanted != "all":
        if wanted not in MODES:
            raise InputError(f"--backward: got '{wanted}', allowed are {', '.join(MODES)} and all")
        return (wanted,)
    with torch.device("meta"):
        backbone = strategy.adapt(build_backbone(model))
        detector = Detector(backbone, build_head(input_dim=backbone.geometry.width, num_classes=1))
    upstream = {id(parameter) for parameter in backbone.upstream().parameters()}
    parameters = dict(detector.named_parameters())
    names = {stage: set(detector.learning_rates(stage)) for stage in strategy.stages()}
    if not any(name.startswith("backbone.") for each in names.values() for name in each):
        return (given,)
    streams = not backbone.mixes_clips and any(
        id(parameters[name]) in upstream
        for stage, each in names.items()
        if stage.backward_share == 1
        for name in each
    )
    return MODES if streams else tuple(mode for mode in MODES if mode != "streamed")
