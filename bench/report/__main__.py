"""``python -m bench.report``: rebuild tables and figures from the records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.io.exit_code import exit_code


def default_results() -> Path:
    """Return the folder of this machine's own runs, or that of the shipped ones where there are none."""
    own = Path("results") / "local"
    return own if any((own / "records").glob("*.json")) else Path("results")


def add_results(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the folder to read; where it is not given, ``default_results`` is meant."""
    parser.add_argument(
        "--results",
        type=Path,
        help="folder that holds records/ (default: results/local if it has runs, else results)",
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the verb; bad input is one line and exit code 2."""
    parser = argparse.ArgumentParser(prog="python -m bench.report", description=__doc__)
    add_results(parser)
    options = parser.parse_args(arguments)

    def action() -> int:
        from bench.report import build

        print(build(options.results or default_results()).text)
        return 0

    return exit_code("bench.report", action)


if __name__ == "__main__":
    sys.exit(main())
