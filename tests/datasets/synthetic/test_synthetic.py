import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from small import SMALL_SYNTHETIC

from bench.config.presets import MINIATURE, SYNTHETIC, default_protocol
from bench.io.errors import InputError
from bench.models import SOURCE_WEIGHTS, shipped_weights
from bench.plan.request import run_forecast
from bench.run.memory_check import forecast_request
from bench.run.specification import RunSpecification, resolve_run
from datasets import load_dataset, read_card
from datasets.miniature import read_pictures_sha256
from datasets.miniature.motions import perform
from datasets.synthetic import SyntheticConfig, generate
from datasets.synthetic.config import PICTURES_SHA256, SUBSETS
from datasets.synthetic.generate import annotations
from datasets.synthetic.scenes import target_scene, target_timeline
from datasets.synthetic.timeline import ACTORS, CLASSES, MARKER, PASSER

SMALL_ANNOTATIONS_SHA256 = "69335c332b3dc47095d4bd4e643aecaa8e257c86ebaa84d7f49488f64b3916b2"
DEFAULT = SyntheticConfig()
VIDEOS = [("training", index) for index in range(60)]


@pytest.fixture(scope="module")
def small_folder(made_once: Callable[[str, Callable[[Path], None]], Path]) -> Path:
    made = made_once("small-synthetic", lambda folder: generate(SMALL_SYNTHETIC, folder, workers=1) and None)
    return made / f"synthetic-{SMALL_SYNTHETIC.version}-{SMALL_SYNTHETIC.digest}"


