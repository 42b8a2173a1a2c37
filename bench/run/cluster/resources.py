"""Resource requests of cluster jobs: GPU type, host memory, CPU cores and time limit.

The GPU follows from the memory forecast, and the time limit from measured runs; if neither is available, the
user must give the value. Host memory is the sum of a run's frames, encodings, windows and weights, with a
margin.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from bench.io.errors import InputError
from bench.memory.constants import GIBIBYTE, larger_peak_bytes, needed_bytes
from bench.plan.pool import forecast_pool
from bench.plan.request import ForecastRequest, run_forecast
from bench.records.record import Record
from bench.run.cluster.slurm_options import SlurmOptions
from bench.run.specification import ResolvedRun

TIME_FACTOR = 1.5
TIME_MORE_MINUTES = 10
"""A job's time limit is TIME_FACTOR times the longest similar run, plus these minutes for start and input."""
PROCESS_BYTES = 2 * GIBIBYTE
"""Host memory of a process before it holds any frames."""
CUDA_BYTES = 4 * GIBIBYTE
"""Host memory used by CUDA. This is an estimate, not measured; ``mem`` overrides it."""
CACHE_SHARE = 0.25
"""Share of the free memory that a run uses for each of its two caches, of frames and of encodings, unless
``--frame-cache`` or ``--encoding-cache`` is given."""
WINDOWS_HELD = 4
"""Copies of a batch's windows in flight, in addition to those being decoded."""
CPU_DECODERS, GPU_DECODERS = 1, 8


@dataclasses.dataclass(frozen=True)
class ResourceRequest:
    """Resources that one job requests, and remarks on them for the user."""

    minutes: int
    memory_gib: int
    cores: int
    gpus: int
    card: str | None
    predicted_bytes: int | None
    """Memory that the run needs on each GPU; None on a CPU, or without a forecast."""
    remarks: tuple[str, ...]


def forecast_or_none(question: ForecastRequest) -> dict[str, Any] | None:
    """Return the forecast's row, or None if the forecast fails; the run itself will report why."""
    try:
        return run_forecast(question)
    except Exception:
        return None


def resource_requests(
    runs: Sequence[ResolvedRun], records: Sequence[Record], wishes: SlurmOptions
) -> list[ResourceRequest]:
    """Return the resource request of the job of each of ``runs``.

    Raises InputError that names the runs without a similar measured run, if no time was given.
    """
    from bench.run.memory_check import forecast_request

    questions = [forecast_request(run) for run in runs]
    different = list({repr(question): question for question in questions}.values())
    with forecast_pool(1) as pool:
        rows = dict(zip(map(repr, different), pool.map(forecast_or_none, different), strict=True))
    asked, unknown = [], []
    for run, question in zip(runs, questions, strict=True):
        time = (wishes.minutes, None) if wishes.minutes else measured_minutes(run, records)
        if time is None:
            unknown.append(run.title)
        else:
            asked.append(_asked(run, rows[repr(question)], wishes, time[0], time[1]))
    if unknown:
        raise InputError(
            f"--slurm: no run like {unknown[0]}{' and others' if unknown[1:] else ''} was measured in these "
            "results, so its time limit is not known; allowed is time=MINUTES"
        )
    return asked


def measured_minutes(run: ResolvedRun, records: Sequence[Record]) -> tuple[int, str] | None:
    """Return a time limit in minutes and a remark on its source; None without a similar record.

    Similar runs differ only in the seed and in the index of the device.
    """
    strategy, digest = run.strategy_entry, run.protocol.digest()
    kind = run.spec.device.partition(":")[0]
    alike = [
        (record["cost"]["wall_seconds"], record["id"])
        for record in records
        if record["status"] == "ok"
        and (record["model"], record["strategy"], record["protocol"]["digest"])
        == (run.spec.model, strategy, digest)
        and record["dataset"].get("annotation_sha256") == run.dataset.sha256
        and record["environment"].get("device_type") == kind
        and record.get("parallel", {}).get("processes", 1) == run.spec.processes
        and record["cost"].get("wall_seconds")
    ]
    if not alike:
        return None
    seconds, name = max(alike)
    minutes = math.ceil(TIME_FACTOR * seconds / 60) + TIME_MORE_MINUTES
    return minutes, (
        f"time: {minutes} min = {TIME_FACTOR:g} x {seconds:.0f} s of {name} + {TIME_MORE_MINUTES} min"
    )


def _asked(
    run: ResolvedRun, row: dict[str, Any] | None, wishes: SlurmOptions, minutes: int, remark: str | None
) -> ResourceRequest:
    spec, remarks = run.spec, [remark] if remark else []
    gpus, card, needed = 0, None, None
    if spec.device != "cpu":
        gpus = spec.processes
        needed = needed_bytes(row) if row else None
        card, said = smallest_card(needed, wishes.cards)
        remarks += said
    decoders = spec.decoders or (GPU_DECODERS if gpus else CPU_DECODERS)
    memory = wishes.memory_gib or math.ceil(host_bytes(run, row, decoders) / GIBIBYTE)
    cores = spec.processes * (run.protocol.threads + decoders)
    return ResourceRequest(minutes, memory, cores, gpus, card, needed, tuple(remarks))


def smallest_card(needed: int | None, cards: Sequence[tuple[str, int]]) -> tuple[str | None, tuple[str, ...]]:
    """Return the name of the smallest card with ``needed`` bytes of memory, and remarks.

    If no card is large enough, the largest is returned: the run then fails with a record that says so.
    """
    if not cards:
        return None, ()
    largest, most = cards[-1]
    if needed is None:
        return largest, (f"card: there is no forecast, so the largest ({largest}) is requested",)
    for name, size in cards:
        if needed <= size:
            return name, ()
    sizes = f"{needed / 1e9:.1f} GB are predicted, {largest} has {most / 1e9:.1f}"
    return largest, (f"card: no card is large enough ({sizes})",)


def host_bytes(run: ResolvedRun, row: dict[str, Any] | None, decoders: int) -> int:
    """Return the bytes of host memory that a run's processes need.

    On a CPU, this is the predicted peak; on a GPU, twice the weights (as read and as built). Windows in
    flight and the caches of frames and encodings are added.
    """
    spec, protocol, weights = run.spec, run.protocol, run.weights
    window = protocol.window_clips * _clip_bytes(run)
    held = PROCESS_BYTES + (WINDOWS_HELD * protocol.batch_size + decoders) * window
    if spec.device == "cpu":
        held += larger_peak_bytes(row) if row else 0
    else:
        held += CUDA_BYTES + (2 * weights.stat().st_size if weights and weights.exists() else 0)
    caches = (spec.frame_cache, spec.encoding_cache)
    needed = held * spec.processes + sum(gib * GIBIBYTE for gib in caches if gib is not None)
    return int(needed / (1 - CACHE_SHARE * caches.count(None)))


def _clip_bytes(run: ResolvedRun) -> int:
    import torch

    from bench.models import build_backbone

    protocol = run.protocol
    with torch.device("meta"):
        backbone = build_backbone(
            run.spec.model,
            image_size=protocol.image_size,
            clip_frames=protocol.clip_frames,
            feature_width=protocol.feature_width,
            feature_steps=protocol.steps_per_clip,
        )
    return math.prod(backbone.clip_shape) * backbone.clip_dtype.itemsize
