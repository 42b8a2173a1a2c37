"""Every installed strategy on every family of backbones: one contract, whatever the network is made of."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from bench.models.backbone import Backbone
from bench.models.backbones.frame_vit import tiny_frame_vit
from bench.models.backbones.i3d import tiny_i3d
from bench.models.backbones.tsm import tiny_tsm
from bench.models.backbones.tsm_mobilenet import tiny_mobilenet
from bench.training.detector import set_training_mode
from strategies import build_strategy, installed, reason_against
from strategies.lofi import LoFi
from strategies.losa import LoSA
from strategies.testing import (
    INERT,
    TINY_PROTOCOL,
    check_shapes_are_kept,
    check_starts_from_backbone,
    tiny_vit,
    train_tiny,
)

NAMES = sorted(installed())
FAMILIES: dict[str, Callable[[], Backbone]] = {
    "vit": tiny_vit,
    "tsm": tiny_tsm,
    "mobilenet": tiny_mobilenet,
    "i3d": tiny_i3d,
    "frames": tiny_frame_vit,
}
OTHERS = {name: make for name, make in FAMILIES.items() if name not in ("vit", "mobilenet")}
CONVOLUTIONAL = {name: make for name, make in OTHERS.items() if name != "frames"}
MODELS = {
    "vit": "vit-t",
    "tsm": "tsm-r18",
    "mobilenet": "tsm-mobilenetv2",
    "i3d": "i3d",
    "frames": "dinov2-s",
}
# A convolutional network's last grid is 1/32 of the input: at 48 pixels it still has several cells.
SHORT = dataclasses.replace(TINY_PROTOCOL, image_size=48, steps=5)


def supported(family: str) -> list[str]:
    return [name for name in NAMES if reason_against(name, MODELS[family]) is None]


PAIRS = [(name, family) for family in OTHERS for name in supported(family)]
# MobileNetV2 runs the code of the other TSM, and its last layer is too wide for quick tests of all.
PAIRS += [(name, "mobilenet") for name in ("head-only", "losa", "full-finetune", "last-k")]
EVERY_PAIR = pytest.mark.parametrize(("name", "family"), PAIRS)
"""The video transformer is in test_contract.py."""


@EVERY_PAIR
class TestEveryStrategyOnEveryFamily:
    def test_shapes_are_kept(self, name: str, family: str) -> None:
        check_shapes_are_kept(build_strategy(name), FAMILIES[family])

    def test_training_starts_from_the_backbone(self, name: str, family: str) -> None:
        torch.manual_seed(0)
        check_starts_from_backbone(build_strategy(name), FAMILIES[family])

    def test_what_is_named_moves_and_the_rest_keeps_every_bit(self, name: str, family: str) -> None:
        strategy = build_strategy(name)
        # Half of LoFi's steps train the backbone; a zero layer needs two steps before what is below it moves.
        protocol = dataclasses.replace(SHORT, steps=6 * len(strategy.stages()))
        trained = train_tiny(strategy, protocol, FAMILIES[family])
        moving = trained.detector.trained_names(strategy.stages())
        for each, value in trained.detector.state_dict().items():
            moved = not torch.equal(value, trained.before[each])
            if each in moving and not INERT.fullmatch(each):
                assert moved, f"{each} should change and did not"
            elif each not in moving:
                # Buffers too: a norm's stored statistics belong to the weights.
                assert not moved, f"{each} matches no rule and changed"
        assert all(entry.reading.peak_allocated_bytes > 0 for entry in trained.log.memory)


@pytest.mark.parametrize("make_backbone", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("name", ["full-finetune", "losa"])
def test_two_runs_of_a_seed_agree_in_every_bit(name: str, make_backbone: Callable[[], Backbone]) -> None:
    runs = [train_tiny(build_strategy(name), SHORT, make_backbone) for _ in range(2)]
    assert runs[0].log.losses == runs[1].log.losses
    weights = [run.detector.state_dict() for run in runs]
    assert all(torch.equal(weights[0][each], weights[1][each]) for each in weights[0])


@pytest.mark.parametrize("make_backbone", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("name", ["head-only", "losa"])
def test_training_with_the_cache_equals_training_without_it(
    name: str, make_backbone: Callable[[], Backbone]
) -> None:
    runs = [
        train_tiny(build_strategy(name), dataclasses.replace(SHORT, cache=cache), make_backbone)
        for cache in (True, False)
    ]
    assert runs[0].log.losses == runs[1].log.losses


@pytest.mark.parametrize("make_backbone", OTHERS.values(), ids=OTHERS)
@pytest.mark.parametrize("variant", ["s", "t", "st", "short-cyclic"])
def test_every_fidelity_of_lofi_runs(variant: str, make_backbone: Callable[[], Backbone]) -> None:
    strategy = LoFi(variant=variant, short_cycle_steps=1)  # type: ignore[arg-type]
    trained = train_tiny(strategy, SHORT, make_backbone)
    assert len(trained.log.losses) == SHORT.steps


@pytest.mark.parametrize("make_backbone", CONVOLUTIONAL.values(), ids=CONVOLUTIONAL)
def test_losa_taps_layers_of_different_widths_and_grids(make_backbone: Callable[[], Backbone]) -> None:
    adapted = LoSA().adapt(make_backbone()).eval()
    geometry = adapted.geometry
    assert len(set(geometry.layer_widths)) == 4
    size = geometry.image_size
    last, *taps = adapted.encode(torch.randn(2, 3, geometry.clip_frames, size, size))
    assert last.shape == (2, geometry.steps_per_clip, geometry.width)
    assert [tap.shape[-1] for tap in taps] == list(geometry.layer_widths)
    assert all(tap.shape[:2] == (2, geometry.steps_per_clip) for tap in taps)
    assert all(max(tap.shape[2:4]) <= LoSA().grid for tap in taps)
    assert not any(part.requires_grad for part in (last, *taps))


@pytest.mark.parametrize("make_backbone", OTHERS.values(), ids=OTHERS)
def test_norms_take_no_statistics_from_a_batch(make_backbone: Callable[[], Backbone]) -> None:
    backbone = make_backbone()
    size = backbone.geometry.image_size
    clips = torch.randn(2, 3, backbone.geometry.clip_frames, size, size) * 5 + 3
    state = {name: value.clone() for name, value in backbone.state_dict().items()}
    expected = backbone.eval().tokens(clips)
    set_training_mode(backbone)
    assert backbone.training
    assert torch.equal(backbone.tokens(clips), expected)
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


@pytest.mark.parametrize("make_backbone", OTHERS.values(), ids=OTHERS)
def test_step_peaks_are_ordered_as_the_papers_claim(make_backbone: Callable[[], Backbone]) -> None:
    peaks = []
    for name in ("head-only", "losa", "lofi", "full-finetune"):
        log = train_tiny(build_strategy(name), dataclasses.replace(SHORT, steps=4), make_backbone).log
        peaks.append(max(entry.reading.peak_allocated_bytes for entry in log.memory))
    assert peaks == sorted(set(peaks))
