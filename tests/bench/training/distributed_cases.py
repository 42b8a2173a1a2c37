"""Run by torchrun: trains tiny detectors alone and with other processes, and prints how far they differ."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import torch

from bench.data.windows import TrainingSampler
from bench.models.backbones.vit import VideoViT
from bench.training.checkpoints.fingerprint import Fingerprint
from bench.training.checkpoints.resume import ResumeCheckpointer
from bench.training.distributed.processes import ALONE, exit_process, process_group
from bench.training.inference import detect_all
from bench.training.loop import train
from bench.training.step import Trainer
from strategies import build_strategy
from strategies.testing import CLASSES, TINY_PROTOCOL, TINY_VIT, tiny_detector, tiny_store

CPU = torch.device("cpu")
DROPPING = dataclasses.replace(TINY_VIT, drop_path=0.3)
PROTOCOL = dataclasses.replace(TINY_PROTOCOL, steps=6, batch_size=4, ema_decay=0.9)
OWNER = Fingerprint("tiny", str(torch.__version__), "code")
LONG = {"steps": 20}
CASES = {
    "head-only": ("head-only", {}),
    "losa": ("losa", LONG),
    "lofi": ("lofi", {}),
    "plain": ("full-finetune", LONG),
    "checkpointed": ("full-finetune", {"backward": "checkpointed"}),
    "streamed": ("full-finetune", {**LONG, "backward": "streamed", "micro_batch_clips": 3}),
    "sampled": ("etad", {"batch_size": 3, "micro_batch_windows": 1, "micro_batch_clips": 3}),
    "uneven": ("full-finetune", {"batch_size": 3}),
    "in parts": ("full-finetune", {"micro_batch_windows": 1}),
    "augmented": ("losa", {"augmentation": "crop-flip"}),
}


def go(case, world):
    """Return a trained detector, its losses, its peaks and the detections of other videos."""
    name, changes = CASES[case]
    protocol = dataclasses.replace(PROTOCOL, **changes)
    strategy = build_strategy(name)
    detector, fresh_head = tiny_detector(strategy, protocol, lambda: VideoViT(DROPPING))
    sampler = TrainingSampler(tiny_store(detector.backbone, protocol, 8), protocol, CLASSES, 0)
    trainer = Trainer(detector, protocol, sampler, CPU, world=world)
    log = train(trainer, strategy.stages(), fresh_head)
    found, _ = detect_all(detector, tiny_store(detector.backbone, protocol, 5), protocol, CPU, world=world)
    return detector, log, found


class StopError(Exception):
    """Stands for the end of the processes."""


def resumed(case, world, folder):
    """Return whether a run that stopped after three steps ends with the bits of one that did not."""
    name, changes = CASES[case]
    protocol = dataclasses.replace(PROTOCOL, **changes)
    strategy, said = build_strategy(name), []

    def stop(phase, done, total):
        if done == 3:
            raise StopError

    def once(progress):
        detector, fresh_head = tiny_detector(strategy, protocol, lambda: VideoViT(DROPPING))
        sampler = TrainingSampler(tiny_store(detector.backbone, protocol, 8), protocol, CLASSES, 0)
        kept = ResumeCheckpointer(folder / f"{case}.pt", OWNER, 0.0, said.append, world=world)
        stages = strategy.stages()
        trainer = Trainer(detector, protocol, sampler, CPU, world=world)
        train(trainer, stages, fresh_head, progress, kept)
        return detector

    with contextlib.suppress(StopError):
        once(stop)
    world.gather(None)  # the checkpoint is written before anybody reads it
    detector, (whole, _, _) = once(lambda phase, done, total: None), go(case, world)
    pairs = zip(detector.parameters(), whole.parameters(), strict=True)
    return {"equal": all(torch.equal(a, b) for a, b in pairs), "said": said}


def apart(a, b):
    """Return the largest difference relative to the largest value."""
    return float(np.abs(a - b).max() / max(np.abs(b).max(), 1e-30))


def detections_apart(found, expected):
    """Return the largest difference of times and scores, infinite where there are others."""
    largest = 0.0
    for a, b in zip(found, expected, strict=True):
        if a.video != b.video or not np.array_equal(a.labels, b.labels):
            return float("inf")
        largest = max(largest, np.abs(a.segments - b.segments).max(), np.abs(a.scores - b.scores).max())
    return float(largest)


def compare(together, alone):
    """Return how far two outcomes of ``go`` lie apart."""
    (detector, log, found), (other, other_log, other_found) = together, alone
    losses, other_losses = (np.array(each.losses) for each in (log, other_log))
    weights = [p.detach().numpy().ravel() for p in detector.parameters()]
    return {
        "steps": len(losses),
        "losses": float((np.abs(losses - other_losses) / np.abs(other_losses)).max()),
        "weights": apart(
            np.concatenate(weights), np.concatenate([p.detach().numpy().ravel() for p in other.parameters()])
        ),
        "detections": sum(len(each.scores) for each in other_found),
        "detections_apart": detections_apart(found, other_found),
        "videos": [each.video for each in found],
        "peaks": [entry.reading.peak_allocated_bytes for entry in log.memory],
        "kinds": [f"{entry.stage} {entry.fidelity} {entry.step}" for entry in log.memory],
        "peaks_alone": [entry.reading.peak_allocated_bytes for entry in other_log.memory],
    }


def main():
    torch.set_num_threads(1)
    sharded = sys.argv[1] == "sharded"
    with process_group() as world:
        world = dataclasses.replace(world, sharded=sharded)
        for case in sys.argv[2:]:
            if "/" in case:
                folder, case = case.rsplit("/", 1)
                found, case = resumed(case, world, Path(folder)), f"resumed {case}"
            else:
                found = compare(go(case, world), go(case, ALONE))
            everywhere = world.gather(found)
            if world.is_main:
                print(json.dumps({"case": case, "ranks": everywhere}), flush=True)


if __name__ == "__main__":
    main()
    exit_process(0)
