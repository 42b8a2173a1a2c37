"""``python -m bench.evaluate``: compute the mAP of a submission file against a ground-truth file."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.detection.diagnosis import KINDS, diagnose
from bench.detection.evaluation import Evaluation, evaluate
from bench.detection.recall import average_recall
from bench.detection.segments import without_duplicates
from bench.detection.submission import read_ground_truth, read_submission
from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command
from bench.io.tables import plain_cell
from bench.io.writing import write_output


def parse_tiou(text: str, *, official: bool = False) -> tuple[float, ...]:
    """Return the thresholds given as ``start:stop:step`` (stop included) or as a comma-separated list.

    With ``official``, ``start:stop:step`` gives the values of ``numpy.linspace``, as in the official code and
    ActionFormer's: 0.5:0.95:0.05 contains 0.8999999999999999, which a tIoU of just that value reaches.
    """
    try:
        if ":" in text:
            start, stop, step = (float(part) for part in text.split(":"))
            count = math.floor((stop - start) / step + 1e-6) + 1
            # Rounded, as the third threshold of .3:.7:.1 would otherwise be 0.5000000000000001.
            thresholds = [round(start + index * step, 9) for index in range(count)]
            if official and count > 0:
                thresholds = np.linspace(start, thresholds[-1], count).tolist()
        else:
            thresholds = [float(part) for part in text.split(",")]
    except (ValueError, ZeroDivisionError, OverflowError):
        thresholds = []
    if not thresholds or not all(0 < each <= 1 for each in thresholds):
        raise InputError(f"--tiou {text!r}: allowed are start:stop:step and a,b,c in (0, 1], as .3:.7:.1")
    return tuple(thresholds)


def parse_numbers(text: str) -> tuple[int, ...]:
    """Return the sorted whole numbers of a comma-separated list."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdecimal() and 0 < int(part) <= 10**6 for part in parts):
        raise InputError(
            f"--recall {text!r}: allowed are whole numbers with commas between them, as 1,10,100"
        )
    return tuple(sorted({int(part) for part in parts}))


def class_table(evaluation: Evaluation) -> str:
    """Return a CSV table with one row per class: AP in percent at every threshold and on average."""
    content = io.StringIO()
    table = csv.writer(content, lineterminator="\n")
    table.writerow(["class", *(f"AP@{tiou:g}" for tiou in evaluation.tiou), "average"])
    rows = zip(evaluation.classes, evaluation.ap, strict=True)
    means = ("mean", evaluation.ap.mean(axis=0))
    for name, values in (*rows, means):
        table.writerow([plain_cell(name), *(f"{100 * value:.4f}" for value in (*values, values.mean()))])
    return content.getvalue()


def extra_lines(result: dict[str, Any]) -> list[str]:
    """Return average recall and diagnosis as lines of text, in percent, if they were computed."""
    text = [
        f"AR@{number:<5} {100 * share:5.2f}" for number, share in result.get("average_recall", {}).items()
    ]
    if diagnosis := result.get("diagnosis"):
        first = diagnosis["false_positives"][0]
        text.append(f"the {first['detections']} best detections, as many of a class as it has instances:")
        text += [f"  {100 * first[kind]:5.1f} % {kind}" for kind in KINDS]
        text.append(
            f"{100 * diagnosis['false_negatives']['all']['missed']:.1f} % of the instances are missed"
        )
    return text


def document(evaluation: Evaluation) -> dict[str, Any]:
    """Return the evaluation as JSON values; AP and mAP are fractions."""
    per_class = zip(evaluation.classes, evaluation.ap.tolist(), strict=True)
    return {
        "tiou": list(evaluation.tiou),
        "map": list(evaluation.map),
        "average": evaluation.average,
        "official": evaluation.official,
        "ap": dict(per_class),
        "counts": dataclasses.asdict(evaluation.counts),
        "suggestion": evaluation.suggestion,
    }


def lines(evaluation: Evaluation) -> list[str]:
    """Return the evaluation as lines of text, in percent."""
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
    table += [f"{number} {remark}" for number, remark in remarks(evaluation) if number]
    if evaluation.suggestion:
        table.append(f"no detection is in a video of the ground truth: {evaluation.suggestion}")
    return table


