"""The official metric bit for bit, and the counts that tell where ours differs from it."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.detection import Segments, evaluate, read_ground_truth, read_submission, without_duplicates
from bench.detection.counts import matching_affix
from bench.detection.segments import duplicates
from bench.evaluate import main, parse_tiou
from bench.io.errors import InputError

TESTS = Path(__file__).parents[2]
sys.path.append(str(TESTS / "reference"))
import official as reference  # noqa: E402

PUBLISHED = TESTS.parent.parent / "shared" / "data"
THRESHOLDS = [0.1, 0.3, 0.5, 0.75, 1.0]
Row = tuple[str, str, float, float]


def table(rows: list[Row], scores: list[float] | None = None) -> Segments:
    video, label, start, end = zip(*rows, strict=True) if rows else ((),) * 4
    return Segments(
        np.array(video, dtype=str),
        np.array(label, dtype=str),
        np.array(start, dtype=float),
        np.array(end, dtype=float),
        None if scores is None else np.array(scores, dtype=float),
    )


def rows_of(generator: np.random.Generator, count: int, videos: int, labels: int, ties: bool) -> list[Row]:
    start = generator.integers(0, 8, count) if ties else generator.uniform(0, 8, count)
    length = generator.integers(0, 5, count) if ties else generator.uniform(0, 5, count)
    length = length * (generator.random(count) > 0.3)
    return [
        (f"v{video}", f"c{label}", float(a), float(a + b))
        for video, label, a, b in zip(
            generator.integers(0, videos, count),
            generator.integers(0, labels, count),
            start,
            length,
            strict=True,
        )
    ]


@given(
    seed=st.integers(0, 2**32 - 1),
    truths=st.integers(1, 80),
    found=st.integers(0, 200),
    videos=st.integers(1, 4),
    labels=st.integers(1, 12),
    ties=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_equals_the_plain_official_metric_bit_for_bit(
    seed: int, truths: int, found: int, videos: int, labels: int, ties: bool
) -> None:
    generator = np.random.default_rng(seed)
    truth = rows_of(generator, truths, videos, labels, ties)
    detections = rows_of(generator, found, videos + 1, labels + 1, ties)
    scores = (generator.integers(0, 4, found) / 3 if ties else generator.random(found)).tolist()
    tiou = THRESHOLDS if seed % 2 else np.linspace(0.5, 0.95, 10).tolist()
    ap, means, average = reference.evaluate(truth, list(zip(detections, scores, strict=True)), tiou)
    result = evaluate(table(truth), table(detections, scores), tiou, official=True)
    assert dict(zip(result.classes, result.ap.tolist(), strict=True)) == ap
    assert list(result.map) == means
    assert result.average == average


def test_segments_of_zero_length_match_in_the_official_metric_alone() -> None:
    """0/0 is NaN, which is below no threshold: a match at any distance, preferred to a perfect one."""
    truth = table([("a", "x", 0, 10), ("a", "x", 50, 50)])
    found = table([("a", "x", 3, 3), ("a", "x", 0, 10)], [0.9, 0.8])
    ours, official = evaluate(truth, found, (0.5, 1.0)), evaluate(truth, found, (0.5, 1.0), official=True)
    assert ours.map == (0.25, 0.25)
    assert official.map == (1.0, 1.0)
    for counts in (ours.counts, official.counts):
        assert (counts.instances_of_zero_length, counts.detections_of_zero_length) == (1, 1)
        assert counts.detections_of_zero_length_at_such_instances == 1
    alone = evaluate(truth, table([("a", "x", 0, 10)], [0.9]), (0.5,), official=True)
    assert alone.average == 0.5
    assert alone.counts.detections_of_zero_length_at_such_instances == 0


def test_the_official_order_of_ties_is_that_of_numpy() -> None:
    """Ours visits the earlier of two first; argsort()[::-1] the later one, unless NumPy's sort differs."""
    later_first = np.array([0.5, 0.5]).argsort()[::-1].tolist() == [1, 0]
    wanted = 0.5 if later_first else 1
    truth = table([("a", "x", 0, 10)])
    found = table([("a", "x", 0, 10), ("a", "x", 70, 80)], [0.5, 0.5])
    assert evaluate(truth, found, (0.5,)).average == 1
    assert evaluate(truth, found, (0.5,), official=True).average == wanted
    # The first detection has tIoU 0.6 with both instances, the second is close to the later one only.
    truth = table([("a", "x", 0, 10), ("a", "x", 5, 15)])
    found = table([("a", "x", 2.5, 12.5), ("a", "x", 6, 15)], [0.9, 0.8])
    assert evaluate(truth, found, (0.6,)).average == 1
    assert evaluate(truth, found, (0.6,), official=True).average == wanted


