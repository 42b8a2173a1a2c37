"""Data-parallel training of one run: each process takes its part of a batch, and gradients are summed.

The batch size is the protocol's for any number of processes, so that the sampling order, the learning rate
and, except for the order of additions, the losses are those of one process. Gradients are summed after the
backward pass, in buckets of 25 MiB. ``Differs:`` torch's ``DistributedDataParallel`` sums them during it and
keeps a second copy of all of them; it also requires one backward pass per step, and a streamed step has one
for each part of the clips.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NoReturn, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.random_state import BatchSlice

Item = TypeVar("Item")

BUCKET_BYTES = 25 * 2**20
"""Bytes of gradients per all-reduce: enough for full network bandwidth, small compared with a model."""
COLLECTIVE_TIMEOUT = datetime.timedelta(minutes=30)
"""Time after which a process stops waiting for another one."""


@dataclasses.dataclass(frozen=True)
class World:
    """The processes of a run, from the view of one of them. A single process does not communicate."""

    rank: int = 0
    size: int = 1
    sharded: bool = False
    """Whether trained blocks are sharded over the processes (``bench.training.distributed.fsdp``)."""
    has_peers: bool = True
    """False in a forecast: there are no other processes, and only the memory of one is simulated."""

    @property
    def is_main(self) -> bool:
        """Whether this process reports and writes."""
        return self.rank == 0

    def share(self, count: int) -> BatchSlice:
        """Return this process's slice of ``count`` items; the first process never has fewer than another."""
        first, last = (-(-rank * count // self.size) for rank in (self.rank, self.rank + 1))
        return BatchSlice(first, last - first, count - last)

    def part(self, items: Sequence[Item]) -> Sequence[Item]:
        """Return this process's part of ``items``."""
        share = self.share(len(items))
        return items[share.before : share.before + share.count]

    def all_reduce_sum(self, value: Tensor) -> Tensor:
        """Sum ``value`` over the processes in place, and return it."""
        if self.size > 1 and self.has_peers:
            dist.all_reduce(value)
        return value

    def all_reduce_sums(self, values: Sequence[float]) -> list[float]:
        """Return the sums over the processes."""
        if self.size == 1 or not self.has_peers:
            return list(values)
        return list(map(float, self.all_reduce_sum(torch.tensor(values, dtype=torch.float64))))

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace every gradient by its sum over the processes; FSDP2 sums those of sharded parameters."""
        if self.size == 1:
            return
        whole = [p.grad for p in parameters if p.grad is not None]
        for bucket in buckets(whole):
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            self.all_reduce_sum(flat)
            for gradient, added in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
                gradient.copy_(added.view_as(gradient))
            del flat

    def gather(self, value: Item) -> list[Item]:
        """Return the values of all processes, by rank; any picklable value."""
        if self.size == 1 or not self.has_peers:
            return [value]
        found: list[Any] = [None] * self.size
        dist.all_gather_object(found, value)
        return found

    def broadcast_from_rank0(self, value: Item | None) -> Item:
        """Return the value of rank 0."""
        held: list[Any] = [value]
        if self.size > 1:
            dist.broadcast_object_list(held, src=0)
        result: Item = held[0]
        return result


ALONE = World()


def buckets(tensors: Sequence[Tensor], most_bytes: int = BUCKET_BYTES) -> Iterator[list[Tensor]]:
    """Yield buckets of consecutive tensors of one dtype, of at most ``most_bytes`` or a single tensor."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        size = sum(each.nbytes for each in bucket) + tensor.nbytes
        if bucket and (size > most_bytes or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def started_by_torchrun() -> bool:
    """Return whether this process is one of several that ``torchrun`` started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


@contextlib.contextmanager
def process_group() -> Iterator[World]:
    """Yield the world of this process: all processes that ``torchrun`` started, or this one alone."""
    if not started_by_torchrun():
        yield ALONE
        return
    # NCCL for CUDA tensors, Gloo for tensors in host memory.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
    try:
        yield World(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def exit_process(code: int) -> NoReturn:
    """End this process with ``code``; of several processes, without finalizing the interpreter.

    Gloo's threads still hold tensors after ``destroy_process_group``. A thread that frees one while the
    interpreter is finalized ends the process by SIGABRT (pytorch/pytorch#179291), and ``torchrun`` then ends
    the others, which may still be working.
    """
    if not started_by_torchrun():
        sys.exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def local_device(name: str) -> torch.device:
    """Return this process's device: with several processes, the GPU of its local rank."""
    device = torch.device(name)
    if device.type == "cuda" and started_by_torchrun():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    return device


def check_draws(module: nn.Module, subject: str = "--processes", how: str = "in each process") -> None:
    """Raise InputError for a layer whose random draws depend on how a batch is divided (``how``)."""
    for name, layer in module.named_modules():
        dropped = getattr(layer, "p", getattr(layer, "drop_prob", 0.0))
        kind = type(layer).__name__
        if layer.training and "Drop" in kind and isinstance(dropped, (int, float)) and dropped > 0:
            raise InputError(
                f"{subject}: {name} ({kind}) draws independently {how}; "
                "allowed are layers that draw with bench.models.random_state.uniform"
            )
