"""Settings of one strategy side by side; which fidelity was seen when; how far gates opened."""

import dataclasses

import pytest
from made_records import folder, record

from bench.io.tables import bold_best, latex, markdown
from bench.report import build
from bench.report.figures import training as training_figures
from bench.report.tables import ablations
from bench.report.tables import comparison as tables

SETTINGS = {"taps": [], "gated": True}


def losa(average, seed=0, **settings):
    item = record("losa", seed, average, settings={**SETTINGS, **settings})
    changed = "".join(f"{key}{value}" for key, value in sorted(settings.items()))
    return {**item, "id": f"{item['id']}{changed}".replace("[", "").replace("]", "")}


def records():
    found = [record("head-only", seed, 0.3) for seed in (0, 1, 2)]
    found += [losa(0.4 + 0.01 * seed, seed) for seed in (0, 1, 2)]
    return [*found, losa(0.35, gated=False), losa(0.38, taps=[-1])]


def test_labels_name_only_what_is_unusual():
    [comparison] = tables.comparisons(records())
    labels = [row.label for row in comparison.rows]
    assert labels == ["head-only", "losa", "losa (gated=False)", "losa (taps=[-1])"]


def test_two_settings_without_a_usual_one_are_both_named():
    [comparison] = tables.comparisons([losa(0.4), losa(0.3, gated=False)])
    assert [row.label for row in comparison.rows] == ["losa (gated=False)", "losa (gated=True)"]


def test_fields_that_differ_have_columns_and_gains_are_paired():
    [comparison] = tables.comparisons(records())
    [item] = ablations.ablations(comparison)
    header, lines = ablations.cells(item)
    assert header[:4] == ["strategy", "gated", "taps", "n"]
    by_settings = {tuple(line[:3]): line[3:] for line in lines}
    assert list(by_settings) == [
        ("head-only", "", ""),
        ("losa", "yes", "all"),
        ("losa", "no", "all"),
        ("losa", "yes", "-1"),
    ]
    assert by_settings["losa", "yes", "all"][:3] == ["3", "41.0 ± 1.0", "+11.0"]
    assert by_settings["losa", "no", "all"][:4] == ["1", "35.0", "+5.0", "n = 1"]


def test_every_ablation_is_csv_markdown_and_latex(tmp_path):
    build(folder(tmp_path, *records()))
    files = {path.suffix: path.read_text() for path in (tmp_path / "tables").glob("ablation_losa_*")}
    assert set(files) == {".csv", ".md", ".tex"}
    assert "**41.0 ± 1.0**" in files[".md"]
    assert r"\textbf{41.0 $\pm$ 1.0}" in files[".tex"]
    assert "losa,yes,-1,1,38.0" in files[".csv"]
    assert "Settings of losa" in (tmp_path / "index.html").read_text()


def test_one_setting_is_no_ablation():
    [comparison] = tables.comparisons([record(), losa(0.4)])
    assert ablations.ablations(comparison) == []


def test_the_best_is_bold_ties_too_and_a_lone_number_is_not():
    header, lines = (
        ["name", "a", "b", "c"],
        [["x", "1.0", "", "3"], ["y", "1.0", "2", "12 ± 1"], ["z", "", "", "-"]],
    )
    assert bold_best(header, lines, ["a", "b", "c", "absent"]) == {(0, 1), (1, 1), (1, 3)}
    assert bold_best(header, lines, ["a"], among=[0, 2]) == frozenset()
    assert "| y | **1.0** | 2 | **12 ± 1** |" in markdown(header, lines, bold=frozenset({(1, 1), (1, 3)}))
    assert r"y & \textbf{1.0} & 2 & 12 $\pm$ 1 \\" in latex(header, lines, "", bold=frozenset({(1, 1)}))


