import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from small import SMALL

from bench.errors import InputError
from datasets.miniature import MiniatureConfig, default_cache_dir, generate, generate_source, read_source
from datasets.miniature.__main__ import main
from datasets.miniature.generate import annotations
from datasets.miniature.motions import DISTRACTORS, SOURCE_CLASSES, TARGET_CLASSES, MotionRange, perform
from datasets.miniature.rendering import render
from datasets.miniature.scenes import Scene, source_label, source_scene, target_scene
from datasets.video import probe, read_frames

SMALL_ANNOTATIONS_SHA256 = "cff776a0c0fd762474ca8342f2efd601e999fb71da8bc4d5d47563561900b573"


def test_the_annotations_of_a_seed_are_frozen(tmp_path: Path) -> None:
    content = (generate(SMALL, tmp_path, workers=1) / "annotations.json").read_bytes()
    assert hashlib.sha256(content).hexdigest() == SMALL_ANNOTATIONS_SHA256
    assert json.loads(content) == annotations(SMALL)


def test_another_seed_is_another_data_set() -> None:
    other = replace(SMALL, seed=1)
    assert annotations(other)["database"] != annotations(SMALL)["database"]
    assert other.digest != SMALL.digest


def test_more_videos_change_none_of_the_others() -> None:
    few, many = annotations(SMALL)["database"], annotations(replace(SMALL, training_videos=4))["database"]
    assert {key: many[key] for key in few} == few
    assert len(many) == len(few) + 2


@pytest.mark.parametrize("make_scene", [target_scene, source_scene])
def test_rendered_pictures_repeat(make_scene: Callable[[MiniatureConfig, str, int], Scene]) -> None:
    scenes = [make_scene(SMALL, "training", 3) for _ in range(2)]
    first, second = (np.concatenate(list(render(scene, SMALL.size))) for scene in scenes)
    assert first.shape == (scenes[0].frames, 64, 64, 3)
    np.testing.assert_array_equal(first, second)


