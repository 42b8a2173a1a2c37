import hashlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from numpy.typing import NDArray
from small import SMALL

from bench.io.cache_dir import default_cache_dir
from bench.io.errors import InputError
from bench.memory.device import processor_facts
from bench.records.record import read_folder
from datasets.miniature import (
    MiniatureConfig,
    generate,
    generate_source,
    read_pictures_sha256,
    read_source,
)
from datasets.miniature.__main__ import main
from datasets.miniature.config import PICTURES_SHA256
from datasets.miniature.generate import annotations
from datasets.miniature.motions import DISTRACTORS, SOURCE_CLASSES, TARGET_CLASSES, MotionRange, perform
from datasets.miniature.rendering import render, render_exactly
from datasets.miniature.scenes import Scene, source_label, source_scene, target_scene
from datasets.miniature.writing import encode, encoder_options, pictures_sha256, to_yuv
from datasets.video.frames import probe, read_frames

IMPORTED = os.pathsep.join(str(Path(__file__).parents[number]) for number in (3, 1, 0))
"""Where other processes find the repository, ``small`` and this file."""
ELSEWHERE = "name another in TALBENCH_CACHE"
SMALL_ANNOTATIONS_SHA256 = "4938228b749c54b8ad658a04b312df924feafb9094b1f5820516c70df253eb34"


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


def written(folder: Path, workers: int, imported: str = "nothing", **environment: str) -> str:
    """The digests of all files of the small data sets as another process writes them."""
    answer = subprocess.run(
        [sys.executable, "-m", "written_files", str(folder), str(workers), imported],
        env={**os.environ, "PYTHONPATH": IMPORTED, **environment},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.returncode == 0, answer.stderr
    return answer.stdout


@pytest.fixture(scope="module")
def plainly_written(made_once: Callable[[str, Callable[[Path], None]], Path]) -> str:
    def make(folder: Path) -> None:
        (folder / "files").mkdir()
        (folder / "lines").write_text(written(folder / "files", workers=1))

    lines = (made_once("plainly-written", make) / "lines").read_text()
    assert len(lines.splitlines()) == 2 + 1 + 4 + 24 + 4 + 2 * 3
    return lines


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workers", "imported", "environment"),
    [
        (2, "nothing", {}),
        (1, "torch", {"OMP_NUM_THREADS": "1"}),
        (1, "torch", {"OMP_NUM_THREADS": "2"}),
        (2, "torch", {}),
        (1, "torch", {"ATEN_CPU_CAPABILITY": "default"}),
        (1, "nothing", {"OPENBLAS_CORETYPE": "Prescott", "OPENBLAS_NUM_THREADS": "2"}),
        (1, "nothing", {"OPENBLAS_CORETYPE": "Haswell"}),
        (1, "nothing", {"OPENBLAS_CORETYPE": "SkylakeX"}),
        (1, "nothing", {"NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4"}),
        # What was never written to holds another byte.
        (1, "nothing", {"MALLOC_PERTURB_": "165"}),
    ],
    ids=str,
)
def test_files_are_a_function_of_the_configuration(
    workers: int, imported: str, environment: dict[str, str], plainly_written: str, tmp_path: Path
) -> None:
    assert written(tmp_path, workers, imported, **environment) == plainly_written


@pytest.mark.parametrize(
    ("instructions", "flag"), [("0", ""), ("SSE2", "sse2"), ("SSE4.2", "sse4_2"), ("AVX2", "avx2")]
)
def test_the_encoder_decides_alike_whatever_instructions_it_has(
    instructions: str, flag: str, tmp_path: Path
) -> None:
    if flag and flag not in processor_facts().get("flags", "").split():
        pytest.skip(f"this processor has no {instructions}")
    frames = np.concatenate(list(render(target_scene(SMALL, "training", 0), SMALL.size)))
    options = encoder_options(10, SMALL.quantizer)
    # x264 then uses no instructions beyond these.
    fewer = {**options, "x264-params": f"{options['x264-params']}:asm={instructions}"}
    for name, chosen in (("all", options), ("some", fewer)):
        encode(tmp_path / f"{name}.mp4", [frames], SMALL.size, 10, chosen)
    assert pictures_sha256(tmp_path / "some.mp4") == pictures_sha256(tmp_path / "all.mp4")


SCENES = pytest.mark.parametrize(
    ("make_scene", "subset"), [(target_scene, "testing"), (source_scene, "training")]
)


@SCENES
def test_all_that_moves_is_a_multiple_of_its_step(
    make_scene: Callable[[MiniatureConfig, str, int], Scene], subset: str
) -> None:
    for index in range(4):
        scene = make_scene(MiniatureConfig(), subset, index)
        lengths = [
            scene.pan,
            scene.drift,
            *(values for track in scene.tracks for values in (track.x, track.y)),
        ]
        others = [v for track in scene.tracks for v in (track.angle, track.scale, track.brightness)]
        for steps in (*(2.0**12 * values for values in lengths), *(2.0**14 * values for values in others)):
            np.testing.assert_array_equal(steps, np.rint(steps))


