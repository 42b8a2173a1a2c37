"""Error diagnosis: by hand, against the slow definition, and on published detections."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.detection import Segments, evaluate, read_ground_truth, read_submission
from bench.detection.diagnosis import ACTIVITYNET, KINDS, THUMOS, Bins, diagnose
from bench.io.errors import InputError

sys.path.insert(0, str(Path(__file__).parents[2]))
from reference import diagnosis as reference

PUBLISHED = Path(__file__).parents[3].parent / "shared" / "data" / "detections"


def table(rows, scores=None):
    video, label, start, end = zip(*rows, strict=True) if rows else ((),) * 4
    names = (np.array(video, dtype=str), np.array(label, dtype=str))
    times = (np.array(start, dtype=float), np.array(end, dtype=float))
    return Segments(*names, *times, None if scores is None else np.array(scores, dtype=float))


def test_each_kind_of_error_by_hand():
    truth = table([("v", "x", 0, 10), ("v", "y", 20, 30), ("w", "x", 0, 10)])
    rows = [
        ("v", "x", 0, 10),  # takes the first instance
        ("v", "x", 0, 9),  # the same once more
        ("v", "x", 20, 29),  # where y is
        ("v", "x", 0, 4),  # tIoU 0.4
        ("v", "x", 26, 34),  # tIoU 4/14 with y
        ("v", "x", 50, 60),  # nothing there
        ("z", "x", 0, 10),  # no instance in the video
    ]
    result = diagnose(truth, table(rows, np.linspace(1, 0.4, 7)), [0.5])
    first, second, third = result["false_positives"][:3]
    assert first == {
        "detections": 2,
        **dict.fromkeys(KINDS, 0.0),
        "true positive": 0.5,
        "double detection": 0.5,
    }
    assert (second["wrong label"], second["localization"]) == (0.5, 0.5)
    assert (third["confusion"], third["background"]) == (0.5, 0.5)
    assert result["false_positives"][3]["background"] == 1.0
    assert result["false_positives"][4]["detections"] == 0
    assert result["false_negatives"]["all"] == {"instances": 3, "missed": pytest.approx(2 / 3)}


def test_of_twins_the_own_label_counts():
    truth = table([("v", "CliffDiving", 0, 10), ("v", "Diving", 0, 10)])
    found = table([("v", "Diving", 0, 10), ("v", "Diving", 0, 9)], [0.9, 0.8])
    result = diagnose(truth, found, [0.5])
    assert result["false_positives"][1]["double detection"] == 1.0


def test_groups_of_missed_instances_by_hand():
    rows = [("v", "x", 0, 2), ("v", "x", 10, 13), ("v", "x", 20, 30), ("w", "y", 0, 100)]
    found = table([("v", "x", 0, 2), ("v", "x", 20, 30)], [0.9, 0.8])
    missed = diagnose(table(rows), found, [0.5, 0.7], {"v": 100.0, "w": 100.0})["false_negatives"]
    assert missed["all"] == {"instances": 4, "missed": 0.5}
    assert missed["length_seconds"]["<= 3"] == {"instances": 2, "missed": 0.5}
    assert missed["length_seconds"]["<= 12"] == {"instances": 1, "missed": 0.0}
    assert missed["length_seconds"]["<= 6"] == {"instances": 0, "missed": None}
    assert missed["length_seconds"]["> 18"] == {"instances": 1, "missed": 1.0}
    assert missed["instances"]["<= 1"] == {"instances": 1, "missed": 1.0}
    assert missed["instances"]["<= 40"]["instances"] == 3
    assert missed["coverage"]["<= 0.02"] == {"instances": 1, "missed": 0.0}
    assert missed["coverage"]["> 0.08"]["instances"] == 2


def test_a_late_hit_of_low_precision_counts_as_missed():
    truth = table([("v", "x", 0, 10)])
    noise = [("v", "x", 100 + n, 101 + n) for n in range(30)]
    found = table([*noise, ("v", "x", 0, 10)], np.linspace(1, 0.1, 31))
    assert diagnose(truth, found, [0.5])["false_negatives"]["all"]["missed"] == 1.0
    assert (
        diagnose(truth, table([*noise[:5], ("v", "x", 0, 10)], np.linspace(1, 0.1, 6)), [0.5])[
            "false_negatives"
        ]["all"]["missed"]
        == 0.0
    )


def test_removing_what_is_wrong_gains_what_it_cost():
    truth = table([("v", "x", 0, 10), ("v", "x", 20, 30)])
    found = table([("v", "x", 50, 60), ("v", "x", 0, 10), ("v", "x", 20, 30)], [0.9, 0.8, 0.7])
    gain = diagnose(truth, found, [0.5])["gain"]
    assert gain["background"] == pytest.approx(1 - evaluate(truth, found, [0.5]).average)
    assert sum(gain.values()) == pytest.approx(gain["background"])


def random_tables(seed):
    rng = np.random.default_rng(seed)

    def rows(count, spread):
        starts = rng.uniform(0, spread, count)
        ends = starts + rng.uniform(0.5, 20, count)
        names = rng.choice(["a", "b", "c"], count)
        labels = rng.choice(["x", "y"], count)
        return list(zip(names.tolist(), labels.tolist(), starts.tolist(), ends.tolist(), strict=True))

    truth, found = rows(14, 60), rows(60, 70)
    scores = (rng.permutation(60) / 60).tolist()
    return truth, found, scores


@pytest.mark.parametrize("seed", range(12))
def test_equals_the_slow_definition(seed):
    truth, found, scores = random_tables(seed)
    thresholds = [0.2, 0.35, 0.5]
    result = diagnose(table(truth), table(found, scores), thresholds)
    detections = [(*row, score) for row, score in zip(found, scores, strict=True)]
    for multiple, shares in enumerate(result["false_positives"]):
        expected = reference.profile(truth, detections, thresholds, multiple)
        assert {k: v for k, v in shares.items() if k in KINDS and v} == pytest.approx(expected)
    missed = reference.missed(truth, detections, thresholds)
    assert result["false_negatives"]["all"]["missed"] == pytest.approx(float(np.mean(missed)))
    short = [each for each, row in zip(missed, truth, strict=True) if row[3] - row[2] <= 3]
    if short:
        assert result["false_negatives"]["length_seconds"]["<= 3"]["missed"] == pytest.approx(np.mean(short))


def test_bins_follow_the_lengths_and_all_is_json():
    truth, found, scores = random_tables(3)
    result = diagnose(table(truth), table(found, scores), [0.5], dict.fromkeys("abc", 80.0))
    assert json.loads(json.dumps(result, allow_nan=False)) == json.loads(json.dumps(result))
    assert result["bins"]["name"] == THUMOS.name
    long = table([("v", "x", 0, 100)])
    assert diagnose(long, table([], []), [0.5])["bins"]["name"] == ACTIVITYNET.name
    own = Bins("own", (1,), (0.5,), (1,))
    assert list(diagnose(long, table([], []), [0.5], bins=own)["false_negatives"]["instances"]) == [
        "<= 1",
        "> 1",
    ]


def test_wrong_input_is_named():
    truth = table([("v", "x", 0, 10)])
    found = table([("v", "x", 0, 10)], [1.0])
    with pytest.raises(InputError, match=r"allowed are one or more in \(0\.1, 1\]"):
        diagnose(truth, found, [0.1])
    with pytest.raises(InputError, match="no instances"):
        diagnose(table([]), found, [0.5])
    with pytest.raises(InputError, match="no scores"):
        diagnose(truth, truth, [0.5])
    with pytest.raises(InputError, match="durations: none for 'v'"):
        diagnose(truth, found, [0.5], {})


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published detections are not beside the repository")
def test_published_detections_are_told_apart():
    truth = read_ground_truth(PUBLISHED / "autoloc_th14_gt.json.gz", "test")
    found = read_submission(PUBLISHED / "autoloc_th14_pred.json.gz")
    result = diagnose(truth, found, [0.5])
    for shares in result["false_positives"]:
        assert sum(shares[kind] for kind in KINDS) == pytest.approx(1.0)
    assert result["false_positives"][0]["true positive"] > result["false_positives"][1]["true positive"]
    assert sum(group["instances"] for group in result["false_negatives"]["instances"].values()) == len(truth)
