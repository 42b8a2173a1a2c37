"""Generate the miniature: `python -m datasets.miniature --cache DIR`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.io.cache_dir import default_cache_dir
from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command
from datasets.miniature.config import MiniatureConfig
from datasets.miniature.generate import generate, generate_source
from datasets.miniature.making import Progress


def main(arguments: list[str] | None = None) -> int:
    """Generate and print the folders; return the exit code."""
    parser = CommandParser(
        prog="python -m datasets.miniature",
        description="Generate the embedded miniature (videos and annotations) unless it exists.",
    )
    parser.add_argument("--cache", type=Path, help="folder to generate into (default: TALBENCH_CACHE)")
    parser.add_argument("--only", choices=["target", "source"], help="one of the two domains (default: both)")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another data set (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="rendering processes (default: 2)")
    return run_command(parser, arguments, _generate)


def _generate(options: argparse.Namespace) -> int:
    if options.workers < 1 or options.seed < 0:
        raise InputError("--workers must be at least 1 and --seed at least 0")
    cache = default_cache_dir() if options.cache is None else options.cache
    for domain, make in {"target": generate, "source": generate_source}.items():
        if options.only in (None, domain):
            with tqdm(desc=domain, unit="video", disable=not sys.stderr.isatty()) as bar:
                print(make(MiniatureConfig(seed=options.seed), cache, _shown_on(bar), options.workers))
    return 0


def _shown_on(bar: "tqdm[Any]") -> Progress:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


if __name__ == "__main__":
    sys.exit(main())
