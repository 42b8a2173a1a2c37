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

from bench.io.errors import InputError
from bench.io.exit_code import RUNS_KEPT, CommandParser, run_command
from bench.run import options as run_options
from strategies import STRATEGIES_HELP, strategy_names

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
    "wide-head": ({"lr": "1"}, {"lr": "2"}),
    "last-layer-cells": ({"adapter_lr": "1"}, {"adapter_lr": "2"}),
    "adatad": ({"adapter_lr": "1"}, {"adapter_lr": "2"}),
    "adatad-beside": ({"adapter_lr": "1"}, {"adapter_lr": "2"}),
    "lora": ({"update_lr": "1"}, {"update_lr": "2"}),
    "last-k": ({"backbone_lr": "0.5"}, {"backbone_lr": "1"}),
    "norm-tuning": ({"norm_lr": "1"}, {"norm_lr": "3"}),
    "bitfit": ({"bias_lr": "1"}, {"bias_lr": "3"}),
    "etad": ({"backbone_lr": "0.5"}, {"backbone_lr": "1"}),
    "side-tuning": ({"side_lr": "1"}, {"side_lr": "2"}),
    "vpt": ({"prompt_lr": "1"}, {"prompt_lr": "10"}),
    "token-pruning": ({"adapter_lr": "1"}, {"adapter_lr": "2"}),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = CommandParser(prog="python -m bench.tune", description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results") / "tuning")
    parser.add_argument("--cache", type=Path, help="folder for generated data")
    parser.add_argument("--strategies", default="default", metavar="NAMES", help=STRATEGIES_HELP)
    parser.add_argument("--protocol", action="append", default=[], metavar="FIELD=VALUE")
    assert len({len(fields) for fields in TRIALS.values()}) == 1, "every strategy gets as many trials"

    def action(options: argparse.Namespace) -> int:
        from bench.run.matrix import bench

        words = ["--seeds", str(SEED), "--results", str(options.results)]
        words += ["--protocol", "evaluation_subset=tuning"]
        words += [word for change in options.protocol for word in ("--protocol", change)]
        words += ["--cache", str(options.cache)] if options.cache else []
        names = strategy_names(options.strategies)
        if without := [name for name in names if name not in TRIALS]:
            raise InputError(f"--strategies: '{without[0]}' has no trials, allowed are {', '.join(TRIALS)}")
        return bench(trials(words, names), run_options.parser().parse_args(words))

    return run_command(parser, arguments, action, RUNS_KEPT)


def trials(words: Sequence[str], names: Sequence[str]) -> list[RunSpecification]:
    """Return the runs of all trials: the first of every strategy, then the second, and so on."""
    specs = []
    for number in range(len(next(iter(TRIALS.values())))):
        settings = [
            word
            for name in names
            for field, value in TRIALS[name][number].items()
            for word in ("--set", f"{name}.{field}={value}")
        ]
        chosen = ["--strategies", ",".join(names)]
        specs += run_options.specifications(run_options.parser().parse_args([*words, *chosen, *settings]))
    return specs


if __name__ == "__main__":
    sys.exit(main())
