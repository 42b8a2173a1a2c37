"""What is refused, when, and in which words: before time is lost, and for one strategy alone."""

from __future__ import annotations

import dataclasses
from importlib.metadata import EntryPoint
from typing import ClassVar

import pytest
import torch
from torch import Tensor, nn

import strategies
from bench.io.errors import InputError
from bench.models.backbone import Backbone
from bench.models.random_state import uniform
from bench.training.optimizer import UnusedParametersError
from strategies import build_strategy, reason_against, supported_names
from strategies.base import Rule, Stage
from strategies.field.adatad import AdaTAD
from strategies.full_finetune import FullFinetune
from strategies.head_only import HeadOnly
from strategies.testing import (
    TINY_PROTOCOL,
    check_mixing_is_declared,
    check_only_named_parameters_move,
    train_tiny,
)

HEAD = Rule(r"head\..*")
INSERTED = Rule(r"backbone\.inserted\..*")


class Added(nn.Module):
    """Adds a linear map of the tokens, of which subclasses say when and how much."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        self.calls = 0

    def forward(self, tokens: Tensor, window_clips: int) -> Tensor:
        self.calls += 1
        return tokens + self.linear(tokens) if self.used() else tokens

    def used(self) -> bool:
        return True


class Drawn(Added):
    def used(self) -> bool:
        return bool(uniform(1, 1) < 0.5)


class Rare(Added):
    def used(self) -> bool:
        return self.calls % 3 == 0


class Never(Added):
    def used(self) -> bool:
        return False


class Nothing(Added):
    def forward(self, tokens: Tensor, window_clips: int) -> Tensor:
        return tokens + 0 * self.linear(tokens)


@dataclasses.dataclass(frozen=True)
class Inserting:
    module: type[Added]
    name: ClassVar[str] = "inserting"

    def adapt(self, backbone: Backbone) -> Backbone:
        backbone.insert_after_layers(self.module, (0,))
        return backbone

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("inserted", (INSERTED, HEAD)),)


@pytest.mark.parametrize("module", [Drawn, Rare])
def test_a_module_that_some_steps_use_is_no_mistake(module):
    train_tiny(Inserting(module), dataclasses.replace(TINY_PROTOCOL, steps=24))


def test_a_module_that_no_step_uses_ends_the_run_early(monkeypatch):
    steps = []
    protocol = dataclasses.replace(TINY_PROTOCOL, steps=60)
    monkeypatch.setattr("bench.training.loop.schedule", lambda done, *_, **__: steps.append(done) or 1.0)
    with pytest.raises(UnusedParametersError, match="inserted"):
        train_tiny(Inserting(Never), protocol)
    assert len(steps) == 21


def test_the_contract_finds_weights_that_only_weight_decay_moves():
    with pytest.raises(AssertionError, match=r"backbone\.inserted\.0\.linear\.weight should change"):
        check_only_named_parameters_move(Inserting(Nothing))


@dataclasses.dataclass(frozen=True)
class Staged:
    """A head stage, then another one."""

    second: Stage
    mixes: bool = False
    name: ClassVar[str] = "staged"

    def adapt(self, backbone: Backbone) -> Backbone:
        return AdaTAD().adapt(backbone) if self.mixes else backbone

    def stages(self) -> tuple[Stage, ...]:
        return (Stage("first", (HEAD,), share=0.5), self.second)


@pytest.mark.parametrize(
    ("strategy", "backward", "words"),
    [
        (Staged(Stage("b", (INSERTED, HEAD), 0.5), mixes=True), "streamed", "clips mix"),
        (Staged(Stage("b", (INSERTED, HEAD), 0.5, backward_share=0.3), mixes=True), "plain", "clips mix"),
        (Staged(Stage("b", (HEAD,), 0.5, backward_share=0.3)), "plain", "trains no parameter that the"),
    ],
)
def test_a_later_stage_is_refused_before_the_first_one_runs(strategy, backward, words, monkeypatch):
    monkeypatch.setattr("bench.training.step.Trainer.step", lambda *_: pytest.fail("a step was made"))
    with pytest.raises(InputError, match=words):
        train_tiny(strategy, dataclasses.replace(TINY_PROTOCOL, backward=backward))


def test_clips_that_mix_are_left_out_where_the_backward_is_streamed():
    assert reason_against("adatad", "vit-t") is None
    reason = "clips of a window mix in it, so that backward=streamed is refused"
    assert reason_against("adatad", "vit-t", streamed=True).startswith(reason)
    assert supported_names(["adatad", "losa"], "vit-t", "--strategies", streamed=True) == ["losa"]
    with pytest.raises(InputError, match=f"strategy adatad: {reason}.*; allowed are adatad-beside, bitfit"):
        supported_names(["adatad"], "vit-t", "--strategies", streamed=True)


@pytest.mark.parametrize("said", [True, False])
def test_the_contract_compares_what_strategy_and_backbone_say_of_mixing(said):
    kind = dataclasses.make_dataclass("Kind", [], bases=(AdaTAD,), frozen=True)
    kind.mixes_clips = said
    if said:
        check_mixing_is_declared(kind())
    else:
        with pytest.raises(AssertionError, match="mixes_clips is False for the strategy and True for the"):
            check_mixing_is_declared(kind())


@pytest.mark.parametrize(
    ("name", "field"),
    [("adatad", "adapter_lr"), ("head-only", "lr"), ("last-k", "backbone_lr"), ("mlp-control", "block_lr")],
)
def test_a_negative_rate_is_refused_at_once(name, field):
    with pytest.raises(InputError, match=f"strategy {name}: a learning rate is 0 or more, .* got -1"):
        build_strategy(name, {field: "-1"})


class NoDataclass:
    name = "broken"


@dataclasses.dataclass(frozen=True)
class OtherName(HeadOnly):
    name: ClassVar[str] = "other"


@dataclasses.dataclass(frozen=True)
class UnknownNeed(HeadOnly):
    name: ClassVar[str] = "broken"
    needs: ClassVar[tuple[str, ...]] = ("transformer",)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("no_such_module:Kind", r"strategy broken: no_such_module:Kind cannot be loaded \(No module named"),
        (f"{__name__}:NoSuchClass", "cannot be loaded"),
        (f"{__name__}:NoDataclass", "is no dataclass"),
        (f"{__name__}:OtherName", "has the name 'other', not 'broken'"),
        (f"{__name__}:UnknownNeed", "needs has 'transformer', allowed are backbone, attention"),
    ],
)
def test_a_broken_package_is_one_line_and_stops_no_other_strategy(monkeypatch, value, words):
    found = {**strategies.installed(), "broken": EntryPoint("broken", value, strategies.GROUP)}
    monkeypatch.setattr(strategies, "installed", lambda: found)
    for use in (build_strategy, lambda name: reason_against(name, "vit-t")):
        with pytest.raises(InputError, match=words):
            use("broken")
    assert build_strategy("losa").name == "losa"
    with pytest.raises(InputError, match="allowed are head-only"):
        supported_names(["losa"], "features", "--strategies")


def test_failed_merging_leaves_no_update_in_the_weights(monkeypatch):
    pytest.importorskip("peft")
    from peft.tuners.lora import Linear

    from strategies.testing import tiny_vit

    backbone = build_strategy("lora", {"merge": "true"}).adapt(tiny_vit())
    for name, parameter in backbone.named_parameters():
        if "lora_B" in name:
            nn.init.ones_(parameter)
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    original, merged = Linear.merge, []

    def merge(self, *arguments):
        if len(merged) == 3:
            raise RuntimeError("no memory")
        merged.append(self)
        original(self, *arguments)

    monkeypatch.setattr(Linear, "merge", merge)
    with pytest.raises(RuntimeError, match="no memory"), backbone.for_inference():
        pass
    assert not any(layer.merged for layer in merged)
    assert all(torch.equal(value, before[name]) for name, value in backbone.state_dict().items())


def test_full_fine_tuning_has_no_part_that_is_refused():
    assert reason_against(FullFinetune.name, "i3d", streamed=True) is None
