"""Strategies as a user would write them, and what the contract says of common mistakes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.models.backbone import Backbone, Encoded, WrappedBackbone
from bench.models.backbones.i3d import tiny_i3d
from bench.models.backbones.tsm import tiny_tsm
from strategies.base import Rule, Stage
from strategies.testing import (
    TINY_PROTOCOL,
    check_mixing_is_declared,
    check_shapes_are_kept,
    check_stages_are_sound,
    check_strategy,
    tiny_vit,
    train_tiny,
)


@dataclasses.dataclass(frozen=True)
class Mine:
    """A strategy made of a function that adapts a backbone, and the pattern of what is trained in it."""

    change: Callable[[Backbone], Backbone]
    pattern: str | None = r"backbone\.inserted\..*"
    name: ClassVar[str] = "mine"

    def adapt(self, backbone: Backbone) -> Backbone:
        return self.change(backbone)

    def stages(self) -> tuple[Stage, ...]:
        own = () if self.pattern is None else (Rule(self.pattern),)
        return (Stage("mine", (*own, Rule(r"head\..*"))),)


@dataclasses.dataclass(frozen=True)
class MineThatMixes(Mine):
    mixes_clips: ClassVar[bool] = True


class LoRALinear(nn.Module):
    """A linear map with a low-rank update, in its place."""

    def __init__(self, linear: nn.Linear, rank: int) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, tokens: Tensor) -> Tensor:
        changed: Tensor = self.linear(tokens) + self.up(self.down(tokens))
        return changed


def with_lora(backbone: Backbone) -> Backbone:
    blocks = backbone.token_blocks()
    assert blocks is not None
    for block in blocks:
        block.attn.qkv = LoRALinear(block.attn.qkv, 2)
    return backbone


class BlockWithBottleneck(nn.Module):
    def __init__(self, block: nn.Module, width: int) -> None:
        super().__init__()
        self.block = block
        self.bottleneck = nn.Sequential(nn.Linear(width, 4), nn.GELU(), nn.Linear(4, width))

    def forward(self, tokens: Tensor, draws: Tensor | None) -> Tensor:
        tokens = self.block(tokens, draws)
        return tokens + self.bottleneck(tokens)


def with_bottlenecks(backbone: Backbone) -> Backbone:
    blocks = backbone.token_blocks()
    assert blocks is not None
    for index, block in enumerate(blocks):
        blocks[index] = BlockWithBottleneck(block, backbone.geometry.width)
    return backbone


class MiddleLayer(WrappedBackbone):
    """The features of layer ``index`` in place of the last layer's."""

    def __init__(self, inner: Backbone, index: int) -> None:
        super().__init__(inner)
        self.index = index
        self.geometry = dataclasses.replace(inner.geometry, width=inner.geometry.layer_widths[index])

    def encode(self, clips: Tensor, window_clips: int = 1) -> Encoded:
        [tokens] = self.inner.layers(clips, (self.index,), window_clips)
        return (tokens.mean(dim=(2, 3)),)


@pytest.mark.parametrize(
    "strategy",
    [
        Mine(with_lora, r"backbone\..*\.attn\.qkv\.(down|up)\..*"),
        Mine(with_bottlenecks, r"backbone\..*\.bottleneck\..*"),
        Mine(lambda backbone: MiddleLayer(backbone, 1), None),
    ],
    ids=["lora", "bottleneck", "probe"],
)
def test_what_a_user_would_write_keeps_the_contract(strategy: Mine) -> None:
    check_strategy(strategy)


@pytest.mark.parametrize("make_backbone", [tiny_tsm, tiny_i3d])
def test_a_middle_layer_may_have_other_channels(make_backbone: Callable[[], Backbone]) -> None:
    strategy = Mine(lambda backbone: MiddleLayer(backbone, 1), None)
    check_shapes_are_kept(strategy, make_backbone)
    protocol = dataclasses.replace(TINY_PROTOCOL, image_size=48, steps=4)
    assert len(train_tiny(strategy, protocol, make_backbone).log.losses) == 4


class Shifted(nn.Module):
    """Adds to each step what a layer makes of the step before it, also across clips."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Linear(width, width)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, tokens: Tensor, window_clips: int) -> Tensor:
        steps = tokens.unflatten(0, (-1, window_clips)).flatten(1, 2)
        changed: Tensor = tokens + self.change(steps.roll(1, dims=1)).reshape(tokens.shape)
        return changed


class Flattening(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()

    def forward(self, tokens: Tensor, window_clips: int) -> Tensor:
        return tokens.flatten(1, 3)


def inserting(make: Callable[[int], nn.Module], **options: object) -> Callable[[Backbone], Backbone]:
    def change(backbone: Backbone) -> Backbone:
        backbone.insert_after_layers(make, **options)  # type: ignore[arg-type]
        return backbone

    return change


def test_mixing_must_be_declared() -> None:
    with pytest.raises(AssertionError, match=r"mixes_clips is false.*insert_after_layers\(..., mixes=True\)"):
        check_mixing_is_declared(Mine(inserting(Shifted)))
    with pytest.raises(
        AssertionError, match="mixes_clips is False for the strategy and True for the adapted"
    ):
        check_mixing_is_declared(Mine(inserting(Shifted, mixes=True)))
    check_mixing_is_declared(MineThatMixes(inserting(Shifted, mixes=True)))


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (inserting(Shifted, layers=(3,)), InputError, "layer 3, allowed are -3 to 2"),
        (inserting(Shifted, layers=(2, -1)), InputError, "inserted after layer 2 before"),
        (inserting(Flattening), InputError, r"Flattening, inserted after layer 0, changes the shape"),
        (lambda backbone: None, AssertionError, r"adapt\(\) returns NoneType"),
    ],
)
def test_mistakes_are_told(
    change: Callable[[Backbone], Backbone], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        check_shapes_are_kept(Mine(change))


def test_a_pattern_that_matches_nothing_is_told_with_the_names_there_are() -> None:
    strategy = Mine(with_lora, r"backbone\.lora\..*")
    with pytest.raises(
        ValueError, match=r"backbone\\.lora\\..*; parameters begin with .*backbone.blocks, head"
    ):
        check_stages_are_sound(strategy)


def test_a_wrapper_inserts_into_the_backbone_that_runs() -> None:
    wrapper = MiddleLayer(tiny_vit(), 1)
    wrapper.insert_after_layers(Shifted, (-2,), mixes=True)
    assert wrapper.mixes_clips
    assert list(wrapper.inner.inserted) == ["1"]
    wrapper(torch.randn(1, 2, 3, 8, 32, 32)).sum().backward()
    assert all(p.grad is not None for p in wrapper.inner.inserted.parameters())
