"""LoRA by peft: its sums, merging, what is stored, and layers that users put in themselves."""

from __future__ import annotations

import copy
import dataclasses
import importlib.util
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from bench.io.errors import InputError
from bench.io.reading import file_sha256
from bench.models import SOURCE_WEIGHTS, build_backbone
from bench.training.checkpoints.export import (
    SCHEMA,
    BaseWeights,
    CheckpointMetadata,
    build,
    read_checkpoint,
    restore,
    write_checkpoint,
)
from bench.training.detector import lower_frozen_weights
from bench.training.inference import detect_all
from bench.training.optimizer import UnusedParametersError
from strategies import build_strategy
from strategies.base import Rule, Stage
from strategies.field.lora import LoRA
from strategies.head_only import HeadOnly
from strategies.testing import (
    TINY_PROTOCOL,
    TINY_VIT,
    check_strategy,
    tiny_detector,
    tiny_store,
    tiny_vit,
    train_tiny,
)

peft = pytest.importorskip("peft")
CPU = torch.device("cpu")
SHORT = dataclasses.replace(TINY_PROTOCOL, steps=3)


def clips():
    return torch.randn(2, 3, 8, 32, 32)


@pytest.fixture
def pair():
    """A plain backbone, and one with updates that are not zero."""
    return with_updates(LoRA(merge=True))


def with_updates(strategy):
    torch.manual_seed(0)
    plain = tiny_vit().eval()
    adapted = strategy.adapt(copy.deepcopy(plain)).eval()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    return plain, adapted


