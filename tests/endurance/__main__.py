"""``python -m tests.endurance [--kills N] [--seed N] [--report FILE]``: kill a bench N times, anywhere.

A small bench is started over and over and its parent, its child or both are killed at random moments. What
must hold after every kill and at every end is in ``tests/endurance/kills.py``. The exit code is 1 if
anything did not; the report is written as JSON only where all the kills were made.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "bench")]

from endurance.kills import endure  # noqa: E402
from tiny import make_dataset  # noqa: E402

from bench.record import write_atomically  # noqa: E402

FULL = 200


def main() -> int:
    """Run the kills and print what happened."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance", description=__doc__)
    parser.add_argument("--kills", type=int, default=FULL, help=f"default: {FULL}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--strategies", default="head-only,lofi", help="default: head-only,lofi")
    parser.add_argument("--report", type=Path, default=ROOT / "results" / "endurance.json")
    options = parser.parse_args()
    if options.kills < 1:
        parser.error(f"--kills: got {options.kills}, allowed is 1 or more")
    with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
        data = Path(folder) / "data"
        data.mkdir()
        make_dataset(data)
        outcome = endure(data, Path(folder), options.strategies, options.kills, options.seed, print)
    text = json.dumps(outcome, indent=1)
    print(text)
    if options.kills >= FULL:
        write_atomically(options.report, text.encode())
    return 1 if outcome["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
