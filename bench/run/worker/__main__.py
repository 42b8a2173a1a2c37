"""Train and evaluate one run (model, strategy, data set, seed) in its own process; return a record."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from bench.data.frame_loader import FrameLoader
from bench.data.frame_store import FrameStore, open_store, pictures_sha256
from bench.data.windows import TrainingSampler
from bench.detection import diagnose, evaluate
from bench.detection.submission import read_ground_truth, read_submission, write_submission
from bench.features.cache import EncodingStorage
from bench.io.errors import InputError, StoppedError, StuckDecoderError
from bench.io.json_lines import reserve_stdout
from bench.memory.device import note_used_bytes
from bench.records.environment import describe
from bench.records.failure import facts_of, failure
from bench.records.paths import checkpoint_path, detections_path, ground_truth_path, unfinished_path
from bench.records.record import Record
from bench.run.memory_check import check_fits_device, predict
from bench.run.record_builder import (
    RankMemory,
    cost,
    empty_record,
    memory,
    metrics,
    parameter_digests,
    training,
    weights_entry,
    write_ground_truth,
)
from bench.run.specification import ResolvedRun, RunSpecification, resolve_run
from bench.run.worker.caches import cache_bytes, open_disk_cache, open_loader
from bench.run.worker.curve import Inference, curve_evaluation
from bench.run.worker.watchdog import stop_signals, watch_parent, watch_reading
from bench.training.checkpoints.export import SCHEMA as CHECKPOINT_SCHEMA
from bench.training.checkpoints.export import BaseWeights, CheckpointMetadata, write_checkpoint
from bench.training.checkpoints.fingerprint import fingerprint_of
from bench.training.checkpoints.resume import ResumeCheckpointer
from bench.training.detector import build_detector, lower_frozen_weights
from bench.training.distributed.processes import ALONE, World, exit_process, local_device, process_group
from bench.training.inference import VideoDetections, detect_all
from bench.training.loop import train
from bench.training.step import Trainer

Progress = Callable[[str, int, int], None]
BEFORE_TRAINING = ("forecast", "load")


def do_run(
    spec: RunSpecification,
    progress: Progress,
    announce: Callable[[list[str]], None],
    on_forecast: Callable[[dict[str, Any]], None],
    world: World = ALONE,
    stopping: Callable[[], bool] = lambda: False,
) -> Record | None:
    """Train and evaluate a run, write its detections, and return its record.

    ``announce`` receives the load audit of the weights, ``on_forecast`` the memory forecast. With several
    processes, rank 0 writes the files and returns the record; the others return None. When ``stopping``
    returns True, training saves a checkpoint and StoppedError is raised. Other errors propagate.
    """

    def checked_progress(phase: str, done: int, total: int) -> None:
        progress(phase, done, total)
        if stopping():
            raise StoppedError(f"in phase {phase}")

    started = time.perf_counter()
    note_used_bytes(torch.device(spec.device))
    device = local_device(spec.device)
    run = resolve_run(spec, spec.load_dataset())
    protocol, dataset, strategy = run.protocol, run.dataset, run.strategy
    torch.set_num_threads(protocol.threads)
    class_scores = run.class_scores()
    learned = dataset if class_scores is None else dataset.one_class()
    record = empty_record(run)
    if world.is_main:
        checked_progress("forecast", 0, 1)
        record["forecast"] = predict(run)
        on_forecast(record["forecast"])
        if not spec.force:
            check_fits_device(record["forecast"], device)
    checked_progress("load", 0, 1)
    detector, fresh_head, audit = build_detector(
        spec.model, run.weights, strategy, protocol, len(learned.classes), spec.seed
    )
    record["weights"] = weights_entry(run, audit)
    announce(record["weights"]["audit"])
    lower_frozen_weights(detector, strategy.stages(), protocol)
    detector.to(device)
    geometry = detector.backbone.geometry

    def store(subset: str, loader: FrameLoader) -> FrameStore:
        return open_store(
            learned,
            subset,
            protocol,
            geometry,
            loader,
            lambda done, total: checked_progress("load", done, total),
        )

    before = parameter_digests(detector) if device.type == "cpu" else {}
    disk = open_disk_cache(run, detector.backbone, announce)
    storage = EncodingStorage(disk, cache_bytes(spec, spec.encoding_cache, world))
    unfinished = ResumeCheckpointer(
        unfinished_path(run.results, record["id"]),
        fingerprint_of(record["id"], strategy),
        spec.checkpoint_seconds,
        lambda line: announce([line]),
        world=world,
        stopping=stopping,
    )
    with contextlib.closing(open_loader(spec, world)) as loader:
        trained = store(protocol.training_subset, loader)
        sampler = TrainingSampler(trained, protocol, learned.classes, spec.seed)
        trainer = Trainer(detector, protocol, sampler, device, storage=storage, world=world)
        inference_settings = Inference(
            protocol, device, storage, world, progress, lambda line: announce([line])
        )
        curve = curve_evaluation(run, lambda subset: store(subset, loader), inference_settings)
        log = train(trainer, strategy.stages(), fresh_head, progress, unfinished, curve)
        evaluated = store(protocol.evaluation_subset, loader)
        results, inference = detect_all(
            detector, evaluated, protocol, device, checked_progress, storage, world
        )
        if world.is_main:
            record["dataset"]["pictures_sha256"] = {
                subset: pictures_sha256(
                    frames, lambda done, total: checked_progress("evaluation", done, total)
                )
                for subset, frames in (
                    (protocol.training_subset, trained),
                    (protocol.evaluation_subset, evaluated),
                )
            }
    measured = world.gather(RankMemory(log.memory, inference))
    if not world.is_main:
        return None
    if class_scores is not None:
        results = [found.classified(class_scores, protocol.classifier_top) for found in results]
    path = detections_path(run.results, record["id"])
    truth = ground_truth_path(run.results, record)
    write_ground_truth(truth, dataset, protocol.evaluation_subset)
    write_detections(path, results, dataset.classes)
    # Evaluate what is read back from the files, so that the numbers can be reproduced from them.
    wanted, found = read_ground_truth(truth, protocol.evaluation_subset), read_submission(path)
    evaluation = evaluate(wanted, found, protocol.tiou)
    record["status"] = "ok"
    record["metrics"] = metrics(evaluation)
    durations = {video.id: video.duration for video in dataset.subset(protocol.evaluation_subset)}
    # The diagnosis counts a detection with a tIoU below 0.1 as background, so it starts above that.
    record["diagnosis"] = diagnose(wanted, found, [t for t in protocol.tiou if t > 0.1], durations)
    record["memory"] = memory(measured, record["forecast"])
    record["cost"] = cost(detector, log, before)
    record["cost"]["encoded_videos_read"] = disk.read_videos if disk else 0
    record["cost"]["wall_seconds"] = round(unfinished.earlier_seconds + time.perf_counter() - started, 2)
    record["cost"]["checkpoint_seconds"] = round(unfinished.written_seconds, 3)
    record["cost"]["checkpoints_written"] = len(unfinished.written_steps)
    record["cost"]["resumed_after_steps"] = list(log.resumed)
    record["training"] = training(detector, log, run.curve_fractions()[0])
    record["environment"] = describe(device, world.size)
    if spec.keep_weights:
        progress("keeping weights", 0, 1)
        path, note = checkpoint_path(run.results, record["id"]), note_of(run, record, learned.classes)
        try:
            write_checkpoint(path, detector, note, run.weights)
        except (OSError, SafetensorError) as error:  # keep the measurements if the disk fails
            announce([f"{record['id']}: weights not kept ({error})"])
    return record


def note_of(run: ResolvedRun, record: Record, classes: tuple[str, ...]) -> CheckpointMetadata:
    """Return the metadata of a run's checkpoint; ``classes`` are those of its head."""
    weights, dataset = record["weights"], record["dataset"]
    return CheckpointMetadata(
        schema=CHECKPOINT_SCHEMA,
        run=record["id"],
        model=run.spec.model,
        strategy=run.strategy,
        protocol=run.protocol,
        classes=classes,
        dataset=f"{dataset['name']} ({dataset['variant']})",
        seed=run.spec.seed,
        weights=BaseWeights(weights["name"], weights["sha256"], weights["licence"]),
        device=torch.device(run.spec.device).type,
    )


