"""Files in and out: round trips, equal bytes, and one line for everything that can be wrong."""

from __future__ import annotations

import gzip
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_kinds import NAME, kind, placed, refused, triple

from bench.detection import Segments, read_ground_truth, read_submission, write_submission
from bench.evaluate import main, parse_tiou
from bench.io.errors import InputError

TRUTH: dict[str, Any] = {
    "database": {
        "v1": {"subset": "test", "annotations": [{"segment": [0, 10], "label": "x"}]},
        "v2": {"subset": "training", "annotations": [{"segment": [1.5, 2.5], "label": "y"}]},
    }
}
FOUND: dict[str, Any] = {"results": {"v1": [{"segment": [0.0, 9.0], "label": "x", "score": 0.5}]}}


def saved(path: Path, content: Any) -> Path:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_reads_plain_and_compressed(tmp_path: Path, suffix: str) -> None:
    truth = read_ground_truth(saved(tmp_path / f"t{suffix}", TRUTH), "test")
    assert (truth.video.tolist(), truth.label.tolist(), truth.end.tolist()) == (["v1"], ["x"], [10.0])
    found = read_submission(saved(tmp_path / f"f{suffix}", FOUND))
    assert found.score is not None
    assert (found.video.tolist(), found.score.tolist()) == (["v1"], [0.5])


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_round_trip_with_equal_bytes(tmp_path: Path, suffix: str) -> None:
    table = Segments(
        np.array(["b", "a", "b"]),
        np.array(["x", "y", "x"]),
        np.array([0.1, 1.0, 2.0]),
        np.array([1.1, 2.0, 3.0]),
        np.array([0.3, 0.2, 0.1]),
    )
    first, second = tmp_path / "one" / f"a{suffix}", tmp_path / f"b{suffix}"
    write_submission(first, table)
    back = read_submission(first)
    assert back.video.tolist() == ["b", "b", "a"]
    assert back.start.tolist() == [0.1, 2.0, 1.0]
    write_submission(
        second,
        json.loads(gzip.decompress(first.read_bytes()) if suffix.endswith("gz") else first.read_bytes())[
            "results"
        ],
    )
    assert first.read_bytes() == second.read_bytes()
    assert [each.name for each in first.parent.iterdir()] == [first.name]  # no draft stays


def test_a_failed_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.json", FOUND)
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_submission(path, {"v": [{"segment": [0, 1], "label": "x", "score": float("nan")}]})
    assert json.loads(path.read_text()) == FOUND


def with_truth(**changes: Any) -> dict[str, Any]:
    return {
        "database": {"v1": {"subset": "test", "annotations": [{"segment": [0, 1], "label": "x"} | changes]}}
    }


