"""``python -m tests.synthetic_probes``: measure the data set `synthetic` on its tuning videos.

Writes ``results/synthetic_probes.json``: head-only (the preset's steps, half and twice as many, and told the
cue) on features that are computed once, full fine-tuning, and linear probes of the frozen features. No test
video is read.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.io.cache_dir import default_cache_dir
from bench.io.writing import write_atomically
from datasets import load_dataset
from tests.synthetic_probes.context import head_only_run, write_features
from tests.synthetic_probes.linear import linear_probes
from tests.synthetic_probes.runs import protocol_of, trained_run

OUTPUT = Path(__file__).parents[2] / "results" / "synthetic_probes.json"
PARTS = ("head-only", "full-finetune", "linear")


def main() -> int:
    """Measure the parts that are asked for and replace them in the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.synthetic_probes", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=(*PARTS, []), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--seeds", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(1)
    dataset = load_dataset("synthetic")
    protocol, seeds = protocol_of(), tuple(range(options.seeds))
    folder = default_cache_dir() / "synthetic-probes"

    def head_only() -> dict[str, Any]:
        write_features(dataset, folder, source=0)
        runs = {
            "without": ("without", 1.0),
            "half the steps": ("without", 0.5),
            "twice the steps": ("without", 2.0),
            "with": ("with", 1.0),
            "random": ("random", 1.0),
        }
        return {
            key: [head_only_run(dataset, folder, name, round(times * protocol.steps), seed) for seed in seeds]
            for key, (name, times) in runs.items()
        }

    measure: dict[str, Callable[[], Any]] = {
        "head-only": head_only,
        "full-finetune": lambda: [trained_run(dataset, "full-finetune", protocol, seed) for seed in seeds],
        "linear": lambda: linear_probes((0, 1)),
    }
    for part in options.parts or PARTS:
        found = {
            "dataset": dataset.variant,
            "protocol": protocol.digest(),
            "measured": measure[part](),
        }
        known = json.loads(OUTPUT.read_text()) if OUTPUT.is_file() else {}
        known[part] = found
        write_atomically(OUTPUT, (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
