"""VPT: prompts as in the paper's equations, and what a frozen backbone with them keeps and gives back."""

from __future__ import annotations

import copy
import dataclasses
import math

import pytest
import torch
from streamed_gradients import check_streamed_gradients

from bench.io.errors import InputError
from bench.io.reading import file_sha256
from bench.models import SOURCE_WEIGHTS
from bench.models.backbones.tsm import tiny_tsm
from bench.training.checkpoints.export import (
    SCHEMA,
    BaseWeights,
    CheckpointMetadata,
    build,
    read_checkpoint,
    restore,
    write_checkpoint,
)
from strategies import build_strategy
from strategies.field.vpt import VPT
from strategies.testing import TINY_PROTOCOL, TINY_VIT, check_strategy, tiny_vit


def test_one_prompt_keeps_the_contract():
    check_strategy(VPT(prompts=1))


def test_prompts_are_tokens_before_those_of_the_clip_in_each_block():
    """[_, E_i] = L_i([P_i-1, E_i-1]), equation 6 without a class token, one clip at a time."""
    torch.manual_seed(0)
    plain = tiny_vit().eval()
    adapted = VPT(prompts=3).adapt(copy.deepcopy(plain)).eval()
    clips = torch.randn(2, 3, 8, 32, 32)
    with torch.no_grad():
        found = adapted.tokens(clips)
        embedded, _ = plain.embed(clips)
        for clip in range(2):
            tokens = embedded[clip].reshape(-1, TINY_VIT.width)
            for block, prompted in zip(plain.blocks, adapted.blocks, strict=True):
                rows = [*prompted.prompts, *tokens]
                assert len(rows) == 3 + 64
                tokens = block(torch.stack(rows)[None])[0, 3:]
            torch.testing.assert_close(found[clip].reshape(64, -1), tokens, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(found, plain.tokens(clips), atol=1e-4)


def test_initial_values_are_the_sources():
    torch.manual_seed(0)
    adapted = VPT(prompts=50).adapt(tiny_vit())
    prompts = torch.stack([block.prompts for block in adapted.blocks])
    assert prompts.shape == (TINY_VIT.depth, 50, TINY_VIT.width)
    bound = math.sqrt(6 / (3 * TINY_VIT.patch_size**2 + TINY_VIT.width))
    assert 0.98 * bound < prompts.abs().max() <= bound
    torch.testing.assert_close(prompts.std(), torch.tensor(bound / math.sqrt(3)), rtol=0.05, atol=0)
    trained = {name for name, each in adapted.named_parameters() if each.requires_grad}
    assert trained == {f"blocks.{index}.prompts" for index in range(TINY_VIT.depth)}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_streamed_and_checkpointed_gradients_are_the_plain_ones(checkpointing):
    torch.manual_seed(0)
    adapted = VPT(prompts=3).adapt(tiny_vit())
    prompts = [block.prompts for block in adapted.blocks]
    check_streamed_gradients(adapted, prompts, checkpointing, rtol=1e-5)


def test_a_kept_checkpoint_holds_prompts_and_head_alone(tmp_path):
    weights = BaseWeights(SOURCE_WEIGHTS.name, file_sha256(SOURCE_WEIGHTS), None)
    protocol = dataclasses.replace(TINY_PROTOCOL, image_size=32)
    note = CheckpointMetadata(SCHEMA, "run", "vit-t", VPT(), protocol, ("run",), "own", 3, weights, "cpu")
    detector = build(note, SOURCE_WEIGHTS, note.seed)
    path = tmp_path / "run.safetensors"
    write_checkpoint(path, detector, note, SOURCE_WEIGHTS)
    kept = read_checkpoint(path)
    assert all(name.startswith("head.") or name.endswith(".prompts") for name in kept.shapes)
    found = restore(kept, None).state_dict()
    assert all(torch.equal(found[name], value) for name, value in detector.state_dict().items())


def test_settings_that_do_not_fit_are_told():
    with pytest.raises(InputError, match="prompts: allowed is 1 or more, got 0"):
        build_strategy("vpt", {"prompts": "0"})
    with pytest.raises(InputError, match="strategy vpt: TSMResNet has no transformer blocks"):
        VPT().adapt(tiny_tsm())
