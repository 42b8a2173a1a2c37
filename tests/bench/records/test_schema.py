"""A record's every field is checked before a table, a figure or a path is made of it."""

import copy
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_kinds import (
    FLAG,
    FRACTION,
    LABEL,
    NAME,
    NUMBER,
    OBJECT,
    POSITIVE,
    REAL,
    SHA256,
    TEXT,
    WHOLE,
    each,
    kind,
    maybe,
    one_of,
    placed,
    refused,
    table,
    triple,
)
from made_records import folder, record, rows

from bench.detection.diagnosis import KINDS, MULTIPLES
from bench.io.errors import InputError
from bench.io.typed_values import decode_plain
from bench.records.paths import ground_truth_path
from bench.records.record import check_record, read_folder, read_record
from bench.records.schema import STATUSES
from bench.report import build
from bench.report.grouping import comparisons
from bench.report.tables.comparison import comparison_csv, plain_text

FIDELITY = {"temporal": 0.5, "spatial": 1}
WHOLE_RECORD = record(
    parallel={"processes": 2, "sharded": True},
    forecast={"predicted_peak_bytes": 10},
    diagnosis={
        "false_positives": [{"detections": 3, **dict.fromkeys(KINDS, 0.5)} for _ in range(MULTIPLES)],
        "gain": dict.fromkeys(KINDS[1:], -0.5),
        "false_negatives": {
            "all": {"instances": 2, "missed": 0.5},
            "length_seconds": {"<= 3": {"instances": 0}},
        },
    },
)
WHOLE_RECORD["training"] |= {
    "schedule": [{"first_step": 0, "fidelity": {**FIDELITY}}],
    "learned": {"gates": {"short": [[1, 0.5]]}},
}
WHOLE_RECORD["memory"] |= {
    "kinds": {"parameter": 3},
    "stages": [{"stage": "a", "fidelity": {**FIDELITY}, "peak_allocated_bytes": 3}],
}
WHOLE_RECORD["protocol"]["steps"] = 20
TIOU = kind(lambda v: FRACTION.takes(v) and v > 0, st.floats(0.1, 1), 0, 1.5, True, "0.5")
REQUIRED = {
    ("schema",): kind(lambda v: type(v) is int and v == 1, st.just(1), 2, 99, 1.0, True),
    ("id",): NAME,
    ("status",): one_of(*STATUSES),
    ("phase",): maybe(NAME),
    ("message",): maybe(TEXT),
    ("model",): NAME,
    ("strategy",): OBJECT,
    ("strategy", "name"): NAME,
    ("dataset", "name"): LABEL,
    ("dataset", "variant"): LABEL,
    ("dataset", "annotation_sha256"): SHA256,
    ("protocol", "digest"): NAME,
    ("protocol", "tiou"): each(TIOU, 1, 100),
    ("protocol", "evaluation_subset"): NAME,
    ("seed",): WHOLE,
    ("weights",): OBJECT,
    ("weights", "name"): NAME,
    ("weights", "sha256"): maybe(SHA256),
    ("environment",): OBJECT,
    ("metrics", "map"): OBJECT,
    ("metrics", "map", "0.5"): FRACTION,
    ("metrics", "map_average"): FRACTION,
    ("memory", "peak_allocated_bytes"): POSITIVE,
    ("memory", "inference"): OBJECT,
    ("memory", "inference", "peak_allocated_bytes"): WHOLE,
    ("memory", "stages", 0, "stage"): NAME,
    ("memory", "stages", 0, "fidelity", "temporal"): FRACTION,
    ("memory", "stages", 0, "peak_allocated_bytes"): WHOLE,
    ("cost",): OBJECT,
    ("cost", "seconds_per_step"): maybe(NUMBER),
    ("cost", "trainable_parameters"): WHOLE,
    ("training",): OBJECT,
    ("training", "loss"): each(triple(NUMBER, NUMBER, NUMBER), 1),
    ("training", "schedule", 0, "first_step"): WHOLE,
    ("training", "schedule", 0, "fidelity", "spatial"): FRACTION,
    ("parallel", "processes"): POSITIVE,
    ("parallel", "sharded"): FLAG,
    ("diagnosis", "false_positives", 3, "detections"): WHOLE,
    ("diagnosis", "false_positives", 9, "wrong label"): NUMBER,
    ("diagnosis", "gain", "background"): REAL,
    ("diagnosis", "false_negatives", "all", "instances"): WHOLE,
    ("diagnosis", "false_negatives", "length_seconds", "<= 3", "instances"): WHOLE,
}
OPTIONAL = {
    ("dataset", "videos"): table(WHOLE),
    ("dataset", "instances"): table(WHOLE),
    ("dataset", "pictures_sha256"): maybe(table(SHA256)),
    **{("protocol", name): POSITIVE for name in ("steps", "window_clips", "image_size", "batch_size")},
    ("protocol", "backward"): NAME,
    ("protocol", "precision"): NAME,
    ("protocol", "classifier"): maybe(NAME),
    ("protocol", "classifier_top"): POSITIVE,
    ("environment", "device"): LABEL,
    ("environment", "device_type"): LABEL,
    ("environment", "commit"): maybe(LABEL),
    ("environment", "processor"): table(maybe(LABEL)),
    ("forecast", "predicted_peak_bytes"): maybe(POSITIVE),
    ("memory", "predicted_peak_bytes"): maybe(POSITIVE),
    ("memory", "kinds"): table(WHOLE),
    ("memory", "device_source"): maybe(NAME),
    ("cost", "wall_seconds"): NUMBER,
    ("cost", "cpu_seconds_per_step"): maybe(NUMBER),
    ("training", "learned"): maybe(OBJECT),
    ("training", "learned", "gates"): table(each(triple(WHOLE, NUMBER))),
    ("diagnosis", "false_negatives", "all", "missed"): maybe(FRACTION),
}
FIELDS = REQUIRED | OPTIONAL
CROSSED = {("status",), ("schema",), ("protocol", "tiou"), ("metrics", "map")}
"""What is good in these by itself may not fit the rest."""


