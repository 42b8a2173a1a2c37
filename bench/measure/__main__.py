"""``python -m bench.measure``: measure memory and time of real training steps, and compare with the forecast.

Takes the options of ``bench.plan`` and runs a few steps of each configuration on this machine's device, with
random weights and frames, on which neither depends. Every row is written as soon as it is measured; existing
rows are not measured again, and a configuration that runs out of memory also gets a row.

``--suite`` measures all that there is to measure on a card, in order of value, within ``--seconds``.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.measure import PACKAGES, missing_packages


def parser() -> argparse.ArgumentParser:
    """Return the argument parser: the options of ``bench.plan``, the output folder, and the suite's."""
    from bench.config.arguments import real, whole
    from bench.plan.__main__ import parser as plan_parser

    result = plan_parser()
    result.prog, result.description = "python -m bench.measure", __doc__
    add = result.add_argument
    add("--results", type=Path, default=Path("results") / "local", help="rows go to its folder 'memory'")
    add("--redo", action="store_true", help="also measure what already has a row")
    add("--force", action="store_true", help="measure even on a GPU that is in use")
    add(
        "--suite",
        action="store_true",
        help="measure all that there is; ignores the options of a configuration",
    )
    add(
        "--seconds",
        type=real(lambda value: value > 0, "more than 0 (inf: all)"),
        default=math.inf,
        help="with --suite: begin nothing that would end later (default: inf)",
    )
    add(
        "--parts",
        default="probes,rows,tests,miniature,footage",
        help="with --suite: parts in their order (default: probes,rows,tests,miniature,footage); "
        "'forecasts' only completes rows",
    )
    add(
        "--tiny", action="store_true", help="with --suite: a small model in place of each, to try the command"
    )
    add(
        "--builders",
        type=whole(1),
        help="with --suite: models built beside each other (default: by the cores)",
    )
    add("--data", type=Path, help="with --suite: folder of real footage: annotations.json and videos")
    add("--weights", help="with --suite: I3D's checkpoint, for the footage")
    result.set_defaults(workers=None)
    return result


def measure_all(options: argparse.Namespace) -> int:
    """Measure the configurations without a row; return 1 if any row has failed."""
    from bench.io.text import printable
    from bench.measure.rows import line, prepare_in_process, read_row
    from bench.measure.schedule import Budget, Schedule, Settings
    from bench.plan.grid import forecast_requests

    if options.suite:
        from bench.measure.suite import run_suite

        return run_suite(options)
    prepared = prepare_in_process(options, forecast_requests)
    missing = [job for job in prepared.jobs if options.redo or not job.path.exists()]
    failed = 0
    for job in prepared.jobs:
        if job not in missing:
            row = read_row(job.path)
            failed += row["status"] != "ok"
            print(printable(line(row)), file=sys.stderr)
    settings = Settings(options.device, prepared.environment, alone=True)
    with Schedule(settings, Budget(math.inf, options.device)) as schedule:
        schedule.begin(missing, {})
        schedule.turns.release()
        schedule.finish()
    failed += sum(row["status"] != "ok" for row in schedule.rows) + len(schedule.problems)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    if missing := missing_packages(PACKAGES):  # before the first import of one of them
        print(f"bench.measure: packages are missing: {', '.join(missing)} (docs/gpu.md)", file=sys.stderr)
        return 2
    from bench.io.exit_code import RUNS_KEPT, run_command

    return run_command(parser(), arguments, measure_all, RUNS_KEPT)


if __name__ == "__main__":
    sys.exit(main())
