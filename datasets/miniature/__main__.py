"""Generate the miniature: `python -m datasets.miniature --cache DIR`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.io.errors import InputError
from datasets.miniature.config import MiniatureConfig, default_cache_dir
from datasets.miniature.generate import Progress, generate, generate_source


def main(arguments: list[str] | None = None) -> int:
    """Generate and print the folders; return 0, or 2 if the cache cannot be written."""
    parser = argparse.ArgumentParser(
        prog="python -m datasets.miniature",
        description="Generate the embedded miniature (videos and annotations) unless it is there already.",
    )
    parser.add_argument("--cache", type=Path, help="folder to keep it in (default: TALBENCH_CACHE)")
    parser.add_argument("--only", choices=["target", "source"], help="one of the two domains (default: both)")
    parser.add_argument("--seed", type=int, default=0, help="another seed is another data set (default: 0)")
    parser.add_argument("--workers", type=int, default=2, help="rendering processes (default: 2)")
    chosen = parser.parse_args(arguments)
    if chosen.workers < 1 or chosen.seed < 0:
        parser.error("--workers must be at least 1 and --seed at least 0")
    cache = default_cache_dir() if chosen.cache is None else chosen.cache
    makers = {"target": generate, "source": generate_source}
    try:
        for domain, make in makers.items():
            if chosen.only in (None, domain):
                with tqdm(desc=domain, unit="video", disable=not sys.stderr.isatty()) as bar:
                    print(make(MiniatureConfig(seed=chosen.seed), cache, _shown_on(bar), chosen.workers))
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _shown_on(bar: "tqdm[Any]") -> Progress:
    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return show


if __name__ == "__main__":
    sys.exit(main())
