"""What maps the head's input: one factor, trained with the head."""

import dataclasses

import pytest
import torch

from strategies import build_strategy
from strategies.testing import TINY_PROTOCOL, tiny_detector, train_tiny

SCALED = dataclasses.replace(TINY_PROTOCOL, input_norm="scale", input_scale=2.5)
FEATURES, MASK = torch.randn(1, 32, 16), torch.ones(1, 16, dtype=torch.bool)


def outputs(head, features):
    with torch.no_grad():
        return torch.cat([logits for logits, _, _ in head.eval()(features, MASK)], dim=1)


def test_the_scale_multiplies_the_features_of_an_equal_head():
    plain, _ = tiny_detector(build_strategy("head-only"))
    scaled, fresh_head = tiny_detector(build_strategy("head-only"), SCALED)
    for head in (scaled.head, fresh_head()):
        assert torch.equal(outputs(head, FEATURES), outputs(plain.head, FEATURES * 2.5))
    assert {*dict(scaled.named_parameters())} - {*dict(plain.named_parameters())} == {"head.input_map.factor"}


@pytest.mark.parametrize("name", ["head-only", "lofi", "full-finetune", "losa", "mlp-control", "wide-head"])
def test_every_strategy_trains_it(name):
    detector = train_tiny(build_strategy(name), dataclasses.replace(SCALED, steps=6)).detector
    assert float(detector.head.input_map.factor.detach()) != 2.5
