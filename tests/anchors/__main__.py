"""``python -m tests.anchors [NAME ...]``: forecast the rows of ``results/anchors`` again and write them.

Only ``forecast`` is replaced in a row's file. The table is written by ``python -m bench.report``.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import torch

from bench.io.writing import write_atomically
from bench.plan.pool import forecast_pool, in_order
from bench.records.environment import git_state
from tests.anchors.configurations import FORECASTS, forecast_row

FOLDER = Path(__file__).parents[2] / "results" / "anchors"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.anchors", description=__doc__)
    parser.add_argument("names", nargs="*", choices=(*FORECASTS, []), metavar="NAME")
    names = parser.parse_args().names or list(FORECASTS)
    commit = git_state(FOLDER)[0] or ""
    with forecast_pool(2) as processes:
        peaks = in_order([processes.submit(forecast_row, name) for name in names], "anchors")
    for name, peak in zip(names, peaks, strict=True):
        path = FOLDER / f"{name}.json"
        row = json.loads(path.read_text())
        row["forecast"] = {
            "allocated_bytes": peak.allocated,
            "reserved_bytes": peak.reserved,
            "torch": torch.__version__.partition("+")[0],
            "commit": commit,
        }
        write_atomically(path, (json.dumps(row, indent=2, ensure_ascii=False) + "\n").encode())
        print(f"{name}: {peak.allocated / 2**20:.1f} MiB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
