"""A few of the kills that `python -m tests.endurance` makes by the hundred, and what came of those."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))
from endurance import kills

REPORT = Path(__file__).parents[3] / "results" / "endurance.json"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds its processes in /proc")
def test_killed_anywhere_a_bench_ends_with_the_bits_of_an_unbroken_one(tiny_dataset, tmp_path):
    outcome = kills.endure(tiny_dataset, tmp_path, "head-only", kills=10, seed=5)
    assert outcome["failures"] == []
    assert outcome["kills"] == sum(outcome["hits"].values()) == 10


def test_two_hundred_kills_lost_nothing():
    report = json.loads(REPORT.read_text())
    assert report["failures"] == []
    assert report["kills"] == sum(report["hits"].values()) >= 200
    assert {"parent", "child", "child+parent"} <= report["hits"].keys()
    assert report["resumed"] > 0
    assert report["environment"]["dirty"] is False


def test_what_is_torn_or_left_is_found(tmp_path):
    (tmp_path / "half.json").write_text('{"a": ')
    (tmp_path / "half.json.gz").write_bytes(b"\x1f\x8b\x08")
    (tmp_path / "half.pt").write_bytes(b"PK")
    (tmp_path / "whole.json").write_text("{}")
    (tmp_path / ".a.json.machine.1.draft").write_text("")
    assert sorted(kills.torn(tmp_path)) == ["half.json", "half.json.gz", "half.pt"]
    assert [path.name for path in kills.temporary(tmp_path)] == [".a.json.machine.1.draft"]
