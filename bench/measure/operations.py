"""Floating-point operations of a training step: counted for plain ViTs, estimated for others."""

from __future__ import annotations

import dataclasses
import math

from bench.measure.steps import TIMED_STEPS
from bench.models.backbones.vit_config import CONFIGS, ViTConfig
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


@dataclasses.dataclass(frozen=True)
class ClipOperations:
    """Operations of the forward pass of one clip: two for each multiplication of a matrix product."""

    stem: int
    blocks: int
    """The four matrices of attention and MLP, and attention's two products; no norms and activations."""
    last: int
    """Those of each block's last matrix, which are among ``blocks``."""


def clip_operations(config: ViTConfig, image_size: int) -> ClipOperations:
    """Return the operations of one clip of a ViT with a linear stem."""
    tokens = config.clip_frames // config.tubelet_size * (image_size // config.patch_size) ** 2
    width, hidden = config.width, round(config.width * config.mlp_ratio)
    stem = 2 * tokens * width * 3 * config.tubelet_size * config.patch_size**2
    block = 2 * tokens * width * (4 * width + 2 * hidden) + 4 * tokens**2 * width
    return ClipOperations(stem, config.depth * block, config.depth * 2 * tokens * width * hidden)


def backbone_operations(question: ForecastRequest) -> int | None:
    """Return the operations of a step's backbone, recomputation included; None where they are not counted.

    Counted are ViTs with a linear stem, all of which is trained or frozen at full fidelity; a test compares
    them with those that ``torch.utils.flop_counter`` counts.
    """
    config, protocol = CONFIGS.get(question.model), question.resolved_protocol()
    known = question.strategy in (TRAINED, FROZEN) and not question.settings
    if config is None or config.stem != "linear" or not known or not protocol.streamed_checkpointing:
        return None
    clip, clips = clip_operations(config, protocol.image_size), protocol.window_clips * protocol.batch_size
    if question.strategy == FROZEN:
        return clips * (clip.stem + clip.blocks)
    # PyTorch stops recomputing a block before its last matrix, whose result no gradient needs.
    blocks = FORWARDS[protocol.backward] * clip.blocks - (protocol.backward != "plain") * clip.last
    return clips * (blocks + STEM_FORWARDS[protocol.backward] * clip.stem)


def step_operations(question: ForecastRequest) -> float:
    """Return an estimate of a step's operations, from above for strategies that train a part."""
    config, protocol = CONFIGS.get(question.model), question.resolved_protocol()
    found = clip_operations(config, protocol.image_size) if config else None
    clip = found.stem + found.blocks if found else UNKNOWN_OPERATIONS
    passes = 1 if question.strategy == FROZEN else FORWARDS[protocol.backward]
    return float(passes * clip * protocol.window_clips * protocol.batch_size)


def layer_passes(question: ForecastRequest) -> int:
    """Return how often a layer of the backbone is run in a step, in the same estimate."""
    config, protocol = CONFIGS.get(question.model), question.resolved_protocol()
    clips = protocol.window_clips * protocol.batch_size
    stages = build_strategy(question.strategy, question.settings).stages()
    if question.strategy == FROZEN:
        passes = math.ceil(clips / protocol.frozen_clips)
    elif protocol.backward == "streamed" or any(stage.backward_share < 1 for stage in stages):
        passes = FORWARDS["streamed"] * math.ceil(clips / protocol.micro_batch_clips)
    else:
        passes = FORWARDS[protocol.backward]
    return passes * (config.depth if config else UNKNOWN_LAYERS)


def measured_work(question: ForecastRequest) -> tuple[float, int]:
    """Return estimates of the operations and of the layer passes of all steps that a measurement runs.

    For each stage and fidelity two metered steps and the timed ones, and for each stage a profiled one.
    """
    operations, passes = step_operations(question), layer_passes(question)
    found, steps = 0.0, 0
    for stage in build_strategy(question.strategy, question.settings).stages():
        run = [fidelity for fidelity in dict.fromkeys(stage.fidelities) for _ in range(2 + TIMED_STEPS)]
        run.append(stage.fidelities[0])
        found += sum(fidelity.temporal * fidelity.spatial**2 for fidelity in run) * operations
        steps += len(run)
    return found, steps * passes
