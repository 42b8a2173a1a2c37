"""``python -m bench.run``: compare strategies on one backbone and one data set.

Trains and evaluates a run for every strategy and seed, each in its own process, writes a record of each, and
rebuilds the tables. Runs that have a record are not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.config.arguments import device_of
from bench.io.errors import InputError
from bench.io.exit_code import RUNS_KEPT, run_command
from bench.run.options import parser, specifications
from datasets.recipes.recipes import chosen_recipe
from strategies import strategy_names, supported_names


def plan_instead(options: argparse.Namespace) -> int | None:
    """Print the memory plan and return its exit code if a large model lacks a GPU; else return None."""
    from bench.config.presets import STANDARD, default_protocol
    from bench.models import INPUT_NAMES

    if options.model not in INPUT_NAMES:
        raise InputError(f"--model: unknown '{options.model}', known are {', '.join(INPUT_NAMES)}")
    wanted = (
        options.device == "auto"
        and options.launcher != "slurm"
        and not options.force
        and default_protocol(options.model) == STANDARD
    )
    if not wanted or device_of("auto") != "cpu":
        return None
    supported_names(strategy_names(options.strategies), options.model, "--strategies")
    from bench.plan.__main__ import parser as plan_parser
    from bench.plan.__main__ import plan

    words = ["--model", options.model, "--strategy", options.strategies]
    words += [word for text in options.protocol for word in ("--protocol", text)]
    words += [word for text in options.set for word in ("--set", text)]
    words += ["--classes", "1"] if options.classifier else []
    recipe = chosen_recipe(options.recipe, options.dataset, options.model)
    words += ["--recipe", recipe.name] if recipe else []
    code = plan(plan_parser().parse_args(words))
    print(
        f"bench.run: nothing was trained: {options.model} needs a GPU and this machine has none; "
        "--force (make: FORCE=1) trains on the CPU anyway",
        file=sys.stderr,
    )
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""

    def action(options: argparse.Namespace) -> int:
        from bench.run.matrix import bench  # imported here, so that --help stays fast

        planned = plan_instead(options)
        return bench(specifications(options), options) if planned is None else planned

    return run_command(parser(), arguments, action, RUNS_KEPT)


if __name__ == "__main__":
    sys.exit(main())
