"""Forecast rows made up here: their table, their figures, and rows that are none."""

import json
import re
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_kinds import (
    FLAG,
    NAME,
    NUMBER,
    OBJECT,
    POSITIVE,
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

from bench.io.errors import InputError
from bench.report.figures import memory as memory_figures
from bench.report.figures import step_timeline as step_figure
from bench.report.figures.strategies import main_rows, wanted_models
from bench.report.tables import forecasts as forecast_rows
from bench.report.tables import measured_memory
from strategies import NAMED_GROUPS


def row(strategy="head-only", backward="plain", frames=128, **changes):
    return {
        "model": "vit-s",
        "strategy": strategy,
        "settings": {},
        "backward": backward,
        "precision": "bfloat16",
        "frames": frames,
        "clips": frames // 16,
        "image_size": 112,
        "batch_size": 1,
        "device": "cuda",
        "predicted_peak_bytes": 10**9 * frames // 128,
        "predicted_reserved_bytes": 2 * 10**9,
        "kinds": {"parameter": 4 * 10**8, "activation": 6 * 10**8},
        "phases": {"forward": 10**9},
        "stages": [],
        **changes,
    }


def write(folder, *rows, name="rows"):
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(rows))
    return folder


def measured(peak, frames=128):
    return {
        "status": "ok",
        "model": "vit-s",
        "strategy": {"name": "head-only"},
        "protocol": {
            "window_clips": frames // 16,
            "image_size": 112,
            "batch_size": 1,
            "precision": "bfloat16",
            "backward": "plain",
        },
        "environment": {"device_type": "cuda"},
        "memory": {"peak_allocated_bytes": peak},
    }


def test_the_table_says_that_it_is_predicted(tmp_path):
    rows, problems = forecast_rows.read_forecasts(write(tmp_path / "forecasts", row("losa"), row()))
    assert problems == []
    assert [each.strategy for each in rows] == ["head-only", "losa"]
    text = forecast_rows.forecasts_markdown(rows)
    assert "Predicted" in text.splitlines()[0]
    assert "| vit-s | head-only | plain | 128 | 112 | 1 | bfloat16 | cuda | 1.000 | 2.000 | 0.400 |" in text
    assert forecast_rows.forecasts_csv(rows).count("\n") == 3


def test_rows_that_disagree_or_are_none_are_named(tmp_path):
    folder = write(tmp_path / "forecasts", row(), row(predicted_peak_bytes=5), row(model="../x"), [])
    (folder / "half.json").write_text("[{")
    rows, problems = forecast_rows.read_forecasts(folder)
    assert len(rows) == 1
    assert [line.split(":")[0] for line in problems] == ["half.json", *["rows.json"] * 3]
    assert "another row about the same has 1000000000" in problems[1]
    assert "field 'model' is '../x'" in problems[2]


WORD = kind(
    lambda v: isinstance(v, str) and re.fullmatch("[A-Za-z0-9][A-Za-z0-9._+-]{0,59}", v) is not None,
    st.from_regex("[A-Za-z0-9][A-Za-z0-9._+-]{0,59}", fullmatch=True),
    *("", "../x", "a b", "x" * 61, "a\n", "-a", "é"),
)
SIZES = table(WHOLE)
FIELDS = {
    **dict.fromkeys((("model",), ("strategy",), ("precision",), ("device",)), WORD),
    ("settings",): OBJECT,
    ("backward",): one_of("plain", "checkpointed", "streamed"),
    **dict.fromkeys((("frames",), ("clips",), ("image_size",), ("batch_size",)), POSITIVE),
    ("predicted_peak_bytes",): POSITIVE,
    ("kinds",): SIZES,
    ("phases",): SIZES,
}
OPTIONAL = {
    ("processes",): WHOLE,
    ("sharded",): FLAG,
    ("predicted_reserved_bytes",): maybe(WHOLE),
    ("timeline",): maybe(each(triple(NAME, WHOLE))),
}
STEP_FIELDS = {
    ("environment",): OBJECT,
    ("status",): kind(lambda v: isinstance(v, str), st.text(max_size=3)),
}
STEP_OPTIONAL = {
    ("measured",): maybe(kind(lambda v: False, st.nothing(), {})),
    ("measured", "peak_allocated_bytes"): POSITIVE,
    ("measured", "seconds_per_step"): NUMBER,
    ("backbone_operations",): maybe(POSITIVE),
    ("processes_beside",): maybe(WHOLE),
    ("device_seconds",): maybe(NUMBER),
}


