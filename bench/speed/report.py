"""Timing of the report on many records."""

from __future__ import annotations

import json
import random
import tempfile
import time
from pathlib import Path

from bench.io import PROJECT_ROOT
from bench.speed import Inputs, Measurement

RECORDS = 10_000
SEEDS = 1000
"""Runs of each strategy under each protocol, so that the records form two comparisons of five rows."""


def reporting(inputs: Inputs) -> list[Measurement]:
    """Time all tables, figures and the page of 10,000 records: copies of shipped ones with other numbers."""
    from bench.config.digest import digest_of
    from bench.report import build

    shipped = sorted((PROJECT_ROOT / "results" / "records").glob("miniature_*_seed0_*.json"))
    if not shipped:
        return []  # not in a checkout
    generator = random.Random(0)
    templates = [json.loads(path.read_text()) for path in shipped]
    count = max(len(templates), round(RECORDS * inputs.scale))
    with tempfile.TemporaryDirectory() as folder:
        records = Path(folder) / "records"
        records.mkdir()
        for number in range(count):
            record = json.loads(json.dumps(templates[number % len(templates)]))
            protocol, seed = divmod(number // len(templates), SEEDS)
            record["seed"], record["id"] = seed, f"made-{number:05d}"
            record["protocol"]["steps"] += protocol
            fields = {name: value for name, value in record["protocol"].items() if name != "digest"}
            record["protocol"]["digest"] = digest_of(fields)
            shift = generator.gauss(0, 0.02)
            record["metrics"]["map_average"] += shift
            for tiou in record["metrics"]["map"]:
                record["metrics"]["map"][tiou] += shift
            (records / f"{record['id']}.json").write_text(json.dumps(record))
        started = time.process_time()
        build(Path(folder))
        seconds = time.process_time() - started
    return [
        Measurement(
            "report", f"{count} records", seconds, "s", 15.0, "tables, figures and page; no detections"
        )
    ]
