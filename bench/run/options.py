"""The options of ``bench.run``, and the run specifications that follow from them."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.config.arguments import (
    check_cards,
    check_division,
    check_processes,
    device_of,
    fractions_of,
    pairs,
    real,
    seeds_of,
    whole,
)
from bench.config.overrides import check_feature_fields
from bench.io.errors import InputError
from bench.io.exit_code import CommandParser
from bench.models import FEATURES, SHIPPED_NAMES
from bench.records.tuning import Choices, dataset_label, read_choices
from bench.run.cluster.slurm_options import check_launcher, cluster_device
from datasets.cards.cards import is_annotation_path
from strategies import STRATEGIES_HELP, settings_of, strategy_names, supported_names

if TYPE_CHECKING:
    from bench.run.specification import ResolvedRun, RunSpecification

DEFAULT_RESULTS = Path("results") / "local"
RECIPE_HELP = (
    "settings of training, such as adatad, or thumos14:adatad for any data "
    "(default: the data set's first for the model; none: the model's default protocol)"
)
DESCRIPTION = """Compare strategies on one backbone and one data set: a run for every strategy and seed, each
in its own process, with a record of each, and tables. Runs that have a record are not repeated."""


def parser() -> argparse.ArgumentParser:
    """Return the argument parser."""
    result = CommandParser(prog="python -m bench.run", description=DESCRIPTION)
    add = result.add_argument
    add("--model", default="vit-t", help="backbone (default: vit-t, the embedded one), or features in files")
    add(
        "--dataset", default="miniature", help="a known name such as thumos14:211, or the path of annotations"
    )
    add("--recipe", metavar="NAME", help=RECIPE_HELP)
    add("--annotations", type=Path, help="a known data set's annotations, where they are not in --data")
    add("--data", type=Path, help="folder with the data set's videos, or its features with --model features")
    add(
        "--weights",
        help="checkpoint path, 'random', or a shipped one (vit-t: source, the default, or source-1)",
    )
    add("--strategies", default="default", metavar="NAMES", help=STRATEGIES_HELP)
    add("--seeds", default="0", help="comma-separated whole numbers (default: 0)")
    add("--device", default="auto", help="cpu, cuda or cuda:N (default: cuda if available)")
    add("--results", type=Path, default=DEFAULT_RESULTS, help=f"default: {DEFAULT_RESULTS}")
    add(
        "--cache", type=Path, help="folder for generated data (default: $TALBENCH_CACHE or ~/.cache/talbench)"
    )
    add(
        "--set",
        action="append",
        default=[],
        metavar="STRATEGY.FIELD=VALUE",
        help="a strategy's hyper-parameter",
    )
    add("--chosen", type=Path, metavar="FILE", help="hyper-parameters that bench.tune --write has chosen")
    add(
        "--protocol",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of the protocol, for all runs",
    )
    add(
        "--frame-cache",
        type=real(lambda value: 0 <= value <= 1e6, "0 to 1000000 (GiB)"),
        metavar="GIB",
        help="decoded frames that a run keeps in memory (default: runs share a quarter of what is free)",
    )
    add(
        "--encoding-cache",
        type=real(lambda value: 0 <= value <= 1e6, "0 to 1000000 (GiB)"),
        metavar="GIB",
        help="encodings that a run keeps in memory, others are read from disk or computed again "
        "(default: runs share a quarter of what is free)",
    )
    add(
        "--decoders",
        type=whole(1, 256),
        help="videos that a run decodes at once (default: 1 on CPU, up to 8 on a GPU)",
    )
    add(
        "--reader",
        metavar="auto|decord|pyav|torchcodec",
        help="what decodes videos (default: auto: decord or torchcodec where proved right, else PyAV)",
    )
    add(
        "--processes",
        type=whole(1, 1024),
        default=1,
        help="processes that every batch is split over, one device each (default: 1)",
    )
    add("--sharded", action="store_true", help="shard trainable blocks over processes (FSDP2)")
    add("--workers", type=whole(1), help="runs in parallel (default: one for each core on CPU, 1 on a GPU)")
    add(
        "--force",
        action="store_true",
        help="train even if the forecast exceeds the memory, or without a GPU",
    )
    add(
        "--fit",
        type=real(lambda value: 0 < value <= 10000, "more than 0, at most 10000 (GiB)"),
        metavar="GIB",
        help="use the streamed backward with the largest micro-batch of clips that fits a card",
    )
    add(
        "--evaluate-at",
        default="auto",
        metavar="FRACTIONS",
        help="fractions of a run's steps at which it is evaluated on tuning videos, such as 0.5,1, or none "
        "(default: 1/8, 1/4, 1/2 and 1 where a data set has tuning videos); changes no result",
    )
    add("--keep-weights", action="store_true", help="save the trained parameters, for bench.predict")
    add("--classifier", type=Path, metavar="FILE", help="video-level scores that classify the detections")
    add(
        "--checkpoint-seconds",
        type=real(lambda value: value >= 0, "0 or more"),
        default=60.0,
        metavar="SECONDS",
        help="time between checkpoints, from which a killed run resumes (default: 60; inf: never)",
    )
    add(
        "--timeout",
        type=real(lambda value: value > 0, "more than 0 (seconds)"),
        metavar="SECONDS",
        help="a run that takes longer becomes a 'timeout' row",
    )
    add(
        "--stall",
        type=real(lambda value: value > 0, "more than 0 (seconds; inf: never)"),
        default=1800.0,
        metavar="SECONDS",
        help="so does a run without progress for this time (default: 1800; inf: never)",
    )
    add(
        "--launcher",
        choices=("here", "local", "slurm"),
        default="here",
        help="how to start runs: here (default), or as one job each, on this machine (local) or by Slurm",
    )
    add(
        "--slurm",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="time (minutes), mem (GiB), gpus (h200:141,a100:80), and any option of sbatch, for each job",
    )
    add(
        "--redo",
        choices=("cancelled", "failed", "all"),
        default="cancelled",
        help="which finished runs to run again (default: only those that were cancelled or killed)",
    )
    return result


def _absolute(path: Path | str) -> str:
    """Return the absolute path, as a run's process has another working directory."""
    return str(Path(path).absolute())


