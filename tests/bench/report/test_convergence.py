"""Whether rows have converged: doubling the steps gains less than a point on tuning videos."""

import pytest
from made_records import folder, record, rows

from bench.report import build
from bench.report.analysis.convergence import converged, last_half, with_doublings
from bench.report.figures.convergence import curve
from bench.report.grouping import comparisons
from bench.report.tables import comparison as tables


def run(strategy, seed, steps, half, end, **changes):
    item = record(strategy, seed, 0.3, digest=f"{steps:064d}")
    item["id"] = f"{strategy}-{seed}-{steps}"
    item["protocol"] |= {"steps": steps, **changes}
    item["training"] = {
        "loss": [[steps, 1.0, 0.5]],
        "tuning": {
            "subset": "tuning",
            "points": [
                {
                    "step": step,
                    "stage": "head",
                    "seconds": step / 5,
                    "processor_seconds": step / 10,
                    "map_average": m,
                }
                for step, m in ((steps // 2, half), (steps, end))
            ],
        },
    }
    return item


RECORDS = [
    *(run("head-only", seed, 20, 0.2 + seed / 100, 0.3) for seed in (0, 1)),
    *(run("losa", seed, 20, 0.2, 0.4) for seed in (0, 1)),
    run("head-only", 0, 40, 0.2, 0.304),
    run("head-only", 1, 40, 0.2, 0.304),
    run("head-only", 7, 40, 0.2, 0.9),
    run("losa", 1, 40, 0.3, 0.43),
]


def table(records=RECORDS):
    return {item.steps: item for item in with_doublings(comparisons(records))}


def test_a_row_says_what_doubling_its_steps_gained():
    found = table()
    assert [converged(found[20], row) for row in found[20].rows] == ["yes (+0.4, n = 2)", "1 run (+3.0)"]
    assert [converged(found[40], row) for row in found[40].rows] == ["", ""]


def test_another_protocol_is_no_doubling():
    others = [run("head-only", 0, 40, 0.2, 0.301, batch_size=9)]
    assert table([*RECORDS[:4], *others])[20].doublings == {}


def test_the_last_half_is_what_the_second_half_gained():
    assert last_half(RECORDS[0]) == pytest.approx(10.0)
    assert last_half({**RECORDS[0], "training": {"loss": [[20, 1, 1]]}}) is None
    header, lines = tables.cells(table()[20])
    at = header.index("last half")
    assert [line[at] for line in lines] == ["+9.5", "+20.0"]
    assert [line[at + 1] for line in lines] == ["yes (+0.4, n = 2)", "1 run (+3.0)"]


@pytest.mark.parametrize("place", [("environment", "device"), ("dataset", "annotation_sha256")])
def test_a_run_of_another_device_or_data_is_no_doubling(place):
    others = [run("head-only", seed, 40, 0.2, 0.301) for seed in (0, 1)]
    assert table([*RECORDS[:4], *others])[20].doublings != {}
    for item in others:
        item[place[0]][place[1]] = "c" * 64
    assert all(not item.doublings for item in with_doublings(comparisons([*RECORDS[:4], *others])))


def test_the_last_half_is_empty_across_stages():
    item = run("lofi", 0, 20, 0.2, 0.4)
    item["training"]["tuning"]["points"][1]["stage"] = "joint"
    assert last_half(item) is None


def test_tables_without_curves_have_no_such_columns():
    [item] = with_doublings(comparisons([record("head-only"), record("losa")]))
    assert not {"last half", "converged"} & {*tables.cells(item)[0]}


def test_the_report_has_figures_columns_and_findings(tmp_path):
    build(folder(tmp_path, *RECORDS))
    names = {path.name for path in (tmp_path / "figures").iterdir()}
    for steps in (20, 40):
        base = f"mini_vit-t_source_{f'{steps:064d}'[:6]}"
        assert any(name.startswith(base) and name.endswith("_map-step.png") for name in names)
        assert any(name.startswith(base) and name.endswith("_map-processor-seconds.pdf") for name in names)
    lines = rows((tmp_path / "tables" / "comparison.csv").read_text())
    assert {line["strategy"]: line["converged"] for line in lines[:2]} == {
        "head-only": "yes (+0.4, n = 2)",
        "losa": "1 run (+3.0)",
    }
    said = (tmp_path / "findings.md").read_text()
    assert (
        "head-only has converged at 20 steps: twice as many gain +0.4 points on tuning videos (2 runs)."
        in said
    )
    assert "losa at 20 steps: twice as many gain +3.0 points on tuning videos in 1 run, too few" in said


def test_a_curve_is_the_mean_over_seeds_at_the_steps_that_all_have():
    row = table()[20].rows[0]
    [(x, mean, spread), (_, end, _)] = curve(row, "processor_seconds")
    assert (x, mean, end) == (1.0, pytest.approx(20.5), pytest.approx(30.0))
    assert spread == pytest.approx(0.7071, abs=1e-4)
