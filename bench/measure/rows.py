"""Rows of measured steps: which there are, their files, and what each measures. Imports no torch."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import hashlib
import json
import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from bench.io.reading import MAX_RECORD_BYTES, read_json
from bench.io.writing import write_atomically
from bench.plan.request import ForecastRequest
from bench.report.tables.measured_memory import read_step

WITHOUT_FORECAST = "without_forecast"
"""Folder of measurements whose forecasts are still to be made."""
MODELS = ("vit-l", "vit-h", "vit-s")
POINTS = ((768, 224), (3072, 224), (96, 224), (768, 336), (768, 112), (1536, 224), (384, 224))
"""Frames and pixels of ViT-B, in order of value."""
FIRST = (("head-only,losa", "plain"), ("full-finetune", "streamed"), ("full-finetune", "plain"))
THEN = (("full-finetune", "checkpointed"), ("lofi", "streamed"))
LARGEST = (
    *(("head-only", "plain"), ("full-finetune", "streamed"), ("losa", "plain")),
    *(("full-finetune", "checkpointed"), ("lofi", "streamed"), ("full-finetune", "plain")),
    *(("lofi", "checkpointed"), ("lofi", "plain"), ("losa", "checkpointed"), ("mlp-control", "plain")),
)
"""Strategies and backward modes of ViT-g, in order of value."""
ADATAD = (("vit-b", "plain"), ("vit-g", "checkpointed"), ("vit-b", "checkpointed"), ("vit-g", "plain"))
"""Models and backward modes of AdaTAD at the size of its public logs, 768 frames of 160 pixels."""
FIELD = (
    "lora",
    "side-tuning",
    "adatad-beside",
    "token-pruning",
    "etad",
    "vpt",
    "norm-tuning",
    "bitfit",
    "last-k",
)
"""Strategies of the field with ViT-g, checkpointed, after the rows of ViT-B."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A row to make: its request, its file, and what is known of its cost beforehand."""

    question: ForecastRequest
    path: Path
    operations: float
    """Estimated floating-point operations of all steps that are run on the device."""
    layer_passes: int
    """How often a layer of the backbone is run in all these steps."""
    backbone_operations: int | None = None
    """Floating-point operations of one step's backbone, where they can be counted (``operations``)."""

    @property
    def name(self) -> str:
        """The configuration in words."""
        question = self.question
        changes = ", ".join(f"{key}={value}" for key, value in sorted(question.protocol.items()))
        return f"{question.model} {question.strategy} ({changes})"

    @property
    def measured_path(self) -> Path:
        """The file of the measurement while the forecast is not known."""
        return self.path.parent / WITHOUT_FORECAST / self.path.name


@dataclasses.dataclass(frozen=True)
class Prepared:
    """The jobs of a command in their order, and the record's description of the device."""

    jobs: tuple[Job, ...]
    environment: Mapping[str, Any]
    free_host_bytes: int


def row_path(results: Path, question: ForecastRequest, device_name: str) -> Path:
    """Return the path of a request's row: a readable name and a digest of all its fields."""
    asked = [question.model, question.strategy, question.settings, sorted(question.protocol.items())]
    text = json.dumps([*asked, question.device, device_name, question.classes, question.instances])
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    return results / "memory" / f"{question.model}_{question.strategy}_{digest}.json"


Requests = Callable[[argparse.Namespace], Sequence[ForecastRequest]]


def prepare(options: argparse.Namespace, requests: Requests) -> Prepared:
    """Return the jobs of ``requests``, for the cuBLAS workspaces of this machine's device.

    Raises InputError if the device does not exist or other processes use it. Imports torch and opens the
    device (``prepare_in_process`` does so in another process).
    """
    import torch

    from bench.measure.operations import backbone_operations, measured_work
    from bench.memory.cuda_ops import workspace_bytes
    from bench.memory.device import (
        available_memory,
        capacity_bytes,
        check_device_idle,
        device_name,
        used_bytes,
    )
    from bench.records.environment import describe

    device, workspace = torch.device(options.device), None
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise InputError("--device: got 'cuda', this machine has none; allowed here is cpu")
        if not options.force:
            check_device_idle(device, used_bytes(device), capacity_bytes(device) or 0)
        workspace = workspace_bytes(torch.cuda.get_device_capability(device))
    name, jobs = device_name(device), []
    for asked in requests(options):
        question = dataclasses.replace(asked, workspace_bytes=workspace)
        path = row_path(options.results, question, name)
        jobs.append(Job(question, path, *measured_work(question), backbone_operations(question)))
    return Prepared(tuple(jobs), describe(device), available_memory())


