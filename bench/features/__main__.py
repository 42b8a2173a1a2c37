"""``python -m bench.features``: write a frozen backbone's features of a data set to files.

The files have ActionFormer's layout, ``<id>.npy`` with (T, D) float32, and ``features.json`` beside them says
how they were made. ``bench.run --model features`` trains the head on them. Files that exist are kept, so a
second call continues an interrupted one.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.config.arguments import device_of, whole
from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command
from bench.models import FEATURES, MODEL_NAMES
from datasets.cards.cards import GENERATED, is_annotation_path
from datasets.recipes.recipes import NO_RECIPE

if TYPE_CHECKING:
    from bench.run.specification import ResolvedRun


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    result = CommandParser(prog="python -m bench.features", description=__doc__)
    add = result.add_argument
    add("--model", default="vit-t", help="backbone (default: vit-t, the embedded one)")
    add("--weights", help="checkpoint path, 'random', or 'source' (vit-t as shipped; its default)")
    add("--dataset", default="miniature", help="a known name, or the path of annotations, as in bench.run")
    add("--annotations", type=Path, help="a known data set's annotations, where they are not in --data")
    add("--data", type=Path, help="folder with the data set's videos")
    add("--out", type=Path, required=True, metavar="FOLDER", help="folder for the features")
    add("--recipe", metavar="NAME", help="as in bench.run")
    add("--protocol", action="append", default=[], metavar="FIELD=VALUE", help="as in bench.run")
    add("--device", default="auto", help="cpu, cuda or cuda:N (default: cuda if available)")
    add("--cache", type=Path, help="folder for generated data, as in bench.run")
    add("--decoders", type=whole(1, 256), help="videos that are decoded at once, as in bench.run")
    return result


def resolved(options: argparse.Namespace) -> ResolvedRun:
    """Return the head-only run whose features are exported; raise InputError for invalid options."""
    from bench.run.options import parser as run_parser
    from bench.run.options import specifications
    from bench.run.specification import resolve_run

    if options.model not in MODEL_NAMES:
        raise InputError(f"--model: unknown '{options.model}', known are {', '.join(MODEL_NAMES)}")
    words = ["--strategies", "head-only", "--model", options.model, "--dataset", options.dataset]
    for name in ("weights", "recipe", "annotations", "data", "device", "cache", "decoders"):
        if (value := getattr(options, name)) is not None:
            words += [f"--{name}", str(value)]
    words += [word for text in options.protocol for word in ("--protocol", text)]
    (spec,) = specifications(run_parser().parse_args(words))
    return resolve_run(spec, spec.load_dataset())


def export_features(options: argparse.Namespace) -> int:
    """Export the features of both subsets, print the command that trains on them; return the exit code."""
    run = resolved(options)
    from bench.run.matrix import check_data

    check_data(run)
    import torch
    from tqdm import tqdm

    from bench.data.frame_loader import FrameLoader, default_workers
    from bench.data.frame_store import FrameStore, open_store
    from bench.data.time_grid import head_steps_per_clip
    from bench.features import export
    from bench.training.detector import build_detector

    protocol, device = run.protocol, torch.device(device_of(options.device))
    torch.set_num_threads(protocol.threads)
    detector, _, audit = build_detector(run.spec.model, run.weights, run.strategy, protocol, 1, run.spec.seed)
    for line in audit.lines() if audit else ["random weights: nothing was loaded"]:
        print(line, file=sys.stderr)
    backbone = detector.backbone.to(device).eval()
    target = export.feature_protocol(protocol, backbone, head_steps_per_clip(protocol, backbone.geometry))
    times = export.times_of(target)
    settings = {
        "schema": 1,
        "model": run.spec.model,
        "weights": {"name": run.weights.name if run.weights else "random", "sha256": run.weights_sha256},
        "dataset": f"{run.dataset.name} ({run.dataset.variant})",
        "times": None
        if times is None
        else {"rate": times.rate, "window": times.window, "stride": times.stride},
        "steps_per_clip": target.steps_per_clip,
        "channels": target.feature_width,
        "image_size": protocol.image_size,
        "precision": protocol.precision,
        "frozen_clips": protocol.frozen_clips,
        "positions": protocol.positions,
    }
    workers = options.decoders or default_workers(device.type)
    # Nothing is kept of decoded frames: each video is read once.
    with contextlib.closing(FrameLoader(0, workers)) as loader:
        stores = [
            open_store(run.dataset, subset, protocol, backbone.geometry, loader)
            for subset in dict.fromkeys((protocol.training_subset, protocol.evaluation_subset))
        ]
        store = FrameStore(
            {name: video for each in stores for name, video in each.videos.items()},
            {name: clips for each in stores for name, clips in each.clips.items()},
            workers,
        )
        total = sum(clips.count for clips in store.clips.values())
        quiet = not sys.stderr.isatty()
        with tqdm(total=total, desc="features", unit="clip", leave=False, disable=quiet) as bar:
            written = export.export(
                options.out,
                settings,
                store,
                lambda name: export.video_features(backbone, store, protocol, name, device),
                bar.update,
            )
    kept = len(store.clips) - written
    print(f"{options.out}: features of {written} videos written" + (f", {kept} kept" if kept else ""))
    plain = dataclasses.replace(
        run.spec, model=FEATURES, weights=FEATURES, recipe=NO_RECIPE, protocol_changes={}
    )
    words = ["python", "-m", "bench.run", "--model", FEATURES, "--data", str(options.out)]
    words += ["--dataset", options.dataset, "--recipe", NO_RECIPE]
    if options.dataset not in GENERATED and not is_annotation_path(options.dataset):
        words += ["--annotations", str(options.annotations or run.dataset.path)]
    words += ["--strategies", "head-only", "--protocol", export.protocol_text(target, plain.protocol())]
    print(f"train the head on them:\n{shlex.join(words)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    return run_command(parser(), arguments, export_features)


if __name__ == "__main__":
    sys.exit(main())
