"""What the interface promises: inserted and replaced modules, freezing, whole windows, unused weights."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bench.data.windows import Window
from bench.features.cache import EncodingCache
from bench.features.encode import ClipPasses
from bench.io.errors import InputError
from bench.models.backbone import Backbone
from bench.models.backbones.i3d import tiny_i3d
from bench.models.backbones.tsm import tiny_tsm
from bench.models.backbones.vit import Attention
from bench.models.random_state import uniform
from bench.training.optimizer import UnusedParametersError
from strategies import (
    NAMED_GROUPS,
    build_strategy,
    installed,
    reason_against,
    strategy_names,
    supported_names,
)
from strategies.base import Rule, Stage
from strategies.full_finetune import FullFinetune
from strategies.testing import TINY_PROTOCOL, tiny_detector, tiny_store, tiny_vit, train_tiny

FAMILIES = {"vit": tiny_vit, "tsm": tiny_tsm, "i3d": tiny_i3d}
SHORT = dataclasses.replace(TINY_PROTOCOL, steps=4)


class WindowMean(nn.Module):
    """Adds a part of the window's mean to every token: the simplest module that mixes clips."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(width))
        self.seen: list[tuple[int, ...]] = []

    def forward(self, tokens: Tensor, window_clips: int) -> Tensor:
        self.seen.append((*tokens.shape, window_clips))
        windows = tokens.unflatten(0, (-1, window_clips))
        mean = windows.mean(dim=(1, 2, 3, 4), keepdim=True)
        return tokens + self.scale * mean.expand_as(windows).flatten(0, 1)


@dataclasses.dataclass(frozen=True)
class Mixing:
    name: ClassVar[str] = "mixing"

    def adapt(self, backbone: Backbone) -> Backbone:
        backbone.insert_after_layers(WindowMean, mixes=True)
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("inserted", (Rule(r"backbone\.inserted\..*"), Rule(r"head\..*"))),)


class LowRank(nn.Module):
    """A low-rank update of a linear layer. If ``reads_weight``, attention reads only ``weight``."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down = nn.Linear(base.in_features, 2, bias=False)
        self.up = nn.Linear(2, base.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.base(x) + self.up(self.down(x))
        return changed


@dataclasses.dataclass(frozen=True)
class OwnLowRank:
    """Puts a module of one's own in place of ``attn.qkv``."""

    name: ClassVar[str] = "own-low-rank"

    def adapt(self, backbone: Backbone) -> Backbone:
        for module in list(backbone.modules()):
            if isinstance(module, Attention):
                module.qkv = LowRank(module.qkv)  # type: ignore[assignment]
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("low-rank", (Rule(r"backbone\..*\.(down|up)\.weight"), Rule(r"head\..*"))),)


@pytest.mark.parametrize("family", FAMILIES)
def test_inserted_modules_see_every_layer_and_the_window(family):
    torch.manual_seed(0)
    backbone = FAMILIES[family]().eval()
    size, frames = backbone.geometry.image_size, backbone.geometry.clip_frames
    clips = torch.randn(2, 3, 3, frames, size, size)
    expected = backbone(clips)
    backbone.insert_after_layers(WindowMean, mixes=True)
    assert torch.equal(backbone(clips), expected)
    for index, width in enumerate(backbone.geometry.layer_widths):
        [(count, _, _, _, channels, window_clips)] = backbone.inserted[str(index)].seen
        assert (count, channels, window_clips) == (6, width, 3)
        nn.init.ones_(backbone.inserted[str(index)].scale)
    changed = backbone(clips)
    other = clips.clone()
    other[1] = 0  # the second window does not reach the first
    assert torch.equal(backbone(other)[0], changed[0])
    other = clips.clone()
    other[0, 2] = 0
    step = backbone.geometry.steps_per_clip
    assert not torch.equal(backbone(other)[0, :, :step], changed[0, :, :step])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("chosen", [(0,), (1, 2)])
def test_modules_are_inserted_after_chosen_layers_inside_their_checkpoints(family, chosen):
    backbone = FAMILIES[family]()
    backbone.insert_after_layers(WindowMean, chosen, mixes=True)
    assert sorted(map(int, backbone.inserted)) == list(chosen)
    size, frames = backbone.geometry.image_size, backbone.geometry.clip_frames
    clips, gradients = torch.randn(2, 3, frames, size, size), []
    for wanted in (False, True):
        backbone.set_checkpointing(wanted)
        backbone.zero_grad()
        backbone.encode(clips, 2)[0].square().sum().backward()
        gradients.append([p.grad.clone() for p in backbone.parameters() if p.grad is not None])
    assert all(torch.equal(*pair) for pair in zip(*gradients, strict=True))
    for index in map(str, chosen):
        assert len(backbone.inserted[index].seen) == 3  # it runs again with its layer


