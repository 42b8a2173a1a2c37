"""``python -m bench.speed``: time the components, against targets and against plain-loop implementations.

Timings use one thread. Both values of a ratio come from the same run on the same machine, and the seconds of
Python code are CPU time, not wall time. Values extrapolated from a sample are marked. The plain loops are
those that the tests compare results with: ``--references tests/reference`` in a checkout.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.config.arguments import real
from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command
from bench.speed import Inputs, Measurement
from bench.speed.detection import evaluation, suppression
from bench.speed.pipeline import caching, loading, starting
from bench.speed.readers import reading
from bench.speed.report import reporting
from bench.speed.windows import windowed


def table(rows: Sequence[Measurement]) -> str:
    """Return the measurements as a text table."""
    width = max(len(row.what) for row in rows)
    lines = []
    for row in rows:
        value = f"{row.value:9.3f} {row.unit}" if row.unit == "s" else f"{row.value:9.2f} {row.unit}"
        sign = "<=" if row.unit == "s" else ">="
        verdict = "" if row.met is None else f"{sign} {row.bar:g}: {'yes' if row.met else 'NO'}"
        lines.append(f"{row.part:<11}{row.what:<{width}} {value}  {verdict:<12} {row.note}".rstrip())
    return "\n".join(lines)


PARTS: dict[str, Callable[[Inputs], list[Measurement]]] = {
    "nms": suppression,
    "evaluation": evaluation,
    "cache": caching,
    "loader": loading,
    "windows": windowed,
    "readers": reading,
    "start": starting,
    "report": reporting,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code."""
    parser = CommandParser(prog="python -m bench.speed", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help="comma-separated names (default: all)")
    parser.add_argument(
        "--scale",
        type=real(lambda value: 0 < value <= 1, "more than 0, at most 1"),
        default=1.0,
        help="relative size of the inputs; the targets apply at 1",
    )
    parser.add_argument("--cache", type=Path, help="folder for generated data")
    parser.add_argument(
        "--data", type=Path, help="folder with further inputs to time, in detections/ and videos/"
    )
    parser.add_argument(
        "--references",
        type=Path,
        help="folder with plain loops to compare with, such as tests/reference in a checkout (default: none)",
    )
    parser.add_argument("--json", metavar="FILE", help="write JSON to this file; '-' prints only the JSON")
    return run_command(parser, arguments, measure)


def measure(options: argparse.Namespace) -> int:
    """Time the components, print or write the result, and return 0: a missed target is not an error."""
    from bench.io.writing import write_output

    names = options.parts.split(",")
    for name in names:
        if name not in PARTS:
            raise InputError(f"--parts: unknown '{name}', known are {', '.join(PARTS)}")
    inputs = Inputs(options.scale, options.cache, options.data, options.references)
    rows = [row for name in names for row in PARTS[name](inputs)]
    text = json.dumps([{**dataclasses.asdict(row), "met": row.met} for row in rows], indent=1) + "\n"
    if options.json == "-":
        sys.stdout.write(text)
        return 0
    if options.json:
        write_output("--json", Path(options.json), text)
    print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