def test_the_worker_count_changes_nothing(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    alone = generate(SMALL, tmp_path / "alone", workers=1)
    shared = generate(SMALL, tmp_path / "shared", lambda done, total: seen.append((done, total)), workers=2)
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert (alone / "annotations.json").read_bytes() == (shared / "annotations.json").read_bytes()
    names = sorted(path.name for path in (alone / "videos").iterdir())
    assert names == sorted(path.name for path in (shared / "videos").iterdir())
    for name in names:
        pictures = [
            read_frames(folder / "videos" / name, [1.05, 4.05]).astype(int) for folder in (alone, shared)
        ]
        assert np.abs(pictures[0] - pictures[1]).max() <= 8


def test_files_hold_what_was_rendered_at_the_time_it_was_rendered_for(tmp_path: Path) -> None:
    folder = generate(SMALL, tmp_path, workers=1)
    path = folder / "videos" / "training_0000.mp4"
    scene = target_scene(SMALL, "training", 0)
    rendered = np.concatenate(list(render(scene, SMALL.size))).astype(int)
    info = probe(path)
    assert (info.frames, info.width, info.height) == (scene.frames, 64, 64)
    assert info.duration == pytest.approx(scene.frames / 10)
    read = read_frames(path, (np.arange(scene.frames) + 0.5) / 10).astype(int)
    assert np.abs(read - rendered).mean() < 8
    middle = scene.frames // 2
    assert all(
        np.abs(read[middle] - rendered[middle]).mean() < np.abs(read[middle] - rendered[other]).mean()
        for other in (middle - 1, middle + 1)
    )


def test_a_second_call_returns_at_once_and_leaves_no_draft(tmp_path: Path) -> None:
    calls: list[int] = []
    first = generate(SMALL, tmp_path, lambda done, _: calls.append(done), workers=1)
    second = generate(SMALL, tmp_path, lambda done, _: calls.append(done), workers=1)
    assert first == second
    assert calls == [1, 2, 3, 4]
    assert list(tmp_path.iterdir()) == [first]


def test_a_stopped_generation_leaves_nothing(tmp_path: Path) -> None:
    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for workers in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            generate(SMALL, tmp_path, stop, workers=workers)
    assert list(tmp_path.iterdir()) == []


def test_two_processes_at_once_make_one_data_set(tmp_path: Path) -> None:
    code = (
        "from test_miniature import SMALL, generate; from pathlib import Path;"
        f"print(generate(SMALL, Path({str(tmp_path)!r}), workers=1))"
    )
    places = [str(Path(__file__).parents[2]), str(Path(__file__).parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(places), "OMP_NUM_THREADS": "1"}
    started = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    printed = {process.communicate(timeout=120)[0] for process in started}
    assert [process.returncode for process in started] == [0, 0]
    assert len(printed) == 1
    assert [path.name for path in tmp_path.iterdir()] == [Path(printed.pop().strip()).name]


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="the cache cannot be written"):
        generate(SMALL, tmp_path / "file" / "cache", workers=1)


def test_the_default_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TALBENCH_CACHE", str(tmp_path))
    assert default_cache_dir() == tmp_path
    monkeypatch.delenv("TALBENCH_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_cache_dir() == tmp_path / ".cache" / "talbench"


def test_the_command_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("datasets.miniature.__main__.MiniatureConfig", lambda seed: replace(SMALL, seed=seed))
    assert main(["--cache", str(tmp_path), "--workers", "1"]) == 0
    captured = capsys.readouterr()
    assert [Path(line).parent for line in captured.out.splitlines()] == [tmp_path, tmp_path]
    assert captured.err == ""
    (tmp_path / "file").touch()
    assert main(["--cache", str(tmp_path / "file")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    with pytest.raises(SystemExit):
        main(["--workers", "0"])


def test_the_source_domain_is_balanced_and_short(tmp_path: Path) -> None:
    classes, clips = read_source(generate_source(SMALL, tmp_path, workers=1))
    assert classes == tuple(sorted(SOURCE_CLASSES))
    assert sorted(clip.label for clip in clips if clip.subset == "validation") == list(classes)
    assert all(20 <= probe(clip.path).frames <= 24 for clip in clips)


def test_the_default_target_domain_is_as_described() -> None:
    config = MiniatureConfig()
    database = annotations(config)["database"].values()
    assert [config.count(subset) for subset in ("training", "tuning", "testing")] == [180, 20, 40]
    assert all(12 <= entry["duration"] <= 60 for entry in database)
    for entry in database:
        segments = [instance["segment"] for instance in entry["annotations"]]
        assert segments
        assert all(start > 0 and end < entry["duration"] for start, end in segments)
        assert all(0.999 <= end - start <= 8.001 for start, end in segments)
        pairs = itertools.pairwise(segments)
        assert all(0.998 <= later[0] - earlier[1] <= 5.002 for earlier, later in pairs)
    for subset in ("training", "tuning", "testing"):
        labels = [
            instance["label"]
            for entry in database
            if entry["subset"] == subset
            for instance in entry["annotations"]
        ]
        assert set(labels) == set(TARGET_CLASSES)


def test_distractors_keep_away_from_their_sprite_s_instances() -> None:
    scene = target_scene(MiniatureConfig(), "training", 0)
    acted = [event for event in scene.events if event.label is not None]
    others = [event for event in scene.events if event.label is None]
    assert others
    for other in others:
        own = [event for event in acted if event.sprite == other.sprite]
        assert all(other.end < event.start or other.start > event.end for event in own)


@pytest.mark.parametrize("name", TARGET_CLASSES)
def test_a_class_moves_only_within_its_instance(name: str) -> None:
    motion = TARGET_CLASSES[name].draw(np.random.default_rng(3), least_rate=0.5)
    since = np.array([-1.0, 0.0, 0.5, 1.1, 1.7, 2.0, 3.0])
    offsets = perform(motion, since, 2.0)
    moved = np.abs(np.stack([offsets.x, offsets.y, offsets.angle, offsets.log_scale]))
    assert moved[:, :2].max() == 0
    assert moved[:, 2:5].max() > 0.05
    np.testing.assert_allclose(moved[:, 5], moved[:, 6])
    if name != "spin":
        np.testing.assert_allclose(moved[:, 5:], 0, atol=1e-9)


@pytest.mark.parametrize("motion_range", [*SOURCE_CLASSES.values(), *DISTRACTORS.values()])
def test_every_motion_can_be_performed(motion_range: MotionRange) -> None:
    offsets = perform(motion_range.draw(np.random.default_rng(0)), np.linspace(-1, 3, 41), 2.0)
    values = np.stack([offsets.x, offsets.y, offsets.angle, offsets.log_scale, offsets.brightness])
    assert values.shape == (5, 41)
    assert np.isfinite(values).all()
    assert (np.ptp(values) > 0) == (motion_range.kind != "still")


def test_the_source_lacks_three_of_the_target_s_motions() -> None:
    kinds = {motion_range.kind for motion_range in SOURCE_CLASSES.values()}
    assert set(TARGET_CLASSES) - kinds == {"orbit", "shake", "swing"}
    assert {source_label(index) for index in range(12)} == set(SOURCE_CLASSES)


def test_no_difficulty_is_no_noise_and_a_still_camera() -> None:
    easy = replace(SMALL, drift_scale=0.0, camera_scale=0.0, noise_scale=0.0, distractor_scale=0.0)
    scene = target_scene(easy, "training", 0)
    assert (scene.noise, float(np.ptp(scene.pan))) == (0.0, 0.0)
    assert all(event.label is not None for event in scene.events)


def test_a_larger_picture_shows_the_same_scene() -> None:
    small = next(render(target_scene(SMALL, "testing", 0), 64))
    double = replace(SMALL, size=128)
    large = next(render(target_scene(double, "testing", 0), 128))
    assert large.shape == (*small.shape[:1], 128, 128, 3)
    assert annotations(double)["database"] == annotations(SMALL)["database"]


@pytest.mark.parametrize(
    "fields",
    [
        {"size": 15},
        {"frames_per_second": 0},
        {"gap_seconds": (3.0, 1.0)},
        {"short_video_seconds": (1.5, 3.0)},
    ],
)
def test_a_configuration_that_cannot_be_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"needed|must be"):
        replace(MiniatureConfig(), **fields)  # type: ignore[arg-type]


def test_a_configuration_goes_through_json() -> None:
    assert MiniatureConfig.from_json(json.loads(json.dumps(asdict(SMALL)))) == SMALL
