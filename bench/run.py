"""``python -m bench.run``: compare strategies on one backbone and one data set.

Makes a run for every strategy and seed, each in a process of its own, writes a record for every one, and
rebuilds the tables. What has a record is not run again.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import InputError
from bench.options import (
    check_cards,
    check_processes,
    device_of,
    pairs,
    seeds_of,
    settings_of,
    strategy_names,
)

if TYPE_CHECKING:
    from bench.specification import RunSpecification
    from datasets.annotations import Dataset

DEFAULT_RESULTS = Path("results") / "local"


def parser() -> argparse.ArgumentParser:
    """Return the verb's options."""
    result = argparse.ArgumentParser(prog="python -m bench.run", description=__doc__)
    add = result.add_argument
    add("--model", default="vit-t", help="backbone (default: vit-t, the embedded one)")
    add(
        "--dataset", default="miniature", help="a known name such as thumos14:211, or the path of a JSON file"
    )
    add("--annotations", type=Path, help="a known data set's annotations, where they are not in --data")
    add("--data", type=Path, help="folder with the data set's videos")
    add("--weights", help="checkpoint path, 'random', or 'source' (vit-t as shipped; its default)")
    add("--strategies", default="all", help="names with commas between them (default: all installed)")
    add("--seeds", default="0", help="whole numbers with commas between them (default: 0)")
    add("--device", default="auto", help="cpu, cuda or cuda:N (default: cuda where there is one)")
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
    add(
        "--protocol",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="a field of the protocol, for all runs",
    )
    add(
        "--frame-cache",
        type=float,
        metavar="GIB",
        help="decoded frames that a run keeps in memory (default: a quarter of what is free)",
    )
    add(
        "--decoders", type=int, help="videos that a run decodes at once (default: 1 on CPU, up to 8 on a GPU)"
    )
    add(
        "--processes",
        type=int,
        default=1,
        help="processes that share every batch, a device each (default: 1)",
    )
    add("--sharded", action="store_true", help="spread the blocks that train over the processes (FSDP2)")
    add("--workers", type=int, help="runs side by side (default: one for each core on CPU, 1 on a GPU)")
    add(
        "--force",
        action="store_true",
        help="train also where the forecast exceeds the memory, or without a GPU",
    )
    add("--fit", type=float, metavar="GIB", help="stream backward, by as many clips at once as fit a card")
    add("--keep-weights", action="store_true", help="keep what training changed, for bench.predict")
    add("--classifier", type=Path, metavar="FILE", help="scores of whole videos that classify detections")
    add(
        "--checkpoint-seconds",
        type=float,
        default=60.0,
        metavar="SECONDS",
        help="how often a run keeps what it needs to go on after a kill (default: 60; inf: never)",
    )
    add("--timeout", type=float, metavar="SECONDS", help="a run that takes longer becomes a 'timeout' row")
    add(
        "--redo",
        choices=("cancelled", "failed", "all"),
        default="cancelled",
        help="which finished runs to run again (default: only those that were cancelled or killed)",
    )
    return result


def _absolute(path: Path | str) -> str:
    """Return the path as a run's process, which works in another folder, finds it."""
    return str(Path(path).absolute())


def protocol_changes(options: argparse.Namespace) -> dict[str, str]:
    """Return the protocol's fields that the options set, as text."""
    from bench.detection.classifier import classifier_name

    changes = pairs(options.protocol, "--protocol")
    if "classifier" in changes:
        raise InputError("--protocol: 'classifier' follows from a file, give that as --classifier")
    return {**changes, "classifier": classifier_name(options.classifier)} if options.classifier else changes


def specifications(options: argparse.Namespace) -> list[RunSpecification]:
    """Return the runs of the matrix, checked as far as that is possible without reading data."""
    from bench.parallel import check_division
    from bench.specification import RunSpecification

    if options.weights is None and options.model != "vit-t":
        raise InputError(f"--weights: {options.model} needs the path of its checkpoint, or 'random'")
    if options.workers is not None and options.workers < 1:
        raise InputError(f"--workers: got {options.workers}, allowed is 1 or more")
    if options.frame_cache is not None and not 0 <= options.frame_cache <= 1e6:
        raise InputError(f"--frame-cache: got {options.frame_cache:g}, allowed is 0 to 1000000 (GiB)")
    if options.decoders is not None and not 1 <= options.decoders <= 256:
        raise InputError(f"--decoders: got {options.decoders}, allowed is 1 to 256")
    if not options.checkpoint_seconds >= 0:  # NaN too
        raise InputError(f"--checkpoint-seconds: got {options.checkpoint_seconds:g}, allowed is 0 or more")
    check_processes(options.processes, options.sharded)
    check_cards(options.processes, options.device)
    names = strategy_names(options.strategies)
    changed = settings_of(options.set, names)
    changes = protocol_changes(options)
    device, weights = device_of(options.device), options.weights or "source"
    specs = [
        RunSpecification(
            model=options.model,
            strategy=name,
            strategy_settings=changed[name],
            dataset=_absolute(options.dataset) if ".json" in options.dataset else options.dataset,
            data=_absolute(options.data) if options.data else None,
            cache=_absolute(options.cache) if options.cache else None,
            weights=weights if weights in ("source", "random") else _absolute(weights),
            seed=seed,
            device=device,
            protocol_changes=changes,
            results=str(options.results.resolve()),
            annotations=_absolute(options.annotations) if options.annotations else None,
            force=options.force,
            keep_weights=options.keep_weights,
            classifier=_absolute(options.classifier) if options.classifier else None,
            frame_cache=options.frame_cache,
            decoders=options.decoders,
            checkpoint_seconds=options.checkpoint_seconds,
            processes=options.processes,
            sharded=options.sharded,
        )
        for seed in seeds_of(options.seeds)
        for name in names
    ]
    for spec in specs:
        check_division(spec.protocol(), options.processes)
        spec.build_strategy()
    return specs


