"""Every installed strategy keeps the contract, and each of ours its own claim."""

import dataclasses

import pytest
import torch

from bench.data.windows import TrainingSampler, Window
from bench.features.cache import EncodingCache
from bench.features.encode import ClipPasses, encode_frozen
from bench.io.errors import InputError
from bench.training.loop import train
from bench.training.step import Trainer
from strategies import build_strategy, installed
from strategies.base import FULL, Fidelity, Rule, Stage, check_stages, learning_rates, stage_ends
from strategies.head_only import HeadOnly
from strategies.lofi import LoFi, LoFiAdded
from strategies.losa import LoSA
from strategies.testing import (
    CLASSES,
    TINY_PROTOCOL,
    check_is_deterministic,
    check_only_named_parameters_move,
    check_settings_round_trip,
    check_shapes_are_kept,
    check_stages_are_sound,
    check_starts_from_backbone,
    step_peak_bytes,
    tiny_detector,
    tiny_store,
    tiny_vit,
    train_tiny,
)

NAMES = sorted(installed())
OTHER_START = {"vpt", "token-pruning"}
"""Prompts change attention from the start, and dropped tokens leave the mean."""
VARIANTS = ("s", "t", "st", "short-cyclic", "long-cyclic")


def test_ours_are_installed():
    assert {"head-only", "lofi", "lofi-added", "full-finetune", "losa", "mlp-control"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "check",
    [
        check_stages_are_sound,
        check_shapes_are_kept,
        check_starts_from_backbone,
        check_only_named_parameters_move,
        check_is_deterministic,
        check_settings_round_trip,
    ],
)
def test_contract(name, check):
    if check is check_starts_from_backbone and name in OTHER_START:
        with pytest.raises(AssertionError, match="the first features differ"):
            check(build_strategy(name))
    else:
        check(build_strategy(name))


@pytest.mark.parametrize(
    "strategy",
    [
        *(LoFi(variant=variant) for variant in VARIANTS),
        LoSA(short_range=False),
        LoSA(long_range=False),
        LoSA(gated=False),
        LoSA(taps=(0, -1), grid=2, width=8, heads=2),
    ],
)
def test_variants_keep_the_contract(strategy):
    check_starts_from_backbone(strategy)
    check_only_named_parameters_move(strategy)


def test_step_peaks_are_ordered_as_the_papers_claim():
    names = ("head-only", "losa", "lofi", "full-finetune")
    peaks = [step_peak_bytes(build_strategy(name)) for name in names]
    assert peaks == sorted(set(peaks))


def record_input_shapes(strategy, monkeypatch):
    """Train and return, for every call of the backbone with gradient on, the input's shape."""
    shapes = []
    original = type(tiny_vit()).layers

    def spy(self, clips, taps, window_clips=1):
        if torch.is_grad_enabled():
            shapes.append(tuple(clips.shape))
        return original(self, clips, taps, window_clips)

    monkeypatch.setattr(type(tiny_vit()), "layers", spy)
    train_tiny(strategy, dataclasses.replace(TINY_PROTOCOL, steps=16))
    return shapes


