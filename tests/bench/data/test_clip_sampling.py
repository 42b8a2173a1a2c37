"""Clips that overlap, clips spread over a video, and steps of the head other than the backbone's."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from bench.config.overrides import override
from bench.data.clips import instants
from bench.data.time_grid import head_steps_per_clip, time_grid
from bench.data.windows import TrainingSampler, Window, window_mask, window_targets
from bench.features.cache import EncodingCache
from bench.features.fidelity import to_head_steps
from bench.io.errors import InputError
from bench.models.backbone import BackboneGeometry
from bench.training.inference import window_outputs
from bench.training.step import Trainer, setup_stage
from datasets.annotations.dataset import Instance, Video
from strategies.base import FULL
from strategies.head_only import HeadOnly
from strategies.testing import CLASSES, TINY_PROTOCOL, tiny_detector, tiny_store, tiny_vit

GEOMETRY = BackboneGeometry(16, 2, 32, 8, 4, (4,), (0.5,) * 3, (0.25,) * 3)


@given(duration=st.floats(0.1, 400), rate=st.floats(1, 60), stride=st.integers(1, 24))
def test_a_step_of_clips_that_overlap_is_at_the_middle_of_its_clip(duration, rate, stride):
    protocol = override(
        TINY_PROTOCOL, {"frames_per_second": str(rate), "clip_stride": str(stride), "steps_per_clip": "1"}
    )
    looked, found = instants(Video("v", "training", duration, ()), protocol, 16)
    assert found == rate
    grid = time_grid(rate, GEOMETRY, 1, stride)
    shown = looked.times.reshape(-1, 16)
    valid = looked.valid.reshape(-1, 16)
    whole = valid.all(axis=1)
    expected = np.asarray(grid.seconds(np.arange(len(shown))))
    assert shown[whole].mean(axis=1) == pytest.approx(expected[whole], abs=1e-9 + 1e-9 * duration)
    # ActionFormer: t = (i * stride + window / 2) / rate.
    assert expected == pytest.approx((np.arange(len(shown)) * stride + 8) / rate)
    assert np.asarray(grid.steps(expected)) == pytest.approx(np.arange(len(shown)), abs=1e-6)
    # The last clip is the first that reaches the end of the video.
    frames = max(1, math.ceil(duration * rate - 0.5 - 1e-6))
    assert len(shown) == 1 or (len(shown) - 2) * stride + 16 < frames <= (len(shown) - 1) * stride + 16
    if stride <= 16:  # with gaps between clips, the last one may lie in a gap
        assert looked.times.max() == looked.times[looked.valid].max()
        assert valid.any(axis=1).all()


@given(duration=st.floats(0.5, 4000), clips=st.integers(1, 150), seconds=st.floats(0.1, 20))
def test_clips_spread_over_a_video_show_a_stretch_around_the_middle_of_their_part(duration, clips, seconds):
    protocol = dataclasses.replace(
        TINY_PROTOCOL, resampling="fixed", window_clips=clips, clip_seconds=seconds, steps_per_clip=1
    )
    looked, rate = instants(Video("v", "training", duration, ()), protocol, 8)
    geometry = dataclasses.replace(GEOMETRY, clip_frames=8, frames_per_step=8)
    grid = time_grid(rate, geometry, 1)
    middles = np.asarray(grid.seconds(np.arange(clips)))
    assert middles == pytest.approx((np.arange(clips) + 0.5) * duration / clips)
    shown = looked.times.reshape(clips, 8)
    inside = (middles - seconds / 2 >= 0) & (middles + seconds / 2 <= duration)
    assert shown[inside].mean(axis=1) == pytest.approx(middles[inside])
    for row in shown[inside]:
        assert np.diff(row) == pytest.approx(seconds / 8)
    assert (shown >= 0).all()
    assert (shown <= duration).all()


def test_a_recipe_of_768_frames_gives_768_steps_and_targets_at_their_times():
    """AdaTAD on THUMOS-14: 48 clips of 16 frames at 7.5 per second, 384 steps interpolated to 768."""
    protocol = override(
        TINY_PROTOCOL, {"frames_per_second": "7.5", "window_clips": "48", "steps_per_clip": "16"}
    )
    assert head_steps_per_clip(protocol, GEOMETRY) == 16
    grid = time_grid(7.5, GEOMETRY, 16)
    assert grid.step_seconds == pytest.approx(4 / 30)
    video = Video("v", "training", 102.4, (Instance(10.0, 20.0, "a"),))
    targets = window_targets(Window("v", 0, 48), video, ("a",), grid, 0.75)
    assert targets.segments.tolist() == [[pytest.approx(10 * 7.5 - 0.5), pytest.approx(20 * 7.5 - 0.5)]]
    later = window_targets(Window("v", 3, 48), video, ("a",), grid, 0.75)
    assert later.segments.tolist() == [[pytest.approx(74.5 - 48), pytest.approx(149.5 - 48)]]


@pytest.mark.parametrize(("own", "wanted"), [(384, 768), (384, 192), (384, 48), (6, 6), (40, 100)])
def test_head_steps_are_those_of_a_linear_resize(own, wanted):
    features = torch.randn(2, 5, own, generator=torch.Generator().manual_seed(0))
    found = to_head_steps(features, wanted)
    assert found.shape == (2, 5, wanted)
    if own % wanted or own // wanted <= 2:  # by 2, a linear resize is the mean of two neighbours
        expected = F.interpolate(features, wanted, mode="linear", align_corners=False)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    else:
        expected = features.reshape(2, 5, wanted, own // wanted).mean(dim=3)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    ramp = torch.arange(own, dtype=torch.float64).expand(1, 1, own)
    inner = to_head_steps(ramp, wanted)[0, 0, 1:-1]
    middles = ((torch.arange(wanted, dtype=torch.float64) + 0.5) * own / wanted - 0.5)[1:-1]
    keep = (middles >= 0) & (middles <= own - 1)
    torch.testing.assert_close(inner[keep], middles[keep], rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", ["3", "5", "32"])
def test_steps_that_clips_do_not_allow_are_refused_with_those_allowed(steps):
    protocol = override(TINY_PROTOCOL, {"steps_per_clip": steps})
    words = f"'steps_per_clip' is {steps}, allowed for clips of 16 frames are 1, 2, 4, 8, 16"
    with pytest.raises(InputError, match=words):
        head_steps_per_clip(protocol, GEOMETRY)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clip_stride": "4"}, "'clip_stride' is set, allowed only with steps_per_clip=1"),
        (
            {"clip_stride": "4", "steps_per_clip": "1", "resampling": "fixed"},
            "'clip_stride' is set, allowed only with resampling=windows",
        ),
        ({"clip_seconds": "2", "steps_per_clip": "1"}, "'clip_seconds' is set, allowed only with"),
        ({"clip_seconds": "2", "resampling": "fixed"}, "'clip_seconds' is set, allowed only with"),
        ({"crop_ratio": "0.9"}, "'crop_ratio' is .*, allowed are two ascending numbers"),
        ({"crop_ratio": "1+0.9"}, "'crop_ratio' is .*, allowed are two ascending numbers"),
        ({"head.n_mha_win_size": "7+7"}, "'head.n_mha_win_size' has 2 sizes, allowed is one, or"),
        ({"head.n_mha_win_size": "7+x"}, "'head.n_mha_win_size'.*'x'"),
        ({"steps": "0"}, "'steps' is 0, allowed is 2 to 100000000, or 0 with epochs"),
        ({"schedule_length": "0.5"}, "'schedule_length' is 0.5, allowed is 1 to 1000"),
    ],
)
def test_fields_that_contradict_each_other_are_refused(changes, words):
    with pytest.raises(InputError, match=words):
        override(TINY_PROTOCOL, changes)


def test_windows_of_levels_are_set_from_text():
    levels = TINY_PROTOCOL.head.levels
    found = override(TINY_PROTOCOL, {"head.n_mha_win_size": "+".join(["7"] * (levels - 1) + ["-1"])})
    assert found.head.n_mha_win_size == (7,) * (levels - 1) + (-1,)
    assert override(TINY_PROTOCOL, {"head.n_mha_win_size": "-1"}).head.n_mha_win_size == -1


@pytest.mark.parametrize(
    "changes", [{}, {"steps_per_clip": "8"}, {"steps_per_clip": "1", "clip_stride": "3"}]
)
def test_training_and_inference_give_the_head_the_steps_of_the_grid(changes):
    protocol = override(TINY_PROTOCOL, changes)
    backbone = tiny_vit()
    store = tiny_store(backbone, protocol)
    wanted = protocol.window_clips * head_steps_per_clip(protocol, backbone.geometry)
    detector, _ = tiny_detector(HeadOnly(), protocol)
    assert detector.head.config.max_seq_len >= wanted
    trainer = Trainer(detector, protocol, TrainingSampler(store, protocol, CLASSES, 0), torch.device("cpu"))
    windows = trainer.sampler.windows(0)
    masks = torch.stack([window_mask(window, store.clips[window.video]) for window in windows])
    assert masks.shape[1] == wanted
    setup = setup_stage(trainer, HeadOnly().stages()[0])
    features, _ = trainer.features(trainer.inputs(windows, FULL, setup.uncached), masks, FULL, frozen=True)
    assert features.shape == (len(windows), backbone.geometry.width, wanted)
    # Inference gives the same features to the head.
    cache = EncodingCache(detector.backbone, store, trainer.passes(4))
    seen = []
    detector.eval()
    handle = detector.head.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    window_outputs(detector, protocol, cache, windows[0], torch.device("cpu"))
    handle.remove()
    torch.testing.assert_close(seen[0], features[:1], rtol=1e-5, atol=1e-6)
