"""``python -m bench.report``: rebuild tables and figures from the records."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from bench.io.exit_code import CommandParser, run_command
from bench.records.paths import add_results, default_results


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; invalid input prints one line and returns exit code 2."""
    parser = CommandParser(prog="python -m bench.report", description=__doc__)
    add_results(parser)

    def action(options: argparse.Namespace) -> int:
        from bench.report import build

        print(build(options.results or default_results()).text)
        return 0

    return run_command(parser, arguments, action)


if __name__ == "__main__":
    sys.exit(main())
