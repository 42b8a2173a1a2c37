"""Forecast rows made up here: their table, their figures, and rows that are none."""

import json

import pytest

from bench.io.errors import InputError
from bench.report.figures import memory as memory_figures
from bench.report.figures import step_timeline as step_figure
from bench.report.tables import forecasts as forecast_rows
from bench.report.tables import measured_memory


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


@pytest.mark.parametrize(
    "field", ["frames", "predicted_peak_bytes", "backward", "kinds", "settings", "timeline"]
)
def test_a_wrong_field_is_named(field):
    with pytest.raises(InputError, match=field):
        forecast_rows.parse(row(**{field: -1}))


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


def test_thinning_loses_no_peak():
    sizes = [float(i % 7) for i in range(20000)]
    sizes[12345] = 99.0
    positions, kept = step_figure.thinned(sizes)
    assert max(kept) == 99.0
    assert 12345 in positions
    assert len(kept) <= step_figure.MOST_POINTS + 2


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
    for number, each in enumerate((step(), failed, {"model": "vit-s"}, step(measured={}))):
        (tmp_path / f"{number}.json").write_text(json.dumps(each))
    steps, problems = measured_memory.read_steps(tmp_path)
    assert [line.split(":")[0] for line in problems] == ["2.json", "3.json"]
    text = measured_memory.contents(steps)["memory.md"]
    assert "| a card | 0.800 | 1.000 | +25.00 | 0.500 | ok |" in text
    assert "| a card |  | 1.000 |  |  | out-of-memory: no &lt;room> |" in text
    assert measured_memory.contents([]) == {}


def test_measured_steps_are_points_of_the_figures(tmp_path):
    rows = [forecast_rows.parse(row(frames=n)) for n in (128, 256)]
    (tmp_path / "step.json").write_text(json.dumps(step()))
    steps, _ = measured_memory.read_steps(tmp_path)
    without = [path.read_bytes() for path in memory_figures.draw(rows, [], tmp_path)]
    assert [path.read_bytes() for path in memory_figures.draw(rows, [], tmp_path, steps)] != without
