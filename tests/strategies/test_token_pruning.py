"""Token pruning: which tokens stay, what adapters see, and what it saves."""

from __future__ import annotations

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from streamed_gradients import check_streamed_gradients
from torch.utils.flop_counter import FlopCounterMode

from bench.data.windows import TrainingSampler
from bench.io.errors import InputError
from bench.models.backbones.tsm import tiny_tsm
from bench.models.backbones.vit import VideoViT
from bench.training.detector import freeze_except
from bench.training.step import Trainer, setup_stage
from strategies import build_strategy
from strategies.field.blocks.pruned import KeptTokenAdapter, step_attention
from strategies.field.token_pruning import TokenPruning
from strategies.testing import (
    CLASSES,
    TINY_PROTOCOL,
    TINY_VIT,
    check_strategy,
    step_peak_bytes,
    tiny_detector,
    tiny_store,
    tiny_vit,
    train_tiny,
)
from tests.reference import token_pruning as reference

FROZEN = TokenPruning(adapters=False)
SHORT = dataclasses.replace(TINY_PROTOCOL, steps=3)


def numpy(tensor):
    return tensor.detach().double().numpy()


def moved(backbone):
    """Give the adapters values as after training."""
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if ".adapter." in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return backbone


@pytest.mark.parametrize("strategy", [FROZEN, TokenPruning(after=(1,), keep=0.3, reduction=8)])
def test_variants_keep_the_contract(strategy):
    check_strategy(strategy)


