"""``python -m bench.papers``: run the papers' ablations and configurations on the embedded miniature.

LoSA's ranges, gates and taps, LoFi's fidelities and cycles, and head-only with and without pre-training, one
row each. Runs with a record are not repeated; ``bench.report`` builds the papers' tables from the records.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from bench.config.arguments import seeds_of, whole
from bench.io.exit_code import RUNS_KEPT, CommandParser, run_command
from bench.run import options as run_options

if TYPE_CHECKING:
    from bench.run.specification import RunSpecification

DEFAULT_RESULTS = Path("results") / "papers"


class Variant(NamedTuple):
    """A strategy with changed settings, and the initial weights of its backbone."""

    strategy: str
    settings: Mapping[str, str] = MappingProxyType({})
    weights: str = "source"


VARIANTS = (
    Variant("head-only"),
    Variant("losa"),
    Variant("lofi"),
    # LoFi, section 3.2 and table 2: each fidelity alone, and the short cycle.
    Variant("lofi", {"variant": "s"}),
    Variant("lofi", {"variant": "t"}),
    Variant("lofi", {"variant": "st"}),
    Variant("lofi", {"variant": "short-cyclic"}),
    # LoSA: each range alone, no gate, fewer taps. vit-t has four layers.
    Variant("losa", {"long_range": "false"}),
    Variant("losa", {"short_range": "false"}),
    Variant("losa", {"gated": "false"}),
    Variant("losa", {"taps": "-1"}),
    Variant("losa", {"taps": "-2+-1"}),
    # LoFi, table 1: the effect of pre-training by classification.
    Variant("head-only", weights="random"),
)


def specifications(words: Sequence[str], seeds: Sequence[int]) -> list[RunSpecification]:
    """Return the runs of all variants, ordered by seed, then by variant."""
    specs = []
    for seed in seeds:
        for variant in VARIANTS:
            chosen = ["--strategies", variant.strategy, "--weights", variant.weights, "--seeds", str(seed)]
            for field, value in variant.settings.items():
                chosen += ["--set", f"{variant.strategy}.{field}={value}"]
            specs += run_options.specifications(run_options.parser().parse_args([*words, *chosen]))
    return specs


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = CommandParser(prog="python -m bench.papers", description=__doc__)
    add = parser.add_argument
    add("--results", type=Path, default=DEFAULT_RESULTS, help=f"default: {DEFAULT_RESULTS}")
    add("--seeds", default="0,1,2", help="comma-separated whole numbers (default: 0,1,2)")
    add("--cache", type=Path, help="folder for generated data and encodings")
    add("--workers", type=whole(1), help="runs in parallel (default: one for each core)")
    add("--protocol", action="append", default=[], metavar="FIELD=VALUE", help="as in bench.run")

    def action(options: argparse.Namespace) -> int:
        from bench.run.matrix import bench

        words = ["--results", str(options.results), "--device", "cpu"]
        words += ["--cache", str(options.cache)] if options.cache else []
        words += ["--workers", str(options.workers)] if options.workers else []
        words += [word for change in options.protocol for word in ("--protocol", change)]
        runs = specifications(words, seeds_of(options.seeds))
        return bench(runs, run_options.parser().parse_args(words))

    return run_command(parser, arguments, action, RUNS_KEPT)


if __name__ == "__main__":
    sys.exit(main())
