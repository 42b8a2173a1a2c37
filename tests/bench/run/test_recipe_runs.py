"""Recipes in runs: which one a run has, what replaces what, and dry runs at the true sizes of data sets."""

import contextlib
import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch
from conftest import ROOT, records_of, run_here

from bench.config.presets import MINIATURE, STANDARD
from bench.data.frame_loader import FrameLoader
from bench.data.frame_store import open_store
from bench.data.time_grid import head_steps_per_clip
from bench.data.windows import TrainingSampler
from bench.io.errors import InputError
from bench.models import build_backbone
from bench.records.record import check_record, read_record
from bench.run.memory_check import forecast_request, predict
from bench.run.options import parser, specifications
from bench.run.record_builder import empty_record
from bench.run.specification import RunSpecification, resolve_run
from datasets import read_card
from datasets.sampling import windows as window_starts


def specification(dataset="thumos14", model="vit-s", strategy="head-only", settings=None, **more):
    fields = {"data": None, "cache": None, "seed": 0, "device": "cuda", "protocol_changes": {}, **more}
    return RunSpecification(
        model, strategy, settings or {}, dataset, weights="random", results="unused", **fields
    )


def test_a_run_has_its_data_set_s_recipe():
    protocol = specification("thumos14:211").protocol()
    assert (protocol.image_size, protocol.batch_size, protocol.epochs, protocol.steps) == (160, 2, 60, 0)
    assert protocol.evaluation_subset == "test"
    assert specification("activitynet13", "tsm-r50").protocol().window_clips == 100
    named = specification("my/annotations.json", recipe="thumos14:adatad").protocol()
    own = specification("my/annotations.json").protocol()
    assert own == STANDARD
    assert (named.image_size, named.evaluation_subset) == (160, "testing")


def test_vit_t_keeps_the_miniature_s_protocol_unless_a_recipe_is_named():
    assert specification("miniature", "vit-t").protocol() == MINIATURE
    assert MINIATURE.digest().startswith("3c4511290e57")
    kept = specification("activitynet13", "vit-t").protocol()
    card = {"tiou": kept.tiou, "training_subset": "training", "evaluation_subset": "validation"}
    assert kept == dataclasses.replace(MINIATURE, resampling="fixed", **card)
    named = specification("thumos14", "vit-t", recipe="adatad").protocol()
    assert (named.image_size, named.positions, named.epochs) == (160, "interpolated", 60)


def test_without_a_recipe_the_model_s_own_protocol_holds():
    protocol = specification("activitynet13", recipe="none").protocol()
    assert (protocol.resampling, protocol.image_size, protocol.batch_size) == ("fixed", 224, 1)
    assert specification("thumos14", recipe="none").protocol() == STANDARD_ON_THUMOS14


STANDARD_ON_THUMOS14 = dataclasses.replace(STANDARD, training_subset="validation", evaluation_subset="test")


def test_what_is_set_by_hand_replaces_a_recipe_s_values():
    changed = specification(protocol_changes={"batch_size": "4", "truncation": "0.5", "tiou": "0.5"})
    protocol = changed.protocol()
    assert (protocol.batch_size, protocol.truncation, protocol.tiou) == (4, 0.5, (0.5,))
    assert protocol.epochs == 60
    by_recipe = specification(strategy="losa").build_strategy()
    by_hand = specification(strategy="losa", settings={"adapter_lr": "0.5"}).build_strategy()
    assert (by_recipe.adapter_lr, by_hand.adapter_lr) == (2, 0.5)
    assert specification(strategy="full-finetune").build_strategy().backbone_lr == 0.1
    assert specification("miniature", "vit-t", "full-finetune").build_strategy().backbone_lr == 0.5


def test_steps_and_epochs_replace_each_other():
    for changes, expected in (
        ({"steps": "7"}, (7, None, 7)),
        ({"epochs": "2"}, (0, 2, 200)),
        ({"epochs": "0.5"}, (0, 0.5, 50)),
        ({}, (0, 60, 6000)),
    ):
        protocol = specification(protocol_changes=changes).protocol()
        assert (protocol.steps, protocol.epochs, protocol.with_steps(200).steps) == expected


