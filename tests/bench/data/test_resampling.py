"""One window over the whole video, whatever its length: seconds stay seconds."""

import contextlib
import dataclasses

import numpy as np
import pytest
import torch
from conftest import records_of, run_here
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bench.config.overrides import override
from bench.config.presets import MINIATURE, STANDARD
from bench.config.protocol import NmsConfig
from bench.data.clips import VideoClips, instants
from bench.data.frame_loader import FrameLoader
from bench.data.frame_store import open_store
from bench.data.time_grid import time_grid
from bench.data.windows import TrainingSampler, Window, window_mask, window_targets
from bench.detection.evaluation import evaluate
from bench.detection.submission import read_ground_truth, read_submission
from bench.features.cache import batch_clips
from bench.io.errors import InputError
from bench.models.backbone import BackboneGeometry
from bench.run.record_builder import write_ground_truth
from bench.run.specification import RunSpecification
from bench.run.worker.__main__ import write_detections
from bench.training.detector import Detector
from bench.training.inference import detect_all
from datasets.annotations.dataset import Instance, Video
from datasets.annotations.reader import read_annotations
from datasets.video.frames import read_frames
from strategies.testing import TINY_PROTOCOL, tiny_vit

FIXED = dataclasses.replace(TINY_PROTOCOL, resampling="fixed")
GEOMETRY = tiny_vit().geometry


@given(
    duration=st.floats(0.05, 1e5),
    clips=st.integers(1, 200),
    bounds=st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=6),
)
def test_instances_survive_the_way_to_steps_and_back_at_any_duration(duration, clips, bounds):
    protocol = dataclasses.replace(FIXED, window_clips=clips)
    instances = tuple(
        Instance(min(pair) * duration, max(pair) * duration, "a")
        for pair in bounds
        if abs(pair[0] - pair[1]) > 1e-6
    )
    video = Video("v", "training", duration, instances)
    looked, rate = instants(video, protocol, GEOMETRY.clip_frames)
    grid = time_grid(rate, GEOMETRY)
    steps = clips * GEOMETRY.steps_per_clip
    targets = window_targets(Window("v", 0, clips), video, ("a",), grid, protocol.truncation)
    assert len(targets.labels) == len(instances)  # none is cut away
    seconds = np.asarray(grid.seconds(targets.segments.numpy().astype(np.float64)))
    expected = np.array([[i.start, i.end] for i in instances]).reshape(-1, 2)
    # Steps are single floats.
    assert np.abs(seconds - expected).max(initial=0) <= 1e-5 * duration
    # The window is the video: its first step begins at 0 s, its last ends with it.
    assert grid.seconds(np.array([-0.5, steps - 0.5])) == pytest.approx([0, duration], abs=1e-6 * duration)
    assert len(looked.times) == clips * GEOMETRY.clip_frames
    assert looked.valid.all()
    # A step lies at the middle of its frames' instants.
    middles = looked.times.reshape(steps, -1).mean(axis=1)
    assert middles == pytest.approx(np.asarray(grid.seconds(np.arange(steps))), rel=1e-9)


def test_windows_at_the_protocols_rate_are_as_before():
    video = Video("v", "training", 7.3, ())
    looked, rate = instants(video, TINY_PROTOCOL, GEOMETRY.clip_frames)
    assert rate == TINY_PROTOCOL.frames_per_second
    assert looked.times[:3] == pytest.approx([0.05, 0.15, 0.25])
    assert (len(looked.times), int(looked.valid.sum())) == (80, 73)


@pytest.fixture
def dataset(tiny_dataset):
    return read_annotations(tiny_dataset / "annotations.json", root=tiny_dataset / "videos")


@contextlib.contextmanager
def opened(dataset, subset, protocol=FIXED):
    with contextlib.closing(FrameLoader(2**30)) as loader:
        yield open_store(dataset, subset, protocol, GEOMETRY, loader)


def test_a_window_shows_frames_from_all_of_the_video(dataset):
    with opened(dataset, "training") as store:
        sampler = TrainingSampler(store, FIXED, dataset.classes, 0)
        for step in range(6):
            windows = sampler.windows(step)
            assert [(window.start, window.clips) for window in windows] == [(0, 4)] * 2
            found = batch_clips(store, windows)
            for row, window in enumerate(windows):
                assert len(sampler.targets(window).labels) == 2
                assert window_mask(window, store.clips[window.video]).all()
                path = store.clips[window.video].path
                # 32 frames over 10 s: one every 0.3125 s, from 0.15625 s on.
                frames = read_frames(path, 0.15625 + 0.3125 * np.arange(32))
                expected = torch.from_numpy(frames).reshape(4, 8, 32, 32, 3).permute(0, 4, 1, 2, 3)
                assert torch.equal(found[row], expected)


