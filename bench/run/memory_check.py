"""Memory check before a run: its forecast, whether it fits the device, and the micro-batch that fits."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

import torch

from bench.io.errors import InputError
from bench.memory.constants import CONTEXT_BYTES, GIBIBYTE, larger_peak_bytes, needed_bytes
from bench.memory.cuda_ops import workspace_bytes
from bench.memory.device import capacity_bytes
from bench.plan.pool import forecast_pool, run_forecasts
from bench.plan.request import ForecastRequest, run_forecast
from bench.run.specification import ResolvedRun


class PredictedOutOfMemoryError(MemoryError):
    """The forecast exceeds the device's memory, so the run was not started."""


def forecast_request(run: ResolvedRun) -> ForecastRequest:
    """Return the forecast request of a run."""
    spec, dataset, protocol = run.spec, run.dataset, run.protocol
    videos = dataset.subset(protocol.training_subset)
    workspace = None  # the largest: the GPU may be in another machine
    if spec.device != "cpu" and torch.cuda.is_available():
        workspace = workspace_bytes(torch.cuda.get_device_capability(spec.device))
    return ForecastRequest(
        spec.model,
        spec.strategy,
        spec.settings(),
        spec.changes(),
        torch.device(spec.device).type,
        workspace,
        1 if protocol.classifier else len(dataset.classes),
        # The number of instances in a window changes only a few bytes; the median video is typical enough.
        max(1, round(statistics.median(len(video.instances) for video in videos))),
        test_clips=longest_test_window(run),
        processes=spec.processes,
        sharded=spec.sharded,
        dataset=spec.dataset,
    )


def longest_test_window(run: ResolvedRun) -> int | None:
    """Return the clips of the longest test video if one window covers it, and if its clips are known."""
    protocol = run.protocol
    between = protocol.clip_stride or protocol.clip_frames
    if protocol.test_windows != "whole" or protocol.resampling == "fixed" or between is None:
        return None
    own = protocol.frame_rate == "video"
    frames = (
        video.duration * ((own and video.frames_per_second) or protocol.frames_per_second)
        for video in run.dataset.subset(protocol.evaluation_subset)
    )
    return max(1, math.ceil(max(frames) / between))


def predict(run: ResolvedRun) -> dict[str, Any]:
    """Return the record's field ``forecast``: predicted bytes, or the reason why there is no forecast."""
    names = (
        "predicted_peak_bytes",
        "predicted_reserved_bytes",
        "step",
        "kinds",
        "phases",
        "stages",
        "inference",
    )
    try:
        row = run_forecast(forecast_request(run))
    except Exception as error:  # a strategy that cannot be traced, or fails: the run reports it
        return {**dict.fromkeys(names), "reason": f"{type(error).__name__}: {error}"[:300]}
    return {**{name: row[name] for name in names}, "reason": None}


def check_fits_device(prediction: dict[str, Any], device: torch.device) -> None:
    """Raise PredictedOutOfMemoryError if the predicted tensors do not fit on the device.

    Memory that the allocator reserves beyond them is not counted: it is released before an allocation fails.
    """
    capacity = capacity_bytes(device)
    if prediction["predicted_peak_bytes"] is None or capacity is None:
        return
    peak = larger_peak_bytes(prediction)
    if peak + (CONTEXT_BYTES if device.type == "cuda" else 0) > capacity:
        sizes = f"{peak / 1e9:.0f} GB on {capacity / 1e9:.0f}"
        raise PredictedOutOfMemoryError(f"predicted out of memory ({sizes}); --force tries it")


def fit_micro_batch(runs: Sequence[ResolvedRun], gib: float) -> list[ResolvedRun]:
    """Return the runs with streamed backward and the largest micro-batch (a power of two) that fits ``gib``.

    All runs get the same one, as they share a table. Raises InputError if a single clip does not fit.
    """
    limit = int(gib * GIBIBYTE)
    firsts = list({run.spec.strategy: run for run in reversed(runs)}.values())
    chosen: list[ResolvedRun] | None = None
    clips = 1
    with forecast_pool(2) as pool:
        while clips <= runs[0].protocol.window_clips:
            tried = [_streamed(run, clips) for run in firsts]
            rows = run_forecasts([forecast_request(run) for run in tried], pool)
            needed = {
                row["strategy"]: needed_bytes(row) if row["device"] == "cuda" else larger_peak_bytes(row)
                for row in rows
            }
            if max(needed.values()) > limit:
                break
            chosen = [_streamed(run, clips) for run in runs]
            clips *= 2
    if chosen is None:
        most = max(needed, key=lambda name: needed[name])
        raise InputError(
            f"--fit: {gib:g} GiB are too little: {most} needs {needed[most] / GIBIBYTE:.1f} GiB "
            "with one clip at a time"
        )
    return chosen


def _streamed(run: ResolvedRun, clips: int) -> ResolvedRun:
    return run.with_protocol({"backward": "streamed", "micro_batch_clips": str(clips)})