@given(st.data())
def test_any_wrong_field_is_named(data):
    path = data.draw(st.sampled_from(list(FIELDS)))
    wrong = placed(WHOLE_RECORD, path, data.draw(FIELDS[path].bad))
    refused(check_record, wrong, path, "record")


@given(st.sampled_from(list(REQUIRED)))
def test_any_missing_field_is_named(path):
    line = refused(check_record, placed(WHOLE_RECORD, path, ...), path)
    assert line.endswith("is missing")


@given(st.data())
def test_records_of_good_fields_pass(data):
    good = copy.deepcopy(WHOLE_RECORD)
    for path in data.draw(st.lists(st.sampled_from(sorted(FIELDS.keys() - CROSSED, key=str)), max_size=5)):
        value = data.draw(FIELDS[path].good)
        if FIELDS[path] is not OBJECT and path[-1] != "learned":  # others stand inside these
            good = placed(good, path, value)
    check_record(good | {"more": {"of": [1, None, "x"]}})
    for path in OPTIONAL.keys() - {("protocol", "steps"), ("training", "learned")}:
        with_all = placed(good, path, None) if FIELDS[path].takes(None) else good
        check_record(with_all)


@pytest.mark.parametrize(
    ("path", "value", "line"),
    [
        (("metrics", "map", "0.5"), "x", "field 'metrics.map.0.5' is 'x', allowed is a number from 0 to 1"),
        (("training", "loss", 1, 2), -1, "field 'training.loss[1][2]' is -1, allowed is a number from 0 on"),
        (("seed",), True, "field 'seed' is True, allowed is a whole number from 0 on"),
        (("schema",), 99, "field 'schema' is 99, allowed is 1"),
        (("status",), "fine", f"field 'status' is 'fine', allowed is one of {', '.join(STATUSES)}"),
        (("strategy", "name"), ..., "field 'strategy.name' is missing"),
        (
            ("strategy", "lr"),
            10**19,
            f"field 'record.strategy.lr' is {10**19}, allowed is a number of less than 20",
        ),
        (("metrics",), None, "field 'metrics' is None, allowed is an object"),
        (("parallel", "more"), 1, "field 'parallel.more' is unknown"),
        (("parallel", "a - at `$.q[3]"), 1, "field 'parallel.a - at `$.q[3]' is unknown"),
        (
            ("protocol", "tiou"),
            [0.5, 0.5],
            "field 'protocol.tiou' is [0.5, 0.5], allowed is a list of different",
        ),
        (
            ("protocol", "tiou"),
            [0],
            "field 'protocol.tiou' is [0], allowed is a list of different numbers in (0, 1]",
        ),
        (("protocol", "tiou"), [0.3, 0.5, 0.7], "field 'metrics.map.0.7' is missing"),
        (("protocol", "steps"), ..., "field 'protocol.steps' is missing"),
        (
            ("diagnosis", "false_positives"),
            [],
            "field 'diagnosis.false_positives' is [], allowed is a list of 10 to",
        ),
        (
            ("environment", "processor"),
            {"flags": "a", "name": "\x1b"},
            r"field 'environment.processor.name' is '\x1b', allowed is text of 1 to 200 characters, ",
        ),
    ],
)
def test_lines_say_what_stands_there_and_what_may(path, value, line):
    with pytest.raises(InputError) as caught:
        check_record(placed(WHOLE_RECORD, path, value))
    assert str(caught.value).startswith(line)


