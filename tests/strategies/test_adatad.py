"""AdaTAD's adapters equal the published module, inside and beside the backbone."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from bench.data.windows import TrainingSampler, Window, window_mask
from bench.features.cache import EncodingCache
from bench.io.errors import InputError
from bench.models import build_backbone
from bench.models.backbones.tsm import tiny_tsm
from bench.training.step import Trainer
from strategies.base import FULL
from strategies.field.adatad import AdaTAD, AdaTADBeside
from strategies.field.temporal_adapters import TemporalAdapter
from strategies.testing import (
    CLASSES,
    TINY_PROTOCOL,
    TINY_VIT,
    check_only_named_parameters_move,
    tiny_detector,
    tiny_store,
    tiny_vit,
    train_tiny,
)
from tests.bench.models import seeded
from tests.reference import temporal_adapter

CPU = torch.device("cpu")
GRID = (4, 3, 2)
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def seeded_adapter():
    adapter = TemporalAdapter(48, 0.25)
    shapes = {name: list(value.shape) for name, value in adapter.state_dict().items()}
    adapter.load_state_dict(seeded.weights(51, shapes))
    return adapter


def filled(module, seed=0):
    """Give every parameter random values: zeros would hide what lies before them."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return module


class TestPublishedModule:
    def test_names_and_shapes(self):
        shapes = {name: tuple(value.shape) for name, value in TemporalAdapter(48, 0.25).state_dict().items()}
        assert shapes == {
            **{"gamma": (1,), "dwconv.weight": (12, 1, 3), "dwconv.bias": (12,)},
            **{"conv.weight": (12, 12, 1), "conv.bias": (12,)},
            **{"down_proj.weight": (12, 48), "down_proj.bias": (12,)},
            **{"up_proj.weight": (48, 12), "up_proj.bias": (48,)},
        }

    @pytest.mark.parametrize("inside", [True, False])
    def test_output_and_all_gradients(self, inside):
        golden = {name: torch.from_numpy(value) for name, value in seeded.arrays("adatad_tia").items()}
        adapter, tokens = seeded_adapter(), seeded.inputs(51, (6, 24, 48)).requires_grad_()
        weighting = seeded.inputs(52, (6, 24, 48))
        output = (adapter if inside else adapter.change)(tokens.unflatten(1, GRID), 3).flatten(1, 3)
        (output * weighting).sum().backward()
        # Beside the backbone the input is not added, and so adds nothing to its gradient.
        added = 0 if inside else tokens.detach()
        torch.testing.assert_close(output.detach(), golden.pop("output") - added, **CLOSE)
        through = 0 if inside else weighting
        torch.testing.assert_close(tokens.grad, golden.pop("input_gradient") - through, **CLOSE)
        gradients = {f"gradient_{name}": value.grad for name, value in adapter.named_parameters()}
        assert gradients.keys() == golden.keys()
        for name, gradient in gradients.items():
            torch.testing.assert_close(gradient, golden[name], rtol=1e-5, atol=2e-5)
            assert (gradient - golden[name]).norm() < 1e-5 * golden[name].norm()

    @pytest.mark.parametrize(
        ("windows", "clips", "grid", "width", "ratio", "kernel"),
        [
            (2, 3, (4, 3, 2), 48, 0.25, 3),
            (1, 5, (2, 1, 3), 22, 0.25, 5),
            (3, 1, (8, 2, 2), 16, 0.125, 3),
            (2, 2, (1, 1, 1), 6, 0.5, 1),
            (1, 1, (1, 5, 4), 10, 1.0, 7),
        ],
    )
    def test_any_sizes_against_the_definition(self, windows, clips, grid, width, ratio, kernel):
        adapter = filled(TemporalAdapter(width, ratio, kernel, outputs=9).double())
        assert adapter.down_proj.out_features == int(ratio * width)
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randn(windows * clips, *grid, width, generator=generator, dtype=torch.float64)
        weights = {name: value.numpy() for name, value in adapter.state_dict().items()}
        expected = torch.from_numpy(temporal_adapter.change(tokens.numpy(), clips, weights))
        with torch.no_grad():
            torch.testing.assert_close(adapter.change(tokens, clips), expected, rtol=1e-12, atol=1e-12)
            found = adapter.mean_change(tokens, clips)
        torch.testing.assert_close(found, expected.mean(dim=(2, 3)), rtol=1e-12, atol=1e-12)

    def test_initial_values(self):
        torch.manual_seed(0)
        adapter = TemporalAdapter(1536, 0.25)
        state = adapter.state_dict()
        assert torch.equal(state["gamma"], torch.ones(1))
        assert all(not state[name].any() for name in state if name.endswith("bias"))
        assert not state["up_proj.weight"].any()
        for name, deviation in (
            ("down_proj.weight", 0.02),
            ("dwconv.weight", math.sqrt(2 / 3)),
            ("conv.weight", math.sqrt(2 / 384)),
        ):
            weight = state[name]
            assert weight.std().item() == pytest.approx(deviation, rel=4 / math.sqrt(2 * weight.numel()))
            assert abs(weight.mean().item()) < 4 * deviation / math.sqrt(weight.numel())

    @pytest.mark.parametrize(("model", "published"), [("vit-b", 4_004_364), ("vit-l", 14_217_240)])
    def test_published_numbers_of_parameters(self, model, published):
        with torch.device("meta"):
            backbone = AdaTAD().adapt(build_backbone(model))
        assert sum(parameter.numel() for parameter in backbone.inserted.parameters()) == published