@pytest.mark.parametrize(
    ("dataset", "grid", "expected"),
    [
        ("activitynet13", [0.5, 0.55, 0.75, 0.95], ("0.5", "0.75", "0.95")),
        ("activitynet13", [0.3, 0.5], ("0.3", "0.5")),
        ("thumos14", [0.3, 0.4, 0.5, 0.6, 0.7], ("0.3", "0.4", "0.5", "0.6", "0.7")),
        ("../own", [0.5, 0.55], ("0.5", "0.55")),
    ],
)
def test_thresholds_that_papers_print_have_columns(dataset, grid, expected):
    item = record()
    item["dataset"]["name"], item["protocol"]["tiou"] = dataset, grid
    item["metrics"]["map"] = {f"{tiou:g}": 0.3 for tiou in grid}
    [comparison] = tables.comparisons([item])
    assert tables.printed(comparison) == expected
    header, _ = tables.cells(comparison)
    assert [name for name in header if name.startswith("mAP@")] == [f"mAP@{tiou}" for tiou in expected]
    assert all(f"mAP@{tiou:g} (%)" in tables.frame(comparison).columns for tiou in grid)


def scheduled(strategy, entries, learned=None, **changes):
    item = record(strategy, **changes)
    item["protocol"]["steps"] = 20
    schedule = [
        {"first_step": first, "stage": "a", "fidelity": {"temporal": temporal, "spatial": spatial}}
        for first, temporal, spatial in entries
    ]
    return {**item, "training": {"loss": [[20, 1.0, 1.0]], "schedule": schedule, "learned": learned or {}}}


def test_spans_follow_the_schedule():
    [comparison] = tables.comparisons([scheduled("lofi", [(0, 1.0, 0.5), (5, 0.25, 1.0), (12, 1.0, 1.0)])])
    assert training_figures.spans(comparison.rows[0]) == [
        ((0, 5), (1.0, 0.5)),
        ((5, 7), (0.25, 1.0)),
        ((12, 8), (1.0, 1.0)),
    ]
    longer = scheduled("lofi-added", [(0, 1.0, 0.5), (10, 1.0, 1.0)])
    longer["training"]["loss"] = [[10, 1.0, 1.0], [30, 1.0, 1.0]]  # of 20 steps to which 10 are added
    [comparison] = tables.comparisons([longer])
    assert training_figures.spans(comparison.rows[0])[-1] == ((10, 20), (1.0, 1.0))
    assert comparison.rows[0].label == "lofi-added (30 steps)"
    [comparison] = tables.comparisons([scheduled("lofi", [(0, 1.0, 0.5), (10, 1.0, 1.0)])])
    assert comparison.rows[0].label == "lofi"


def test_gates_are_gathered_over_seeds_and_drawn(tmp_path):
    runs = [
        scheduled("losa", [(0, 1.0, 1.0)], {"gates": {"short": [[0, 0.1 * seed], [3, 0.2]]}}, seed=seed)
        for seed in (1, 2)
    ]
    runs.append(scheduled("lofi", [(0, 1.0, 0.5), (12, 1.0, 1.0)]))
    [comparison] = tables.comparisons(runs)
    row = next(row for row in comparison.rows if row.strategy == "losa")
    assert training_figures.gates(row) == {"short": {0: [0.1, 0.2], 3: [0.2, 0.2]}}
    names = sorted(path.name for path in training_figures.draw(comparison, tmp_path))
    slug = comparison.slug
    assert names == [f"{slug}_{name}.{kind}" for name in ("fidelity", "gates") for kind in ("pdf", "png")]
    assert all((tmp_path / "figures" / name).stat().st_size > 2000 for name in names)


@pytest.mark.parametrize("gate", [0.172, 0.173])  # the mean of three of them is a last bit more, and less
def test_equal_gates_are_drawn(gate, tmp_path):
    runs = [
        scheduled("losa", [(0, 1.0, 1.0)], {"gates": {"short": [[0, gate], [3, gate]]}}, seed=seed)
        for seed in (1, 2, 3)
    ]
    [comparison] = tables.comparisons(runs)
    assert f"{comparison.slug}_gates.png" in {
        path.name for path in training_figures.draw(comparison, tmp_path)
    }


def test_nothing_recorded_draws_nothing(tmp_path):
    [comparison] = tables.comparisons([record(), record("losa")])
    assert training_figures.draw(comparison, tmp_path) == []
    assert dataclasses.replace(comparison).rows == comparison.rows
