"""``python -m bench.predict``: detect the actions in your own videos, by a run with kept weights.

Writes VIDEO.json (an ActivityNet submission), VIDEO.csv and VIDEO.png for each video, or other --format, and
with --mp4 a copy of the video with its labels drawn on the frames, without sound. The exit code is 2 if any
video cannot be read; the others are predicted all the same.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config.arguments import device_of, real, whole
from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command
from bench.io.text import printable

if TYPE_CHECKING:
    from bench.predict.detector import VideoDetector
    from bench.predict.inputs import Job
    from bench.predict.segments import Segment


FORMATS = ("json", "csv", "png", "srt", "eaf")


def formats(text: str) -> tuple[str, ...]:
    """Return the formats of a list with commas, each once."""
    names = tuple(dict.fromkeys(name.strip().lower() for name in text.split(",")))
    if wrong := [name for name in names if name not in FORMATS]:
        raise argparse.ArgumentTypeError(f"got '{wrong[0]}', allowed are {', '.join(FORMATS)}")
    return names


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    result = CommandParser(prog="python -m bench.predict", description=__doc__)
    add = result.add_argument
    add("videos", type=Path, nargs="+", metavar="VIDEO", help="video files, and folders of them at any depth")
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
        "--format",
        type=formats,
        default=("json", "csv", "png"),
        metavar="NAMES",
        help="files to write: json, csv, png, srt (subtitles), eaf (ELAN); default: json,csv,png",
    )
    add(
        "--min-score",
        type=real(lambda value: 0 <= value < math.inf, "0 or more"),
        default=0.0,
        metavar="SCORE",
        help="leave out segments with a lower score",
    )
    add("--top", type=whole(1), metavar="N", help="keep the N best segments (default: all)")
    add(
        "--fps",
        type=real(lambda value: 0 < value < 1e6, "more than 0 (frames per second)"),
        metavar="RATE",
        help="frames per second of folders of images such as img_00001.jpg, which are then videos",
    )
    add("--reader", metavar="auto|decord|pyav|torchcodec", help="what decodes videos (default: auto)")
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


def make_folder(out: Path) -> None:
    """Create the output folder; raise InputError if it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise InputError(f"--out: {out} cannot be written ({error.strerror})") from None


def check_replaced(todo: Sequence[Job]) -> None:
    """Raise InputError if ``--mp4`` would replace a video."""
    videos = {job.video.resolve() for job in todo}
    for job in todo:
        if job.output("mp4").resolve() in videos:
            raise InputError(
                f"--out: {job.folder} holds the video itself, which --mp4 would replace: {job.video.name}"
            )


def predict(options: argparse.Namespace) -> int:
    """Write the output files of all videos, print their paths, and return the exit code.

    A video that cannot be read is one line on standard error, and the code is then 2; the others go on.
    Raises InputError for invalid options, and if the only video cannot be read.
    """
    from tqdm import tqdm

    from bench.predict.inputs import check_reader, jobs
    from datasets.video.reader_choice import use_reader

    if options.reader is not None:
        use_reader(options.reader)
    make_folder(options.out)
    todo = jobs(options.videos, options.out, options.fps)
    check_reader(todo, options.reader)
    if options.mp4:
        check_replaced(todo)
    path = checkpoint_of(options.run)
    device = device_of(options.device)
    from bench.models import FEATURES
    from bench.predict.detector import VideoDetector
    from bench.training.checkpoints.export import read_checkpoint

    checkpoint = read_checkpoint(path)
    if options.run.suffix == ".json" and checkpoint.note.run != options.run.stem:
        raise InputError(f"{path}: is of another run than {options.run.name}")
    if checkpoint.note.model == FEATURES:
        raise InputError(
            f"{path}: was trained on features in files; bench.predict needs a model that reads videos"
        )
    detector = VideoDetector(checkpoint, options.weights, device)
    failed = 0
    quiet = not sys.stderr.isatty()
    with tqdm(todo, desc="predicting", unit="video", leave=False, disable=quiet) as bar:
        for job in bar:
            try:
                lines = predict_video(job, detector, options)
            except InputError as error:
                if len(todo) == 1:
                    raise
                failed += 1
                bar.write(f"bench.predict: {error}", file=sys.stderr)
            else:
                bar.write("\n".join(lines), file=sys.stdout)
    if failed:
        print(f"bench.predict: {failed} of {len(todo)} videos could not be read", file=sys.stderr)
    return 2 if failed else 0


def predict_video(job: Job, detector: VideoDetector, options: argparse.Namespace) -> list[str]:
    """Write the output files of one video, and return the lines to print: a note, if any, and their paths.

    Raises InputError for a video that cannot be read.
    """
    from bench.io.writing import write_atomically
    from bench.predict.players import as_eaf, as_srt, player_offset
    from bench.predict.segments import as_csv, as_json, chosen
    from bench.predict.timeline import draw_timeline
    from datasets.checks.videos import OFFSET_SECONDS
    from datasets.video.frames import probe

    info = probe(job.video, options.fps)
    offset = player_offset(job.video, info)
    found, origin = detector.find(job.video, info)
    segments = chosen(found, options.min_score, options.top)
    origin |= {
        "segments_found": len(found),
        "min_score": options.min_score,
        "top": options.top,
        "offset_seconds": offset,
    }
    makers: dict[str, Callable[[], bytes]] = {
        "json": lambda: as_json(job.name, segments, origin),
        "csv": lambda: as_csv(segments),
        "png": lambda: draw_timeline(job.name, segments, info.duration),
        "srt": lambda: as_srt(segments, offset),
        "eaf": lambda: as_eaf(segments, offset, job.video, job.folder),
    }
    lines = []
    if abs(offset) > OFFSET_SECONDS:
        lines.append(
            f"{job.video}: the picture begins {offset:.3f} s after the container: add offset_seconds to the "
            "times in json, csv and png to get the player's"
        )
    job.folder.mkdir(parents=True, exist_ok=True)
    for suffix in options.format:
        write_atomically(job.output(suffix), makers[suffix]())
        lines.append(str(job.output(suffix)))
    if options.mp4:
        film(job.video, job.output("mp4"), segments, options.fps)
        lines.append(str(job.output("mp4")))
    return [printable(line) for line in lines]


def film(source: Path, target: Path, segments: list[Segment], rate: float | None) -> None:
    """Write the video with labels, with a progress bar."""
    from tqdm import tqdm

    from bench.predict.overlay import write_annotated_video

    with tqdm(desc="writing video", unit="frames", leave=False, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        write_annotated_video(source, target, segments, progress, rate)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; invalid input prints one line and returns exit code 2."""
    return run_command(parser(), arguments, predict)


if __name__ == "__main__":
    sys.exit(main())