def test_a_forecast_is_of_the_recipe_s_protocol(tmp_path):
    spec = specification("thumos14", strategy="losa", data=str(made("thumos14", tmp_path)))
    request = forecast_request(resolve_run(spec, spec.load_dataset()))
    assert request.protocol["image_size"] == "160"
    assert request.settings == {"adapter_lr": "2"}


def test_an_unknown_recipe_is_one_line_with_the_known_ones():
    words = ["--model", "vit-s", "--weights", "random", "--dataset", "thumos14", "--recipe", "adatta"]
    with pytest.raises(
        InputError, match=r"--recipe: got 'adatta', known are .*, thumos14:adatad, "
    ) as caught:
        specifications(parser().parse_args([*words, "--device", "cpu"]))
    assert "\n" not in str(caught.value)


def test_a_batch_is_divided_before_the_steps_are_known():
    words = ["--model", "vit-s", "--weights", "random", "--dataset", "thumos14", "--strategies", "head-only"]
    specs = specifications(parser().parse_args([*words, "--device", "cpu", "--processes", "2"]))
    assert specs[0].protocol().steps == 0
    with pytest.raises(InputError, match="allowed is at most the batch_size of 2"):
        specifications(parser().parse_args([*words, "--device", "cpu", "--processes", "3"]))


def made(card_name, folder, variant=""):
    """Make annotations of a card's variant, with its numbers of videos and instances, and empty files."""
    rng = np.random.default_rng(5)
    card = read_card(card_name)
    chosen = card.variant(variant)
    database = {}
    for subset, count in chosen.videos.items():
        names = [f"video_{subset}_{number:07d}" for number in range(count)]
        instances = dict.fromkeys(names, 1)
        for index in rng.integers(0, count, chosen.instances[subset] - count):
            instances[names[index]] += 1
        for name in names:
            duration = float(np.clip(rng.gamma(1.5, 100), 8, 1700 if card_name == "thumos14" else 240))
            bounds = np.sort(rng.uniform(0, duration, 2 * instances[name])).reshape(-1, 2)
            segments = [
                {"segment": [float(start), float(end)], "label": str(rng.choice(card.classes))}
                for start, end in bounds
            ]
            database[name] = {"subset": subset, "duration": duration, "annotations": segments}
            (folder / f"{name}.mp4").touch()
    (folder / card.annotation_files[0]).write_text(json.dumps({"database": database}))
    return folder


@contextlib.contextmanager
def training_store(run, dataset, clip_frames):
    with torch.device("meta"):
        geometry = build_backbone(run.spec.model, clip_frames=clip_frames).geometry
    with contextlib.closing(FrameLoader(1)) as loader:
        subset = run.protocol.training_subset
        yield open_store(dataset, subset, run.protocol, geometry, loader), geometry


@pytest.mark.slow
def test_a_dry_run_on_thumos14_at_its_true_size(tmp_path):
    spec = specification("thumos14", data=str(made("thumos14", tmp_path)))
    dataset = spec.load_dataset()
    run = resolve_run(spec, dataset)
    protocol = run.protocol
    assert (len(dataset.videos), protocol.steps) == (412, 6000)
    with training_store(run, dataset, protocol.clip_frames) as (store, geometry):
        assert head_steps_per_clip(protocol, geometry) * protocol.window_clips == 768
        sampler = TrainingSampler(store, protocol, dataset.classes, 0)
        epoch = list(itertools.chain(*(sampler.windows(step) for step in range(100))))
        assert sorted(window.video for window in epoch) == sorted(store.videos)
        assert all(window.clips == 48 for window in epoch)
        assert sum(len(sampler.targets(window).labels) > 0 for window in epoch) > 190
        grid = next(iter(store.clips.values())).grid
        assert grid.step_seconds == pytest.approx(4 / 30)
        for name, video in store.videos.items():
            starts = list(window_starts(store.clips[name].count, 48, 24))
            assert starts[-1] * 16 / 7.5 + 102.4 > video.duration - 1 / 7.5  # less than a frame is left out
    forecast = predict(run)
    assert forecast["reason"] is None
    assert 0 < forecast["predicted_peak_bytes"] < 24e9