def with_found(**changes: Any) -> dict[str, Any]:
    return {"results": {"v1": [{"segment": [0, 1], "label": "x", "score": 1} | changes]}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "line 1: not JSON"),
        (b"{\xff}", "not text in UTF-8"),
        ([], "the whole is [], allowed is an object"),
        ({"database": {"v1": {"subset": "training"}}}, "no subset 'test', allowed are training"),
        ({"database": {"v1": {"subset": "test", "annotations": []}}}, "subset 'test' has no annotations"),
        (
            with_truth(segment=[0]),
            "field 'database.v1.annotations[0].segment' is [0], allowed is a list of 2",
        ),
        (with_truth(segment=[2, 1]), "[0].segment' is [2.0, 1.0], allowed is an end not before the start"),
        (with_truth(segment=["nan", 1]), "[0].segment[0]' is 'nan', allowed is seconds, a finite number"),
    ],
)
def test_wrong_ground_truth(tmp_path: Path, content: Any, message: str) -> None:
    path = saved(tmp_path / "t.json", content)
    with pytest.raises(InputError) as caught:
        read_ground_truth(path, "test")
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"database": {}}, "field 'results' is missing"),
        (with_found(score="high"), "field 'results.v1[0].score' is 'high', allowed is a finite number"),
        (with_found(segment=[2, 1]), "allowed is an end not before the start"),
    ],
)
def test_wrong_submission(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_submission(saved(tmp_path / "f.json", content))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


SECONDS = kind(
    lambda v: (type(v) is float and math.isfinite(v)) or (type(v) is int and abs(v) < 10**308),
    st.floats(-1e9, 1e9) | st.integers(-9, 9),
    math.nan,
    math.inf,
    -math.inf,
    True,
    10**400,
    [1],
)


def is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


QUOTED = kind(
    lambda v: SECONDS.takes(v) or (isinstance(v, str) and is_number(v)),
    SECONDS.good | st.just("2.5"),
    "nan",
    "inf",
    "x",
    "",
    *(math.nan, -math.inf, True, 10**400),
)
ENTRY = ("results", "v1", 0)
FOUND_FIELDS = {
    ("results",): kind(lambda v: v == {}, st.just({}), [], {"v1": {}}, {"v1": [3]}, {"v1": None}),
    ("results", "v1"): kind(lambda v: v == [], st.just([]), {}, [3], [[]], "x"),
    (*ENTRY, "segment"): triple(SECONDS, SECONDS),
    (*ENTRY, "segment", 1): SECONDS,
    (*ENTRY, "label"): NAME,
    (*ENTRY, "score"): SECONDS,
}
INSTANCE = ("database", "v1", "annotations", 0)
TRUTH_FIELDS = {
    ("database",): kind(lambda v: v == {}, st.nothing(), [], {"v1": {}}, {"v1": {"subset": 3}}),
    ("database", "v2"): kind(lambda v: False, st.nothing(), 3, {}, {"subset": None}),
    ("database", "v2", "subset"): kind(lambda v: isinstance(v, str), st.text(max_size=3)),
    ("database", "v1", "annotations"): kind(lambda v: v == [], st.just([]), {}, [3], None),
    (*INSTANCE, "segment"): triple(QUOTED, QUOTED),
    (*INSTANCE, "segment", 0): QUOTED,
    (*INSTANCE, "label"): NAME,
}


@pytest.mark.parametrize(("document", "fields"), [(TRUTH, TRUTH_FIELDS), (FOUND, FOUND_FIELDS)])
def test_any_wrong_field_is_named(
    document: dict[str, Any], fields: dict[Any, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("drawn")

    def read(content: Any) -> Segments:
        path = saved(folder / "a.json", content)
        return read_ground_truth(path, "test") if document is TRUTH else read_submission(path)

    @given(st.data())
    def wrong(data: st.DataObject) -> None:
        path = data.draw(st.sampled_from(list(fields)))
        assert "a.json: " in refused(read, placed(document, path, data.draw(fields[path].bad)), path)

    @given(st.data())
    def good(data: st.DataObject) -> None:
        places = ("label", "score") if document is FOUND else ("label",)
        own = placed(document, (*(ENTRY if document is FOUND else INSTANCE), "segment"), [0, 1])
        for name in places:
            path = (*(ENTRY if document is FOUND else INSTANCE), name)
            own = placed(own, path, data.draw(fields[path].good))
        own = placed(own, (*path[:-1], "more"), data.draw(fields[path].bad))
        assert len(read(own)) == 1

    wrong()
    good()
    for path in fields:
        if path[-1] not in (0, 1, "v1", "v2", "annotations"):
            refused(read, placed(document, path, ...), path)


def test_what_other_subsets_hold_is_not_looked_at(tmp_path: Path) -> None:
    other = placed(TRUTH, ("database", "v2", "annotations"), 3)
    assert len(read_ground_truth(saved(tmp_path / "t.json", other), "test")) == 1
    odd = TRUTH["database"] | {"\x1b": {"subset": "test", "annotations": []}}
    assert len(read_ground_truth(saved(tmp_path / "t.json", {"database": odd}), "test")) == 1


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        read_submission(tmp_path / "none.json")
    whole = saved(tmp_path / "f.json.gz", FOUND).read_bytes()
    (tmp_path / "f.json.gz").write_bytes(whole[:-12])
    with pytest.raises(InputError, match="truncated"):
        read_submission(tmp_path / "f.json.gz")
    (tmp_path / "f.json.gz").write_bytes(b"{}")
    with pytest.raises(InputError, match="not gzip"):
        read_submission(tmp_path / "f.json.gz")


def test_thresholds() -> None:
    assert parse_tiou(".3:.7:.1") == (0.3, 0.4, 0.5, 0.6, 0.7)
    assert parse_tiou("0.5:0.95:0.05")[-1] == 0.95
    assert len(parse_tiou("0.5:0.95:0.05")) == 10
    assert parse_tiou("0.5,.75") == (0.5, 0.75)
    for wrong in ("", "a", "1:2", ".3:.7:0", "0:.5:.1", "50", ".7:.3:.1", "nan", ".1:inf:.1"):
        with pytest.raises(InputError, match="--tiou"):
            parse_tiou(wrong)


def test_the_verb(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    truth, found = saved(tmp_path / "t.json", TRUTH), saved(tmp_path / "f.json.gz", FOUND)
    arguments = [str(truth), str(found), "--subset", "test", "--tiou", ".5,.95"]
    assert main([*arguments, "--json", "-"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["tiou"], printed["map"], printed["average"]) == ([0.5, 0.95], [1.0, 0.0], 0.5)
    assert printed["ap"] == {"x": [1.0, 0.0]}
    assert printed["counts"]["instances"] == 1
    assert main([*arguments, "--json", str(tmp_path / "out.json")]) == 0
    assert "average  50.00" in capsys.readouterr().out
    assert json.loads((tmp_path / "out.json").read_text()) == printed
    assert main([str(truth), str(found), "--subset", "validation"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no subset 'validation', allowed are test, training" in error
    assert main([*arguments, "--json", str(tmp_path / "no" / "out.json")]) == 2


def test_the_verb_does_not_load_torch() -> None:
    code = "import bench.evaluate, sys; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
