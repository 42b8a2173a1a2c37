"""What docs/scale.md says of costs is what the committed records say."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
TEXT = (ROOT / "docs" / "scale.md").read_text()
RUNS = 10_000


def row(name):
    """Return the cells of a row of the page's first table."""
    return next(line for line in TEXT.splitlines() if line.startswith(f"| {name}")).split("|")[1:-1]


def number(cell):
    return float(re.search(r"[\d.,]+", cell)[0].replace(",", ""))


def measured():
    """Return the records of the miniature's protocol and the bytes of each one's files."""
    found = []
    for path in sorted((RESULTS / "records").glob("*.json")):
        record = json.loads(path.read_text())
        if record["status"] == "ok" and record["protocol"]["digest"].startswith("3c451129"):
            detections = RESULTS / "detections" / f"{path.stem}.json.gz"
            found.append((record, path.stat().st_size, detections.stat().st_size))
    return found


def test_costs_are_those_of_the_records():
    runs = measured()
    assert f"{len(runs)} records" in row("time")[3]
    mean = {
        "time": sum(record["cost"]["wall_seconds"] for record, _, _ in runs) / len(runs),
        "record": sum(size for _, size, _ in runs) / len(runs) / 1e3,
        "detections": sum(size for _, _, size in runs) / len(runs) / 1e3,
        "weights": sum(record["cost"]["checkpoint_bytes"] for record, _, _ in runs) / len(runs) / 1e6,
    }
    in_all = {"time": 1 / 3600, "record": 1e-6, "detections": 1e-6, "weights": 1e-3}
    for name, value in mean.items():
        cells = row(name)
        assert abs(number(cells[1]) - value) <= 0.005 * value, name
        assert abs(number(cells[2]) - value * RUNS * in_all[name]) <= 0.04 * value * RUNS * in_all[name], name


def test_gpu_hours_are_given_once_they_were_measured():
    devices = {
        json.loads(path.read_text())["environment"].get("device_type")
        for folder in (RESULTS, RESULTS / "miniature-1", RESULTS / "miniature-1" / "papers")
        for path in (folder / "records").glob("*.json")
    }
    assert ("no run has been measured on a GPU yet" in row("GPU hours")[3]) == ("cuda" not in devices)


def test_encodings_follow_from_the_formula():
    clips = 24.4 * 3600 * 30 / 16
    assert abs(clips - 165_000) < 500
    head, taps = 8 * 1408 * 4, 8 * 1408 * 4 * 40 * 16
    assert f"{head / 1e3:.0f} kB a clip" in TEXT
    assert f"{head * clips / 1e9:.0f} GB" in TEXT
    assert f"{taps / 1e6:.1f} MB a clip ({taps / 2e6:.1f} MB in bfloat16)" in re.sub(r"\s+", " ", TEXT)
    assert f"{taps * clips / 1e12:.1f} TB ({taps * clips / 2e12:.1f} TB)" in re.sub(r"\s+", " ", TEXT)