@SCENES
def test_errors_of_library_functions_reach_no_pixel(
    make_scene: Callable[[MiniatureConfig, str, int], Scene], subset: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Errors are far larger than a processor's, so that without rounding they show in so few pictures."""
    scenes = [make_scene(MiniatureConfig(), subset, index) for index in range(4)]

    def pictures() -> list[NDArray[np.float32]]:
        return [part for scene in scenes for part in render_exactly(scene, 64)]

    exact, errors, make_generator = pictures(), np.random.default_rng(0), np.random.default_rng

    def inexact(
        function: Callable[..., NDArray[np.float64]], size: float
    ) -> Callable[..., NDArray[np.float64]]:
        def changed(*arguments: Any, **options: Any) -> NDArray[np.float64]:
            values = function(*arguments, **options)
            return np.asarray(values * (1 + errors.integers(-4, 5, np.shape(values)) * size))

        return changed

    class Inexact:
        def __init__(self, seed: int) -> None:
            self.standard_normal = inexact(make_generator(seed).standard_normal, 2.0**-40)

    monkeypatch.setattr(np.random, "default_rng", Inexact)
    for name in ("sin", "cos"):
        monkeypatch.setattr(np, name, inexact(getattr(np, name), 2.0**-32))
    for found, expected in zip(pictures(), exact, strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_disk_without_room_is_named_in_one_line(workers: int, tmp_path: Path) -> None:
    code = (
        "import resource, sys; from pathlib import Path; from small import SMALL\n"
        "from bench.io.errors import InputError; from datasets.miniature import generate\n"
        # Files of more bytes cannot be written, and no signal ends the process that tries.
        "import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000))\n"
        f"try: generate(SMALL, Path({str(tmp_path)!r}), workers={workers})\n"
        "except InputError as error: print(error)\n"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": IMPORTED},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert answer.stdout == f"{tmp_path}: the cache cannot be written: File too large; {ELSEWHERE}\n"
    assert "Traceback" not in answer.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_is_in_the_folder_s_place_is_named_before_anything_is_rendered(tmp_path: Path) -> None:
    place = tmp_path / f"miniature-{SMALL.version}-{SMALL.digest}"
    for make in (place.touch, lambda: place.symlink_to(tmp_path / "nowhere")):
        make()
        with pytest.raises(InputError, match="is no folder; remove it, and it is made again"):
            generate(SMALL, tmp_path, lambda done, total: pytest.fail("rendered"), workers=1)
        place.unlink()


def test_progress_counts_every_video(tmp_path: Path) -> None:
    for workers in (1, 2):
        seen: list[tuple[int, int]] = []
        generate(SMALL, tmp_path / str(workers), lambda done, total: seen.append((done, total)), workers)  # noqa: B023
        assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


@pytest.mark.slow
def test_the_default_pictures_are_those_of_the_shipped_results(tmp_path: Path) -> None:
    folder = generate(MiniatureConfig(), tmp_path)
    assert read_pictures_sha256(folder) == PICTURES_SHA256["target"]
    shipped = {
        record["dataset"]["variant"]
        for record in read_folder(Path(__file__).parents[3] / "results" / "records").records
        if record["dataset"]["name"] == "miniature"
    }
    assert shipped == {f"{folder.name}-{PICTURES_SHA256['target'][:8]}"}


@pytest.mark.parametrize("same", [True, False])
def test_other_pictures_than_the_shipped_ones_are_told_in_one_line(
    same: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = read_pictures_sha256(generate(SMALL, tmp_path / "first", workers=1))
    monkeypatch.setattr(sys.modules[generate.__module__], "MiniatureConfig", lambda: SMALL)
    monkeypatch.setitem(PICTURES_SHA256, "target", found if same else "0" * 64)
    capsys.readouterr()
    folder = generate(None, tmp_path / "second", workers=1)
    said = f"{folder.name}: the pictures made here differ from those of the shipped results "
    said += f"(sha256 {found[:8]}, not 00000000); results on them are kept apart\n"
    assert capsys.readouterr().err == ("" if same else said)


@pytest.mark.parametrize("content", ["", "[]", '{"sha256": "../x"}', '{"sha256": 3}'])
def test_a_spoilt_digest_of_pictures_names_its_file(content: str, tmp_path: Path) -> None:
    (tmp_path / "pictures.json").write_text(content)
    with pytest.raises(InputError, match=r"pictures\.json.*; remove .*, and it is made again"):
        read_pictures_sha256(tmp_path)
    (tmp_path / "pictures.json").unlink()
    with pytest.raises(InputError, match=r"pictures\.json.*; remove .*, and it is made again"):
        read_pictures_sha256(tmp_path)


def test_colours_are_converted_as_ffmpeg_does() -> None:
    # Each of one colour: between which pixels colours are averaged does not matter then.
    pictures = np.random.default_rng(0).integers(0, 256, (64, 1, 1, 3), dtype=np.uint8)
    pictures = pictures.repeat(16, axis=1).repeat(16, axis=2)
    for picture, planes in zip(pictures, to_yuv(pictures), strict=True):
        theirs = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuv420p").to_ndarray()
        assert np.abs(planes.astype(int) - theirs).max() <= 1


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


@pytest.mark.slow
def test_two_processes_at_once_make_one_data_set(tmp_path: Path) -> None:
    code = (
        "from test_miniature import SMALL, generate; from pathlib import Path;"
        f"print(generate(SMALL, Path({str(tmp_path)!r}), workers=1))"
    )
    environment = {**os.environ, "PYTHONPATH": IMPORTED, "OMP_NUM_THREADS": "1"}
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
    assert capsys.readouterr().err.startswith("datasets.miniature: ")
    assert main(["--workers", "0"]) == 2
    assert "--workers must be at least 1" in capsys.readouterr().err


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
