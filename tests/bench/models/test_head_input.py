"""What maps the head's input: one factor, or the backbone's own norm, trained with the head."""

import dataclasses

import pytest
import torch
from torch import nn

from bench.io.errors import InputError
from bench.models.actionformer.input_map import make_input_map
from strategies import build_strategy
from strategies.testing import TINY_PROTOCOL, tiny_detector, tiny_vit, train_tiny

SCALED = dataclasses.replace(TINY_PROTOCOL, input_norm="scale", input_scale=2.5)
NORMED = dataclasses.replace(TINY_PROTOCOL, input_norm="final-norm")
FEATURES, MASK = torch.randn(1, 32, 16), torch.ones(1, 16, dtype=torch.bool)


def normed_vit():
    backbone = tiny_vit()
    norm = nn.LayerNorm(32)
    nn.init.uniform_(norm.weight)
    backbone.final_norm = lambda: norm
    return backbone


def outputs(head, features):
    with torch.no_grad():
        return torch.cat([logits for logits, _, _ in head.eval()(features, MASK)], dim=1)


def test_the_scale_multiplies_the_features_of_an_equal_head():
    plain, _ = tiny_detector(build_strategy("head-only"))
    scaled, fresh_head = tiny_detector(build_strategy("head-only"), SCALED)
    for head in (scaled.head, fresh_head()):
        assert torch.equal(outputs(head, FEATURES), outputs(plain.head, FEATURES * 2.5))
    assert {*dict(scaled.named_parameters())} - {*dict(plain.named_parameters())} == {"head.input_map.factor"}


def test_the_final_norm_begins_with_the_backbone_s_weights_in_every_head():
    plain, _ = tiny_detector(build_strategy("head-only"), TINY_PROTOCOL, normed_vit)
    detector, fresh_head = tiny_detector(build_strategy("head-only"), NORMED, normed_vit)
    norm = detector.backbone.final_norm()
    expected = outputs(plain.head, norm(FEATURES.transpose(1, 2)).transpose(1, 2))
    with torch.no_grad():
        detector.backbone.final_norm().weight.add_(1.0)
        for head in (detector.head, fresh_head()):
            assert torch.equal(outputs(head, FEATURES), expected)


@pytest.mark.parametrize("name", ["head-only", "lofi", "full-finetune", "losa", "mlp-control", "wide-head"])
def test_every_strategy_trains_it(name):
    detector = train_tiny(build_strategy(name), dataclasses.replace(SCALED, steps=6)).detector
    assert float(detector.head.input_map.factor.detach()) != 2.5


def test_a_backbone_without_a_norm_is_refused():
    with pytest.raises(InputError, match="'input_norm' is final-norm, but the backbone has no final norm"):
        tiny_detector(build_strategy("head-only"), NORMED)
    narrow = tiny_vit()
    narrow.final_norm = lambda: nn.LayerNorm(8)
    with pytest.raises(InputError, match="the features have 32 channels"):
        make_input_map("final-norm", 1.0, narrow)
    assert make_input_map("none", 1.0, narrow)() is None
