"""Sharding of trained blocks over the processes of a run (FSDP2), for models too large for one GPU.

Each process keeps a shard of every such block: of its weights, gradient, optimizer state and average. A block
is unsharded when it runs and resharded afterwards. Frozen and small modules (embeddings, adapters, the head)
are replicated. If no parameter of the backbone is trained, in a stage or at test time, its blocks are
unsharded once and stay so: processes may then encode different numbers of clips without waiting for each
other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor, distribute_tensor

from bench.io.errors import InputError
from bench.models.backbone import Backbone
from bench.training.detector import Detector
from bench.training.distributed.processes import World
from strategies.base import Stage


def make_mesh(world: World, device: torch.device) -> DeviceMesh:
    """Return a one-dimensional device mesh of the processes of a run."""
    return init_device_mesh(device.type, (world.size,))


def shard(detector: Detector, stages: Sequence[Stage], mesh: DeviceMesh) -> None:
    """Shard the backbone's blocks that any of ``stages`` trains over ``mesh``, in place.

    Raises InputError for a backbone that does not define its blocks.
    """
    known = dict(detector.named_parameters())
    trained = {id(known[name]) for name in detector.trained_names(stages)}
    upstream = detector.backbone.upstream()
    owners = [each for each in upstream.modules() if isinstance(each, Backbone)]
    blocks = [block for owner in owners for block in owner.blocks_in_order()]
    if not any(id(p) in trained for p in upstream.parameters()):
        return
    if not blocks:
        raise InputError(
            f"--sharded: {type(owners[0]).__name__} defines no blocks to shard, allowed are the ViTs"
        )
    spread = [block for block in blocks if any(id(p) in trained for p in block.parameters())]
    for block in spread:
        frozen = {p for p in block.parameters() if id(p) not in trained}
        part = fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=frozen)
        # Losses are normalised by the whole batch's points, so gradients are summed and not averaged.
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    for owner in owners:
        own = set(owner.blocks_in_order())
        if own & set(spread):
            # It has no shard itself, and enables the prefetch of a block while the previous one runs.
            rest = {p for p in owner.parameters() if not isinstance(p, DTensor)}
            fully_shard(owner, mesh=mesh, ignored_params=rest)
            register_fsdp_forward_method(owner, "encode" if owner is detector.backbone else "layers")


def spread_modules(module: nn.Module) -> Iterator[FSDPModule]:
    """Yield the sharded modules."""
    return (each for each in module.modules() if isinstance(each, FSDPModule))


def unshard(module: nn.Module) -> None:
    """Gather all weights in every process, until ``reshard``."""
    for each in spread_modules(module):
        each.set_reshard_after_forward(False, recurse=False)
        each.unshard()


def reshard(module: nn.Module) -> None:
    """Keep only this process's shard of the weights."""
    for each in spread_modules(module):
        each.set_reshard_after_forward(True, recurse=False)
        each.reshard()


def _spread_parameters(module: nn.Module) -> Iterator[Any]:
    """Yield FSDP2's object for each sharded parameter."""
    for each in spread_modules(module):
        state = each._get_fsdp_state()
        # Torch 2.15 has several groups per module; before, there was one.
        for group in getattr(state, "_fsdp_param_groups", None) or filter(None, [state._fsdp_param_group]):
            yield from group.fsdp_params


def local_shards(module: nn.Module) -> list[Tensor]:
    """Return this process's shards, also while the module's parameters are unsharded."""
    return [to_local(parameter.sharded_param).detach() for parameter in _spread_parameters(module)]


def sync_requires_grad(module: nn.Module) -> None:
    """Set ``requires_grad`` of unsharded weights to that of their shards."""
    for parameter in _spread_parameters(module):
        if (together := getattr(parameter, "_unsharded_param", None)) is not None:
            together.requires_grad_(parameter.sharded_param.requires_grad)


def distribute_like(tensor: Tensor, value: Tensor) -> Tensor:
    """Return the full tensor ``value`` with the device and sharding of ``tensor``."""
    value = value.to(tensor.device)
    if not isinstance(tensor, DTensor):
        return value
    return distribute_tensor(value, tensor.device_mesh, tensor.placements)


def gather_full(tensor: Tensor, part: Tensor) -> Tensor:
    """Return the full tensor of the shards ``part``, on the host if ``tensor`` is sharded."""
    if not isinstance(tensor, DTensor):
        return part
    spread = DTensor.from_local(
        part.to(tensor.device),
        tensor.device_mesh,
        tensor.placements,
        run_check=False,
        shape=tensor.shape,
        stride=tensor.stride(),
    )
    return spread.full_tensor().cpu()


def to_local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, or the tensor itself if it is not sharded."""
    return tensor._local_tensor if isinstance(tensor, DTensor) else tensor


@torch.no_grad()
def clip_gradients(spread: Sequence[Tensor], whole: Sequence[Tensor], most: float, world: World) -> Tensor:
    """Clip sharded and replicated gradients to the joint norm ``most``; return the norm before."""

    def square(gradients: Sequence[Tensor]) -> Tensor:
        start = torch.zeros((), device=(spread or whole)[0].device)
        return sum((torch.linalg.vector_norm(each).square() for each in gradients), start)

    norm = (world.all_reduce_sum(square(spread)) + square(whole)).sqrt()
    # As in torch's clip_grad_norm_: a small constant avoids division by zero.
    factor = (most / (norm + 1e-6)).clamp(max=1.0)
    torch._foreach_mul_([*spread, *whole], factor)
    return norm