def state(module):
    return {name: value.detach().clone() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("strategy", [LoRA(targets="all-linear"), LoRA(rank=16, alpha=8, merge=True)])
def test_variants_keep_the_contract(strategy):
    check_strategy(strategy)


def test_untrained_features_are_the_plain_ones():
    torch.manual_seed(0)
    for targets in ("qv", "all-linear"):
        plain = build_backbone("vit-t", SOURCE_WEIGHTS).eval()
        size = plain.geometry.image_size
        video = torch.randn(2, 3, plain.geometry.clip_frames, size, size)
        with torch.no_grad():
            expected = plain.tokens(video)
            found = LoRA(targets=targets).adapt(plain).eval().tokens(video)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def expected_weights(plain, adapted, rank, alpha, parts):
    """Return W + alpha / rank B A of the fused projections (3 D, D), in NumPy and double precision."""
    found, values = [], {n: v.double().numpy() for n, v in adapted.state_dict().items()}
    for index, block in enumerate(plain.blocks):
        width = TINY_VIT.width
        weight = block.attn.qkv.weight.detach().double().numpy().copy()
        for place, part in enumerate("qkv"):
            if part in parts:
                name = f"inner.blocks.{index}.attn.{part}.lora_{{}}.default.weight"
                update = values[name.format("B")] @ values[name.format("A")]
                weight[place * width : (place + 1) * width] += alpha / rank * update
        found.append(weight)
    return found


def test_outputs_are_those_of_a_plain_backbone_with_the_sums_as_weights(pair):
    plain, adapted = pair
    video = clips()
    for block, weight in zip(plain.blocks, expected_weights(plain, adapted, 8, 16, "qv"), strict=True):
        block.attn.qkv.weight.data = torch.from_numpy(weight).float()
    with torch.no_grad():
        expected = plain.tokens(video)
        torch.testing.assert_close(adapted.tokens(video), expected, rtol=1e-5, atol=1e-5)
        with adapted.for_inference():
            torch.testing.assert_close(adapted.tokens(video), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("targets", ["qv", "all-linear"])
def test_merged_weights_are_those_of_the_library_and_leave_no_trace(targets):
    _, adapted = with_updates(LoRA(targets=targets, merge=True))
    before, video = state(adapted), clips()
    wrapped = copy.deepcopy(adapted.inner.blocks)
    names = sorted({n.split(".lora_")[0] for n, _ in wrapped.named_parameters() if ".lora_" in n})
    assert len(names) == 3 * {"qv": 2, "all-linear": 6}[targets]
    # The library merges a model of its own: the same base layers, wrapped anew.
    plain = copy.deepcopy(wrapped)
    del plain.peft_config
    for name in names:
        parent, _, child = name.rpartition(".")
        base = copy.deepcopy(wrapped.get_submodule(name).base_layer)
        setattr(plain.get_submodule(parent), child, base)
    config = peft.LoraConfig(r=8, lora_alpha=16, target_modules=names)
    model = peft.get_peft_model(plain, config)
    values = {f"base_model.model.{name}": value for name, value in wrapped.state_dict().items()}
    model.load_state_dict(values)
    library = model.merge_and_unload().state_dict()
    deltas = {name: wrapped.get_submodule(name).get_delta_weight("default") for name in names}
    with torch.no_grad():
        unmerged = adapted.tokens(video)
        with adapted.for_inference():
            merged = adapted.tokens(video)
            for name in names:
                weight = adapted.inner.blocks.get_submodule(name).base_layer.weight
                old = before[f"inner.blocks.{name}.base_layer.weight"]
                assert torch.equal(weight, library[f"{name}.weight"])
                torch.testing.assert_close(weight, old + deltas[name], rtol=0, atol=1e-7)
                assert not torch.equal(weight, old)
        torch.testing.assert_close(merged, unmerged, rtol=1e-5, atol=1e-5)
        assert torch.equal(adapted.tokens(video), unmerged)
    after = state(adapted)
    assert after.keys() == before.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_detections_are_computed_with_merged_weights(precision, monkeypatch):
    protocol = dataclasses.replace(SHORT, precision=precision)
    detector, _ = tiny_detector(LoRA(merge=True), protocol)
    lower_frozen_weights(detector, LoRA().stages(), protocol)
    with torch.no_grad():
        for name, parameter in detector.named_parameters():
            if "lora_B" in name:
                parameter.copy_(0.1 * torch.randn_like(parameter))
    before, merged = state(detector), []
    layer = detector.backbone.inner.blocks[0].attn.q
    original = type(detector.backbone).encode

    def encode(self, clips, window_clips=1):
        merged.append(layer.merged)
        return original(self, clips, window_clips)

    monkeypatch.setattr(type(detector.backbone), "encode", encode)
    detect_all(detector, tiny_store(detector.backbone, protocol, videos=1), protocol, CPU)
    assert merged
    assert all(merged)
    assert not layer.merged
    assert all(torch.equal(value, before[name]) for name, value in state(detector).items())


def test_frozen_weights_are_stored_in_bfloat16_and_updates_are_not():
    protocol = dataclasses.replace(SHORT, precision="bfloat16")
    detector, _ = tiny_detector(LoRA(targets="all-linear"), protocol)
    detector.eval()
    video = clips()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, cache_enabled=False):
        expected = detector.backbone.tokens(video)
        plain, _ = tiny_detector(HeadOnly(), protocol)
        saved = lower_frozen_weights(detector, LoRA().stages(), protocol)
        assert torch.equal(detector.backbone.tokens(video), expected)
    assert saved == lower_frozen_weights(plain, HeadOnly().stages(), protocol)
    for name, parameter in detector.backbone.named_parameters():
        low = "norm" not in name and "lora_" not in name
        assert parameter.dtype == (torch.bfloat16 if low else torch.float32), name


@pytest.mark.parametrize(("strategy", "shapes"), [(LoRA(), 2), (LoRA(rank=16, targets="all-linear"), 6)])
def test_initial_values_and_counts(strategy, shapes):
    adapted = strategy.adapt(tiny_vit())
    updates = {name: each for name, each in adapted.named_parameters() if each.requires_grad}
    width, hidden = TINY_VIT.width, round(TINY_VIT.width * TINY_VIT.mlp_ratio)
    sums = {2: 2 * 2 * width, 6: 4 * 2 * width + 2 * (width + hidden)}
    assert sum(each.numel() for each in updates.values()) == 3 * strategy.rank * sums[shapes]
    assert all(".lora_A.default.weight" in n or ".lora_B.default.weight" in n for n in updates)
    for name, each in updates.items():
        if "lora_B" in name:
            assert not torch.count_nonzero(each)
        else:  # uniform in +-1 / sqrt(inputs), as torch's linear layers
            bound = 1 / math.sqrt(each.shape[1])
            assert 0.8 * bound < each.abs().max() <= bound
    layer = adapted.inner.blocks[0].attn.q
    assert layer.scaling == {"default": 2.0}


def test_a_kept_checkpoint_holds_updates_and_head_alone(tmp_path):
    protocol = dataclasses.replace(SHORT, image_size=32)
    weights = BaseWeights(SOURCE_WEIGHTS.name, file_sha256(SOURCE_WEIGHTS), None)
    note = CheckpointMetadata(
        SCHEMA, "run", "vit-t", LoRA(), protocol, ("run", "jump"), "own", 3, weights, "cpu"
    )
    detector = build(note, SOURCE_WEIGHTS, note.seed)
    with torch.no_grad():
        for name in detector.trained_names(LoRA().stages()):
            detector.get_parameter(name).add_(0.1)
    path = tmp_path / "run.safetensors"
    write_checkpoint(path, detector, note, SOURCE_WEIGHTS)
    kept = read_checkpoint(path)
    assert {n for n in kept.shapes if n.startswith("backbone.")} == {
        n for n in detector.state_dict() if "lora_" in n
    }
    assert {n for n in kept.shapes if n.startswith("head.")} == {
        n for n in detector.state_dict() if n.startswith("head.")
    }
    found = restore(kept, None).state_dict()
    expected = detector.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_settings_that_do_not_fit_are_told():
    assert build_strategy("lora", {"alpha": "none", "targets": "all-linear"}) == LoRA(targets="all-linear")
    for field, value in (("rank", "0"), ("alpha", "0"), ("targets", "k")):
        with pytest.raises(InputError, match=f"{field}.*allowed"):
            build_strategy("lora", {field: value})


def test_without_the_library_a_run_ends_before_it_begins(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"^strategy lora needs peft: pip install talbench\[lora\]$"):
        build_strategy("lora")
    monkeypatch.undo()
    code = "import importlib.util, sys\nimportlib.util.find_spec = lambda name, package=None: None\n"
    code += "from bench.run.__main__ import main\nsys.exit(main(sys.argv[1:]))\n"
    command = [sys.executable, "-c", code, "--strategies", "head-only,lora", "--results", str(tmp_path / "r")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert (
        done.stderr.strip().splitlines()[-1].endswith("strategy lora needs peft: pip install talbench[lora]")
    )
    assert not (tmp_path / "r").exists()


class Called(nn.Module):
    """A user's own layer around a linear one: it can only be called."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.change = nn.Linear(layer.in_features, layer.out_features, bias=False)
        nn.init.zeros_(self.change.weight)

    def forward(self, x):
        return self.layer(x) + self.change(x)


class Attention(nn.Module):
    """Attention that reads the weight of a linear layer and does not call it."""

    def __init__(self, attention):
        super().__init__()
        self.attention = attention
        self.qkv = Called(attention.qkv)
        self.qkv.weight = attention.qkv.weight

    def forward(self, tokens):
        weight = self.qkv.weight
        self.attention.qkv.weight = weight
        return self.attention(tokens)


@dataclasses.dataclass(frozen=True)
class OwnLayer:
    name = "own-layer"
    called: bool = True

    def adapt(self, backbone):
        for block in backbone.token_blocks():
            if self.called:
                block.attn.qkv = Called(block.attn.qkv)
            else:
                block.attn = Attention(block.attn)
        return backbone

    def stages(self):
        return (Stage("own", (Rule(r"backbone\..*\.change\..*"), Rule(r"head\..*"))),)


def test_a_layer_of_a_users_own_in_place_of_the_projection_trains():
    check_strategy(OwnLayer())
    trained = train_tiny(OwnLayer(), SHORT)
    changes = [p for n, p in trained.detector.named_parameters() if ".change." in n]
    assert len(changes) == TINY_VIT.depth
    assert all(np.abs(each.detach().numpy()).max() > 0 for each in changes)


def test_a_layer_whose_weight_alone_is_read_is_named():
    with pytest.raises(UnusedParametersError, match=r"blocks\.0\.attn\.qkv\.change\.weight.*only its weight"):
        train_tiny(OwnLayer(called=False), SHORT)