def test_what_is_large_is_refused():
    many = {f"k{number}": 1 for number in range(10_001)}
    for value in (many, list(many)):
        with pytest.raises(InputError, match=r"field 'record.settings' is .* 10000 entries"):
            check_record(WHOLE_RECORD | {"settings": value})
    with pytest.raises(
        InputError, match=r"field 'record.strategy.text' is 'x.*text of at most 10000 characters"
    ):
        check_record(placed(WHOLE_RECORD, ("strategy", "text"), "x" * 10_001))


def test_runs_that_failed_need_less():
    failed = record(status="error")
    check_record(failed)
    for name in ("metrics", "memory", "cost"):
        check_record(failed | {name: {"any": 1}})
        refused(check_record, failed | {name: 3}, (name,))


def test_deep_records_are_read_as_others(tmp_path):
    deep = record(id="deep", more=[[[[[[[[[[[[{"a": [1]}]]]]]]]]]]]])
    results = folder(tmp_path, deep)
    assert decode_plain((results / "records" / "deep.json").read_bytes()) != deep
    assert read_record(results / "records" / "deep.json") == deep


def test_nan_and_infinities_are_no_record(tmp_path):
    (tmp_path / "records").mkdir()
    for number, value in enumerate((math.nan, math.inf, -math.inf)):
        own = placed(record(), ("metrics", "map_average"), value) | {"id": f"r{number}"}
        (tmp_path / "records" / f"r{number}.json").write_text(json.dumps(own))
    found = read_folder(tmp_path / "records")
    assert found.records == ()
    assert all("a finite number is needed" in line for line in found.problems)


def test_one_hostile_record_does_not_keep_the_others_from_their_tables(tmp_path, capsys):
    results = folder(tmp_path, record(), record("losa", average=0.4))
    (results / "records" / "\x1b[2Jbad.json").write_text('{"schema": 1')
    (results / "records" / "deep.json").write_text("[" * 10**6)
    report = build(results)
    assert report.text.replace("\n", "").isprintable()
    assert "skipped \\x1b[2Jbad.json: line 1: not JSON" in report.text
    assert "skipped deep.json: nested too deeply" in report.text
    assert len(rows((results / "tables" / "comparison.csv").read_text())) == 2


def test_names_stay_short_in_labels_and_files():
    many = {f"field{number}": "y" * 200 for number in range(20)}
    one = record("z" * 200, id="one", settings=many)
    other = record("z" * 200, id="two", settings={name: value[1:] for name, value in many.items()})
    for own in (one, other):
        own["dataset"]["name"] = own["weights"]["name"] = own["model"] = "w" * 200
    [item] = comparisons([one, other])
    assert all(len(row.label) <= 200 for row in item.rows)
    assert len(item.slug) < 200


def test_names_of_markup_stand_in_figures_as_they_are(tmp_path):
    """A formula that is none would be an error of the library that draws."""
    assert build(folder(tmp_path, record("$\\frac{", id="a"), record("_x_", id="b"))).files


def test_terminals_and_spreadsheets_take_names_for_text():
    own = record("=1+1", status="error", id="a")
    own["message"] = "\x1b]0;title\x07"
    [item] = comparisons([own])
    assert plain_text(item).replace("\n", "").isprintable()
    [line] = rows(comparison_csv([item]))
    assert line["strategy"] == "'=1+1"
    assert line["failed"].isprintable()


def test_no_field_leads_out_of_the_folder(tmp_path):
    own = record()
    own["protocol"]["evaluation_subset"] = "../../x"
    assert ground_truth_path(tmp_path, own).parent == tmp_path / "ground_truth"
