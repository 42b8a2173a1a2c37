"""The command that times the parts: every part runs on tiny inputs and prints what it measured."""

import json
from pathlib import Path

import pytest

from bench.speed import Measurement
from bench.speed.__main__ import PARTS, main, table
from datasets import load_dataset
from datasets.miniature import MiniatureConfig

REFERENCES = str(Path(__file__).parents[2] / "reference")
TINY = MiniatureConfig(training_videos=2, tuning_videos=1, testing_videos=1, video_seconds=(20.0, 21.0))


@pytest.fixture
def tiny_miniature(tmp_path, monkeypatch):
    """The miniature's name stands for four short videos."""

    def load(name, data=None, cache=None, **options):
        return load_dataset(name, data, tmp_path / "made", config=TINY, workers=1)

    for module in ("datasets", "bench.run.specification"):
        monkeypatch.setattr(f"{module}.load_dataset", load)


@pytest.mark.parametrize("part", PARTS)
def test_every_part_measures_something(part, tiny_miniature, capsys):
    assert main(["--parts", part, "--references", REFERENCES, "--scale", "0.02", "--json", "-"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    for row in rows:
        assert row["part"] == part
        assert row["value"] > 0
        assert row["met"] is (None if row["bar"] is None else row["met"])


def test_the_plain_loops_are_the_slower_ones(capsys):
    assert main(["--parts", "evaluation", "--references", REFERENCES, "--scale", "0.05", "--json", "-"]) == 0
    (ratio,) = [row for row in json.loads(capsys.readouterr().out) if row["unit"] == "x"]
    assert ratio["value"] > 5


def test_a_bar_is_kept_or_not_by_its_unit():
    kept = [Measurement("a", "b", 2.0, unit, bar).met for unit in ("s", "x") for bar in (1.0, 3.0, None)]
    assert kept == [False, True, None, True, False, None]
    text = table([Measurement("a", "slow", 2.0, "s", 1.0), Measurement("a", "fine", 20.0, "x", 10.0, "why")])
    assert [line.split() for line in text.splitlines()] == [
        ["a", "slow", "2.000", "s", "<=", "1:", "NO"],
        ["a", "fine", "20.00", "x", ">=", "10:", "yes", "why"],
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--parts", "nms,colour"], "unknown 'colour', known are nms"),
        (["--references", "none"], "--references: none holds no nms.py"),
        (["--scale", "2"], "--scale: got 2, allowed is more than 0, at most 1"),
    ],
)
def test_wrong_options_are_one_line(options, words, capsys):
    assert main(options) == 2
    assert words in capsys.readouterr().err


def test_json_goes_to_a_file_too(tmp_path, capsys):
    path = tmp_path / "speed.json"
    assert main(["--parts", "nms", "--scale", "0.01", "--json", str(path)]) == 0
    assert "soft-NMS" in capsys.readouterr().out
    assert json.loads(path.read_text())[0]["bar"] == 5.0