@pytest.mark.parametrize("variant", VARIANTS)
def test_lofi_never_trains_the_backbone_at_full_fidelity(variant, monkeypatch):
    shapes = record_input_shapes(LoFi(variant=variant, short_cycle_steps=1), monkeypatch)
    batch, clips, size = TINY_PROTOCOL.batch_size, TINY_PROTOCOL.window_clips, TINY_PROTOCOL.image_size
    full = batch * clips * size * size
    seen = {(shape[0], shape[3]) for shape in shapes}
    assert len(shapes) == 8  # half of the steps
    spatial, temporal, both = (batch * clips, 16), (batch * clips // 4, 32), (batch * clips // 2, 24)
    expected = {"s": {spatial}, "t": {temporal}, "st": {both}}.get(variant, {spatial, temporal, both})
    assert seen == expected
    # 24 is the multiple of the patch nearest to 32 / sqrt(2); a quarter of the pixels elsewhere.
    assert all(count * side * side <= 0.3 * full for count, side in seen)


def test_lofi_cycles_change_by_steps_or_by_epochs():
    short, long = LoFi(variant="short-cyclic").stages()[0], LoFi(variant="long-cyclic").stages()[0]
    assert [short.fidelities.index(short.fidelity_at(step, 5)) for step in (0, 15, 16, 32, 48)] == [
        0,
        0,
        1,
        2,
        0,
    ]
    assert [long.fidelities.index(long.fidelity_at(step, 5)) for step in (0, 4, 5, 10, 15)] == [0, 0, 1, 2, 0]


@pytest.mark.parametrize("steps", range(2, 40))
def test_the_two_budgets_of_lofi_differ_in_the_steps_of_the_head_alone(steps):
    shared, added = (stage_ends(strategy.stages(), steps) for strategy in (LoFi(), LoFiAdded()))
    assert shared == [round(0.5 * steps), steps]
    assert added == [round(0.5 * steps), round(0.5 * steps) + steps]
    assert LoFi().stages()[0] == dataclasses.replace(LoFiAdded().stages()[0], added=False)


def test_a_run_with_added_steps_reports_their_total(monkeypatch):
    told = []
    strategy = LoFiAdded(joint_share=1.5)
    detector, fresh_head = tiny_detector(strategy)
    store = dataclasses.replace(tiny_store(detector.backbone), ahead=2)
    expected = []
    monkeypatch.setattr(type(store), "expect", lambda store, parts: expected.append(len(parts)))
    sampler = TrainingSampler(store, TINY_PROTOCOL, CLASSES, 0)
    trainer = Trainer(detector, TINY_PROTOCOL, sampler, torch.device("cpu"))
    log = train(trainer, strategy.stages(), fresh_head, lambda *progress: told.append(progress))
    assert len(log.losses) == 30
    assert [each for each in told if each[1] in (18, 19, 30)] == [
        ("joint", 18, 30),
        ("head", 19, 30),
        ("head", 30, 30),
    ]
    assert [(first, stage) for first, stage, _ in log.schedule if stage == "head"] == [(18, "head")]
    # Frames of steps beyond the protocol's are prefetched as well: two batches, in the last step one.
    assert expected[:18] == [2 * TINY_PROTOCOL.batch_size] * 18


def test_lofi_trains_a_fresh_head_on_a_frozen_encoder():
    joint, head = LoFi().stages()
    assert not joint.fresh_head
    assert head.fresh_head
    assert head.fidelities == (FULL,)
    assert not any(rule.pattern.startswith("backbone") for rule in head.rules)


def test_losa_records_no_graph_in_the_backbone():
    adapted = LoSA().adapt(tiny_vit())
    clips = torch.randn(2, 3, 8, 32, 32, requires_grad=True)
    encoded = adapted.encode(clips)
    assert all(not part.requires_grad and part.grad_fn is None for part in encoded)
    features = adapted(clips[None])
    features.sum().backward()
    assert clips.grad is None
    assert all(p.grad is None for p in adapted.inner.parameters())
    # The gates are zero, so at first they alone get a gradient that is not zero.
    moving = {n for n, p in adapted.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert moving
    assert all(".gates." in name for name in moving)


def test_losa_long_range_reaches_across_clips_and_short_range_does_not():
    for settings, reaches in ((LoSA(long_range=False), False), (LoSA(short_range=False), True)):
        torch.manual_seed(0)
        adapted = settings.adapt(tiny_vit()).eval()
        for adapter in adapted.adapters:
            for gate in adapter.gates.values():
                torch.nn.init.ones_(gate)
        clips = torch.randn(1, 3, 3, 8, 32, 32)
        changed = clips.clone()
        changed[:, 2] = torch.randn_like(changed[:, 2])
        with torch.no_grad():
            first, second = adapted(clips), adapted(changed)
        steps = adapted.geometry.steps_per_clip
        assert torch.allclose(first[..., :steps], second[..., :steps], atol=1e-6) != reaches


def test_losa_ignores_padded_steps():
    torch.manual_seed(0)
    adapted = LoSA(short_range=False).adapt(tiny_vit()).eval()
    for adapter in adapted.adapters:
        torch.nn.init.ones_(adapter.gates["long"])
    clips = torch.randn(1, 3, 3, 8, 32, 32)
    changed = clips.clone()
    changed[:, 2] = 0
    steps = adapted.geometry.steps_per_clip
    mask = torch.arange(3 * steps)[None] < 2 * steps
    with torch.no_grad():
        first, second = adapted(clips, mask), adapted(changed, mask)
    assert torch.allclose(first[..., : 2 * steps], second[..., : 2 * steps], atol=1e-6)


@pytest.mark.parametrize("strategy", [HeadOnly(), LoSA()])
def test_training_with_the_cache_equals_training_without_it_bitwise(strategy):
    runs = [train_tiny(strategy, dataclasses.replace(TINY_PROTOCOL, cache=cache)) for cache in (True, False)]
    assert runs[0].log.losses == runs[1].log.losses
    weights = [run.detector.state_dict() for run in runs]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_encoding_does_not_depend_on_how_many_clips_are_asked_for():
    backbone = tiny_vit().eval()
    store = tiny_store(backbone)
    name = "video3"
    frames = store.clips[name].frames
    cache = EncodingCache(backbone, store, ClipPasses(2))
    whole = cache.batch([Window(name, 0, len(frames))], torch.device("cpu"))[0][0]
    for index in range(len(frames)):
        assert torch.equal(
            encode_frozen(backbone, frames[index : index + 1], ClipPasses(2))[0][0], whole[index]
        )


def test_rules_first_match_wins_and_unused_rules_are_errors():
    names = ["backbone.a", "backbone.b", "head.a"]
    rules = (Rule(r"backbone\.a", 0.0), Rule(r"backbone\..*", 0.5), Rule(r"head\..*"))
    assert learning_rates(rules, names) == {"backbone.b": 0.5, "head.a": 1.0}
    with pytest.raises(ValueError, match="neck"):
        learning_rates((Rule(r"neck\..*"),), names)


def test_stage_and_fidelity_mistakes_are_told():
    with pytest.raises(ValueError, match="add up to 1"):
        check_stages((Stage("a", (), share=0.5), Stage("b", (), share=0.4)))
    with pytest.raises(ValueError, match="add up to 1"):
        check_stages((Stage("a", (), share=0.5), Stage("b", (), share=0.5, added=True)))
    with pytest.raises(ValueError, match="add up to 1"):
        check_stages((Stage("a", (), added=True),))
    check_stages((Stage("a", (), share=3, added=True), Stage("b", ())))
    with pytest.raises(ValueError, match="unique names"):
        check_stages((Stage("a", (), share=0.5), Stage("a", (), share=0.5)))
    with pytest.raises(ValueError, match="fidelity"):
        Fidelity(spatial=0.0)


def test_settings_from_text():
    strategy = build_strategy("losa", {"taps": "0+2", "width": "16", "gated": "false"})
    assert strategy == LoSA(taps=(0, 2), width=16, gated=False)
    assert build_strategy("lofi", {"variant": "st"}) == LoFi(variant="st")
    for name, settings, words in (
        ("losi", {}, "unknown 'losi', known are .*losa"),
        ("losa", {"depth": "3"}, "unknown field 'depth', known are .*taps"),
        ("losa", {"heads": "many"}, "type int"),
        ("losa", {"gated": "perhaps"}, "true and false"),
        ("losa", {"width": "12"}, "multiple of twice the heads"),
        ("lofi", {"variant": "xl"}, "allowed are s, t, st"),
        ("lofi", {"joint_share": "1.5"}, "joint_share must be between 0 and 1"),
        ("lofi-added", {"joint_share": "0"}, "joint_share must be above 0"),
        ("losa", {"short_range": "false", "long_range": "false"}, "cannot both be false"),
    ):
        with pytest.raises(InputError, match=words):
            build_strategy(name, settings)


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_settings_that_no_record_can_hold_are_refused(value):
    with pytest.raises(InputError, match=f"field 'lr': got '{value}', allowed is a finite number"):
        build_strategy("losa", {"lr": value})