def load_dataset(spec: RunSpecification) -> Dataset:
    """Return the data set, with a bar while it is generated."""
    from tqdm import tqdm

    with tqdm(desc="making videos", leave=False, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        return spec.load_dataset(progress)


def check_data(dataset: Dataset, spec: RunSpecification) -> None:
    """Raise InputError for a subset that does not exist, or a video that cannot be opened or is too short."""
    from tqdm import tqdm

    from datasets.annotations import video_path
    from datasets.checking import require_fit

    protocol = spec.protocol()
    videos = [*dataset.subset(protocol.training_subset), *dataset.subset(protocol.evaluation_subset)]
    for video in tqdm(videos, desc="checking videos", leave=False, disable=not sys.stderr.isatty()):
        require_fit(video_path(dataset, video), video)


def bench(specs: Sequence[RunSpecification], options: argparse.Namespace) -> int:
    """Run what is missing, rebuild the report, and return the exit code: 1 if a run of the matrix failed."""
    from bench.foresight import fitted
    from bench.pending import clear_away, pending
    from bench.preconditions import check_card, check_writable
    from bench.record import checkpoint_path, read_record
    from bench.report import build
    from bench.runner import run_matrix
    from bench.specification import run_id

    check_writable(options.results)
    dataset = load_dataset(specs[0])
    specs[0].class_scores(dataset)
    if options.fit is not None:
        specs = fitted(specs, dataset, options.fit)
    records = options.results / "records"
    todo = pending(specs, dataset, records, options.redo)
    clear_away(options.results, specs, frozenset(run_id(spec, dataset) for spec in todo))
    if todo:
        check_data(dataset, todo[0])
        if specs[0].device != "cpu" and not options.force:
            check_card(specs[0].device)
        threads = specs[0].protocol().threads
        workers = options.workers or (
            max(1, (os.cpu_count() or 1) // (threads * specs[0].processes)) if specs[0].device == "cpu" else 1
        )
        print(f"{len(todo)} of {len(specs)} runs to do, {min(workers, len(todo))} at a time", file=sys.stderr)
        run_matrix(todo, dataset, records, workers, options.timeout)
    else:
        print(f"all {len(specs)} runs have records", file=sys.stderr)
    clear_away(options.results, specs, frozenset())  # a process of a killed bench may have lived until now
    report = build(options.results)
    print(report.text)
    mine = [read_record(records / f"{run_id(spec, dataset)}.json") for spec in specs]
    finished = [record for record in mine if record["status"] == "ok"]
    lost = [each for each in finished if not checkpoint_path(options.results, each["id"]).exists()]
    if options.keep_weights and lost:
        print(
            f"{len(lost)} of {len(specs)} runs ended without kept weights; --redo all makes them again",
            file=sys.stderr,
        )
    return 0 if len(finished) == len(mine) else 1


def plan_instead(options: argparse.Namespace) -> int | None:
    """Print the memory plan where a model of published size was asked for and there is no GPU; else None."""
    from bench.models import MODEL_NAMES
    from bench.protocol import STANDARD, default_protocol

    if options.model not in MODEL_NAMES:
        raise InputError(f"--model: unknown '{options.model}', known are {', '.join(MODEL_NAMES)}")
    wanted = options.device == "auto" and not options.force and default_protocol(options.model) == STANDARD
    if not wanted or device_of("auto") != "cpu":
        return None
    from bench import plan

    words = ["--model", options.model, "--strategy", options.strategies]
    words += [word for text in options.protocol for word in ("--protocol", text)]
    words += [word for text in options.set for word in ("--set", text)]
    words += ["--classes", "1"] if options.classifier else []
    code = plan.plan(plan.parser().parse_args(words))
    print(
        f"bench.run: nothing was trained: {options.model} wants a GPU and this machine has none; "
        "--force (make: FORCE=1) trains on the CPU all the same",
        file=sys.stderr,
    )
    return code


def exit_code(verb: str, action: Callable[[], int]) -> int:
    """Return the exit code of ``action``: bad input is one line and 2, an interruption (TERM too) is 130."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        return action()
    except InputError as error:
        print(f"{verb}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{verb}: interrupted; finished runs are kept, the same command goes on", file=sys.stderr)
        return 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb."""
    options = parser().parse_args(arguments)

    def action() -> int:
        planned = plan_instead(options)
        return bench(specifications(options), options) if planned is None else planned

    return exit_code("bench.run", action)


if __name__ == "__main__":
    sys.exit(main())
