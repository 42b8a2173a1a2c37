"""Time conversions, windows and their targets, on numbers that can be worked out by hand."""

import dataclasses

import numpy as np
import pytest
import torch

from bench.config.presets import MINIATURE
from bench.data.time_grid import TimeGrid
from bench.data.windows import TrainingSampler, Window, window_mask, window_targets
from datasets.annotations.dataset import Instance, Video
from strategies.testing import CLASSES, TINY_PROTOCOL, tiny_store, tiny_vit

GRID = TimeGrid(frames_per_second=10.0, frames_per_step=2, steps_per_clip=8)


def test_a_step_lies_at_the_middle_of_its_frames():
    # Step 3 shows frames 6 and 7, which are on screen from 0.6 s to 0.8 s.
    assert GRID.seconds(3) == pytest.approx(0.7)
    assert GRID.steps(0.7) == pytest.approx(3)
    times = np.linspace(0, 60, 101)
    assert np.allclose(GRID.seconds(np.asarray(GRID.steps(times))), times)


def test_time_of_a_step_is_actionformers():
    # t = (i * stride + 0.5 * window) / fps for features of `stride` frames that see `window` frames.
    steps = np.arange(50)
    assert np.allclose(GRID.seconds(steps), (steps * 2 + 0.5 * 2) / 10.0)


def test_targets_are_cut_at_the_window_and_dropped_when_little_is_left():
    instances = (Instance(0.5, 2.5, "a"), Instance(2.9, 4.9, "b"), Instance(6.0, 7.0, "a"))
    video = Video("v", "training", 10.0, instances)
    # Clips of 1.6 s; the window shows 1.6 s to 4.8 s.
    targets = window_targets(Window("v", 1, 2), video, ("a", "b"), GRID, truncation=0.5)
    # 0.9 s of the first instance's 2 s are inside, less than half; the second is cut by 0.1 s.
    assert targets.labels.tolist() == [1]
    assert torch.allclose(targets.segments, torch.tensor([[2.9 / 0.2 - 0.5 - 8, 15.5]]))
    all_of_it = window_targets(Window("v", 0, 6), video, ("a", "b"), GRID, truncation=0.5)
    assert all_of_it.labels.tolist() == [0, 1, 0]
    expected = [[i.start / 0.2 - 0.5, i.end / 0.2 - 0.5] for i in instances]
    assert torch.allclose(all_of_it.segments, torch.tensor(expected))


def test_a_window_past_the_end_repeats_the_last_clip_and_masks_it():
    store = tiny_store(tiny_vit())
    window = Window("video1", 3, 4)  # video1 has 5 clips, of which the last step is padding
    clips = store.clips["video1"]
    assert window.indices(clips.count).tolist() == [3, 4, 4, 4]
    mask = window_mask(window, clips)
    assert mask.tolist() == [True] * 7 + [False] * 9


def test_every_epoch_shows_every_video_once_and_a_step_is_a_pure_function():
    store = tiny_store(tiny_vit(), videos=7)
    protocol = dataclasses.replace(TINY_PROTOCOL, batch_size=2)
    sampler = TrainingSampler(store, protocol, CLASSES, seed=5)
    assert sampler.steps_per_epoch == 3
    seen = [window.video for step in range(3) for window in sampler.windows(step)]
    assert len(set(seen)) == 6
    assert sampler.windows(8) == TrainingSampler(store, protocol, CLASSES, seed=5).windows(8)
    assert any(
        sampler.windows(s) != TrainingSampler(store, protocol, CLASSES, seed=6).windows(s) for s in range(3)
    )


def test_a_batch_larger_than_the_data_set_is_filled():
    store = tiny_store(tiny_vit(), videos=2)
    sampler = TrainingSampler(store, dataclasses.replace(TINY_PROTOCOL, batch_size=5), CLASSES, seed=0)
    assert len(sampler.windows(0)) == 5


def test_windows_hold_an_instance_where_there_is_one():
    store = tiny_store(tiny_vit())
    sampler = TrainingSampler(store, dataclasses.replace(MINIATURE, window_clips=2), CLASSES, seed=1)
    for step in range(10):
        assert all(len(sampler.targets(window).labels) for window in sampler.windows(step))


def test_a_start_is_the_drawn_one_of_those_whose_windows_hold_an_instance():
    store = tiny_store(tiny_vit())
    protocol = dataclasses.replace(TINY_PROTOCOL, window_clips=2, truncation=0.9)
    sampler = TrainingSampler(store, protocol, CLASSES, seed=0)
    for name, clips in store.clips.items():
        windows = [Window(name, start, 2) for start in range(clips.count - 1)]
        holding = [window.start for window in windows if len(sampler.targets(window).labels)]
        assert 0 < len(holding) < len(windows)
        for draw in np.linspace(0, 0.999, 40):
            assert sampler._start(name, draw) == holding[int(draw * len(holding))]
