"""Weights kept in bfloat16 give autocast's own results, bit for bit."""

import dataclasses

import pytest
import torch

from bench.features.encode import ClipPasses, encode_frozen
from bench.models import build_head
from bench.models.backbones.i3d import tiny_i3d
from bench.models.backbones.tsm import tiny_tsm
from bench.training.detector import Detector, freeze_except, lower_frozen_weights
from strategies import build_strategy
from strategies.base import Rule, Stage
from strategies.testing import CLASSES, TINY_PROTOCOL, tiny_vit

LOW = dataclasses.replace(TINY_PROTOCOL, precision="bfloat16")
FAMILIES = {"vit": tiny_vit, "tsm": tiny_tsm, "i3d": tiny_i3d}


def detector_of(strategy, make_backbone):
    torch.manual_seed(0)
    backbone = strategy.adapt(make_backbone())
    keywords = LOW.head.keywords(LOW.window_clips * backbone.geometry.steps_per_clip)
    head = build_head(input_dim=backbone.geometry.width, num_classes=len(CLASSES), **keywords)
    return Detector(backbone, head).eval()


@pytest.mark.parametrize("name", ["head-only", "losa"])
@pytest.mark.parametrize("family", FAMILIES)
def test_encodings_keep_every_bit(family, name):
    strategy = build_strategy(name)
    detector = detector_of(strategy, FAMILIES[family])
    geometry = detector.backbone.geometry
    shape = (3, 3, geometry.clip_frames, geometry.image_size, geometry.image_size)
    clips = torch.randint(0, 256, shape, dtype=torch.uint8)
    passes = ClipPasses(2, precision="bfloat16")
    before = encode_frozen(detector.backbone, clips, passes)
    assert lower_frozen_weights(detector, strategy.stages(), LOW) > 0
    after = encode_frozen(detector.backbone, clips, passes)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@dataclasses.dataclass(frozen=True)
class NormsOnly:
    name = "norms-only"

    def adapt(self, backbone):
        return backbone

    def stages(self):
        return (Stage("norms", (Rule(r"backbone\..*norm\d\..*"), Rule(r"head\..*"))),)


def test_gradients_behind_frozen_weights_keep_every_bit():
    gradients = []
    for lowered in (False, True):
        detector = detector_of(NormsOnly(), tiny_vit)
        freeze_except(detector, NormsOnly().stages()[0])
        if lowered:
            assert lower_frozen_weights(detector, NormsOnly().stages(), LOW) > 0
        clips = torch.linspace(0, 255, 2 * 3 * 8 * 32 * 32).reshape(2, 3, 8, 32, 32)
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
            encoded = detector.backbone.encode(detector.backbone.normalise(clips))
        encoded[0].float().square().sum().backward()
        gradients.append({n: p.grad for n, p in detector.named_parameters() if p.grad is not None})
    assert gradients[0]
    assert all(torch.equal(value, gradients[1][name]) for name, value in gradients[0].items())


@pytest.mark.parametrize("name", ["head-only", "lofi", "full-finetune", "losa"])
def test_only_what_no_stage_trains_is_lowered(name):
    strategy = build_strategy(name)
    detector = detector_of(strategy, tiny_vit)
    saved = lower_frozen_weights(detector, strategy.stages(), LOW)
    low = {n for n, p in detector.named_parameters() if p.dtype == torch.bfloat16}
    if name in ("lofi", "full-finetune"):
        assert not low
        assert saved == 0
    else:
        assert low
        assert saved == 2 * sum(p.numel() for n, p in detector.named_parameters() if n in low)
        assert not any("norm" in n or n.startswith(("head", "backbone.adapters")) for n in low)


def test_nothing_is_lowered_in_float32_or_when_told_not_to():
    kept = dataclasses.replace(LOW, lean=dataclasses.replace(LOW.lean, low_precision_frozen=False))
    for protocol in (TINY_PROTOCOL, kept):
        detector = detector_of(build_strategy("head-only"), tiny_vit)
        assert lower_frozen_weights(detector, build_strategy("head-only").stages(), protocol) == 0
        assert all(p.dtype == torch.float32 for p in detector.parameters())
