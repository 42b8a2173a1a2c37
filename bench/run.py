"""``python -m bench.run``: compare strategies on one backbone and one data set.

Makes a run for every strategy and seed, each in a process of its own, writes a record for every one, and
rebuilds the tables. What has a record is not run again.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.config.arguments import device_of
from bench.io.errors import InputError
from bench.io.exit_code import RUNS_KEPT, exit_code
from bench.run_options import DEFAULT_RESULTS, default_workers, parser, specifications

if TYPE_CHECKING:
    from bench.specification import RunSpecification
    from datasets.annotations.dataset import Dataset

__all__ = ["DEFAULT_RESULTS", "bench", "main", "parser", "specifications"]


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

    from datasets.annotations.reader import video_path
    from datasets.checks.checking import require_fit

    protocol = spec.protocol()
    videos = [*dataset.subset(protocol.training_subset), *dataset.subset(protocol.evaluation_subset)]
    for video in tqdm(videos, desc="checking videos", leave=False, disable=not sys.stderr.isatty()):
        require_fit(video_path(dataset, video), video)


def bench(specs: Sequence[RunSpecification], options: argparse.Namespace) -> int:
    """Run what is missing, rebuild the report, and return the exit code: 1 if a run of the matrix failed."""
    from bench.foresight import fitted
    from bench.memory.device import check_card
    from bench.pending import clear_away, pending, stamps
    from bench.preconditions import check_writable
    from bench.records.locks import check_locks
    from bench.run_process import Limits
    from bench.runner import run_matrix
    from bench.specification import run_id

    check_writable(options.results)
    check_locks(options.results, machines=options.launcher == "slurm")
    dataset = load_dataset(specs[0])
    specs[0].class_scores(dataset)
    if options.fit is not None:
        specs = fitted(specs, dataset, options.fit)
    records = options.results / "records"
    known = stamps(records)
    todo = pending(specs, dataset, records, options.redo)
    clear_away(options.results, specs, frozenset(run_id(spec, dataset) for spec in todo))
    if todo:
        check_data(dataset, todo[0])
        workers = options.workers or default_workers(specs[0])
        if options.launcher != "here":
            from bench.launch import launch

            return launch(todo, dataset, options, workers, known)
        if specs[0].device != "cpu" and not options.force:
            check_card(specs[0].device)
        print(f"{len(todo)} of {len(specs)} runs to do, {min(workers, len(todo))} at a time", file=sys.stderr)
        limits = Limits(options.timeout, options.stall)
        run_matrix(todo, dataset, records, workers, limits, options.redo, known)
    else:
        print(f"all {len(specs)} runs have records", file=sys.stderr)
    clear_away(options.results, specs, frozenset())  # a process of a killed bench may have lived until now
    return conclude(specs, dataset, options)


def conclude(specs: Sequence[RunSpecification], dataset: Dataset, options: argparse.Namespace) -> int:
    """Rebuild the report, print it, and return the exit code of a matrix that has all its records."""
    from bench.records.paths import checkpoint_path
    from bench.records.record import read_record
    from bench.report import build
    from bench.specification import run_id

    print(build(options.results).text)
    records = options.results / "records"
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
    from bench.config.presets import STANDARD, default_protocol
    from bench.models import MODEL_NAMES

    if options.model not in MODEL_NAMES:
        raise InputError(f"--model: unknown '{options.model}', known are {', '.join(MODEL_NAMES)}")
    wanted = (
        options.device == "auto"
        and options.launcher != "slurm"
        and not options.force
        and default_protocol(options.model) == STANDARD
    )
    if not wanted or device_of("auto") != "cpu":
        return None
    from bench.plan.__main__ import parser as plan_parser
    from bench.plan.__main__ import plan

    words = ["--model", options.model, "--strategy", options.strategies]
    words += [word for text in options.protocol for word in ("--protocol", text)]
    words += [word for text in options.set for word in ("--set", text)]
    words += ["--classes", "1"] if options.classifier else []
    code = plan(plan_parser().parse_args(words))
    print(
        f"bench.run: nothing was trained: {options.model} wants a GPU and this machine has none; "
        "--force (make: FORCE=1) trains on the CPU all the same",
        file=sys.stderr,
    )
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb."""
    options = parser().parse_args(arguments)

    def action() -> int:
        planned = plan_instead(options)
        return bench(specifications(options), options) if planned is None else planned

    return exit_code("bench.run", action, RUNS_KEPT)


if __name__ == "__main__":
    sys.exit(main())