class Oracle(nn.Module):
    """A head that detects what it is told for the window that comes, in steps."""

    def __init__(self, answers):
        super().__init__()
        self.answers = answers

    def forward(self, features, mask):
        return mask

    def detections(self, mask):
        targets = self.answers.pop(0)
        scores = np.full(len(targets.labels), 0.9)
        return [(targets.segments.numpy(), scores, targets.labels.numpy())]


@pytest.mark.parametrize("seconds", [10.0, 9.87])
def test_the_ground_truth_as_detections_is_perfect(seconds, dataset, tmp_path):
    videos = tuple(dataclasses.replace(video, duration=seconds) for video in dataset.videos)
    dataset = dataclasses.replace(dataset, videos=videos)
    protocol = dataclasses.replace(FIXED, nms=NmsConfig(nms_method="none"))
    with opened(dataset, "testing", protocol) as store:
        sampler = TrainingSampler(store, protocol, dataset.classes, 0)
        answers = [sampler.targets(Window(name, 0, 4)) for name in sorted(store.videos)]
        detector = Detector(tiny_vit(), Oracle(answers))
        results, _ = detect_all(detector, store, protocol, torch.device("cpu"))
    assert answers == []  # one window a video
    write_detections(tmp_path / "found.json.gz", results, dataset.classes)
    write_ground_truth(tmp_path / "truth.json.gz", dataset, "testing")
    truth = read_ground_truth(tmp_path / "truth.json.gz", "testing")
    evaluation = evaluate(truth, read_submission(tmp_path / "found.json.gz"), (0.5, 0.75, 0.95, 0.99))
    assert evaluation.average == 1


def test_a_run_trains_and_is_tested_on_whole_videos(tiny_dataset, tmp_path):
    process = run_here(
        tiny_dataset, tmp_path, "--protocol", "resampling=fixed,augmentation=crop-flip", "--frame-cache", "0"
    )
    assert process.returncode == 0, process.stderr
    record = records_of(tmp_path)["head-only"]
    assert record["status"] == "ok"
    assert record["protocol"]["resampling"] == "fixed"
    assert record["memory"]["predicted_peak_bytes"] == record["memory"]["peak_allocated_bytes"]


@pytest.mark.parametrize("field", ["resampling", "augmentation"])
def test_what_came_later_changes_a_digest_only_where_it_is_used(field):
    other = {"resampling": "fixed", "augmentation": "crop-flip"}[field]
    assert MINIATURE.digest().startswith("3c451129")  # the committed records'
    assert dataclasses.replace(MINIATURE, **{field: other}).digest() != MINIATURE.digest()
    with pytest.raises(InputError, match=field):
        override(MINIATURE, {field: "sometimes"})


def test_cards_of_long_instances_ask_for_whole_videos():
    def protocol(dataset, **changes):
        fields = ("vit-s", "head-only", {}, dataset, None, None, "random", 0, "cuda", changes, "unused")
        return RunSpecification(*fields).protocol()

    for name in ("activitynet13", "activitynet13:4728", "hacs"):
        found = protocol(name)
        assert found.resampling == "fixed"
        assert found.window_clips * 16 == 768  # frames, as AdaTAD's on ActivityNet
        assert protocol(name, resampling="windows").resampling == "windows"
    assert protocol("thumos14").resampling == STANDARD.resampling == "windows"


def test_a_grid_of_its_own_turns_steps_into_seconds():
    geometry = BackboneGeometry(**dataclasses.asdict(GEOMETRY))
    frames = torch.zeros(4, 3, geometry.clip_frames, 4, 4, dtype=torch.uint8)
    short, long = (VideoClips(frames, 16, time_grid(32 / seconds, geometry)) for seconds in (8.0, 800.0))
    assert short.grid.seconds(3.0) == pytest.approx(3.5 * 0.5)
    assert long.grid.seconds(3.0) == pytest.approx(3.5 * 50)