def test_ties_are_counted() -> None:
    truth = table([("a", "x", 0, 10), ("a", "x", 0, 10), ("a", "y", 0, 10), ("b", "x", 0, 10)])
    rows: list[Row] = [("a", "x", 0, 9), ("b", "x", 0, 9), ("a", "y", 0, 9), ("c", "z", 0, 9)]
    for official in (False, True):
        counts = evaluate(
            table(truth_rows(truth)), table(rows, [0.5, 0.5, 0.5, 0.5]), (0.5,), official=official
        )
        assert counts.counts.detections_of_equal_score == 2  # another class, and no class
        assert counts.counts.detections_of_equal_tiou == 1
        assert counts.counts.duplicate_instances == 1
    far = evaluate(truth, table(rows, [0.5, 0.6, 0.5, 0.5]), (0.95,)).counts
    assert (far.detections_of_equal_score, far.detections_of_equal_tiou) == (0, 0)


def truth_rows(segments: Segments) -> list[Row]:
    columns = (each.tolist() for each in (segments.video, segments.label, segments.start, segments.end))
    return list(zip(*columns, strict=True))


def test_duplicates_are_those_of_actionformer_and_opentad() -> None:
    """Both boundaries within a millisecond of a kept instance, in the file's order; empty ones too."""
    rows: list[Row] = [
        ("a", "x", 5, 9),
        ("a", "x", 1, 3),
        ("a", "x", 5.0009, 8.9992),  # repeats the first
        ("a", "x", 5.0018, 9),  # repeats only the one before, which is not kept
        ("a", "y", 1, 3),
        ("b", "x", 1, 3),
        ("a", "x", 1, 3.0011),
        ("a", "x", 2, 2),
        ("a", "x", 7, 7.0004),  # ActionFormer leaves this out too, OpenTAD does not
    ]
    assert duplicates(table(rows)).tolist() == [False, False, True, *[False] * 6]
    assert truth_rows(without_duplicates(table(rows))) == [rows[i] for i in (0, 1, 3, 4, 5, 6, 8)]
    with pytest.raises(InputError, match="all instances are of zero length"):
        without_duplicates(table([("a", "x", 1, 1)]))


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from("xy"), st.integers(0, 8), st.integers(0, 8)))
)
def test_duplicates_equal_a_plain_comparison_with_all_kept(steps: list[tuple[str, str, int, int]]) -> None:
    rows = [(video, label, 0.0004 * a, 1 + 0.0004 * b) for video, label, a, b in steps]
    kept: list[Row] = []
    wanted = []
    for row in rows:
        near = (other for other in kept if other[:2] == row[:2])
        wanted.append(any(all(abs(row[i] - other[i]) <= 1e-3 for i in (2, 3)) for other in near))
        kept += [] if wanted[-1] else [row]
    assert duplicates(table(rows)).tolist() == wanted


@pytest.mark.parametrize(
    ("found", "known", "wanted"),
    [
        (["v_a1", "v_b2", "c3"], ["a1", "b2", "c4"], "2 of 3 video ids would match without the prefix 'v_'"),
        (["a1.mp4", "b2.mp4"], ["a1", "b2"], "2 of 2 video ids would match without the suffix '.mp4'"),
        (["a1", "b2"], ["v_a1", "v_b2"], "2 of 2 video ids would match with the prefix 'v_'"),
        (["a1", "b2", "c3"], ["a1.mp4"], "1 of 3 video ids would match with the suffix '.mp4'"),
        (
            ["test/v_a1.mp4", "test/v_b2.mp4"],
            ["a1", "b2"],
            "2 of 2 video ids would match without the prefix 'test/v_' and the suffix '.mp4'",
        ),
        (["a1"], ["b2"], None),
    ],
)
def test_suggests_the_affix_that_matches(found: list[str], known: list[str], wanted: str | None) -> None:
    assert matching_affix(found, known) == wanted


def files(folder: Path, truth: list[Row], found: list[tuple[Row, float]]) -> list[str]:
    database: dict[str, Any] = {}
    results: dict[str, Any] = {}
    for video, label, start, end in truth:
        entry = database.setdefault(video, {"subset": "test", "annotations": []})
        entry["annotations"].append({"label": label, "segment": [start, end]})
    for (video, label, start, end), score in found:
        entry = {"label": label, "segment": [start, end], "score": score}
        results.setdefault(video, []).append(entry)
    (folder / "gt.json").write_text(json.dumps({"database": database}))
    (folder / "pr.json").write_text(json.dumps({"results": results}))
    return [str(folder / "gt.json"), str(folder / "pr.json"), "--subset", "test"]