def write_detections(path: Path, results: list[VideoDetections], classes: tuple[str, ...]) -> None:
    """Write detections as an ActivityNet submission."""
    write_submission(path, {found.video: found.entries(classes) for found in results})


def main() -> int:
    """Read a specification from the first line of standard input; write JSON lines to standard output.

    With several processes, rank 0 reads the input and reports; any process reports its own failure.
    """
    with process_group() as world:
        line = json.loads(sys.stdin.buffer.readline()) if world.is_main else None
        spec = RunSpecification(**world.broadcast_from_rank0(line))
        return report_run(spec, dataclasses.replace(world, sharded=spec.sharded))


def report_run(spec: RunSpecification, world: World) -> int:
    """Run ``spec``, write progress and result to standard output, and return the exit code."""
    watch_parent()
    reports = reserve_stdout()
    current, last = "load", 0.0
    writing, stopping = threading.Lock(), stop_signals()

    def report(**fields: Any) -> None:
        with writing:
            reports.write(json.dumps(fields, allow_nan=False) + "\n")

    def report_if_leading(**fields: Any) -> None:
        if world.is_main:
            report(**fields)

    def progress(phase: str, done: int, total: int) -> None:
        nonlocal current, last
        now = time.monotonic()
        if phase != current or done == total or now - last > 0.2:
            current, last = phase, now
            report_if_leading(phase=phase, done=done, total=total)

    watch_reading(lambda decoding: report(decoding=decoding, rank=world.rank))
    try:
        record = do_run(
            spec,
            progress,
            announce=lambda lines: report_if_leading(audit=lines),
            on_forecast=lambda forecast: report_if_leading(forecast=forecast),
            world=world,
            stopping=stopping,
        )
        report_if_leading(record=record)
    except Exception as error:
        bad_input = isinstance(error, InputError) and not isinstance(error, StuckDecoderError)
        if bad_input and current in BEFORE_TRAINING:  # input that fails later was valid at first: record it
            report(input_error=str(error))
            return 2
        import traceback

        traceback.print_exc()
        status, message = failure(error)
        message += f" (process {world.rank} of {world.size})" if world.size > 1 else ""
        environment, facts = describe(torch.device(spec.device), world.size), facts_of(error)
        report(status=status, phase=current, message=message, environment=environment, failure=facts)
        return 1
    return 0


if __name__ == "__main__":
    exit_process(main())
