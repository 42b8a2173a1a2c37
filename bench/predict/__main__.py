"""``python -m bench.predict``: detect the actions in one of your own videos, by a run with kept weights.

Writes VIDEO.json (an ActivityNet submission), VIDEO.csv and VIDEO.png, and with --mp4 a copy of the video
with its labels drawn on the frames, without sound.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config.arguments import device_of, real, whole
from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command

if TYPE_CHECKING:
    from bench.predict.segments import Segment
    from bench.training.checkpoints.export import Checkpoint
    from datasets.video.frames import VideoInfo


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    result = CommandParser(prog="python -m bench.predict", description=__doc__)
    add = result.add_argument
    add("video", type=Path, metavar="VIDEO", help="a video file")
    add(
        "--run",
        type=Path,
        required=True,
        metavar="RECORD|CHECKPOINT",
        help="the record of a run with --keep-weights, or its checkpoint",
    )
    add("--weights", type=Path, help="the pre-trained weights of the run, if they are not shipped")
    add("--out", type=Path, default=Path("predictions"), metavar="DIR", help="default: predictions")
    add(
        "--min-score",
        type=real(lambda value: 0 <= value < math.inf, "0 or more"),
        default=0.0,
        metavar="SCORE",
        help="leave out segments with a lower score",
    )
    add("--top", type=whole(1), metavar="N", help="keep the N best segments (default: all)")
    add("--device", default="auto", help="cpu, cuda or cuda:N (default: cuda if available)")
    add("--mp4", action="store_true", help="also write the video with labels, without sound")
    return result


def checkpoint_of(run: Path) -> Path:
    """Return the checkpoint that ``--run`` refers to; raise InputError if it was not kept."""
    if run.suffix != ".json":
        return run
    from bench.records.paths import checkpoint_path
    from bench.records.record import read_record

    if not run.is_file():
        raise InputError(f"{run}: no such record")
    record = read_record(run)
    path = checkpoint_path(run.absolute().parents[1], record["id"])
    if not path.is_file():
        raise InputError(
            f"{run}: the run's weights were not kept ({path.name} is not in {path.parent}); "
            "its bench.run command with --keep-weights --redo all makes them (make: KEEP=1)"
        )
    return path


def find(
    video: Path, info: VideoInfo, checkpoint: Checkpoint, weights: Path | None, device_name: str
) -> tuple[list[Segment], dict[str, Any]]:
    """Return the segments of a video, best first, and their provenance as JSON values."""
    import dataclasses

    import torch
    from tqdm import tqdm

    from bench.data.frame_loader import FrameLoader, default_cache_bytes, default_workers
    from bench.data.frame_store import open_store
    from bench.io.reading import file_sha256
    from bench.predict.segments import Segment
    from bench.training.checkpoints.export import restore
    from bench.training.inference import detect_all
    from datasets.annotations.dataset import Dataset, Video
    from datasets.video.frames import readers_used
    from strategies.base import settings

    device, note = torch.device(device_name), checkpoint.note
    if device.type == "cpu":
        # As in bench.run: a CPU takes thirty times as long in bfloat16.
        note = dataclasses.replace(note, protocol=dataclasses.replace(note.protocol, precision="float32"))
    protocol = note.protocol
    torch.set_num_threads(protocol.threads)
    detector = restore(checkpoint, weights, note).to(device)
    geometry = detector.backbone.geometry
    own = Video(video.stem, "own", info.duration, (), video.name)
    sha256 = file_sha256(video)
    dataset = Dataset("own", "own", note.classes, (own,), sha256, video, video.parent)
    loader = FrameLoader(default_cache_bytes(), default_workers(device.type))
    with (
        contextlib.closing(loader),
        tqdm(total=2, desc="predicting", leave=False, disable=not sys.stderr.isatty()) as bar,
    ):
        store = open_store(dataset, "own", protocol, geometry, loader)
        bar.update()
        found, _ = detect_all(detector, store, protocol, device)
        bar.update()
    entries = found[0].entries(note.classes)
    bounds = [each["segment"] for each in entries]
    segments = [
        Segment(start, end, each["label"], each["score"])
        for (start, end), each in zip(bounds, entries, strict=True)
    ]
    origin = {
        "run": note.run,
        "checkpoint_sha256": checkpoint.sha256,
        "model": note.model,
        "weights": dataclasses.asdict(note.weights),
        "strategy": settings(note.strategy),
        "trained_on": note.dataset,
        "seed": note.seed,
        "protocol": checkpoint.note.protocol.digest(),
        "classifier": protocol.classifier,
        "precision": protocol.precision,
        "device": device.type,
        "video": {"file": video.name, "sha256": sha256, "seconds": info.duration, "reader": readers_used()},
    }
    return segments, origin


def check_options(options: argparse.Namespace) -> None:
    """Raise InputError if ``--mp4`` would replace the video, or the output folder cannot be written."""
    if options.mp4 and (options.out / f"{options.video.stem}.mp4").resolve() == options.video.resolve():
        raise InputError(f"--out: {options.out} holds the video itself, which --mp4 would replace")
    try:
        options.out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.out):
            pass
    except OSError as error:
        raise InputError(f"--out: {options.out} cannot be written ({error.strerror})") from None


def predict(options: argparse.Namespace) -> list[Path]:
    """Write the output files of one video and return their paths. Raises InputError for invalid input."""
    check_options(options)
    path = checkpoint_of(options.run)
    device = device_of(options.device)
    from bench.io.writing import write_atomically
    from bench.predict.segments import as_csv, as_json, chosen
    from bench.predict.timeline import draw_timeline
    from bench.training.checkpoints.export import read_checkpoint
    from datasets.video.frames import probe

    checkpoint = read_checkpoint(path)
    if options.run.suffix == ".json" and checkpoint.note.run != options.run.stem:
        raise InputError(f"{path}: is of another run than {options.run.name}")
    info = probe(options.video)
    found, origin = find(options.video, info, checkpoint, options.weights, device)
    segments = chosen(found, options.min_score, options.top)
    origin |= {"segments_found": len(found), "min_score": options.min_score, "top": options.top}
    name, files = options.video.stem, []
    contents = {
        "json": as_json(name, segments, origin),
        "csv": as_csv(segments),
        "png": draw_timeline(name, segments, info.duration),
    }
    for suffix, content in contents.items():
        files.append(options.out / f"{name}.{suffix}")
        write_atomically(files[-1], content)
    if options.mp4:
        files.append(options.out / f"{name}.mp4")
        film(options.video, files[-1], segments)
    return files


def film(source: Path, target: Path, segments: list[Segment]) -> None:
    """Write the video with labels, with a progress bar."""
    from tqdm import tqdm

    from bench.predict.overlay import write_annotated_video

    with tqdm(desc="writing video", unit="frames", leave=False, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        write_annotated_video(source, target, segments, progress)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; invalid input prints one line and returns exit code 2."""

    def action(options: argparse.Namespace) -> int:
        for file in predict(options):
            print(file)
        return 0

    return run_command(parser(), arguments, action)


if __name__ == "__main__":
    sys.exit(main())
