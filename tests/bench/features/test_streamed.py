"""Streamed backpropagation gives plain backpropagation's gradient, and is refused where it would not."""

import dataclasses
from typing import ClassVar

import pytest
import torch
from torch import nn

from bench.data.windows import TrainingSampler
from bench.features.streamed import check_streamable, clips_mix
from bench.io.errors import InputError
from bench.memory.meter import NoMeter
from bench.models import build_head
from bench.models.backbone import Backbone
from bench.models.backbones.tsm import tiny_tsm
from bench.models.backbones.vit import VideoViT
from bench.training.detector import Detector, freeze_except, lower_frozen_weights
from bench.training.loop import train
from bench.training.optimizer import make_optimizer
from bench.training.step import Trainer
from strategies import build_strategy, installed
from strategies.base import Fidelity, Rule, Stage
from strategies.lofi import LoFi
from strategies.testing import CLASSES, TINY_PROTOCOL, TINY_VIT, tiny_store, tiny_vit

EVERYTHING = Stage("all", (Rule(".*"),))


class KeptGradients:
    """In place of the optimizer: the gradient as the backward pass left it."""

    state: ClassVar = {}

    def step(self):
        pass


def gradients(protocol, dtype, fidelity, make_backbone):
    """Return the gradient of every parameter after a step with drop path, and the generator's next draw."""
    torch.manual_seed(3)
    backbone = make_backbone()
    keywords = protocol.head.keywords(protocol.window_clips * backbone.geometry.steps_per_clip)
    head = build_head(input_dim=backbone.geometry.width, num_classes=len(CLASSES), **keywords)
    detector = Detector(backbone, head).to(dtype)
    freeze_except(detector, EVERYTHING)
    backbone.set_checkpointing(protocol.backward != "plain" and protocol.streamed_checkpointing)
    sampler = TrainingSampler(tiny_store(backbone, protocol), protocol, CLASSES, 0)
    torch.manual_seed(5)
    Trainer(detector, protocol, sampler, torch.device("cpu")).step(
        0, fidelity, None, KeptGradients(), NoMeter()
    )
    return {name: p.grad for name, p in detector.named_parameters()}, torch.rand(3)


@pytest.fixture
def double(monkeypatch):
    """Clips reach the backbone in double precision."""
    original = Backbone.normalise
    monkeypatch.setattr(Backbone, "normalise", lambda self, clips: original(self, clips).double())


@pytest.mark.parametrize("inner", [True, False])
@pytest.mark.parametrize("fidelity", [Fidelity(), Fidelity(0.5, 0.5)])
@pytest.mark.parametrize("clips", [1, 3])
def test_gradients_equal_plain_ones_in_double_precision(clips, fidelity, inner, double):
    compare(torch.float64, 1e-12, clips, fidelity, inner)


@pytest.mark.parametrize("clips", [1, 3])
def test_gradients_equal_plain_ones_in_single_precision(clips):
    compare(torch.float32, 1e-5, clips, Fidelity(), True)


@pytest.mark.parametrize("clips", [1, 3])
def test_gradients_of_single_snippets_equal_plain_ones(clips, double, monkeypatch):
    protocol = dataclasses.replace(TINY_PROTOCOL, image_size=48)
    plain, _ = gradients(protocol, torch.float64, Fidelity(0.5), tiny_tsm)
    streaming = dataclasses.replace(protocol, backward="streamed", micro_batch_clips=clips)
    seen = []
    original = Backbone.normalise  # after ``double``
    monkeypatch.setattr(Backbone, "normalise", lambda self, x: seen.append(x.shape[:3]) or original(self, x))
    streamed, _ = gradients(streaming, torch.float64, Fidelity(0.5), tiny_tsm)
    # Two windows of four clips, of whose sixteen snippets of four frames eight are kept. A pass takes as many
    # frames as at full fidelity.
    sizes = [4 * clips] * (16 // (4 * clips)) + ([16 % (4 * clips)] if 16 % (4 * clips) else [])
    assert seen == [(size, 3, 4) for size in sizes + sizes]
    for name, gradient in plain.items():
        torch.testing.assert_close(streamed[name], gradient, rtol=1e-9, atol=1e-12)


def compare(dtype, tolerance, clips, fidelity, inner):
    def backbone():
        return VideoViT(dataclasses.replace(TINY_VIT, drop_path=0.4))

    plain, after_plain = gradients(TINY_PROTOCOL, dtype, fidelity, backbone)
    streaming = dataclasses.replace(
        TINY_PROTOCOL, backward="streamed", micro_batch_clips=clips, streamed_checkpointing=inner
    )
    streamed, after_streamed = gradients(streaming, dtype, fidelity, backbone)
    assert torch.equal(after_plain, after_streamed)  # the head's own draws were the same
    norm = torch.stack([g.square().sum() for g in plain.values()]).sum().sqrt()
    difference = torch.stack([(streamed[n] - g).square().sum() for n, g in plain.items()]).sum().sqrt()
    assert norm > 0
    assert difference / norm < tolerance
    assert all(torch.count_nonzero(plain[f"backbone.blocks.{index}.mlp.fc1.weight"]) for index in range(3))


class ClipsSum(Backbone):
    """Adds to each clip what a layer makes of the clip before it; ``zero`` hides that at the start."""

    def __init__(self, inner, zero):
        super().__init__()
        self.inner, self.geometry = inner, inner.geometry
        self.mix = nn.Linear(inner.geometry.width, inner.geometry.width)
        if zero:
            nn.init.zeros_(self.mix.weight)
            nn.init.zeros_(self.mix.bias)

    def tokens(self, clips, window_clips=1):
        tokens = self.inner.tokens(clips)
        return tokens + self.mix(tokens.roll(1, dims=0))


@dataclasses.dataclass(frozen=True)
class Mixing:
    name = "mixing"

    def adapt(self, backbone):
        return ClipsSum(backbone, zero=True)

    def stages(self):
        return (EVERYTHING,)


@pytest.mark.parametrize("zero", [True, False])
def test_a_backbone_whose_clips_mix_is_refused_by_name(zero):
    with pytest.raises(InputError, match="ClipsSum, in which clips mix"):
        check_streamable(ClipsSum(tiny_vit(), zero))


def test_asking_leaves_no_trace():
    backbone = ClipsSum(VideoViT(dataclasses.replace(TINY_VIT, drop_path=0.9)), zero=True).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    state = torch.get_rng_state()
    assert clips_mix(backbone)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in backbone.modules())
    assert all(p.grad is None for p in backbone.parameters())