class TestInside:
    def test_a_change_spreads_within_its_window_one_step_a_layer(self):
        torch.manual_seed(0)
        backbone = AdaTAD(layers=(-1,)).adapt(tiny_vit()).eval()
        filled(backbone.inserted)
        clips = torch.randn(2, 3, 3, 8, 32, 32)
        changed = clips.clone()
        changed[0, 1] += 1
        with torch.no_grad():
            moved = (backbone(clips) != backbone(changed)).any(dim=1)
        steps = backbone.geometry.steps_per_clip
        reached = [*range(steps - 1, 2 * steps + 1)]
        assert moved[0].nonzero().flatten().tolist() == reached
        assert not moved[1].any()

    @pytest.mark.parametrize("make_backbone", [tiny_vit, tiny_tsm], ids=["vit", "tsm"])
    def test_checkpointed_gradients_are_the_plain_ones_and_keep_no_adapter_activation(self, make_backbone):
        torch.manual_seed(0)
        backbone = AdaTAD(ratio=0.6).adapt(make_backbone()).double()
        filled(backbone.inserted)
        backbone.requires_grad_(False).inserted.requires_grad_(True)
        size = backbone.geometry.image_size
        shape = (1, 2, 3, backbone.geometry.clip_frames, size, size)
        clips = torch.randn(shape, dtype=torch.float64)
        widths = {each.down_proj.out_features for each in backbone.inserted.values()}
        gradients, kept = [], []
        for checkpointing in (False, True):
            backbone.set_checkpointing(checkpointing)
            shapes = []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda x, into=shapes: into.append(tuple(x.shape)) or x, lambda x: x
            ):
                features = backbone(clips)
            backbone.zero_grad()
            features.square().sum().backward()
            gradients.append([parameter.grad.clone() for parameter in backbone.inserted.parameters()])
            kept.append([shape for shape in shapes if widths & set(shape)])
        assert kept[0]
        assert not kept[1]
        for plain, checkpointed in zip(*gradients, strict=True):
            assert plain.any()
            torch.testing.assert_close(checkpointed, plain, rtol=1e-12, atol=1e-12)

    def test_checkpointed_training_is_plain_training_with_less_memory(self):
        config = dataclasses.replace(TINY_VIT, drop_path=0.3)
        runs = [
            train_tiny(
                AdaTAD(),
                dataclasses.replace(TINY_PROTOCOL, steps=4, backward=backward),
                lambda: type(tiny_vit())(config),
            )
            for backward in ("plain", "checkpointed")
        ]
        np.testing.assert_allclose(runs[0].log.losses, runs[1].log.losses, rtol=1e-6)
        peaks = [max(entry.reading.peak_allocated_bytes for entry in run.log.memory) for run in runs]
        assert peaks[1] < 0.7 * peaks[0]

    def test_the_streamed_backward_is_refused(self):
        protocol = dataclasses.replace(TINY_PROTOCOL, backward="streamed")
        with pytest.raises(InputError, match=r"streamed is not exact for VideoViT, in which clips mix"):
            train_tiny(AdaTAD(), protocol)

    def test_features_at_test_time_are_those_of_training(self):
        # A pass of two clips would not see the window of four.
        assert TINY_PROTOCOL.frozen_clips < TINY_PROTOCOL.window_clips
        detector, _ = tiny_detector(AdaTAD())
        detector.eval()
        filled(detector.backbone.inserted)
        store = tiny_store(detector.backbone)
        trainer = Trainer(detector, TINY_PROTOCOL, TrainingSampler(store, TINY_PROTOCOL, CLASSES, 0), CPU)
        cache = EncodingCache(detector.backbone, store, trainer.passes(TINY_PROTOCOL.frozen_clips))
        for window in (Window("video3", 1, 4), Window("video0", 2, 4)):  # the second ends in padding
            mask = window_mask(window, store.clips[window.video])[None]
            inputs = trainer.inputs([window], FULL, None)
            with torch.no_grad():
                expected, _ = trainer.features(inputs, mask, FULL, frozen=False)
                found = cache.features(window, mask)
            torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)

    def test_layers_may_be_chosen(self):
        backbone = AdaTAD(layers=(0, -1)).adapt(tiny_vit())
        assert list(backbone.inserted) == ["0", "2"]
        check_only_named_parameters_move(AdaTAD(layers=(-1,), ratio=0.5, kernel=5))


