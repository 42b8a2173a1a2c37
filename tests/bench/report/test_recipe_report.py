"""Recipes in captions and labels, protocols of earlier versions, and the table of recipes in the guide."""

from pathlib import Path

import pytest
from made_records import record

from bench.config.digest import DEFAULTS_OF_NEW_FIELDS
from bench.config.presets import MINIATURE
from bench.report.grouping import comparisons
from bench.report.recipes import TrainingVideos, recipe_lines, recipe_report, recipes_table
from bench.report.tables.comparison import comparison_markdown
from datasets.recipes.recipes import read_recipe

ADATAD = read_recipe("thumos14:adatad")


def entry(*changed, name="thumos14:adatad", **settings):
    return {"name": name, "changed": list(changed), "settings": settings}


def test_the_caption_names_the_recipe_and_what_was_changed():
    plain = comparisons([record(recipe=entry()), record(seed=1, recipe=entry())])[0]
    assert ", recipe thumos14:adatad, " in plain.title
    changed = comparisons([record(recipe=entry("batch_size", "steps"))])[0]
    assert ", recipe thumos14:adatad with own batch_size, steps, " in changed.title
    assert changed.title in comparison_markdown([changed])
    assert "recipe" not in comparisons([record(), record(seed=1, recipe=None)])[0].title


def test_a_recipe_s_factors_are_in_the_label():
    found = comparisons(
        [
            record(recipe=entry()),
            record("losa", settings={"adapter_lr": 2.0}, recipe=entry(adapter_lr=2.0)),
            record("losa", seed=1, settings={"adapter_lr": 2.0}, recipe=entry(adapter_lr=2.0)),
        ]
    )[0]
    assert [row.label for row in found.rows] == ["head-only", "losa (adapter_lr=2.0)"]


def test_records_of_earlier_versions_are_named():
    fields = {"digest": "e" * 64, "tiou": [0.3, 0.5], "evaluation_subset": "testing"}
    assert "older protocol eeeeeeee" in comparisons([record(model="i3d", protocol=fields)])[0].title
    new = fields | {name: value for name, value in DEFAULTS_OF_NEW_FIELDS.items() if "." not in name}
    assert "older" not in comparisons([record(model="i3d", protocol=new)])[0].title
    # vit-t's protocol has not changed.
    assert "older" not in comparisons([record(model="vit-t", protocol=fields)])[0].title
    for name, value in DEFAULTS_OF_NEW_FIELDS.items():
        if "." not in name:
            assert getattr(MINIATURE, name) == value


def test_steps_and_seconds_of_a_recipe():
    report = recipe_report(ADATAD, TrainingVideos(200, 200 * 120.0), [])
    assert (report["steps_per_epoch"], report["steps"]) == (100, 6000)
    assert report["seconds_of_video"] == pytest.approx(12000 * 102.4)
    short = recipe_report(ADATAD, TrainingVideos(200, 200 * 50.0), [])
    assert short["seconds_of_video"] == pytest.approx(12000 * 50)
    assert recipe_report(ADATAD, TrainingVideos(), [])["steps"] is None
    whole = recipe_report(read_recipe("activitynet13:adatad"), TrainingVideos(9649, 9649 * 117.0), [])
    assert (whole["steps"], whole["seconds_of_video"]) == (9045, pytest.approx(9045 * 16 * 117))
    overlapping = recipe_report(read_recipe("thumos14:actionformer-features"), TrainingVideos(200), [])
    assert overlapping["seconds_of_video"] == pytest.approx(7000 * (2303 * 4 + 16) / 30)


def test_hours_are_those_of_records_with_the_recipe():
    cost = {"seconds_per_step": 1.5, "trainable_parameters": 1, "total_parameters": 2}
    timed = [
        record(model="vit-b", cost=cost, recipe=entry()),
        record(model="vit-b", seed=1, cost=cost | {"seconds_per_step": 2.5}, recipe=entry("steps")),
        record(model="vit-b", seed=2, cost=cost | {"seconds_per_step": 9.0}, recipe=entry("image_size")),
        record(model="vit-b", seed=3, cost=cost | {"seconds_per_step": 9.0}),
        record(model="vit-l", cost=cost, recipe=entry(name="thumos14:lofi-like")),
    ]
    report = recipe_report(ADATAD, TrainingVideos(200), timed)
    assert report["hours"] == [("vit-b", "head-only", "test processor", 2.0, pytest.approx(6000 * 2 / 3600))]
    assert "  vit-b, head-only, test processor: 2.000 s per step, 3.3 h" in recipe_lines(report)
    other = recipe_lines(recipe_report(ADATAD, TrainingVideos(200), timed, "vit-s"))
    assert "  hours: no record has measured seconds per step of this recipe" in other


def test_hours_have_the_steps_that_a_strategy_adds():
    cost = {"seconds_per_step": 2.0, "trainable_parameters": 1, "total_parameters": 2}
    made = record("lofi-added", model="tsm-r50", cost=cost, recipe=entry())
    made["protocol"]["steps"] = 40
    made["training"] = {"loss": [[1, 2.0, 1.0], [60, 1.0, 1.0]]}
    ((*_, seconds, hours),) = recipe_report(ADATAD, TrainingVideos(200), [made])["hours"]
    assert (seconds, hours) == (2.0, pytest.approx(9000 * 2 / 3600))


def test_the_guide_has_the_table_of_all_recipes():
    guide = (Path(__file__).parents[3] / "docs" / "recipes.md").read_text(encoding="utf-8")
    assert recipes_table() in guide
