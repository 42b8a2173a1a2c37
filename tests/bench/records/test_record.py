"""Records are written whole or not at all, and read with a reason for what is no record."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.io.errors import InputError
from bench.io.reading import parse_json
from bench.io.writing import write_atomically
from bench.records.record import check_record, read_folder, read_record, write_record


def record(**changes):
    return {
        "schema": 1,
        "id": "a_vit-t_head-only_seed0_00000000",
        "status": "nan",
        "phase": "head",
        "message": "loss",
        "model": "vit-t",
        "strategy": {"name": "head-only"},
        "dataset": {"name": "a", "variant": "own", "annotation_sha256": "1" * 64},
        "protocol": {"digest": "0" * 64, "tiou": [0.5], "evaluation_subset": "testing"},
        "seed": 0,
        "metrics": None,
        "memory": None,
        "cost": None,
        "weights": {"name": "random", "sha256": None},
        "environment": {},
        **changes,
    }


def test_round_trip(tmp_path):
    path = write_record(tmp_path, record())
    assert read_record(path) == record()
    assert [p.name for p in tmp_path.iterdir()] == [f"{record()['id']}.json"]


def test_not_a_number_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(ValueError, match=r"[Oo]ut of range"):
        write_record(tmp_path, record(metrics={"map_average": float("nan")}))
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "x.json"
    write_atomically(path, b"old")
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema": 99}, "'schema' is 99"),
        ({"status": "fine"}, "'status'"),
        ({"seed": "0"}, "'seed' is '0', allowed is a whole number"),
        ({"seed": True}, "'seed' is True, allowed is a whole number"),
        ({"strategy": {}}, "'strategy.name'"),
        ({"status": "ok"}, "'metrics' is None, allowed is an object"),
    ],
)
def test_wrong_fields_are_named(changes, words):
    with pytest.raises(InputError, match=words):
        check_record(record(**changes))


def test_missing_field_is_named():
    broken = record()
    del broken["weights"]
    with pytest.raises(InputError, match="'weights' is missing"):
        check_record(broken)


def test_foreign_and_half_written_files_are_named_and_kept(tmp_path):
    write_record(tmp_path, record())
    contents = {
        "half.json": json.dumps(record())[:100],
        "foreign.json": "[1, 2]",
        "empty.json": "",
        "nested.json": "[" * 100_000,
        "renamed.json": json.dumps(record()),
    }
    for name, text in contents.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    folder = read_folder(tmp_path)
    assert [r["id"] for r in folder.records] == [record()["id"]]
    assert sorted(line.split(":")[0] for line in folder.problems) == sorted([*contents, "binary.json"])
    assert all("\n" not in line for line in folder.problems)
    assert "foreign.json: the whole is [1, 2], allowed is an object" in folder.problems
    assert (tmp_path / "half.json").exists()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"seed": 0', '"seed": 0, "seed": 0'),
        ('"seed": 0', '"seed": 0, "se\\u0065d": 0'),
        ('"seed": 0', '"seed" :1, "seed": 0'),
        ('"tiou"', '"tiou": ":", "tiou"'),
        ('"seed": 0', '"more": {"a:": "\\u003a\\u003A", "a:": 1}, "seed": 0'),
        ('"seed": 0', '"more": {"": 1, "": 1}, "seed": 0'),
        ('"seed": 0', '"more": {"é": 1, "é": {"a": ":"}}, "seed": 0'),
    ],
)
def test_keys_that_are_given_twice_are_refused(old, new, tmp_path):
    path = tmp_path / f"{record()['id']}.json"
    text = json.dumps(record())
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=r"not JSON: key '.*' is given twice"):
        read_record(path)


@given(
    st.recursive(
        st.sampled_from([1, "a", ":", '":', "é:", "\n", '{"a":1}']),
        lambda inner: (
            st.lists(inner, max_size=2) | st.lists(st.tuples(st.sampled_from(["a", ":", "b\n"]), inner))
        ),
    )
)
def test_json_with_keys_given_twice_is_refused_and_all_other_is_read(pairs):
    """Lists of pairs stand for objects, which Python's writer would not give a key twice."""

    def text(value):
        if isinstance(value, list) and value and all(isinstance(entry, tuple) for entry in value):
            return f"{{{', '.join(f'{json.dumps(key)}: {text(inner)}' for key, inner in value)}}}"
        return f"[{', '.join(map(text, value))}]" if isinstance(value, list) else json.dumps(value)

    def twice(value):
        if not isinstance(value, list):
            return False
        keys = [entry[0] for entry in value if isinstance(entry, tuple)]
        inner = [entry[1] if isinstance(entry, tuple) else entry for entry in value]
        return len(set(keys)) < len(keys) or any(map(twice, inner))

    for finite in (False, True):
        if twice(pairs):
            with pytest.raises(InputError, match="is given twice"):
                parse_json(text(pairs).encode(), "x", finite=finite)
        else:
            assert parse_json(text(pairs).encode(), "x", finite=finite) == json.loads(text(pairs))
