"""The caches of a run's process: decoded frames and encodings in memory, encodings on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from bench.data.frame_loader import FrameLoader, default_cache_bytes, default_workers
from bench.features.disk_cache import DiskCache
from bench.features.encode import ClipPasses
from bench.io.cache_dir import default_cache_dir
from bench.memory.constants import GIBIBYTE
from bench.models.backbone import Backbone
from bench.run.specification import ResolvedRun, RunSpecification
from bench.training.distributed.processes import World


def open_disk_cache(
    run: ResolvedRun, backbone: Backbone, announce: Callable[[list[str]], None]
) -> DiskCache | None:
    """Return the disk cache of ``backbone``'s encodings; None if it is disabled, and for features."""
    spec, protocol = run.spec, run.protocol
    if not protocol.cache or run.dataset.features:
        return None
    return DiskCache(
        Path(spec.cache) if spec.cache else default_cache_dir(),
        backbone,
        ClipPasses(protocol.frozen_clips, precision=protocol.precision),
        lambda line: announce([line]),
        model=spec.model,
        annotations=run.dataset.sha256,
    )


def open_loader(spec: RunSpecification, world: World) -> FrameLoader:
    """Return the frame loader of a process; its sizes affect the speed, not the result."""
    workers = spec.decoders or default_workers(torch.device(spec.device).type)
    return FrameLoader(cache_bytes(spec, spec.frame_cache, world), workers)


def cache_bytes(spec: RunSpecification, gib: float | None, world: World) -> int:
    """Return the host memory of a run's cache of ``gib`` GiB in one of its processes.

    Without ``gib``, runs in parallel share a quarter of the memory that is free.
    """
    whole = default_cache_bytes() // spec.runs_in_parallel if gib is None else int(gib * GIBIBYTE)
    return whole // world.size