@pytest.mark.parametrize("adapters", [False, True])
def test_with_all_tokens_kept_the_untrained_features_are_the_plain_ones(adapters):
    torch.manual_seed(0)
    plain = tiny_vit().eval()
    adapted = TokenPruning(keep=1, adapters=adapters).adapt(copy.deepcopy(plain)).eval()
    clips = torch.randn(3, 3, 8, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(adapted.encode(clips)[0], plain.encode(clips)[0], rtol=0, atol=1e-6)


def test_scores_are_those_of_the_loops():
    torch.manual_seed(0)
    block = tiny_vit().blocks[1]
    with torch.no_grad():
        block.attn.qkv.weight.mul_(20)  # scores that differ
        tokens = torch.randn(2, 4 * 6, TINY_VIT.width)
        found = step_attention(block, tokens, 4)
        query, key, _ = (
            numpy(each).reshape(2, 4, 4, 6, -1) for each in block.attn.project(block.norm1(tokens))
        )
    assert found.shape == (2, 4, 6)
    for clip in range(2):
        for step in range(4):
            expected = reference.scores(query[clip, :, step], key[clip, :, step])
            np.testing.assert_allclose(numpy(found[clip, step]), expected, rtol=1e-5)
    assert found.std() > 0.05


@pytest.mark.parametrize("size", [(4, 4), (3, 5)])
def test_an_adapter_is_that_of_the_loops(size):
    torch.manual_seed(0)
    adapter = KeptTokenAdapter(12, 5)
    for parameter in adapter.parameters():
        torch.nn.init.normal_(parameter)
    places = torch.stack([torch.randperm(size[0] * size[1])[:7].sort().values for _ in range(6)]).view(
        2, 3, 7
    )
    tokens = torch.randn(2, 21, 12)
    found = adapter(tokens, places, size).view(2, 3, 7, 12)
    weights = {name: numpy(value) for name, value in adapter.state_dict().items()}
    for clip in range(2):
        for step in range(3):
            rows, cells = numpy(tokens.view(2, 3, 7, 12)[clip, step]), places[clip, step].tolist()
            expected = reference.adapter(rows, cells, size[1], weights)
            np.testing.assert_allclose(numpy(found[clip, step]), expected, rtol=1e-5, atol=1e-5)


def test_features_are_those_of_a_loop_over_clips_steps_and_blocks():
    torch.manual_seed(0)
    plain = tiny_vit().eval()
    with torch.no_grad():
        for block in plain.blocks:
            block.attn.qkv.weight.mul_(10)
    adapted = moved(TokenPruning(after=(1, 2), keep=0.6).adapt(copy.deepcopy(plain))).eval()
    clips = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        (found,) = adapted.encode(clips)
        embedded, _ = plain.embed(clips)
    for clip in range(2):
        steps = [embedded[clip, step].reshape(-1, TINY_VIT.width) for step in range(4)]
        cells = [list(range(16)) for _ in steps]
        for index, block in enumerate(plain.blocks):
            whole = torch.cat(steps)[None]
            if index:
                with torch.no_grad():
                    query, key, _ = (numpy(x[0]) for x in block.attn.project(block.norm1(whole)))
                count = len(steps[0])
                for step in range(4):
                    part = slice(step * count, (step + 1) * count)
                    best = reference.kept(
                        reference.scores(query[:, part], key[:, part]), math.ceil(0.6 * count)
                    )
                    steps[step] = steps[step][best]
                    cells[step] = [cells[step][place] for place in best]
                whole = torch.cat(steps)[None]
            weights = {n: numpy(v) for n, v in adapted.inner.blocks[index].adapter.state_dict().items()}

            def between(tokens, cells=cells, weights=weights):
                rows = np.split(numpy(tokens[0]), 4)
                done = [
                    reference.adapter(row, cell, 4, weights) for row, cell in zip(rows, cells, strict=True)
                ]
                return torch.from_numpy(np.concatenate(done)).float()[None]

            with torch.no_grad():
                steps = list(block(whole, None, between)[0].split(len(steps[0])))
        assert [len(each) for each in steps] == [6] * 4  # of 16: 10, then 6
        expected = torch.stack([each.mean(dim=0) for each in steps])
        torch.testing.assert_close(found[clip], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("depth", "after", "expected"),
    [(12, (), {4, 7, 10}), (24, (), {8, 14, 20}), (24, (4, 8, 12, 16), {4, 8, 12, 16}), (3, (), {1, 2})],
)
def test_where_tokens_are_dropped(depth, after, expected):
    backbone = VideoViT(dataclasses.replace(TINY_VIT, depth=depth))
    adapted = TokenPruning(after=after, keep=0.5).adapt(backbone)
    assert adapted.after == expected
    seen = []
    for block in adapted.inner.blocks:
        block.register_forward_pre_hook(lambda module, given: seen.append(given[0].shape[1] // 4))
    with torch.no_grad():
        adapted.encode(torch.randn(1, 3, 8, 32, 32))
    count, counts = 16, []
    for index in range(depth):
        count = math.ceil(count / 2) if index in expected else count
        counts.append(count)
    assert seen == counts


@pytest.mark.parametrize("checkpointing", [False, True])
def test_streamed_and_checkpointed_gradients_are_the_plain_ones(checkpointing):
    torch.manual_seed(0)
    adapted = moved(TokenPruning().adapt(tiny_vit()))
    trained = [each for each in adapted.parameters() if each.requires_grad]
    assert len(trained) == 6 * TINY_VIT.depth
    check_streamed_gradients(adapted, trained, checkpointing, rtol=1e-4)


def test_without_adapters_encodings_are_cached():
    for strategy, cached in ((FROZEN, True), (TokenPruning(), False)):
        detector, _ = tiny_detector(strategy)
        sampler = TrainingSampler(tiny_store(detector.backbone), TINY_PROTOCOL, CLASSES, 0)
        setup = setup_stage(
            Trainer(detector, TINY_PROTOCOL, sampler, torch.device("cpu")), strategy.stages()[0]
        )
        assert (setup.cache is not None) == cached
        setup.close()
    runs = [train_tiny(FROZEN, dataclasses.replace(SHORT, cache=cache)) for cache in (True, False)]
    assert runs[0].log.losses == runs[1].log.losses


@pytest.mark.parametrize(("strategy", "dropped"), [(TokenPruning(), True), (FROZEN, False)])
def test_paths_are_dropped_in_training_where_the_backbone_has_adapters(strategy, dropped):
    config = dataclasses.replace(TINY_VIT, drop_path=0.4)
    detector, _ = tiny_detector(strategy, make_backbone=lambda: VideoViT(config))
    freeze_except(detector, strategy.stages()[0])
    clips = torch.randn(4, 3, 8, 32, 32)
    (first,), (second,) = detector.backbone.encode(clips), detector.backbone.encode(clips)
    assert torch.equal(first, second) != dropped


def operations(strategy):
    adapted = strategy.adapt(VideoViT(dataclasses.replace(TINY_VIT, depth=12)))
    with FlopCounterMode(display=False) as counter:
        adapted.encode(torch.randn(1, 3, 8, 32, 32))[0].sum().backward()
    return counter.get_total_flops()


def test_memory_and_operations_are_below_those_of_the_same_adapters_on_all_tokens():
    assert step_peak_bytes(TokenPruning()) < 0.8 * step_peak_bytes(TokenPruning(keep=1))
    assert operations(TokenPruning()) < 0.75 * operations(TokenPruning(keep=1))


def test_settings_that_do_not_fit_are_told():
    assert build_strategy("token-pruning", {"after": "4+8"}) == TokenPruning(after=(4, 8))
    for field, value in (
        ("keep", "0"),
        ("keep", "1.5"),
        ("reduction", "0"),
        ("after", "0"),
        ("after", "3+2"),
    ):
        with pytest.raises(InputError, match=f"{field}: allowed"):
            build_strategy("token-pruning", {field: value})
    for strategy, words in (
        (TokenPruning(after=(3,)), "field 'after' is .3,., allowed are 1 to 2"),
        (TokenPruning(reduction=33), "field 'reduction' is 33, allowed is 1 to 32"),
    ):
        with pytest.raises(InputError, match=words):
            strategy.adapt(tiny_vit())
    with pytest.raises(InputError, match="TSMResNet has no transformer blocks"):
        TokenPruning().adapt(tiny_tsm())