def test_the_command_counts_what_can_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth: list[Row] = [("a", "x", 0, 10), ("a", "x", 50, 50), ("b", "x", 0, 5), ("b", "x", 0, 5)]
    found: list[tuple[Row, float]] = [
        (("a", "x", 3, 3), 0.9),
        (("a", "x", 0, 10), 0.8),
        (("b", "x", 0, 5), 0.8),
    ]
    words = files(tmp_path, truth, found)
    assert main(words) == 0
    ours = capsys.readouterr().out
    assert "1 instances repeat another (--drop-duplicates leaves them out)\n" in ours
    assert "1 instances of zero length\n1 detections of zero length\n" in ours
    assert "1 detections and instances of zero length in one class and video (not matched, unlike" in ours
    assert "2 detections share their score with others of the class (in the file's order)\n" in ours
    assert "1 detections have the same tIoU with several instances (in the file's order)\n" in ours
    assert main([*words, "--official"]) == 0
    official = capsys.readouterr().out
    assert "in one class and video (matched, as 0/0 is in the official code)" in official
    assert "in NumPy's unstable order" in official
    assert main([*words, "--drop-duplicates", "--json", "-"]) == 0
    dropped = json.loads(capsys.readouterr().out)
    assert (dropped["counts"]["instances"], dropped["dropped_instances"]) == (2, 2)
    origin = [dropped[name] for name in ("ground_truth", "predictions", "subset", "drop_duplicates")]
    assert origin == [Path(words[0]).name, Path(words[1]).name, words[words.index("--subset") + 1], True]
    assert dropped["official"] is False
    assert dropped["counts"]["instances_of_zero_length"] == dropped["counts"]["duplicate_instances"] == 0
    assert main([*words, "--drop-duplicates"]) == 0
    assert "2 repeated or empty instances left out" in capsys.readouterr().out


def test_the_command_says_nothing_of_what_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(files(tmp_path, [("a", "x", 0, 10)], [(("a", "x", 0, 10), 0.8)])) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "1 detections, 1 instances in 1 videos, 1 classes"


def test_the_command_suggests_a_prefix(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = files(tmp_path, [("a", "x", 0, 10)], [(("v_a", "x", 0, 10), 0.8)])
    assert main(words) == 0
    wanted = "1 of 1 video ids would match without the prefix 'v_'"
    assert capsys.readouterr().out.endswith(f"no detection is in a video of the ground truth: {wanted}\n")
    assert main([*words, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["suggestion"] == wanted
    assert main(files(tmp_path, [("a", "x", 0, 10), ("b", "x", 0, 9)], [(("a", "x", 0, 10), 0.8)])) == 0
    assert "would match" not in capsys.readouterr().out


def test_duplicates_dropped_give_what_actionformer_and_opentad_print(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Measured with both projects' evaluators: 100.00, and 91.67 where the detection is there twice too."""
    truth: list[Row] = [("a", "x", 1, 3), ("a", "x", 1, 3), ("a", "y", 10, 20), ("b", "x", 5, 9)]
    once: list[tuple[Row, float]] = [
        (("a", "x", 1, 3), 0.9),
        (("a", "y", 10, 20), 0.8),
        (("b", "x", 5, 9), 0.7),
    ]
    twice = [once[0], (("a", "x", 1.0, 3.0), 0.85), *once[1:]]
    printed = []
    for found in (once, twice):
        words = files(tmp_path, truth, found)
        for options in ([], ["--official"], ["--drop-duplicates"], ["--drop-duplicates", "--official"]):
            assert main([*words, *options]) == 0
            printed.append(capsys.readouterr().out.split("average")[1].split()[0])
    assert printed == ["83.33", "83.33", "100.00", "100.00", "100.00", "100.00", "91.67", "91.67"]


def test_official_thresholds_are_those_of_linspace() -> None:
    assert parse_tiou(".5:.95:.05", official=True) == tuple(np.linspace(0.5, 0.95, 10).tolist())
    assert parse_tiou(".3:.7:.1", official=True) == tuple(np.linspace(0.3, 0.7, 5).tolist())
    assert parse_tiou(".3:.75:.1", official=True) == tuple(np.linspace(0.3, 0.7, 5).tolist())
    assert parse_tiou(".5", official=True) == (0.5,)
    with pytest.raises(InputError, match="--tiou"):
        parse_tiou(".7:.3:.1", official=True)


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published detections are not beside the repository")
def test_published_detections_with_the_official_code() -> None:
    """The numbers that Evaluation/eval_detection.py itself gave, with NumPy 2.4 and AVX2."""
    truth = read_ground_truth(PUBLISHED / "detections" / "autoloc_th14_gt.json.gz", "test")
    found = read_submission(PUBLISHED / "detections" / "autoloc_th14_pred.json.gz")
    result = evaluate(truth, found, [round(0.1 * each, 1) for each in range(1, 10)], official=True)
    assert result.average == pytest.approx(0.21703456815416952, abs=1e-6)
    assert result.counts.detections_of_equal_score == 16