def test_the_annotations_of_a_seed_are_frozen(small_folder: Path) -> None:
    content = (small_folder / "annotations.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == SMALL_ANNOTATIONS_SHA256
    assert json.loads(content) == annotations(SMALL_SYNTHETIC)


def test_the_data_set_is_loaded_with_its_videos_and_pictures(small_folder: Path) -> None:
    dataset = load_dataset("synthetic", cache=small_folder.parent, config=SMALL_SYNTHETIC)
    assert dataset.variant == f"{small_folder.name}-{read_pictures_sha256(small_folder)[:8]}"
    assert dataset.classes == CLASSES == read_card("synthetic").classes
    assert [len(dataset.subset(name)) for name in SUBSETS] == [2, 1, 1]
    assert tuple(read_card("synthetic").subsets.values()) == SUBSETS
    assert read_card("synthetic").frames_per_second == DEFAULT.frames_per_second


def test_it_takes_no_data_and_has_no_variants(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data: got .*, but synthetic makes its own videos; leave it out"):
        load_dataset("synthetic", data=tmp_path, cache=tmp_path)
    with pytest.raises(InputError, match="synthetic has no variants"):
        load_dataset("synthetic:2", cache=tmp_path)


def test_a_long_range_class_follows_from_the_only_cue_in_reach() -> None:
    low, high = DEFAULT.cue_gap
    seen = set()
    for subset, index in VIDEOS:
        timeline = target_timeline(DEFAULT, subset, index)[1]
        for instance in timeline.instances:
            kind, _, direction = str(instance.label).partition("-after-")
            if not direction:
                continue
            before = [cue for cue in timeline.cues if cue.end <= instance.start + high]
            gaps = [(instance.start - cue.end, cue.direction) for cue in before]
            last = min(gap for gap in gaps if gap[0] > 0)
            assert low <= last[0] <= high
            assert last[1] == direction
            assert not any(cue.start <= instance.start <= cue.end for cue in timeline.cues)
            seen.add((kind, direction))
    assert seen == {("bounce", "left"), ("bounce", "right")}


def test_an_instance_lies_within_a_longer_motion_and_the_marker_tells_its_bounds() -> None:
    decoys = instances = 0
    for subset, index in VIDEOS:
        timeline = target_timeline(DEFAULT, subset, index)[1]
        motions = [event for event in timeline.motions if event.sprite < ACTORS]
        ticks = [event for event in timeline.motions if event.motion.kind == "flick"]
        instances += len(timeline.instances)
        decoys += len(motions) - len(timeline.instances)
        assert len(ticks) == 2 * len(timeline.instances)
        for instance in timeline.instances:
            (own,) = [each for each in motions if each.start < instance.start and instance.end < each.end]
            assert own.sprite == instance.sprite
            low, high = DEFAULT.margin_seconds
            assert low - 1e-3 <= instance.start - own.start <= high + 1e-3
            assert low - 1e-3 <= own.end - instance.end <= high + 1e-3
            middles = [(tick.start + tick.end) / 2 for tick in ticks]
            for bound in (instance.start, instance.end):
                assert min(abs(middle - bound) for middle in middles) < 1e-6
        assert all(event.sprite in range(PASSER) for event in timeline.motions)
        assert all(event.sprite == MARKER for event in ticks)
    assert 0.22 < decoys / (decoys + instances) < 0.34


def test_the_motions_of_the_marker_in_a_short_range_pair_differ() -> None:
    seen = set()
    for subset, index in VIDEOS:
        timeline = target_timeline(DEFAULT, subset, index)[1]
        for instance in timeline.instances:
            if "-with-" in str(instance.label):
                (own,) = [
                    event
                    for event in timeline.motions
                    if (event.sprite, event.start, event.end) == (MARKER, instance.start, instance.end)
                ]
                offsets = perform(own.motion, np.linspace(0.1, 0.9, 9), own.end - own.start)
                seen.add((instance.label, bool(offsets.y.any()), bool(offsets.brightness.any())))
    assert seen == {("shake-with-blink", False, True), ("shake-with-nod", True, False)}


def test_the_passer_is_outside_except_during_a_cue() -> None:
    for index in range(8):
        scene, timeline = target_scene(DEFAULT, "tuning", index), target_timeline(DEFAULT, "tuning", index)[1]
        times = (np.arange(scene.frames) + 0.5) / DEFAULT.frames_per_second
        there = np.zeros(scene.frames, dtype=bool)
        for cue in timeline.cues:
            during = (times >= cue.start) & (times <= cue.end)
            steps = np.diff(scene.tracks[PASSER].x[during])
            assert (steps > 0).all() if cue.direction == "right" else (steps < 0).all()
            there |= during
        reach = 1.3 * scene.sprites[PASSER].radius
        assert (scene.tracks[PASSER].x[~there] < -reach).all()


def test_more_videos_change_none_of_the_others() -> None:
    few = annotations(SMALL_SYNTHETIC)["database"]
    many = annotations(replace(SMALL_SYNTHETIC, training_videos=4))["database"]
    assert {key: many[key] for key in few} == few
    assert len(many) == len(few) + 2


def test_a_configuration_survives_json_and_bad_ones_are_named() -> None:
    assert SyntheticConfig.from_json(json.loads(json.dumps(asdict(SMALL_SYNTHETIC)))) == SMALL_SYNTHETIC
    for field, value in [
        ("size", 31),
        ("cue_gap", (3.0, 2.0)),
        ("decoy_share", 1.5),
        ("frames_per_second", 0),
    ]:
        with pytest.raises(ValueError, match=field):
            replace(DEFAULT, **{field: value})  # type: ignore[arg-type]


def test_preset_and_weights_follow_from_the_data_set() -> None:
    assert default_protocol("vit-t", dataset="synthetic") is SYNTHETIC
    assert default_protocol("vit-t", dataset="miniature") is MINIATURE
    spec = RunSpecification("vit-t", "head-only", {}, "synthetic", None, None, "source", 0, "cpu", {}, "r")
    assert spec.protocol().frames_per_second == DEFAULT.frames_per_second
    assert spec.weights_path() == shipped_weights("source-0", "synthetic")
    assert replace(spec, weights="source-1").weights_path() == shipped_weights("source-1", "synthetic")
    assert replace(spec, dataset="miniature").weights_path() == SOURCE_WEIGHTS
    with pytest.raises(InputError, match="weights: source-1 is of the data set synthetic"):
        replace(spec, weights="source-1", dataset="miniature").weights_path()


def test_a_run_s_forecast_starts_from_the_preset_of_its_data_set(small_folder: Path) -> None:
    dataset = load_dataset("synthetic", cache=small_folder.parent, config=SMALL_SYNTHETIC)
    spec = RunSpecification("vit-t", "head-only", {}, "synthetic", None, None, "source", 0, "cpu", {}, "r")
    request = forecast_request(resolve_run(spec, dataset))
    large = run_forecast(request)["predicted_peak_bytes"]
    assert large > 1.5 * run_forecast(replace(request, dataset="miniature"))["predicted_peak_bytes"]


@pytest.mark.slow
def test_the_default_pictures_are_those_in_the_source_code(tmp_path: Path) -> None:
    assert read_pictures_sha256(generate(DEFAULT, tmp_path)) == PICTURES_SHA256["target"]