def remarks(evaluation: Evaluation) -> list[tuple[int, str]]:
    """Return counts with what they mean for the result; those of 0 are not printed."""
    counts, official = evaluation.counts, evaluation.official
    order = "in NumPy's unstable order, as in the official code" if official else "in the file's order"
    matched = "matched, as 0/0 is in the official code" if official else "not matched, unlike with --official"
    unknown = "not counted; the official code stops at them" if official else "not counted"
    return [
        (counts.detections_in_unknown_videos, "detections in videos without instances (counted as wrong)"),
        (counts.detections_of_unknown_labels, f"detections of labels without instances ({unknown})"),
        (counts.classes_without_detections, "classes without detections (AP 0)"),
        (counts.duplicate_instances, "instances repeat another (--drop-duplicates leaves them out)"),
        (counts.instances_of_zero_length, "instances of zero length"),
        (counts.detections_of_zero_length, "detections of zero length"),
        (
            counts.detections_of_zero_length_at_such_instances,
            f"detections and instances of zero length in one class and video ({matched})",
        ),
        (
            counts.detections_of_equal_score,
            f"detections share their score with others of the class ({order})",
        ),
        (counts.detections_of_equal_tiou, f"detections have the same tIoU with several instances ({order})"),
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return the exit code: 0, or 2 for invalid input."""
    parser = CommandParser(prog="python -m bench.evaluate", description=__doc__)
    parser.add_argument("ground_truth", type=Path, help="ActivityNet JSON with 'database' (.json, .json.gz)")
    parser.add_argument("predictions", type=Path, help="ActivityNet JSON with 'results' (.json, .json.gz)")
    parser.add_argument("--subset", required=True, help="subset of the ground truth, spelt as in the file")
    parser.add_argument("--tiou", default=".3:.7:.1", help="start:stop:step or a,b,c (default: %(default)s)")
    parser.add_argument(
        "--official",
        action="store_true",
        help="mAP bit for bit as ActivityNet's own code computes it, with its order of ties and its 0/0",
    )
    parser.add_argument(
        "--drop-duplicates",
        action="store_true",
        help="leave out repeated and empty instances of the ground truth, as ActionFormer and OpenTAD do",
    )
    parser.add_argument("--recall", metavar="AN,AN", help="average recall at AN detections per video")
    parser.add_argument("--diagnose", action="store_true", help="diagnose the kinds of errors, after DETAD")
    parser.add_argument("--csv", metavar="FILE", help="write the AP of every class to this file, in percent")
    parser.add_argument("--json", metavar="FILE", help="write JSON to this file; '-' prints only the JSON")
    return run_command(parser, arguments, _main)


def _main(options: argparse.Namespace) -> int:
    truth = read_ground_truth(options.ground_truth, options.subset)
    found = read_submission(options.predictions)
    tiou = parse_tiou(options.tiou, official=options.official)
    instances = len(truth)
    if options.drop_duplicates:
        truth = without_duplicates(truth)
    evaluation = evaluate(truth, found, tiou, official=options.official)
    result = document(evaluation)
    result |= {
        "ground_truth": options.ground_truth.name,
        "predictions": options.predictions.name,
        "subset": options.subset,
        "drop_duplicates": options.drop_duplicates,
        "dropped_instances": instances - len(truth),
    }
    if options.recall:
        shares = average_recall(truth, found, tiou, parse_numbers(options.recall))
        result["average_recall"] = {str(number): share for number, share in shares.items()}
    if options.diagnose:
        result["diagnosis"] = diagnose(truth, found, tiou)
    if options.csv:
        write_output("--csv", Path(options.csv), class_table(evaluation))
    text = json.dumps(result, allow_nan=False, indent=1) + "\n"
    if options.json == "-":
        sys.stdout.write(text)
        return 0
    if options.json:
        write_output("--json", Path(options.json), text)
    dropped = (
        [f"{instances - len(truth)} repeated or empty instances left out"] if len(truth) < instances else []
    )
    print("\n".join([*lines(evaluation), *dropped, *extra_lines(result)]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