def protocol_changes(options: argparse.Namespace) -> dict[str, str]:
    """Return the protocol fields set by the options, as text."""
    from bench.detection.external_classifier import classifier_name

    changes = pairs(options.protocol, "--protocol")
    if "classifier" in changes:
        raise InputError("--protocol: 'classifier' follows from a file, give that as --classifier")
    return {**changes, "classifier": classifier_name(options.classifier)} if options.classifier else changes


def choices_of(options: argparse.Namespace, names: Sequence[str]) -> Choices | None:
    """Return the file of ``--chosen``.

    Raises InputError if it is of another model or data set, or lacks a strategy, or if ``--set`` is given for
    a strategy that it chooses for.
    """
    if options.chosen is None:
        return None
    choices = read_choices(options.chosen)
    if choices.model != options.model:
        raise InputError(
            f"--chosen: {options.chosen} is of model {choices.model}, allowed is {options.model}, as --model"
        )
    if dataset_label(choices.dataset) != (dataset := dataset_label(options.dataset)):
        raise InputError(
            f"--chosen: {options.chosen} is of data set {choices.dataset}, allowed is {dataset}, as --dataset"
        )
    given = (key for key in pairs(options.set, "--set") if key.partition(".")[0] in choices.strategies)
    if both := list(given):
        raise InputError(f"--set: {both[0]} is of a strategy that --chosen has settings of; leave one out")
    if lacking := [name for name in names if name not in choices.strategies]:
        known = ", ".join(choices.strategies)
        raise InputError(f"--chosen: {options.chosen} has no strategy '{lacking[0]}', it has {known}")
    return choices


def _tuning_entry(choices: Choices, name: str) -> dict[str, Any]:
    settings = choices.strategies[name].settings
    return {"trials": choices.trials, "digest": choices.digest, "settings": settings}


def specifications(options: argparse.Namespace) -> list[RunSpecification]:
    """Return the runs of the matrix, validated as far as possible without reading data."""
    from bench.run.specification import RunSpecification

    if options.model == FEATURES and options.weights is not None:
        raise InputError(f"--weights: got {options.weights}, --model features has none; leave it out")
    if options.weights is None and options.model not in ("vit-t", FEATURES):
        raise InputError(f"--weights: {options.model} needs the path of its checkpoint, or 'random'")
    check_processes(options.processes, options.sharded)
    check_launcher(options)
    if options.reader is not None:
        from datasets.video.reader_choice import use_reader  # only here: it imports PyAV

        use_reader(options.reader)
    if (device := cluster_device(options)) is None:
        check_cards(options.processes, options.device)
        device = device_of(options.device)
    names = strategy_names(options.strategies)
    changed = settings_of(options.set, names)
    choices = choices_of(options, names)
    changes = protocol_changes(options)
    weights = options.weights or (FEATURES if options.model == FEATURES else "source")
    specs = [
        RunSpecification(
            model=options.model,
            strategy=name,
            strategy_settings=choices.strategies[name].settings if choices else changed[name],
            dataset=_absolute(options.dataset) if is_annotation_path(options.dataset) else options.dataset,
            data=_absolute(options.data) if options.data else None,
            cache=_absolute(options.cache) if options.cache else None,
            weights=weights if weights in (*SHIPPED_NAMES, "random", FEATURES) else _absolute(weights),
            seed=seed,
            device=device,
            protocol_changes=changes,
            results=str(options.results.resolve()),
            annotations=_absolute(options.annotations) if options.annotations else None,
            force=options.force,
            keep_weights=options.keep_weights,
            classifier=_absolute(options.classifier) if options.classifier else None,
            frame_cache=options.frame_cache,
            encoding_cache=options.encoding_cache,
            decoders=options.decoders,
            checkpoint_seconds=options.checkpoint_seconds,
            processes=options.processes,
            sharded=options.sharded,
            recipe=options.recipe,
            tuning=_tuning_entry(choices, name) if choices else None,
            evaluate_at=fractions_of(options.evaluate_at, "--evaluate-at"),
        )
        for seed in seeds_of(options.seeds)
        for name in names
    ]
    check_feature_fields(specs[0].protocol(), options.model)
    check_division(specs[0].protocol(), options.processes, options.sharded)  # that of all of them
    streamed = options.fit is not None or specs[0].protocol().backward == "streamed"
    supported = supported_names(names, options.model, "--strategies", streamed=streamed)
    for spec in specs[: len(names)]:  # every strategy once
        if spec.strategy in supported:
            spec.build_strategy()
    return specs


def default_workers(run: ResolvedRun) -> int:
    """Return the number of runs in parallel on this machine."""
    threads = run.protocol.threads * run.spec.processes
    return max(1, (os.cpu_count() or 1) // threads) if run.spec.device == "cpu" else 1
