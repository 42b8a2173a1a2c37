"""Partial tuning: what trains, what is neither differentiated nor kept, and where it is full fine-tuning."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

import pytest
import torch

from bench.io.errors import InputError
from bench.models.backbone import Backbone
from bench.models.backbones.i3d import tiny_i3d
from bench.models.backbones.tsm import tiny_tsm
from bench.models.backbones.vit import VideoViT
from bench.training.detector import freeze_except
from strategies import build_strategy
from strategies.field.partial import BitFit, LastK, NormTuning
from strategies.full_finetune import FullFinetune
from strategies.testing import (
    TINY_PROTOCOL,
    TINY_VIT,
    check_strategy,
    tiny_detector,
    tiny_vit,
    train_tiny,
)

SHORT = dataclasses.replace(TINY_PROTOCOL, steps=4)
SMALL = dataclasses.replace(SHORT, image_size=48)
FAMILIES = {"vit": (tiny_vit, SHORT, 3), "tsm": (tiny_tsm, SMALL, 4), "i3d": (tiny_i3d, SMALL, 4)}
MODES = ("plain", "checkpointed", "streamed")


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES)
def family(request):
    return request.param


def test_half_of_the_layers_keep_the_contract():
    check_strategy(LastK(k=None))


def test_all_layers_are_full_fine_tuning_bit_for_bit(family):
    make, protocol, depth = family
    last, full = (train_tiny(each, protocol, make) for each in (LastK(k=depth), FullFinetune()))
    assert last.log.losses == full.log.losses
    weights, others = last.detector.state_dict(), full.detector.state_dict()
    assert weights.keys() == others.keys()
    assert all(torch.equal(weights[name], others[name]) for name in weights)
    assert last.log.trainable_parameters != {}
    assert list(last.log.trainable_parameters.values()) == list(full.log.trainable_parameters.values())


@pytest.mark.parametrize("backward", MODES)
@pytest.mark.parametrize("k", [1, 2])
def test_below_the_last_layers_nothing_is_differentiated(k, backward, family, monkeypatch):
    make, protocol, depth = family
    seen = set()
    # It differentiates with respect to the clips.
    monkeypatch.setattr("bench.training.loop.check_streamable", lambda *_: None)

    def watched() -> Backbone:
        backbone = make()
        for index, modules in enumerate(backbone.layer_modules()):

            def look(module, given, output, index=index):
                if torch.is_grad_enabled():
                    seen.add((index, output.requires_grad))

            modules[-1].register_forward_hook(look)
        return backbone

    protocol = dataclasses.replace(protocol, steps=1, backward=backward, micro_batch_clips=2)
    trained = train_tiny(LastK(k=k), protocol, watched)
    assert seen == {(index, index >= depth - k) for index in range(depth)}
    named = trained.detector.backbone.named_parameters()
    below = [p for n, p in named if f"backbone.{n}" in trained.detector.frozen_names]
    assert below
    assert all(parameter.grad is None for parameter in below)


def saved_bytes(strategy, depth) -> int:
    """Return the bytes that backward keeps of one pass of two clips, weights aside."""
    config = dataclasses.replace(TINY_VIT, depth=depth)
    detector, _ = tiny_detector(strategy, make_backbone=lambda: VideoViT(config))
    freeze_except(detector, strategy.stages()[0])
    weights = {p.untyped_storage().data_ptr() for p in detector.parameters()}
    kept = {}

    def keep(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        encoded = detector.backbone.encode(torch.randn(2, 3, 8, 32, 32))
    assert encoded[0].requires_grad
    return sum(size for _, size in kept.values())


def test_what_is_kept_depends_on_the_trained_layers_alone():
    kept = [saved_bytes(LastK(k=k), depth) for k, depth in ((1, 2), (1, 6), (2, 3), (2, 6))]
    assert kept[0] == kept[1] < kept[2] == kept[3]


@pytest.mark.parametrize("backward", MODES)
def test_the_peak_grows_with_the_layers(backward):
    protocol = dataclasses.replace(SHORT, backward=backward, micro_batch_clips=2, steps=2, image_size=64)
    config = dataclasses.replace(TINY_VIT, depth=6, image_size=64)
    peaks = []
    for k in (1, 2, 4, 6):
        log = train_tiny(LastK(k=k), protocol, lambda: VideoViT(config)).log
        peaks.append(max(entry.reading.peak_allocated_bytes for entry in log.memory))
    assert peaks == sorted(set(peaks))


NORMS = {"vit": r"blocks\.\d\.norm[12]", "tsm": r"bn1|layer\d\.0\.(bn[12]|downsample\.1)", "i3d": r".*\.bn"}
BIASES = {"vit": r".*bias", "tsm": NORMS["tsm"].join("()") + r"\.bias", "i3d": r".*\.bn\.bias"}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("kind", [NormTuning, BitFit])
def test_what_trains_in_each_family(kind: type[NormTuning | BitFit], name: str) -> None:
    make: Callable[[], Backbone] = FAMILIES[name][0]
    strategy = kind()
    detector, _ = tiny_detector(strategy, FAMILIES[name][1], make)
    trained = {n for n in detector.trained_names(strategy.stages()) if n.startswith("backbone.")}
    pattern = rf"(?:{NORMS[name]})\.(weight|bias)" if kind is NormTuning else BIASES[name]
    every = [f"backbone.{n}" for n, _ in make().named_parameters()]
    expected = {n for n in every if re.fullmatch(rf"backbone\.(?:{pattern})", n)}
    assert expected
    assert trained == expected


def test_no_bias_of_a_backbone_is_inert():
    detector, _ = tiny_detector(BitFit())
    freeze_except(detector, BitFit().stages()[0])
    # The mean over all channels of a normalised feature would be blind to shifts.
    (feature,) = detector.backbone.encode(torch.randn(2, 3, 8, 32, 32))
    (feature * torch.randn_like(feature)).sum().backward()
    biases = {n: p.grad for n, p in detector.backbone.named_parameters() if p.requires_grad}
    assert {n.rpartition(".")[2] for n in biases} == {"bias", "q_bias", "v_bias"}
    assert all(gradient is not None and gradient.abs().max() > 0 for gradient in biases.values())


def test_settings_that_do_not_fit_are_told():
    assert build_strategy("last-k", {"k": "none"}) == LastK(k=None)
    with pytest.raises(InputError, match="k: allowed is 1 or more, or none for half of the layers, got 0"):
        build_strategy("last-k", {"k": "0"})
    with pytest.raises(InputError, match="strategy last-k: field 'k' is 4, allowed are 1 to 3, and none"):
        LastK(k=4).adapt(tiny_vit())
    half = LastK(k=None).adapt(VideoViT(dataclasses.replace(TINY_VIT, depth=4)))
    assert {n.split(".")[1] for n, p in half.named_parameters() if p.requires_grad} == {"2", "3"}
