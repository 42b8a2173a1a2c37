"""Probes of training: a streamed gradient, lowered weights, and sharding over a group of one process."""

from __future__ import annotations

import datetime
from typing import Any

import torch
import torch.distributed as dist

from bench.config.overrides import override
from bench.config.presets import default_protocol
from bench.config.protocol import Protocol
from bench.data.clips import VideoClips
from bench.features.encode import ClipPasses
from bench.features.streamed import encode_streamed
from bench.memory.meter import MemoryMeter
from bench.plan.traced import traced_sampler
from bench.training.detector import Detector, build_detector, lower_frozen_weights
from bench.training.distributed.fsdp import make_mesh, shard
from bench.training.distributed.processes import World
from bench.training.step import HOST, Trainer, setup_stage
from strategies import build_strategy
from strategies.base import Strategy

MODEL, CLIPS, CLASSES, INSTANCES = "vit-s", 4, 5, 4
SIZE = {"cuda": 64, "cpu": 32}
STEPS = 3
TIMEOUT = datetime.timedelta(seconds=60)


def small_detector(
    strategy: str, device: torch.device, **changes: str
) -> tuple[Detector, Strategy, Protocol]:
    """Return a detector on the host, its strategy, and the protocol of small clips with ``changes``."""
    fields = {"image_size": str(SIZE[device.type]), "window_clips": str(CLIPS), **changes}
    protocol = override(default_protocol(MODEL, device.type), fields)
    chosen = build_strategy(strategy)
    return build_detector(MODEL, None, chosen, protocol, CLASSES, 0)[0], chosen, protocol


def random_clips(protocol: Protocol) -> torch.Tensor:
    """Return uint8 clips (n, 3, T, H, W)."""
    shape = (protocol.window_clips, 3, 16, protocol.image_size, protocol.image_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def streamed_gradient(device: torch.device) -> dict[str, Any]:
    """Return the relative difference of a streamed gradient in float32 to that of one pass, without TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        detector, _, protocol = small_detector("full-finetune", device, precision="float32")
        backbone, clips = detector.backbone.to(device).train(), random_clips(protocol)
        gradients, draws = [], []
        for streamed in (False, True):
            backbone.zero_grad(set_to_none=True)
            backbone.set_checkpointing(streamed)
            torch.manual_seed(5)
            if streamed:
                encoded, finish = encode_streamed(backbone, clips, ClipPasses(1))
                encoded[0].square().sum().backward()
                finish()
            else:
                ClipPasses(len(clips)).encode(backbone, clips)[0].square().sum().backward()
            gradients.append(
                torch.cat([p.grad.flatten() for p in backbone.parameters() if p.grad is not None])
            )
            draws.append((float(torch.rand(1)), float(torch.rand(1, device=device))))
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
    difference = (gradients[0] - gradients[1]).norm() / gradients[0].norm()
    return {"relative_difference": float(difference), "generators_agree": draws[0] == draws[1]}


def lowered_weights(device: torch.device) -> dict[str, Any]:
    """Return whether frozen weights in bfloat16 give the same bits as autocast, and the bytes saved."""
    detector, strategy, protocol = small_detector("head-only", device, precision="bfloat16")
    backbone, clips = detector.backbone.to(device).eval(), random_clips(protocol)
    passes = ClipPasses(len(clips), precision="bfloat16")
    with torch.no_grad():
        before = passes.encode(backbone, clips)[0]
        saved = lower_frozen_weights(detector, strategy.stages(), protocol)
        after = passes.encode(backbone, clips)[0]
    return {"equal": torch.equal(before, after), "saved_bytes": saved}


def one_process_sharded(device: torch.device) -> dict[str, Any]:
    """Return the losses of a few steps with whole and with sharded blocks in a group of one process.

    NCCL on a card. Shows whether collectives and FSDP2 run at all where there is one card only.
    """
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    store = dist.HashStore()  # type: ignore[attr-defined]
    dist.init_process_group(backend, store=store, rank=0, world_size=1, timeout=TIMEOUT)
    try:
        dist.all_reduce(torch.ones(4, device=device))
        losses = {sharded: _losses(device, sharded=sharded) for sharded in (False, True)}
    finally:
        dist.destroy_process_group()
    pairs = zip(losses[False], losses[True], strict=True)
    return {
        "backend": backend,
        "whole": losses[False],
        "sharded": losses[True],
        "largest_difference": max(abs(sum(a) - sum(b)) for a, b in pairs),
    }


def _losses(device: torch.device, *, sharded: bool) -> list[tuple[float, float]]:
    """Return classification and regression loss of each step."""
    detector, strategy, protocol = small_detector(
        "full-finetune", device, precision="float32", backward="streamed"
    )
    detector.to(device)
    world = World(0, 1, sharded)
    if sharded:
        shard(detector, strategy.stages(), make_mesh(world, device))
    sampler = traced_sampler(detector, protocol, CLASSES, INSTANCES, HOST)
    for clips in sampler.store.clips.values():
        assert isinstance(clips, VideoClips)
        clips.frames.random_(0, 256, generator=torch.Generator().manual_seed(2))
    trainer = Trainer(detector, protocol, sampler, device, world=world)
    stage = strategy.stages()[0]
    setup = setup_stage(trainer, stage)
    torch.manual_seed(1)
    losses = []
    for number in range(STEPS):
        meter = MemoryMeter(device)
        with meter.watching(detector, setup.optimizer, parameters=setup.parameters_beside(detector)):
            losses.append(trainer.step(number, stage.fidelities[0], setup.uncached, setup.optimizer, meter))
    setup.optimizer.close()
    return losses
