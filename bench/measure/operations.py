"""Floating-point operations of a training step: counted for plain ViTs, else estimated for the time it takes."""

from __future__ import annotations

import math

from bench.config.overrides import override
from bench.config.presets import default_protocol
from bench.config.protocol import Protocol
from bench.measure.steps import TIMED_STEPS
from bench.models.backbones.vit import CONFIGS, ViTConfig
from bench.plan.request import ForecastRequest
from strategies import build_strategy

FORWARDS = {"plain": 3, "checkpointed": 4, "streamed": 5}
"""Cost of a trained backbone's passes by backward mode, in forward passes.

A backward pass takes two; recomputed activations one more; a streamed pass is run once more without a graph.
"""
STEM_FORWARDS = {"plain": 2, "checkpointed": 2, "streamed": 3}
"""The same for the stem, which is not recomputed and whose input needs no gradient."""
TRAINED, FROZEN = "full-finetune", "head-only"
"""Strategies whose backbone is a plain one, all of it trained or frozen."""
UNKNOWN_LAYERS, UNKNOWN_OPERATIONS = 50, 1e11
"""Of a clip through a convolutional network, to estimate its time: the order of I3D's (108 GFLOPs)."""


def protocol_of(question: ForecastRequest) -> Protocol:
    """Return the protocol of a request."""
    return override(default_protocol(question.model, question.device), question.protocol)


def clip_operations(config: ViTConfig, image_size: int) -> tuple[int, int]:
    """Return the operations of the forward pass of one clip in the stem and in all blocks.

    Two for each multiplication of a matrix product: of the linear stem, of the four matrices of attention
    and MLP, and of attention's two products. Norms and activations are left out. ``torch.utils.flop_counter`` counts the same, which a test checks.
    """
    tokens = config.clip_frames // config.tubelet_size * (image_size // config.patch_size) ** 2
    width, hidden = config.width, round(config.width * config.mlp_ratio)
    stem = 2 * tokens * width * 3 * config.tubelet_size * config.patch_size**2
    block = 2 * tokens * width * (4 * width + 2 * hidden) + 4 * tokens**2 * width
    return stem, config.depth * block


def backbone_operations(question: ForecastRequest) -> int | None:
    """Return the operations of a step's backbone, recomputation included; None where they are not counted.

    Counted are ViTs with a linear stem, all of which is trained or frozen at full fidelity.
    """
    config, protocol = CONFIGS.get(question.model), protocol_of(question)
    known = question.strategy in (TRAINED, FROZEN) and not question.settings
    if config is None or config.stem != "linear" or not known or not protocol.streamed_checkpointing:
        return None
    clips, (stem, blocks) = protocol.window_clips * protocol.batch_size, clip_operations(config, protocol.image_size)
    if question.strategy == FROZEN:
        return clips * (stem + blocks)
    return clips * (FORWARDS[protocol.backward] * blocks + STEM_FORWARDS[protocol.backward] * stem)


def step_operations(question: ForecastRequest) -> float:
    """Return an estimate of a step's operations, from above for strategies that train a part."""
    config, protocol = CONFIGS.get(question.model), protocol_of(question)
    clip = sum(clip_operations(config, protocol.image_size)) if config else UNKNOWN_OPERATIONS
    passes = 1 if question.strategy == FROZEN else FORWARDS[protocol.backward]
    return float(passes * clip * protocol.window_clips * protocol.batch_size)


def layer_passes(question: ForecastRequest) -> int:
    """Return how often a layer of the backbone is run in a step, in the same estimate."""
    config, protocol = CONFIGS.get(question.model), protocol_of(question)
    clips = protocol.window_clips * protocol.batch_size
    if question.strategy == FROZEN:
        passes = math.ceil(clips / protocol.frozen_clips)
    elif protocol.backward == "streamed":
        passes = FORWARDS["streamed"] * math.ceil(clips / protocol.micro_batch_clips)
    else:
        passes = FORWARDS[protocol.backward]
    return passes * (config.depth if config else UNKNOWN_LAYERS)


def steps_run(question: ForecastRequest) -> int:
    """Return the number of steps that a measurement runs: two metered and the timed ones, and one profiled."""
    stages = build_strategy(question.strategy, question.settings).stages()
    return sum((2 + TIMED_STEPS) * len(set(stage.fidelities)) + 1 for stage in stages)
