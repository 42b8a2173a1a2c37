"""``python -m bench.evaluate``: mean average precision of a submission file against a ground-truth file."""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.detection.evaluation import Evaluation, evaluate
from bench.detection.submission import read_ground_truth, read_submission
from bench.errors import InputError


def parse_tiou(text: str) -> tuple[float, ...]:
    """Return the thresholds of ``start:stop:step`` (stop included) or of a list with commas."""
    try:
        if ":" in text:
            start, stop, step = (float(part) for part in text.split(":"))
            count = math.floor((stop - start) / step + 1e-6) + 1
            # Rounded, or the third of .3:.7:.1 would be 0.5000000000000001 and its own threshold.
            thresholds = [round(start + index * step, 9) for index in range(count)]
        else:
            thresholds = [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        thresholds = []
    if not thresholds or not all(0 < each <= 1 for each in thresholds):
        raise InputError(f"--tiou {text!r}: allowed are start:stop:step and a,b,c in (0, 1], as .3:.7:.1")
    return tuple(thresholds)


def document(evaluation: Evaluation) -> dict[str, Any]:
    """Return the evaluation as JSON values; all precisions are fractions."""
    per_class = zip(evaluation.classes, evaluation.ap.tolist(), strict=True)
    return {
        "tiou": list(evaluation.tiou),
        "map": list(evaluation.map),
        "average": evaluation.average,
        "ap": dict(per_class),
        "counts": dataclasses.asdict(evaluation.counts),
    }


def lines(evaluation: Evaluation) -> list[str]:
    """Return the evaluation for a reader, in percent."""
    counts = evaluation.counts
    table = [f"{'tIoU':>8}  mAP %"]
    table += [
        f"{tiou:8.2f}  {100 * value:5.2f}"
        for tiou, value in zip(evaluation.tiou, evaluation.map, strict=True)
    ]
    table.append(f"{'average':>8}  {100 * evaluation.average:5.2f}")
    table.append(
        f"{counts.detections} detections, {counts.instances} instances in {counts.videos} videos, "
        f"{len(evaluation.classes)} classes"
    )
    remarks = (
        (counts.detections_in_unknown_videos, "detections in videos without instances (counted as wrong)"),
        (counts.detections_of_unknown_labels, "detections of labels without instances (not counted)"),
        (counts.classes_without_detections, "classes without detections (AP 0)"),
    )
    return table + [f"{number} {remark}" for number, remark in remarks if number]


def main(arguments: Sequence[str] | None = None) -> int:
    """Return the exit code: 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(prog="python -m bench.evaluate", description=__doc__)
    parser.add_argument("ground_truth", type=Path, help="ActivityNet JSON with 'database' (.json, .json.gz)")
    parser.add_argument("predictions", type=Path, help="ActivityNet JSON with 'results' (.json, .json.gz)")
    parser.add_argument("--subset", required=True, help="subset of the ground truth, spelt as in the file")
    parser.add_argument("--tiou", default=".3:.7:.1", help="start:stop:step or a,b,c (default: %(default)s)")
    parser.add_argument("--json", metavar="FILE", help="write JSON there; '-' prints it and nothing else")
    options = parser.parse_args(arguments)
    try:
        evaluation = evaluate(
            read_ground_truth(options.ground_truth, options.subset),
            read_submission(options.predictions),
            parse_tiou(options.tiou),
        )
        text = json.dumps(document(evaluation), allow_nan=False, indent=1) + "\n"
        if options.json == "-":
            sys.stdout.write(text)
            return 0
        if options.json:
            _write(Path(options.json), text)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(lines(evaluation)))
    return 0


def _write(path: Path, text: str) -> None:
    """Write by way of a draft, so that a reader never sees a part."""
    try:
        handle, draft = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "w") as stream:
            stream.write(text)
        os.chmod(draft, 0o644)
        os.replace(draft, path)
    except OSError as error:
        raise InputError(f"--json {path}: cannot be written ({error.strerror})") from error


if __name__ == "__main__":
    sys.exit(main())