@given(st.data())
def test_any_wrong_field_of_a_row_is_named_and_good_ones_pass(data):
    fields = FIELDS | OPTIONAL
    path = data.draw(st.sampled_from(list(fields)))
    refused(forecast_rows.parse, placed(row(), path, data.draw(fields[path].bad)), path, "row")
    refused(
        forecast_rows.parse, placed(row(), (other := data.draw(st.sampled_from(list(FIELDS)))), ...), other
    )
    good = placed(row(), path, value := data.draw(fields[path].good))
    made = forecast_rows.parse(good | {"more": [{"any": 1}]})
    if path[0] in ("kinds", "phases"):
        assert dict(getattr(made, path[0])) == value
    elif path[0] in ("model", "frames", "backward"):
        assert getattr(made, path[0]) == value


@given(st.data())
def test_any_wrong_field_of_a_step_is_named_and_good_ones_pass(data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "step.json"

        def read(entry):
            path.write_text(json.dumps(entry))
            return measured_memory.read_step(path)

        fields = STEP_FIELDS | STEP_OPTIONAL
        place = data.draw(st.sampled_from(list(fields)))
        bad = data.draw(fields[place].bad.filter(lambda v: v != 10**400))  # that is refused as it is read
        assert str(path) in refused(read, placed(step(), place, bad), place, "row")
        refused(read, placed(step(), (other := data.draw(st.sampled_from(list(STEP_FIELDS)))), ...), other)
        assert refused(read, placed(step(), ("frames",), 0), ("frames",))
        if place != ("measured",):
            assert read(placed(step(), place, data.draw(fields[place].good))).device_name
        assert read(placed(step(), ("measured",), None)).peak_bytes is None
        assert read(placed(step(), ("measured",), ...)).peak_bytes is None


def test_lines_say_what_stands_there_and_what_may():
    for change, line in (
        ({"frames": -1}, "field 'frames' is -1, allowed is a whole number from 1 on"),
        ({"backward": "x"}, "field 'backward' is 'x', allowed is one of plain, checkpointed, streamed"),
        ({"kinds": {"a": 1, "b": 0.5}}, "field 'kinds.b' is 0.5, allowed is a whole number from 0 on"),
        ({"timeline": [["load"]]}, "field 'timeline[0]' is ['load'], allowed is a list of 2 entries"),
        ({"settings": {"x": 2**63}}, f"field 'row.settings.x' is {2**63}, allowed is a number of less than"),
    ):
        with pytest.raises(InputError) as caught:
            forecast_rows.parse(row(**change))
        assert str(caught.value).startswith(line)


def test_the_row_with_a_timeline_stays(tmp_path):
    folder = write(tmp_path / "forecasts", row(), row(timeline=[["load", 5], ["forward", 9]]))
    [kept], problems = forecast_rows.read_forecasts(folder)
    assert (kept.timeline, problems) == ((("load", 5), ("forward", 9)), [])


def test_figures_are_drawn_and_are_the_same_twice(tmp_path):
    rows = [forecast_rows.parse(row(f, b, n)) for f in ("losa", "mine") for b in ("plain", "streamed")
            for n in (128, 256)]  # fmt: skip
    rows += [forecast_rows.parse(row(timeline=[["load", 5 * 10**8], ["forward", 10**9]]))]
    rows += [forecast_rows.parse(row(model="vit-g"))]
    first = {path: path.read_bytes() for path in memory_figures.draw(rows, [measured(10**9)], tmp_path)}
    assert sorted({path.stem.split("_")[1] for path in first}) == ["frames", "kinds", "model", "timeline"]
    second = {path: path.read_bytes() for path in memory_figures.draw(rows, [measured(10**9)], tmp_path)}
    assert second == first
    other = {path: path.read_bytes() for path in memory_figures.draw(rows, [measured(2 * 10**9)], tmp_path)}
    assert other != first


def test_measured_runs_know_their_frames():
    [point] = memory_figures.measured([measured(7, frames=256)], [forecast_rows.parse(row())])
    assert (point.frames, point.peak_bytes, point.backward) == (256, 7, "plain")


def test_the_configuration_that_most_share_is_split_by_kind():
    rows = [forecast_rows.parse(each) for each in (row(frames=256), row(), row("losa"))]
    assert [each.frames for each in memory_figures.largest_common(rows)] == [128, 128]


def test_many_strategies_have_a_figure_of_their_own_and_no_lines(tmp_path, monkeypatch):
    field = (*NAMED_GROUPS["field"], *NAMED_GROUPS["controls"])
    names = dict.fromkeys(("head-only", "losa", "somebodys", *field))
    found = [row(name, frames=frames) for name in names for frames in (128, 256)]
    found += [row("losa", model="vit-g"), *(row(name, model="vit-b") for name in names)]
    rows, _ = forecast_rows.read_forecasts(write(tmp_path / "forecasts", *found))
    assert wanted_models([each for each in rows if each.frames == 128]) == ["vit-s", "vit-b"]
    assert {each.strategy for each in main_rows(rows)} == {"head-only", "losa", "somebodys", "mlp-control"}
    lines = []
    monkeypatch.setattr(
        memory_figures,
        "peak_along",
        lambda axis, group, *_: lines.append(each.strategy for each in group) or [],
    )
    files = memory_figures.draw(rows, [], tmp_path)
    assert not {name for group in lines for name in group} & (set(field) - {"mlp-control"})
    drawn = [file.name for file in files if "strategies" in file.name and file.suffix == ".png"]
    assert sorted(drawn) == [
        f"memory_strategies_{frames}-frames_112-px_batch-1_bfloat16_cuda.png" for frames in (128, 256)
    ]
    assert memory_figures.by_strategy(rows[:3], "", tmp_path / "few") == []


def test_thinning_loses_no_peak():
    sizes = [float(i % 7) for i in range(20000)]
    sizes[12345] = 99.0
    positions, kept = step_figure.thinned(sizes)
    assert max(kept) == 99.0
    assert 12345 in positions
    assert len(kept) <= step_figure.MAX_POINTS + 2


def step(peak=8 * 10**8, **changes):
    made = {"peak_allocated_bytes": peak, "seconds_per_step": 0.5}
    return {
        **row(),
        "status": "ok",
        "message": None,
        "measured": made,
        "environment": {"device": "a card"},
        **changes,
    }


def test_measured_steps_stand_beside_their_forecast(tmp_path):
    failed = step(strategy="losa", status="out-of-memory", message="no <room>", measured=None)
    known = step(inference={"predicted_peak_bytes": 4 * 10**8})
    known["measured"]["inference"] = {"peak_allocated_bytes": 3 * 10**8}
    for number, entry in enumerate((known, failed, {"model": "vit-s"}, step(measured={}), step(frames=256))):
        (tmp_path / f"{number}.json").write_text(json.dumps(entry))
    steps, problems = measured_memory.read_steps(tmp_path)
    assert [line.split(":")[0] for line in problems] == ["2.json", "3.json"]
    text = measured_memory.contents(steps)["memory.md"]
    assert "| a card | 0.800 | 1.000 | +25.00 | 0.300 | 0.400 | 0.500 | ok |" in text
    # Rows of earlier versions say nothing of inference.
    assert "| a card | 0.800 | 1.000 | +25.00 |  |  | 0.500 | ok |" in text
    assert "| a card |  | 1.000 |  |  |  |  | out-of-memory: no &lt;room> |" in text
    assert measured_memory.contents([]) == {}


def test_measured_steps_are_points_of_the_figures(tmp_path):
    rows = [forecast_rows.parse(row(frames=n)) for n in (128, 256)]
    (tmp_path / "step.json").write_text(json.dumps(step()))
    steps, _ = measured_memory.read_steps(tmp_path)
    without = [path.read_bytes() for path in memory_figures.draw(rows, [], tmp_path)]
    assert [path.read_bytes() for path in memory_figures.draw(rows, [], tmp_path, steps)] != without


def test_a_strategy_that_was_only_measured_is_in_the_legend(tmp_path):
    rows, _ = forecast_rows.read_forecasts(write(tmp_path / "forecasts", row()))
    point = memory_figures.Point("adatad", "plain", "vit-s", 128, 112, 1, "bfloat16", "cuda", 10**9)
    labels = [handle.get_label() for handle in memory_figures._legend(rows, [point])]
    assert labels == ["head-only", "adatad", "predicted, plain", "measured"]
