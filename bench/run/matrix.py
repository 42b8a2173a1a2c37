"""Run the pending runs of a comparison and rebuild the report."""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.io.errors import InputError
from bench.io.text import printable
from bench.io.writing import check_inside
from bench.records.paths import RESULTS, WORK
from bench.run.options import default_workers
from bench.run.specification import ResolvedRun, RunSpecification, resolve_runs
from datasets.annotations.dataset import Dataset
from datasets.checks.checking import Finding

NEEDED_BYTES = 64 * 2**20


def load_dataset(spec: RunSpecification) -> Dataset:
    """Return the data set, with a progress bar while it is generated; print what was guessed in its file."""
    from tqdm import tqdm

    with tqdm(desc="generating videos", leave=False, disable=not sys.stderr.isatty()) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.update(done - bar.n)

        dataset = spec.load_dataset(progress)
    for note in dataset.notes:
        print(f"bench.run: {dataset.path.name}: {printable(note)}", file=sys.stderr)
    return dataset


def check_subsets(run: ResolvedRun) -> None:
    """Raise InputError for subsets that cannot be trained or evaluated on; print what is doubtful."""
    from datasets.checks import subsets

    protocol, dataset = run.protocol, run.dataset
    used = (protocol.training_subset, protocol.evaluation_subset)
    classified = run.spec.classifier is None
    report(subsets.check_subsets(dataset.path.name, dataset.videos, *used, classified=classified), run)


def check_data(run: ResolvedRun) -> None:
    """Raise InputError for a video that is missing, cannot be read or is too short; print what is doubtful.

    These are the findings of ``bench.doctor``, from the same functions.
    """
    from datasets.cards.cards import known_datasets, read_card, split_name
    from datasets.checks.videos import check_used_videos

    if run.dataset.features:
        from bench.data.feature_times import check_features

        check_features(run.dataset, run.protocol)
        return
    name, cache = split_name(run.spec.dataset)[0], run.spec.cache
    card = read_card(name) if name in known_datasets() else None
    used = (run.protocol.training_subset, run.protocol.evaluation_subset)
    report(check_used_videos(run.dataset, used, card, Path(cache) if cache else None), run)


def report(findings: Sequence[Finding], run: ResolvedRun) -> None:
    """Raise InputError for the first error, else print one line for each kind of warning."""
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        groups.setdefault((finding.level, finding.kind), []).append(finding)
    for level, kind in sorted(groups):  # errors first
        line, count = describe(groups[level, kind][0], run.dataset), len(groups[level, kind])
        line += f"; {count} such findings, bench.doctor lists them" if count > 1 else ""
        if level == "error":
            raise InputError(line)
        if level == "warning":
            print(f"bench.run: warning: {printable(line)}", file=sys.stderr)


def describe(finding: Finding, dataset: Dataset) -> str:
    """Return a finding as a line that names the video's file, or where it was looked for."""
    if not finding.video or finding.kind == "two files":
        return finding.text
    file = next(video.file for video in dataset.videos if video.id == finding.video)
    if finding.kind == "missing":
        return dataset.folder.missing(finding.video, file)
    return f"{dataset.folder.find(finding.video, file)}: {finding.kind}: {finding.text}"


def bench(specs: Sequence[RunSpecification], options: argparse.Namespace) -> int:
    """Run the pending runs, rebuild the report, and return the exit code: 1 if any run failed."""
    from bench.records.locks import check_locks
    from bench.run.pending import pending, remove_stale_files, stamps
    from bench.run.scheduler import run_matrix
    from bench.run.worker.supervisor import Limits

    check_writable(options.results)
    check_locks(options.results)
    runs = resolve_runs(specs, load_dataset(specs[0]))
    check_subsets(runs[0])
    runs[0].class_scores()
    runs[0].curve_fractions()
    records = options.results / "records"
    runs, left_out = write_unsupported(runs, records, streamed=options.fit is not None)
    if options.fit is not None:
        from bench.run.memory_check import fit_micro_batch

        runs = fit_micro_batch(runs, options.fit)
    known = stamps(records)
    todo = pending(runs, records, options.redo)
    remove_stale_files(options.results, runs, frozenset(run.id for run in todo))
    if todo:
        check_data(todo[0])
        workers = options.workers or default_workers(runs[0])
        if options.launcher != "here":
            from bench.run.cluster.submit import launch

            return launch(todo, options, workers, known)
        if specs[0].device != "cpu" and not options.force:
            from bench.memory.device import check_card

            check_card(specs[0].device)
        at_once = min(workers, len(todo))
        print(f"{len(todo)} of {len(runs)} runs to do, {at_once} at a time", file=sys.stderr)
        todo = [run.beside(at_once) for run in todo]
        limits = Limits(options.timeout, options.stall)
        run_matrix(todo, records, workers, limits, options.redo, known)
    else:
        print(f"all {len(runs)} runs have records", file=sys.stderr)
    # Again: a process of a killed parent may have lived until now.
    remove_stale_files(options.results, runs, frozenset())
    return conclude([*runs, *left_out], options)


def write_unsupported(
    runs: Sequence[ResolvedRun], records: Path, *, streamed: bool
) -> tuple[list[ResolvedRun], list[ResolvedRun]]:
    """Return the runs that are possible, and the others, of which records give the reason.

    ``streamed`` says whether the backward will be streamed whatever the protocol says.
    """
    from bench.records.record import write_record
    from bench.run.record_builder import empty_record
    from strategies import reason_against

    model = runs[0].spec.model
    streamed = streamed or runs[0].protocol.backward == "streamed"
    names = dict.fromkeys(run.spec.strategy for run in runs)
    reasons = {name: reason_against(name, model, streamed=streamed) for name in names}
    for name, reason in reasons.items():
        if reason:
            print(f"bench.run: {name} is left out: {reason}", file=sys.stderr)
    left_out = [run for run in runs if reasons[run.spec.strategy]]
    for run in left_out:
        message = reasons[run.spec.strategy]
        write_record(records, {**empty_record(run), "status": "unsupported", "message": message})
    return [run for run in runs if not reasons[run.spec.strategy]], left_out


def conclude(runs: Sequence[ResolvedRun], options: argparse.Namespace) -> int:
    """Rebuild and print the report of a finished matrix, and return the exit code."""
    from bench.records.paths import checkpoint_path
    from bench.records.record import read_record
    from bench.report import build

    print(build(options.results).text)
    records = options.results / "records"
    mine = [read_record(records / f"{run.id}.json") for run in runs]
    finished = [record for record in mine if record["status"] == "ok"]
    lost = [each for each in finished if not checkpoint_path(options.results, each["id"]).exists()]
    if options.keep_weights and lost:
        print(
            f"{len(lost)} of {len(runs)} runs have no kept weights; --redo all repeats them",
            file=sys.stderr,
        )
    possible = [record for record in mine if record["status"] != "unsupported"]
    return 0 if len(finished) == len(possible) else 1


def check_writable(results: Path) -> None:
    """Raise InputError unless records can be written to ``results`` and there is enough free space."""
    check_inside(results, *RESULTS, *WORK)
    folder = results / "records"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"x" * 4096)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise InputError(f"--results: {folder} cannot be written ({error.strerror})") from None
    if free < NEEDED_BYTES:
        raise InputError(f"--results: {folder} has {free >> 20} MiB free, {NEEDED_BYTES >> 20} are needed")
