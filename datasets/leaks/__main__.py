"""Controls on footage: `python -m datasets.leaks KIND ANNOTATIONS OUTPUT`."""

import argparse
import json
import sys
from pathlib import Path

from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command
from bench.io.writing import write_output
from datasets.annotations.reader import read_annotations
from datasets.leaks.annotations import held_out, one_class, shuffled
from datasets.leaks.detections import RULES, detect, submission
from datasets.leaks.sources import examine

KINDS = {
    "detect": "write detections of shots, found by cuts alone, with a class that needs no training",
    "shuffle": "write the annotations with the labels of the training instances permuted",
    "one-class": "write the annotations with one label for all instances",
    "hold-out": "write the annotations with the last quarter of the training videos as the subset tuning",
    "sources": "write what test instances share with training instances",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command and return the exit code: 0, or 2 for invalid input."""
    parser = CommandParser(
        prog="python -m datasets.leaks",
        description="Controls that show what footage gives away. "
        + "; ".join(f"{name}: {does}" for name, does in KINDS.items()),
    )
    parser.add_argument("kind", choices=tuple(KINDS))
    parser.add_argument("annotations", type=Path)
    parser.add_argument("output", type=Path, help="the JSON file to write")
    parser.add_argument("--data", type=Path, help="folder of the videos (detect, sources)")
    parser.add_argument(
        "--rule", choices=tuple(RULES), default="most-frequent", help="class of a shot (detect)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the permutation (shuffle; default: 0)")
    parser.add_argument("--training", default="training", help="subset (default: %(default)s)")
    parser.add_argument("--testing", default="testing", help="subset (default: %(default)s)")
    return run_command(parser, arguments, _main)


def _main(options: argparse.Namespace) -> int:
    if options.output.exists() and options.output.samefile(options.annotations):
        raise InputError(f"{options.output}: holds the annotations, allowed is another file")
    write_output("output", options.output, _content(options))
    print(options.output)
    return 0


def _content(options: argparse.Namespace) -> str | bytes:
    if options.kind == "shuffle":
        return shuffled(options.annotations, options.training, options.seed)
    if options.kind == "one-class":
        return one_class(options.annotations)
    if options.kind == "hold-out":
        return held_out(options.annotations, options.training, 0.25)
    if options.data is None:
        raise InputError(f"--data: needed for {options.kind}, allowed is the folder of the videos")
    dataset = read_annotations(options.annotations, root=options.data)
    if options.kind == "detect":
        return submission(detect(dataset, options.rule, options.training, options.testing))
    return json.dumps(examine(dataset, options.training, options.testing), indent=1) + "\n"


if __name__ == "__main__":
    sys.exit(main())
