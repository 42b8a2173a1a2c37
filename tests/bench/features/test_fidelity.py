"""Reduced temporal fidelity: what is kept is whole snippets, and their features arrive at their own times."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.data.clips import VideoClips
from bench.data.frame_store import FrameStore
from bench.data.time_grid import time_grid
from bench.data.windows import TrainingSampler, Window, window_mask
from bench.features.fidelity import TemporalFidelity
from bench.models import build_head
from bench.models.backbone import Backbone, BackboneGeometry
from bench.models.backbones.i3d import tiny_i3d
from bench.models.backbones.tsm import tiny_tsm
from bench.training.detector import Detector
from bench.training.step import Trainer
from datasets.annotations.dataset import Video
from strategies.base import FULL, Fidelity
from strategies.lofi import TEMPORAL, LoFi
from strategies.testing import CLASSES, TINY_PROTOCOL, tiny_store, tiny_vit, train_tiny

FAMILIES: dict[str, Callable[[], Backbone]] = {"vit": tiny_vit, "tsm": tiny_tsm, "i3d": tiny_i3d}
SPATIAL_SIZE = 4
R2, R4 = Fidelity(temporal=1 / 2), Fidelity(temporal=1 / 4)


class Brightness(Backbone):
    """Its feature of a step is the brightness of the step's frames: what arrives where is seen directly."""

    def __init__(self, independent_frames: int | None) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.geometry = BackboneGeometry(
            8, 2, SPATIAL_SIZE, 1, 1, (1,), (0.0,) * 3, (1 / 255,) * 3, independent_frames
        )

    def layers(self, clips: Tensor, taps: Sequence[int], window_clips: int = 1) -> list[Tensor]:
        return [clips.mean(dim=1).unflatten(1, (-1, 2)).mean(dim=2)[..., None]]


def made(
    values: Tensor, independent_frames: int | None, **changes: object
) -> Callable[[Fidelity], tuple[Tensor, TemporalFidelity]]:
    """Return a function that gives the head's features (steps,) of one window with a brightness per step."""
    backbone = Brightness(independent_frames)
    geometry = backbone.geometry
    clips = len(values) // geometry.steps_per_clip
    protocol = dataclasses.replace(
        TINY_PROTOCOL, window_clips=clips, image_size=SPATIAL_SIZE, batch_size=1, **changes
    )
    frames = values.repeat_interleave(2).view(clips, 1, 8, 1, 1).expand(-1, 3, -1, SPATIAL_SIZE, SPATIAL_SIZE)
    grid = time_grid(10.0, geometry, protocol.steps_per_clip)
    stored = VideoClips(frames.to(torch.uint8), clips * grid.steps_per_clip, grid)
    store = FrameStore({"v": Video("v", "training", 100.0, ())}, {"v": stored})
    head = build_head(input_dim=1, num_classes=3, **protocol.head.keywords(clips * grid.steps_per_clip))
    sampler = TrainingSampler(store, protocol, CLASSES, 0)
    trainer = Trainer(Detector(backbone, head), protocol, sampler, torch.device("cpu"))
    window = Window("v", 0, clips)

    def features(fidelity: Fidelity) -> tuple[Tensor, TemporalFidelity]:
        mask = window_mask(window, stored)[None]
        inputs = trainer.inputs([window], fidelity, None)
        found, _ = trainer.features(inputs, mask, fidelity, frozen=False)
        return found[0, 0].detach(), trainer.temporal(fidelity)

    return features


@pytest.mark.parametrize("fidelity", [R2, R4])
@pytest.mark.parametrize("independent_frames", [2, 4, None])
def test_an_impulse_arrives_at_exactly_its_own_step(
    fidelity: Fidelity, independent_frames: int | None
) -> None:
    steps = 32
    for place in range(steps):
        values = torch.zeros(steps)
        values[place] = 255
        assert made(values, independent_frames)(FULL)[0].nonzero().flatten().tolist() == [place]
        found, temporal = made(values, independent_frames)(fidelity)
        kept = temporal.steps.tolist()
        assert len(kept) == steps * fidelity.temporal
        if place not in kept:
            assert not found.count_nonzero()
            continue
        assert found[place] == 255
        others = [step for step in kept if step != place]
        assert not found[others].count_nonzero()
        before = max((step for step in others if step < place), default=-1)
        after = min((step for step in others if step > place), default=steps)
        assert not found[: before + 1].count_nonzero()
        assert not found[after:].count_nonzero()
        rising = np.diff(found.numpy())
        assert (rising[before + 1 : place] >= 0).all()
        assert (rising[place : after - 1] <= 0).all()