@pytest.mark.parametrize("family", FAMILIES)
def test_layer_modules_hold_all_but_the_stem(family):
    backbone = FAMILIES[family]()
    modules = backbone.layer_modules()
    assert len(modules) == len(backbone.geometry.layer_widths)
    found = [id(p) for group in modules for module in group for p in module.parameters()]
    assert len(found) == len(set(found))
    stem = {name for name, p in backbone.named_parameters() if id(p) not in found}
    assert all(name.startswith(("patch_embed.", "conv1.", "bn1.")) for name in stem)
    assert bool(stem) == (family != "i3d")


def test_a_window_has_the_same_features_in_training_and_at_test_time():
    torch.manual_seed(0)
    backbone = Mixing().adapt(tiny_vit()).eval()
    for module in backbone.inserted.values():
        nn.init.normal_(module.scale)
    store = tiny_store(backbone)
    clips = torch.from_numpy(store.clips["video3"].part(1, 5))
    with torch.no_grad():
        expected = backbone(backbone.normalise(clips)[None])
    cache = EncodingCache(backbone, store, ClipPasses(2))
    mask = torch.ones(1, 4 * backbone.geometry.steps_per_clip, dtype=torch.bool)
    torch.testing.assert_close(cache.features(Window("video3", 1, 4), mask), expected)
    assert not cache.keep
    whole = cache.batch([Window("video3", 0, 5)], torch.device("cpu"))[0]
    assert not torch.allclose(
        whole[0, 1], cache.batch([Window("video3", 1, 4)], torch.device("cpu"))[0][0, 0]
    )


def test_a_mixing_strategy_trains_plain_and_checkpointed_alike_and_is_not_streamed():
    runs = [
        train_tiny(Mixing(), dataclasses.replace(SHORT, backward=mode)) for mode in ("plain", "checkpointed")
    ]
    assert runs[0].log.losses == runs[1].log.losses
    with pytest.raises(InputError, match="VideoViT, in which clips mix"):
        train_tiny(Mixing(), dataclasses.replace(SHORT, backward="streamed"))


def test_a_module_in_place_of_qkv_is_called_and_trained():
    trained = train_tiny(OwnLowRank(), SHORT)
    after = trained.detector.state_dict()
    moved = [name for name in after if name.endswith((".down.weight", ".up.weight")) and "attn.qkv" in name]
    assert len(moved) == 6
    assert not any(torch.equal(after[name], trained.before[name]) for name in moved)


