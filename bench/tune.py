"""``python -m bench.tune``: choose hyper-parameters on the tuning videos, with equal trials per strategy.

The trials, one seed each, are recorded like any run, under ``results/tuning``. The committed trials, on
version 1 of the data (``results/miniature-1/tuning``), are those of the defaults. Test videos are not used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.io.exit_code import RUNS_KEPT, CommandParser, run_command
from bench.run import options as run_options

if TYPE_CHECKING:
    from bench.run.specification import RunSpecification

SEED = 100
"""A seed that no reported run uses."""

TRIALS: dict[str, tuple[dict[str, str], ...]] = {
    "head-only": ({"lr": "1"}, {"lr": "2"}),
    "full-finetune": ({"backbone_lr": "0.5"}, {"backbone_lr": "1"}),
    "lofi": ({"backbone_lr": "0.5"}, {"backbone_lr": "1"}),
    "lofi-added": ({"backbone_lr": "0.5"}, {"backbone_lr": "1"}),
    "losa": ({"adapter_lr": "1"}, {"adapter_lr": "2"}),
    "mlp-control": ({"block_lr": "1"}, {"block_lr": "2"}),
    "temporal-control": ({"block_lr": "1"}, {"block_lr": "2"}),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = CommandParser(prog="python -m bench.tune", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results") / "tuning")
    parser.add_argument("--cache", type=Path, help="folder for generated data")
    parser.add_argument("--protocol", action="append", default=[], metavar="FIELD=VALUE")
    assert len({len(fields) for fields in TRIALS.values()}) == 1, "every strategy gets as many trials"

    def action(options: argparse.Namespace) -> int:
        from bench.run.matrix import bench

        words = ["--seeds", str(SEED), "--results", str(options.results)]
        words += ["--protocol", "evaluation_subset=tuning"]
        words += [word for change in options.protocol for word in ("--protocol", change)]
        words += ["--cache", str(options.cache)] if options.cache else []
        return bench(trials(words), run_options.parser().parse_args(words))

    return run_command(parser, arguments, action, RUNS_KEPT)


def trials(words: Sequence[str]) -> list[RunSpecification]:
    """Return the runs of all trials: the first of every strategy, then the second, and so on."""
    specs = []
    for number in range(len(next(iter(TRIALS.values())))):
        settings = [
            word
            for name, fields in TRIALS.items()
            for field, value in fields[number].items()
            for word in ("--set", f"{name}.{field}={value}")
        ]
        chosen = ["--strategies", ",".join(TRIALS)]
        specs += run_options.specifications(run_options.parser().parse_args([*words, *chosen, *settings]))
    return specs


if __name__ == "__main__":
    sys.exit(main())