@pytest.mark.parametrize("fidelity", [R2, R4])
@pytest.mark.parametrize("independent_frames", [2, 4, None])
def test_a_ramp_is_reproduced_between_the_first_and_the_last_kept_step(
    fidelity: Fidelity, independent_frames: int | None
) -> None:
    values = torch.arange(0, 128, 2).float()
    found, temporal = made(values, independent_frames)(fidelity)
    first, last = temporal.steps[0], temporal.steps[-1]
    torch.testing.assert_close(found[first : last + 1], values[first : last + 1], rtol=0, atol=1e-5)
    assert (found[:first] == values[first]).all()
    assert (found[last:] == values[last]).all()
    if independent_frames == 2:  # gaps of 2 and 4 steps: every fraction is exact
        assert torch.equal(found[first : last + 1], values[first : last + 1])


@pytest.mark.parametrize("fidelity", [R2, R4])
@pytest.mark.parametrize(("independent_frames", "head_steps"), [(None, 1), (None, 2), (None, 8), (2, 8)])
def test_kept_steps_stay_at_their_times_where_the_head_has_other_steps(
    fidelity: Fidelity, independent_frames: int | None, head_steps: int
) -> None:
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 256, (64,), generator=generator).float()
    features = made(values, independent_frames, steps_per_clip=head_steps)
    full, (found, temporal) = features(FULL)[0], features(fidelity)
    assert len(found) == len(full) == 16 * head_steps
    if independent_frames is None:  # all steps of a kept clip are kept
        kept = np.unique(temporal.steps // 4)
        ours, theirs = found.view(16, -1)[kept], full.view(16, -1)[kept]
        inner = slice(1, -1) if head_steps == 8 else slice(None)  # else between two clips
        torch.testing.assert_close(ours[:, inner], theirs[:, inner], rtol=0, atol=1e-4)
    ramp, temporal = made(torch.arange(0, 128, 2).float(), independent_frames, steps_per_clip=head_steps)(
        fidelity
    )
    times = (np.arange(len(ramp)) + 0.5) * 4 / head_steps - 0.5  # in steps of the backbone
    width = max(1, 4 / head_steps)
    inside = (times - width / 2 >= temporal.steps[0]) & (times + width / 2 <= temporal.steps[-1])
    np.testing.assert_allclose(ramp.numpy()[inside], 2 * times[inside], rtol=0, atol=1e-4)


@pytest.mark.parametrize("fraction", [1 / 2, 1 / 4])
def test_a_ramp_of_overlapping_snippets_is_reproduced_at_their_times(fraction: float) -> None:
    """With one step of the head a snippet of 8 frames, a frame apart: the recipe thumos14:lofi-like."""
    geometry = BackboneGeometry(8, 1, SPATIAL_SIZE, 1, 1, (1,), (0.0,) * 3, (1.0,) * 3, 8)
    temporal = TemporalFidelity(fraction, 16, geometry)
    times = torch.arange(16)[:, None] + torch.arange(8.0)  # of each clip's frames
    clips = times[None, :, None, :, None, None]
    features = temporal.keep(clips).flatten()[None, None]
    found = temporal.to_head_steps(features, 16)[0, 0]
    first, last = temporal.steps[[0, -1]] // 8
    expected = times.mean(dim=1)[first : last + 1]
    torch.testing.assert_close(found[first : last + 1], expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("fraction", [1 / 2, 1 / 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_what_is_kept_is_every_rth_snippet_of_the_window_bit_for_bit(family: str, fraction: float) -> None:
    geometry = FAMILIES[family]().geometry
    together, clips = geometry.snippet_frames, 8
    assert (together == geometry.clip_frames) == (family != "tsm")
    generator = torch.Generator().manual_seed(0)
    shape = (2, clips, 3, geometry.clip_frames, 4, 4)
    window = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    kept = TemporalFidelity(fraction, clips, geometry).keep(window)
    frames = window.transpose(2, 3).flatten(1, 2)  # (B, frames, 3, H, W)
    snippets = [frames[:, first : first + together] for first in range(0, frames.shape[1], together)]
    r = round(1 / fraction)
    expected = torch.stack(snippets[r // 2 :: r], dim=1).transpose(2, 3)
    assert torch.equal(kept, expected)


def test_a_window_that_r_does_not_divide_keeps_the_nearest_number() -> None:
    geometry = tiny_vit().geometry
    for clips, fraction, expected in (
        (10, 1 / 4, [2, 7]),
        (1, 1 / 4, [0]),
        (3, 1 / 2, [0, 2]),
        (2, 1, [0, 1]),
    ):
        steps = TemporalFidelity(fraction, clips, geometry).steps
        assert np.unique(steps // geometry.steps_per_clip).tolist() == expected


def seen_clips(fidelity: Fidelity, family: str) -> tuple[list[Tensor], list[Tensor]]:
    """Return the clips that the backbone encodes at a fidelity, and those of the same window at full one."""
    backbone = FAMILIES[family]()
    protocol = dataclasses.replace(TINY_PROTOCOL, image_size=backbone.geometry.image_size)
    seen: list[Tensor] = []
    original = backbone.layers

    def layers(clips: Tensor, taps: Sequence[int], window_clips: int = 1) -> list[Tensor]:
        seen.extend(clips.detach().clone())
        return original(clips, taps)

    backbone.layers = layers  # type: ignore[method-assign]
    store = tiny_store(backbone, protocol)
    steps = protocol.window_clips * backbone.geometry.steps_per_clip
    head = build_head(input_dim=backbone.geometry.width, num_classes=3, **protocol.head.keywords(steps))
    trainer = Trainer(
        Detector(backbone, head), protocol, TrainingSampler(store, protocol, CLASSES, 0), torch.device("cpu")
    )
    windows = trainer.sampler.windows(0)
    masks = torch.stack([window_mask(window, store.clips[window.video]) for window in windows])
    found = []
    for each in (fidelity, FULL):
        trainer.features(trainer.inputs(windows, each, None), masks, each, frozen=False)
        found.append(list(seen))
        seen.clear()
    return found[0], found[1]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_joint_stage_encodes_clips_that_the_head_stage_encodes(family: str) -> None:
    reduced, full = seen_clips(TEMPORAL, family)
    together = FAMILIES[family]().geometry.snippet_frames
    known = [part for clip in full for part in clip.split(together, dim=1)]
    assert len(reduced) == len(known) // 4
    for clip in reduced:
        assert any(torch.equal(clip, part) for part in known)


def former(clips: Tensor, temporal: float, geometry: BackboneGeometry) -> Tensor:
    """Return the clips of earlier versions: the frames of evenly spaced steps, joined."""
    windows, count, colours, frames, height, width = clips.shape
    kept_clips = max(1, round(count * temporal))
    total, kept = count * geometry.steps_per_clip, kept_clips * geometry.steps_per_clip
    chosen = ((torch.arange(kept) + 0.5) * total / kept).long()
    snippets = clips.transpose(1, 2).reshape(windows, colours, total, -1, height, width)[:, :, chosen]
    return snippets.reshape(windows, colours, kept_clips, frames, height, width).transpose(1, 2)


@pytest.mark.parametrize("temporal", [1 / 2, 1 / 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_rule_of_earlier_versions_is_kept_for_their_records(family: str, temporal: float) -> None:
    geometry = FAMILIES[family]().geometry
    generator = torch.Generator().manual_seed(0)
    shape = (2, 8, 3, geometry.clip_frames, 4, 4)
    window = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    rule = TemporalFidelity(temporal, 8, geometry, "step")
    assert torch.equal(rule.keep(window), former(window, temporal, geometry))
    features = torch.randn(2, 5, len(rule.steps), generator=generator)
    expected = nn.functional.interpolate(features, rule.all_steps, mode="linear", align_corners=False)
    assert torch.equal(rule.to_head_steps(features, rule.all_steps), expected)
    mask = torch.rand(2, rule.all_steps, generator=generator) < 0.5
    assert torch.equal(rule.mask(mask), mask[:, rule.steps])


@pytest.mark.parametrize("fidelity", [R2, R4])
def test_the_rule_of_earlier_versions_is_half_a_step_off(fidelity: Fidelity) -> None:
    values = torch.arange(0, 128, 2).float()
    found, temporal = made(values, 2, snippet="step")(fidelity)
    inside = slice(temporal.steps[0] + 4, temporal.steps[-1] - 4)
    torch.testing.assert_close((found - values)[inside], torch.ones_like(values[inside]))


@pytest.mark.parametrize("snippet", ["clip", "step"])
@pytest.mark.parametrize("family", FAMILIES)
def test_lofi_trains_by_either_rule(family: str, snippet: Literal["clip", "step"]) -> None:
    size = FAMILIES[family]().geometry.image_size
    protocol = dataclasses.replace(TINY_PROTOCOL, image_size=size, steps=5, snippet=snippet)
    strategy = LoFi(variant="short-cyclic", short_cycle_steps=1)
    assert len(train_tiny(strategy, protocol, FAMILIES[family]).log.losses) == 5