def prepare_in_process(options: argparse.Namespace, requests: Requests) -> Prepared:
    """Return what ``prepare`` does, from a process of its own, which has ended then: it held the device."""
    context = multiprocessing.get_context("spawn")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=_send_prepared, args=(sending, options, requests), daemon=True)
    process.start()
    sending.close()
    try:
        found = receiving.recv()
    except EOFError:
        process.join()
        raise InputError(f"--device: the process that opens it ended with code {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if isinstance(found, InputError):
        raise found
    assert isinstance(found, Prepared)
    return found


def _send_prepared(sending: Connection, options: argparse.Namespace, requests: Requests) -> None:
    try:
        sending.send(prepare(options, requests))
    except InputError as error:
        sending.send(error)


def write_measured(job: Job, measured: Mapping[str, Any]) -> None:
    """Write a measurement beside the rows; it becomes one with its forecast."""
    content = {"request": dataclasses.asdict(job.question), "measured": measured}
    write_atomically(job.measured_path, json.dumps(content, indent=1, allow_nan=False).encode())


def write_row(path: Path, forecast: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Write a row, remove the file of its measurement alone, and return the row as it is read back."""
    write_atomically(path, json.dumps({**forecast, **measured}, indent=1, allow_nan=False).encode())
    alone = path.parent / WITHOUT_FORECAST / path.name
    alone.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # there are others
        alone.parent.rmdir()
    return read_row(path)


def read_row(path: Path) -> dict[str, Any]:
    """Return a row; raise InputError that names the file and the field."""
    read_step(path)  # an existing row is untrusted
    row = read_json(path, MAX_RECORD_BYTES, finite=True)
    assert isinstance(row, dict)
    return row


def waiting_measurements(results: Path) -> list[tuple[Path, ForecastRequest, dict[str, Any]]]:
    """Return the measurements without a forecast: the path of each row, its request and its fields.

    Raises InputError that names a file with other contents.
    """
    found = []
    for path in sorted((results / "memory" / WITHOUT_FORECAST).glob("*.json")):
        content = read_json(path, MAX_RECORD_BYTES, finite=True)
        try:
            request, measured = ForecastRequest(**content["request"]), dict(content["measured"])
        except (TypeError, KeyError, ValueError):
            raise InputError(f"{path}: fields 'request' and 'measured' are expected, as written") from None
        found.append((path.parents[1] / path.name, request, measured))
    return found


def line(row: Mapping[str, Any]) -> str:
    """Return one line on a row: predicted and measured peak in GB and their difference, or the failure."""
    name = f"{row['model']} {row['strategy']} {row['backward']} {row['frames']} x {row['image_size']}"
    predicted, measured = row["predicted_peak_bytes"], row.get("measured")
    assert isinstance(predicted, int)
    if not isinstance(measured, dict):
        return f"{name}: predicted {predicted / 1e9:.3f} GB, {row['status']}: {row.get('message')}"
    peak = measured["peak_allocated_bytes"]
    return (
        f"{name}: predicted {predicted / 1e9:.3f} GB, measured {peak / 1e9:.3f} "
        f"({100 * (predicted / peak - 1):+.2f} %), {measured['seconds_per_step']:.3f} s per step"
    )


def configurations() -> list[tuple[str, ...]]:
    """Return the options of ``bench.plan`` for all rows, in order of value."""
    found: list[tuple[str, ...]] = [
        ("--model", "vit-g", "--strategy", strategy, "--backward", mode) for strategy, mode in LARGEST
    ]
    found += [
        ("--model", model, "--frames", "768", "--size", "160", "--strategy", "adatad", "--backward", mode)
        for model, mode in ADATAD
    ]
    points = [("--model", "vit-b", "--frames", str(frames), "--size", str(size)) for frames, size in POINTS]
    models: list[tuple[str, ...]] = [("--model", model) for model in MODELS]
    for several, part in ((points, FIRST), (models, FIRST), (points, THEN), (models, THEN)):
        for point in several:
            found += [(*point, "--strategy", strategy, "--backward", mode) for strategy, mode in part]
    found += [("--model", "vit-g", "--strategy", name, "--backward", "checkpointed") for name in FIELD]
    return found