class Dropped(nn.Module):
    """Adds a linear map of each clip's tokens with probability 1/2, drawn in the forward pass."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, tokens: Tensor, window_clips: int) -> Tensor:
        kept = (uniform(len(tokens), 1) < 0.5).to(tokens.dtype)
        added: Tensor = tokens + self.linear(tokens) * kept[:, :, None, None, None]
        return added


@dataclasses.dataclass(frozen=True)
class Dropping:
    share: float = 1.0
    name: ClassVar[str] = "dropping"

    def adapt(self, backbone: Backbone) -> Backbone:
        backbone.insert_after_layers(Dropped)
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        rules = (Rule(r"backbone\.inserted\..*"), Rule(r"head\..*"))
        return (Stage("inserted", rules, backward_share=self.share),)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("share", "fields"),
    [
        (1.0, {"backward": "plain"}),
        (1.0, {"backward": "streamed", "micro_batch_clips": 3}),
        (1.0, {"backward": "streamed", "micro_batch_clips": 2, "micro_batch_windows": 1}),
        (0.5, {"backward": "plain", "micro_batch_clips": 3}),
    ],
)
def test_what_a_module_draws_is_drawn_again_when_its_layer_is_recomputed(family, share, fields):
    protocol = dataclasses.replace(SHORT, image_size=48, **fields)
    recomputing = {"streamed_checkpointing": True}
    if protocol.backward == "plain":
        recomputing["backward"] = "checkpointed"
    kept, recomputed = (
        train_tiny(Dropping(share), dataclasses.replace(protocol, **changes), FAMILIES[family])
        for changes in ({"streamed_checkpointing": False}, recomputing)
    )
    after = recomputed.detector.state_dict()
    for name, value in kept.detector.state_dict().items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=0)


def test_a_hook_on_qkv_sees_its_output():
    attention, seen = Attention(8, 2), []
    tokens = torch.randn(1, 5, 8)
    expected = attention(tokens)
    attention.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    torch.testing.assert_close(attention(tokens), expected)
    assert seen == [(1, 5, 24)]


@pytest.mark.parametrize("width", [8, 24])
def test_split_projections_are_those_of_qkv(width):
    torch.manual_seed(0)
    attention = Attention(width, 2)
    nn.init.normal_(attention.q_bias)
    nn.init.normal_(attention.v_bias)
    tokens = torch.randn(2, 5, width)
    expected = attention(tokens)
    attention.split_projections()
    torch.testing.assert_close(attention(tokens), expected, rtol=1e-5, atol=1e-6)
    shapes = {name: tuple(p.shape) for name, p in attention.named_parameters()}
    square = (width, width)
    assert shapes == {
        **{"q.weight": square, "k.weight": square, "v.weight": square},
        **{"q.bias": (width,), "v.bias": (width,), "proj.weight": square, "proj.bias": (width,)},
    }


@pytest.mark.parametrize("mode", ["plain", "checkpointed", "streamed"])
@pytest.mark.parametrize("release", [False, True])
def test_a_trained_parameter_that_is_never_used_ends_the_run(monkeypatch, mode, release):
    def reads_the_weight(self, tokens):
        bias = torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias))
        return F.linear(tokens, self.qkv.base.weight, bias)

    monkeypatch.setattr(Attention, "_projected", reads_the_weight)
    lean = dataclasses.replace(SHORT.lean, release_gradients=release)
    protocol = dataclasses.replace(SHORT, backward=mode, lean=lean, gradient_clip=1e30)
    names = r"backbone\.blocks\.0\.attn\.qkv\.down\.weight, .* and 2 more"
    with pytest.raises(UnusedParametersError, match=names):
        train_tiny(OwnLowRank(), protocol)


def test_a_fidelity_may_leave_parameters_unused_that_another_uses(monkeypatch):
    """The check waits for the measured steps of all fidelities."""
    from strategies.lofi import LoFi

    backbone = tiny_vit()
    original = type(backbone).layers

    def stem_frozen_when_short(self, clips, taps, window_clips=1):
        batch = TINY_PROTOCOL.batch_size * TINY_PROTOCOL.window_clips
        frozen = len(clips) < batch and torch.is_grad_enabled()
        for parameter in self.patch_embed.parameters() if frozen else ():
            parameter.requires_grad_(False)
        try:
            return original(self, clips, taps, window_clips)
        finally:
            for parameter in self.patch_embed.parameters() if frozen else ():
                parameter.requires_grad_(True)

    monkeypatch.setattr(type(backbone), "layers", stem_frozen_when_short)
    train_tiny(LoFi(variant="short-cyclic", short_cycle_steps=1))
    with pytest.raises(UnusedParametersError, match=r"backbone\.patch_embed\.proj\.weight"):
        train_tiny(LoFi(variant="t"))


@dataclasses.dataclass(frozen=True)
class FrozenInAdapt:
    name: ClassVar[str] = "frozen-in-adapt"

    def adapt(self, backbone: Backbone) -> Backbone:
        for parameter in backbone.layer_modules()[0][0].parameters():
            parameter.requires_grad_(False)
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        return FullFinetune().stages()


def test_what_adapt_freezes_no_rule_trains():
    detector, _ = tiny_detector(FrozenInAdapt())
    names = detector.trained_names(FrozenInAdapt().stages())
    assert not any(name.startswith("backbone.blocks.0.") for name in names)
    assert any(name.startswith("backbone.blocks.1.") for name in names)
    trained = train_tiny(FrozenInAdapt(), SHORT)
    for name, value in trained.detector.state_dict().items():
        if name.startswith("backbone."):
            assert torch.equal(value, trained.before[name]) == name.startswith("backbone.blocks.0."), name


def test_groups_are_lists_of_installed_strategies():
    for name, members in NAMED_GROUPS.items():
        assert strategy_names(name) == list(members)
    assert strategy_names("all") == list(installed())
    assert strategy_names("losa,papers,head-only") == [
        "losa",
        "head-only",
        "lofi",
        "full-finetune",
        "lofi-added",
    ]
    with pytest.raises(
        InputError, match=r"unknown 'paper', known are .*losa.*; groups are default, papers, field"
    ):
        strategy_names("paper")


def test_every_shipped_strategy_has_equal_tuning_trials():
    from bench.tune import RATES, TRIALS

    shipped = {name for members in NAMED_GROUPS.values() for name in members}
    assert TRIALS.keys() == shipped
    for name, (default, *others) in TRIALS.items():
        field, usual, *rates = RATES[name]
        assert default == {}
        assert build_strategy(name, {field: usual}) == build_strategy(name)
        assert float(min(rates, key=float)) < float(usual) < float(max(rates, key=float))
        scaled = {"input_norm": "scale"}
        assert others == [*({field: rate} for rate in rates), scaled, *(scaled | {field: r} for r in rates)]


def test_a_strategy_says_what_it_needs_of_a_model():
    assert reason_against("head-only", "features") is None
    assert reason_against("losa", "features") == "it changes the backbone, and features has none"
    assert reason_against("losa", "i3d") is None
    assert supported_names(["losa", "mlp-control"], "features", "--strategies") == ["mlp-control"]
    with pytest.raises(InputError, match=r"strategy losa: it changes the backbone.*allowed are head-only"):
        supported_names(["losa"], "features", "--strategies")
    for name in installed():
        assert build_strategy(name).name == name