@pytest.mark.parametrize("name", sorted(installed()))
def test_ours_mix_clips_only_where_they_say_so(name):
    adapted = build_strategy(name).adapt(tiny_vit())
    assert clips_mix(adapted) == adapted.mixes_clips


def test_norm_tuning_is_streamed_under_bfloat16():
    protocol = dataclasses.replace(TINY_PROTOCOL, precision="bfloat16", backward="streamed")
    norms = Stage("norms", (Rule(r"backbone\..*norm\d\..*", 0.5), Rule(r"head\..*")))
    backbone = tiny_vit()
    keywords = protocol.head.keywords(protocol.window_clips * backbone.geometry.steps_per_clip)
    head = build_head(input_dim=backbone.geometry.width, num_classes=len(CLASSES), **keywords)
    detector = Detector(backbone, head)
    assert lower_frozen_weights(detector, (norms,), protocol) > 0
    freeze_except(detector, norms)
    check_streamable(backbone, protocol.precision)


class EncodesNothing(ClipsSum):
    def tokens(self, clips, window_clips=1):
        raise RuntimeError("mat1 and mat2 must have the same dtype")


class EncodesOne(ClipsSum):
    def tokens(self, clips, window_clips=1):
        return self.inner.tokens(clips.view(1, *clips.shape[1:]))


def test_only_an_error_of_two_clips_is_taken_for_mixing():
    assert clips_mix(EncodesOne(tiny_vit(), zero=True))
    with pytest.raises(RuntimeError, match="must have the same dtype"):
        clips_mix(EncodesNothing(tiny_vit(), zero=True))


def test_training_refuses_a_mixing_strategy():
    protocol = dataclasses.replace(TINY_PROTOCOL, backward="streamed")
    backbone = Mixing().adapt(tiny_vit())
    keywords = protocol.head.keywords(protocol.window_clips * backbone.geometry.steps_per_clip)

    def head():
        return build_head(input_dim=backbone.geometry.width, num_classes=len(CLASSES), **keywords)

    sampler = TrainingSampler(tiny_store(backbone, protocol), protocol, CLASSES, 0)
    trainer = Trainer(Detector(backbone, head()), protocol, sampler, torch.device("cpu"))
    with pytest.raises(InputError, match="allowed for it are plain and checkpointed"):
        train(trainer, Mixing().stages(), head)


def test_released_gradients_make_the_same_step():
    free = dataclasses.replace(TINY_PROTOCOL, gradient_clip=1e30)
    results = []
    for release in (False, True):
        protocol = dataclasses.replace(free, lean=dataclasses.replace(free.lean, release_gradients=release))
        torch.manual_seed(0)
        layers = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8))
        factors = {"0.weight": 1.0, "0.bias": 1.0, "2.weight": 0.5, "2.bias": 0.5}
        optimizer = make_optimizer(layers, factors, protocol, fused=None)
        for step in range(3):
            optimizer.set_factor(1 - step / 3)
            layers(torch.full((4, 8), 0.1 * step)).square().sum().backward()
            assert not release or all(p.grad is None for p in layers.parameters())
            optimizer.step()
        optimizer.close()
        results.append([p.detach().clone() for p in layers.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_released_gradients_need_an_unclipped_step():
    from bench.config.overrides import override

    with pytest.raises(InputError, match=r"lean\.release_gradients"):
        override(TINY_PROTOCOL, {"lean.release_gradients": "true"})
    changed = override(TINY_PROTOCOL, {"gradient_clip": "1e30", "lean.release_gradients": "true"})
    assert changed.lean.release_gradients


@pytest.mark.parametrize("backward", ["checkpointed", "streamed"])
def test_lofi_ends_with_the_weights_of_plain_backward(backward):
    from strategies.testing import train_tiny

    plain = train_tiny(LoFi()).detector.state_dict()
    protocol = dataclasses.replace(TINY_PROTOCOL, backward=backward, micro_batch_clips=3)
    other = train_tiny(LoFi(), protocol).detector.state_dict()
    for name, value in plain.items():
        torch.testing.assert_close(other[name], value, rtol=2e-3, atol=2e-4, msg=name)
