"""A record's every field is checked before a table, a figure or a path is made of it."""

import copy
import json
import math

import pytest
from made_records import folder, record, rows

from bench.io.errors import InputError
from bench.records.paths import ground_truth_path
from bench.records.record import check_record, read_folder
from bench.records.schema import FINISHED, check_fields, plain_values
from bench.report import build
from bench.report.grouping import comparisons
from bench.report.tables.comparison import comparison_csv, plain_text

LONG = "x" * 201


def changed(path, value):
    own = copy.deepcopy(record())
    *parents, last = path.split(".")
    place = own
    for name in parents:
        place = place[name]
    place[last] = value
    return own


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", "a\x1b[2J"),
        ("id", LONG),
        ("model", "a\nb"),
        ("model", ["a"]),
        ("message", "x" * 10_001),
        ("phase", 3),
        ("strategy.name", "a\u202eb"),
        ("strategy.lr", 10**400),
        ("strategy.\x07", 1),
        ("strategy.text", "x" * 10_001),
        ("dataset.name", LONG),
        ("dataset.variant", None),
        ("dataset.annotation_sha256", "../../etc/passwd"),
        ("dataset.annotation_sha256", "A" * 64),
        ("dataset.instances", {"testing": "many"}),
        ("protocol.digest", "\ud800"),
        ("protocol.tiou", []),
        ("protocol.tiou", [0.5, 0.5]),
        ("protocol.tiou", [0]),
        ("protocol.tiou", [1.5]),
        ("protocol.tiou", ["0.5"]),
        ("protocol.tiou", [0.3, 0.5, 0.7]),
        ("protocol.evaluation_subset", {}),
        ("protocol.window_clips", -1),
        ("protocol.image_size", True),
        ("protocol.classifier", 7),
        ("seed", -1),
        ("seed", 2**64),
        ("metrics.map", {"0.3": 0.1}),
        ("metrics.map_average", "high"),
        ("metrics.map_average", 31.5),
        ("memory.peak_allocated_bytes", 0),
        ("memory.peak_allocated_bytes", 10**300),
        ("memory.inference", None),
        ("memory.kinds", {"parameter": -1}),
        ("memory.stages", [{"stage": "a"}]),
        ("cost.seconds_per_step", "fast"),
        ("cost.trainable_parameters", 1.5),
        ("training", None),
        ("training.loss", []),
        ("training.loss", [[1, 2]]),
        ("training.schedule", [{"first_step": 0, "fidelity": {"temporal": 1, "spatial": 1}}]),
        ("training.learned", {"gates": {"short": [[1.5, 1]]}}),
        ("diagnosis", {"false_positives": []}),
        ("forecast", {"predicted_peak_bytes": "much"}),
        ("weights.name", "\x00"),
        ("weights.sha256", "short"),
        ("environment.device", ["cpu"]),
    ],
)
def test_a_wrong_field_is_named(path, value):
    with pytest.raises(InputError, match=r"field '") as caught:
        check_record(changed(path, value))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 400


def test_nan_and_infinities_are_no_record(tmp_path):
    (tmp_path / "records").mkdir()
    for number, value in enumerate((math.nan, math.inf, -math.inf)):
        own = changed("metrics.map_average", value) | {"id": f"r{number}"}
        (tmp_path / "records" / f"r{number}.json").write_text(json.dumps(own))
    found = read_folder(tmp_path / "records")
    assert found.records == ()
    assert all("a finite number is needed" in line for line in found.problems)


def test_whole_records_pass_with_what_runs_add():
    check_fields(record())
    check_fields(record(status="error"))
    FINISHED(record(), "")
    check_fields(changed("environment.device", ""))
    check_fields(changed("seed", 0))


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
    for each in (one, other):
        each["dataset"]["name"] = each["weights"]["name"] = each["model"] = "w" * 200
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


def test_of_several_wrong_values_the_first_is_named():
    record = {"settings": {"a": [1, {"deep": 2**63}], "b": 2**63}, "last": 2**63}
    with pytest.raises(InputError, match=r"field 'record\.settings\.a\[1\]\.deep'"):
        plain_values(record, "record")