class TestBeside:
    @pytest.mark.parametrize("make_backbone", [tiny_vit, tiny_tsm], ids=["vit", "tsm"])
    def test_features_are_those_of_the_published_form(self, make_backbone):
        torch.manual_seed(0)
        backbone = AdaTADBeside().adapt(make_backbone()).double().eval()
        filled(backbone.adapters)
        geometry = backbone.geometry
        clips = torch.randn(
            2, 3, 3, geometry.clip_frames, geometry.image_size, geometry.image_size, dtype=torch.float64
        )
        count = len(geometry.layer_widths)
        assert backbone.taps == tuple(range(count // 2, count))
        layers = backbone.inner.layers(clips.flatten(0, 1), backbone.taps)
        if len(set(geometry.layer_widths)) == 1:  # as published, the sum is of tokens
            total = layers[-1]
            for adapter, tokens in zip(backbone.adapters, layers, strict=True):
                total = total + adapter.change(tokens, 3)
            expected = total.mean(dim=(2, 3))
        else:
            changes = zip(backbone.adapters, layers, strict=True)
            expected = sum(
                (adapter.change(tokens, 3).mean(dim=(2, 3)) for adapter, tokens in changes),
                layers[-1].mean(dim=(2, 3)),
            )
        expected = expected.unflatten(0, (2, 3)).flatten(1, 2).transpose(1, 2)
        found = backbone(clips)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
        parameters = list(backbone.adapters.parameters())
        weighting = torch.randn_like(found)
        backbone.set_checkpointing(True)
        again = backbone(clips)
        gradients = [torch.autograd.grad((x * weighting).sum(), parameters) for x in (found, expected, again)]
        for one, two, three in zip(*gradients, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(one, three, rtol=1e-12, atol=1e-12)

    def test_no_graph_in_the_backbone(self):
        backbone = AdaTADBeside(taps=(0,)).adapt(tiny_vit())
        encoded = backbone.encode(torch.randn(2, 3, 8, 32, 32, requires_grad=True))
        assert [tuple(part.shape) for part in encoded] == [(2, 4, 32), (2, 4, 4, 4, 32)]
        assert not any(part.requires_grad for part in encoded)
        assert not backbone.mixes_clips

    def test_ratio_and_taps_as_published(self):
        with torch.device("meta"):
            backbone = AdaTADBeside(ratio=1 / 8).adapt(build_backbone("vit-g"))
        assert backbone.taps == tuple(range(20, 40))
        assert {each.down_proj.out_features for each in backbone.adapters} == {1408 // 8}
        with torch.device("meta"):
            assert AdaTADBeside().adapt(build_backbone("vit-s")).taps == tuple(range(6, 12))


@pytest.mark.parametrize("kind", [AdaTAD, AdaTADBeside])
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"ratio": 0.0}, "ratio: allowed is above 0"),
        ({"ratio": 1.5}, "ratio: allowed"),
        ({"kernel": 2}, "odd number of steps, got 2"),
        ({"kernel": -1}, "odd number"),
    ],
)
def test_bad_sizes_are_refused(kind, settings, words):
    with pytest.raises(ValueError, match=words):
        kind(**settings)


def test_layers_that_the_backbone_does_not_have_are_refused():
    with pytest.raises(InputError, match=r"adatad: field 'layers' has \[3\], allowed are -3 to 2"):
        AdaTAD(layers=(3,)).adapt(tiny_vit())
    with pytest.raises(InputError, match=r"adatad-beside: field 'taps' has \[-4\], allowed are -3 to 2"):
        AdaTADBeside(taps=(-4,)).adapt(tiny_vit())
