"""``python -m tests.synthetic_probes``: measure the data set `synthetic` on its tuning videos.

Writes ``results/synthetic_probes.json``: the two ends (head-only, full fine-tuning), head-only with twice the
steps, head-only that is told the cue, and linear probes of the frozen features. No test video is read.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from bench.io.cache_dir import default_cache_dir
from bench.io.writing import write_atomically
from datasets import load_dataset
from tests.synthetic_probes.context import context_probe
from tests.synthetic_probes.linear import linear_probes
from tests.synthetic_probes.runs import protocol_of, trained_run

OUTPUT = Path(__file__).parents[2] / "results" / "synthetic_probes.json"
PARTS = ("ends", "twice", "context", "linear")


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
    measure = {
        "ends": lambda: [
            trained_run(dataset, name, protocol, seed)
            for name in ("head-only", "full-finetune")
            for seed in seeds
        ],
        "twice": lambda: [
            trained_run(dataset, "head-only", protocol_of(steps=str(2 * protocol.steps)), seed)
            for seed in seeds
        ],
        "context": lambda: context_probe(dataset, folder, seeds, 0),
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
