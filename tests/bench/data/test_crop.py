"""Random parts of training videos follow the rules of ActionFormer's ``truncate_feats``."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch

from bench.config.presets import FEATURES
from bench.data.clips import VideoClips
from bench.data.frame_store import FrameStore
from bench.data.time_grid import TimeGrid
from bench.data.windows import TrainingSampler, window_mask
from datasets.annotations.dataset import Instance, Video

FIRST = 2.0
GRID = TimeGrid(30.0, 4, 1, FIRST)
WINDOW = 40
LENGTHS = {"short": 30, "full": 40, "long": 70, "empty": 33}
SEGMENTS = {"short": [(20.0, 26.0), (5.2, 9.0)], "full": [(3.0, 30.0)], "long": [(10.0, 14.0), (60.0, 69.0)]}


def sampler(grid=GRID, **changes):
    protocol = dataclasses.replace(FEATURES, window_clips=WINDOW, feature_width=1, batch_size=4, **changes)
    videos, clips = {}, {}
    for name, count in LENGTHS.items():
        times = [GRID.seconds(np.array(each)) for each in SEGMENTS.get(name, [])]
        found = tuple(Instance(float(start), float(end), "x") for start, end in times)
        videos[name] = Video(name, "training", float(GRID.seconds(count)), found)
        clips[name] = VideoClips(torch.arange(count, dtype=torch.float32).reshape(-1, 1, 1), count, grid)
    return TrainingSampler(FrameStore(videos, clips), protocol, ("x",), 3)


def kept(name, start, length):
    """Return the instances of which half is in a window, by the definition."""
    first, last = start - FIRST, start + length - 1 + FIRST
    return [
        (max(begin, first) - start, min(end, last) - start)
        for begin, end in SEGMENTS.get(name, [])
        if min(end, last) - max(begin, first) >= 0.5 * (end - begin)
    ]


def possible_starts(name, length):
    starts = range(LENGTHS[name] - length + 1)
    return [start for start in starts if kept(name, start, length)] or list(starts)


@pytest.fixture(scope="module")
def drawn():
    """The windows of 4000 epochs by video."""
    made = sampler(crop_ratio=(0.5, 1.0))
    found = {name: [] for name in LENGTHS}
    for step in range(4000):
        for window in made.windows(step):
            found[window.video].append((window.shown, window.start))
    return found


@pytest.mark.parametrize("name", ["short", "full", "empty"])
def test_all_lengths_of_a_short_video_are_equally_likely_and_then_all_starts(drawn, name):
    count = LENGTHS[name]
    lengths = range(round(0.5 * count), count + 1)
    by_length = Counter(shown or count for shown, _ in drawn[name])
    assert sorted(by_length) == list(lengths)
    expected = 4000 / len(lengths)
    assert all(abs(number - expected) < 5 * expected**0.5 for number in by_length.values())
    for length in lengths:
        starts = {start for shown, start in drawn[name] if (shown or count) == length}
        assert starts <= set(possible_starts(name, length))
    longest = Counter(start for shown, start in drawn[name] if shown == lengths[0])
    wanted = possible_starts(name, lengths[0])
    assert sorted(longest) == wanted
    expected = longest.total() / len(wanted)
    assert all(abs(number - expected) < 5 * expected**0.5 for number in longest.values())


def test_a_long_video_is_shown_by_a_window_of_full_length(drawn):
    assert {shown for shown, _ in drawn["long"]} == {None}
    starts = Counter(start for _, start in drawn["long"])
    wanted = possible_starts("long", WINDOW)
    assert sorted(starts) == wanted
    assert wanted != list(range(LENGTHS["long"] - WINDOW + 1))  # some windows hold no instance
    expected = 4000 / len(wanted)
    assert all(abs(number - expected) < 5 * expected**0.5 for number in starts.values())


def test_a_part_shows_only_its_steps_and_its_instances():
    made = sampler(crop_ratio=(0.5, 0.9))
    for step in range(50):
        for window in made.windows(step):
            clips, count = made.store.clips[window.video], LENGTHS[window.video]
            shown = min(WINDOW, count) if window.shown is None else window.shown
            assert window_mask(window, clips).tolist() == [index < shown for index in range(WINDOW)]
            values = clips.pick(window.indices(clips.count))[:, 0, 0]
            assert values[:shown].tolist() == list(range(window.start, window.start + shown))
            assert (values[shown:] == values[shown - 1]).all()
            targets = made.targets(window).segments
            wanted = torch.tensor(kept(window.video, window.start, shown)).reshape(-1, 2)
            order = targets[:, 0].argsort()
            torch.testing.assert_close(targets[order], wanted[wanted[:, 0].argsort()], rtol=0, atol=1e-4)


def test_without_crop_the_draws_are_those_of_before():
    plain, cropped = sampler(crop_ratio=()), sampler(crop_ratio=(1.0, 1.0))
    for step in range(20):
        assert plain.windows(step) == cropped.windows(step)
        assert all(window.shown is None for window in plain.windows(step))
    touching = sampler(dataclasses.replace(GRID, first=0.5), crop_ratio=())
    assert [window.start for step in range(6) for window in touching.windows(step) if window.start] == PINNED
    parts = sampler(crop_ratio=(0.5, 1.0))
    for step in range(20):
        assert [w.video for w in parts.windows(step)] == [w.video for w in plain.windows(step)]


def test_parts_are_a_pure_function_of_seed_and_step():
    made = sampler(crop_ratio=(0.5, 1.0))
    assert made.windows(17) == sampler(crop_ratio=(0.5, 1.0)).windows(17)
    assert made.windows(17) != dataclasses.replace(made, seed=4).windows(17)


PINNED = [1, 10, 27, 9, 13]
"""First clips of the long video's windows in six epochs, as drawn before parts existed."""