@pytest.mark.slow
@pytest.mark.parametrize(("model", "window", "steps"), [("vit-s", 48, 192), ("tsm-r18", 100, 100)])
def test_a_dry_run_on_activitynet_at_its_true_size(tmp_path, model, window, steps):
    data = str(made("activitynet13", tmp_path, "4728"))
    spec = specification("activitynet13:4728", model, "full-finetune", data=data)
    dataset = spec.load_dataset()
    run = resolve_run(spec, dataset)
    protocol = run.protocol
    assert (len(dataset.videos), len(dataset.classes)) == (9649 + 4728, 200)
    assert (protocol.steps, protocol.batch_size) == (15 * 603, 16)
    with training_store(run, dataset, protocol.clip_frames) as (store, geometry):
        assert head_steps_per_clip(protocol, geometry) * window == steps
        sampler = TrainingSampler(store, protocol, dataset.classes, 0)
        for step in (0, 602, 603, 9044):
            for each in sampler.windows(step):
                assert (each.start, each.clips) == (0, window)
                targets = sampler.targets(each)
                assert len(targets.labels) == len(store.videos[each.video].instances)
                assert targets.segments.max() <= steps - 0.5
    forecast = predict(run)
    assert forecast["reason"] is None
    assert forecast["predicted_peak_bytes"] > 0


def test_a_record_names_the_recipe_its_changes_and_its_factors(tmp_path):
    data = str(made("thumos14", tmp_path))
    changes = {"steps": "4", "truncation": "0.75"}  # the second is the recipe's own
    spec = specification("thumos14", strategy="losa", data=data, protocol_changes=changes)
    dataset = spec.load_dataset()
    record = empty_record(resolve_run(spec, dataset))
    assert record["recipe"] == {
        "name": "thumos14:adatad",
        "changed": ["steps"],
        "settings": {"adapter_lr": 2},
    }
    check_record(json.loads(json.dumps(record)))
    by_hand = dataclasses.replace(spec, strategy_settings={"adapter_lr": "2"}, protocol_changes={})
    record = empty_record(resolve_run(by_hand, dataset))
    assert record["recipe"] == {"name": "thumos14:adatad", "changed": [], "settings": {}}
    classified = {"classifier": "scores.json 0123456789ab"}
    of_classes = specification("activitynet13:4728", protocol_changes=classified)
    (tmp_path / "anet").mkdir()
    of_classes = dataclasses.replace(of_classes, data=str(made("activitynet13", tmp_path / "anet", "4728")))
    run = resolve_run(of_classes, of_classes.load_dataset())
    assert empty_record(run)["recipe"]["changed"] == []
    assert not run.protocol.nms.multiclass_nms
    none = dataclasses.replace(spec, recipe="none")
    assert empty_record(resolve_run(none, dataset))["recipe"] is None


def test_a_run_trains_with_a_recipe(tiny_dataset, tmp_path):
    small = (
        "image_size=32,steps_per_clip=none,clip_frames=none,backward=plain,batch_size=2,head.stem_layers=1"
    )
    process = run_here(
        tiny_dataset, tmp_path, "--recipe", "thumos14:adatad", "--protocol", small, "--protocol", "epochs=1",
        strategies="full-finetune",
    )  # fmt: skip
    assert process.returncode == 0, process.stderr
    record = records_of(tmp_path)["full-finetune"]
    assert record["status"] == "ok", record["message"]
    assert record["recipe"]["name"] == "thumos14:adatad"
    assert record["strategy"]["backbone_lr"] == 0.1
    protocol = record["protocol"]
    assert (protocol["learning_rate"], protocol["positions"]) == (1e-4, "interpolated")
    assert protocol["schedule_length"] == pytest.approx(100 / 60)


def test_older_records_have_no_recipe():
    paths = sorted((ROOT / "results" / "miniature-1" / "records").glob("*.json"))
    assert paths
    assert all("recipe" not in read_record(path) for path in paths[:3])
