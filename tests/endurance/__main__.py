"""``python -m tests.endurance [--kills N] [--seed N] [--report FILE]``: kill a bench N times, anywhere.

A small bench is started over and over and its parent, its child or both are killed at random moments. What
must hold after every kill and at every end is in ``tests/endurance/kills.py``. The exit code is 1 if
anything did not; the report is written as JSON only where all the kills were made.
"""

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "bench")]

from endurance.kills import endure  # noqa: E402
from tiny import make_dataset  # noqa: E402

from bench.io.writing import write_atomically  # noqa: E402
from bench.records.environment import describe  # noqa: E402

FULL = 200


def one(folder: Path, options: argparse.Namespace, number: int) -> dict[str, Any]:
    """Return what ``endure`` reports of the share of the kills with this number, on data of its own."""
    count = options.side_by_side
    kills = options.kills // count + (number < options.kills % count)
    data = folder / "data"
    data.mkdir(parents=True)
    make_dataset(data)

    def say(line: str) -> None:
        print(f"{number}: {line}", flush=True)

    return endure(data, folder, options.strategies, kills, options.seed + number, say)


def together(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the reports of several as one."""
    hits = sum((Counter(part["hits"]) for part in parts), Counter())
    return {
        "kills": sum(part["kills"] for part in parts),
        "seeds": [part["seed"] for part in parts],
        "strategies": parts[0]["strategies"],
        "hits": dict(hits),
        "rounds": sum(part["rounds"] for part in parts),
        "resumed": sum(part["resumed"] for part in parts),
        "round_seconds": [part["round_seconds"] for part in parts],
        "failures": [failure for part in parts for failure in part["failures"]],
    }


def main() -> int:
    """Run the kills and print what happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance", description=__doc__)
    parser.add_argument("--kills", type=int, default=FULL, help=f"default: {FULL}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--side-by-side", type=int, default=2, help="benches that are killed at once (default: 2)"
    )
    parser.add_argument("--strategies", default="head-only,lofi", help="default: head-only,lofi")
    parser.add_argument("--report", type=Path, default=ROOT / "results" / "endurance.json")
    options = parser.parse_args()
    if not 1 <= options.side_by_side <= options.kills:
        parser.error(
            f"--side-by-side: got {options.side_by_side}, allowed is 1 to the kills, {options.kills}"
        )
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="endurance-") as folder,
        ThreadPoolExecutor(options.side_by_side) as pool,
    ):
        tasks = [
            pool.submit(one, Path(folder) / str(number), options, number)
            for number in range(options.side_by_side)
        ]
        outcome = together([task.result() for task in tasks])
    outcome |= {
        "wall_seconds": round(time.monotonic() - began, 1),
        "environment": describe(torch.device("cpu")),
    }
    text = json.dumps(outcome, indent=1)
    print(text)
    if options.kills >= FULL:
        write_atomically(options.report, text.encode())
    return 1 if outcome["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
