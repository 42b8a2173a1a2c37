"""Average recall: by hand, against one proposal at a time, and from the command line."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from test_diagnosis import random_tables, table

from bench.detection import average_recall
from bench.evaluate import main, parse_numbers
from bench.io.errors import InputError

PUBLISHED = Path(__file__).parents[3].parent / "shared" / "data" / "detections"


def test_by_hand():
    truth = table([("v", "x", 0, 10), ("v", "y", 0, 8), ("w", "x", 0, 10)])
    found = table([("v", "z", 0, 9), ("v", "x", 50, 60), ("v", "x", 0, 10)], [0.9, 0.5, 0.1])
    # The first covers both of v (0.9 and 8/9), the third the first of them whole.
    recall = average_recall(truth, found, [0.5, 0.95], [1, 2, 3])
    assert recall == pytest.approx({1: 2 / 6, 2: 2 / 6, 3: 3 / 6})


@pytest.mark.parametrize("seed", range(4))
def test_equals_one_proposal_at_a_time(seed):
    from reference.evaluation import tiou

    truth, found, scores = random_tables(seed)
    thresholds = [0.3, 0.5, 0.7]
    ranked = [row for _, row in sorted(zip(scores, found, strict=True), reverse=True)]
    for number, share in average_recall(table(truth), table(found, scores), thresholds, [1, 4, 50]).items():
        hits = 0
        for video, _, start, end in truth:
            best = [row for row in ranked if row[0] == video][:number]
            hits += sum(any(tiou((start, end), row[2:]) >= t for row in best) for t in thresholds)
        assert share == pytest.approx(hits / len(truth) / len(thresholds))


def test_wrong_input_is_named():
    truth = table([("v", "x", 0, 10)])
    found = table([("v", "x", 0, 10)], [1.0])
    for arguments, message in (
        ((truth, found, [0.0]), "tIoU thresholds"),
        ((truth, found, [0.5], [0]), "numbers of proposals"),
        ((table([]), found, [0.5]), "no instances"),
        ((truth, truth, [0.5]), "no scores"),
    ):
        with pytest.raises(InputError, match=message):
            average_recall(*arguments)
    assert parse_numbers("10, 1,10") == (1, 10)
    for text in ("", "0", "1,x", "-1", "1.5", "²"):
        with pytest.raises(InputError, match="--recall"):
            parse_numbers(text)


def test_the_verb_prints_and_writes_them(tmp_path, capsys):
    truth = {"database": {"v": {"subset": "test", "annotations": [{"segment": [0, 10], "label": "a, b"}]}}}
    found = {"results": {"v": [{"segment": [0, 9], "label": "a, b", "score": 1}]}}
    for name, content in (("t", truth), ("f", found)):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    arguments = [str(tmp_path / "t.json"), str(tmp_path / "f.json"), "--subset", "test", "--tiou", ".5,.95"]
    extra = ["--recall", "1,10", "--diagnose", "--csv", str(tmp_path / "classes.csv")]
    assert main([*arguments, *extra]) == 0
    printed = capsys.readouterr().out
    assert "AR@1     50.00" in printed
    assert "50.0 % true positive" in printed
    assert "50.0 % of the instances are missed" in printed
    rows = list(csv.reader((tmp_path / "classes.csv").read_text().splitlines()))
    assert rows == [
        ["class", "AP@0.5", "AP@0.95", "average"],
        ["a, b", "100.0000", "0.0000", "50.0000"],
        ["mean", "100.0000", "0.0000", "50.0000"],
    ]
    assert main([*arguments, *extra, "--json", "-"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["average_recall"] == {"1": 0.5, "10": 0.5}
    assert report["diagnosis"]["tiou"] == [0.5, 0.95]
    assert main([*arguments, "--csv", str(tmp_path / "no" / "classes.csv")]) == 2
    assert "--csv" in capsys.readouterr().err


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published detections are not beside the repository")
def test_recall_of_published_detections_rises_with_their_number():
    from bench.detection import read_ground_truth, read_submission

    truth = read_ground_truth(PUBLISHED / "autoloc_an12_gt.json.gz", "val")
    found = read_submission(PUBLISHED / "autoloc_an12_pred.json.gz")
    recall = list(average_recall(truth, found, np.arange(0.5, 1, 0.05).tolist(), [1, 5, 100]).values())
    assert 0 < recall[0] < recall[1] <= recall[2] < 1
