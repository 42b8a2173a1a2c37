"""I3D: the network against its official numbers, its padding against the definition, real footage."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
import seeded
import torch
import torch.nn.functional as F

from bench.io.errors import InputError
from bench.models.backbones.i3d import (
    CONFIGS,
    I3D,
    TAPS,
    I3DClassifier,
    I3DConfig,
    MaxPool,
    Unit,
    load_classifier,
    same_padding,
    tiny_i3d,
)
from datasets.video.frames import probe, read_frames

VIDEOS = Path(__file__).parents[4] / "shared" / "data" / "videos"
SEED = 31


def seeded_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return the golden weights: those of ``seeded``, with variances around 1 and no scales."""
    state = {}
    for name, value in model.state_dict().items():
        if name.endswith("bn.weight"):
            state[name] = torch.ones(value.shape)
            continue
        state[name] = torch.from_numpy(seeded.weight(SEED, name, tuple(value.shape)))
        if name.endswith("running_var"):
            state[name] += 1
    return state


@pytest.fixture(scope="module")
def classifier() -> I3DClassifier:
    model = I3DClassifier(CONFIGS["i3d"])
    model.load_state_dict(seeded_state(model), strict=True)
    return model.train()  # the norms use their stored statistics all the same


def test_every_tap_agrees_with_the_official_network(classifier: I3DClassifier) -> None:
    expected = seeded.arrays("i3d")
    with torch.no_grad():
        layers = classifier.layers(seeded.inputs(SEED, (1, 3, 16, 64, 80)), range(len(TAPS)))
    for name, got in zip(TAPS[:-1], layers, strict=False):
        wanted = torch.from_numpy(expected[name]).unflatten(1, (2, -1)).mean(dim=2)
        torch.testing.assert_close(got.mean(dim=(2, 3)), wanted, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(layers[-1], torch.from_numpy(expected["Mixed_5c"]), rtol=1e-4, atol=1e-5)


def test_class_logits_agree_with_the_official_network(classifier: I3DClassifier) -> None:
    with torch.no_grad():
        logits = classifier.class_logits(seeded.inputs(SEED, (1, 3, 16, 224, 224)))
    wanted = torch.from_numpy(seeded.arrays("i3d")["logits"])
    torch.testing.assert_close(logits, wanted, rtol=1e-4, atol=1e-5)


def test_size_and_widths_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = I3D(CONFIGS["i3d"])
    assert model.geometry.layer_widths == (192, 480, 832, 1024)
    sizes = {"conv3d.weight": 12_272_704, "bn.bias": 7_280, "bn.weight": 7_280}
    for part, size in sizes.items():
        assert sum(value.numel() for name, value in model.named_parameters() if name.endswith(part)) == size


@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 2), (2, 2), (3, 1), (1, 1), (1, 2)])
def test_same_padding_gives_the_ceiling_and_no_more(kernel: int, stride: int) -> None:
    for size in range(1, 20):
        before, after = same_padding(size, kernel, stride)
        assert after - before in (0, 1)
        padded = size + before + after
        outputs = -(-size // stride)
        assert padded >= kernel
        assert (padded - kernel) // stride + 1 == outputs
        assert before + after == 0 or (padded - 1 - kernel) // stride + 1 < outputs


@pytest.mark.parametrize("size", [(8, 9, 10), (7, 7, 7), (8, 8, 8), (5, 8, 11), (2, 2, 2), (1, 1, 1)])
def test_convolution_and_pooling_pad_as_the_definition_says(size: tuple[int, int, int]) -> None:
    torch.manual_seed(0)
    x = torch.rand(1, 4, *size)
    for kernel, stride in itertools.product((1, 2, 3, 7), (1, 2)):
        pads = [same_padding(each, kernel, stride) for each in size]
        flat = [amount for pair in reversed(pads) for amount in pair]
        unit = Unit(4, 3, kernel, stride)
        plain = F.relu(unit.bn(F.conv3d(F.pad(x, flat), unit.conv3d.weight, stride=stride)))
        torch.testing.assert_close(unit(x), plain, rtol=1e-5, atol=1e-6)
        bare = F.max_pool3d(F.pad(x, flat, value=-float("inf")), kernel, stride)
        pool = MaxPool((kernel,) * 3, (stride,) * 3)
        for given in (x, x.clone().requires_grad_()):
            torch.testing.assert_close(pool(given).detach(), bare, rtol=0, atol=0)


def test_layers_keep_the_last_layers_steps() -> None:
    model = tiny_i3d().eval()
    clips = torch.randn(2, 3, 24, 48, 40)
    grids = [tuple(layer.shape) for layer in model.layers(clips, (0, 1, 2, 3))]
    assert grids == [(2, 3, 12, 10, 24), (2, 3, 6, 5, 60), (2, 3, 3, 3, 104), (2, 3, 2, 2, 128)]
    torch.testing.assert_close(model.layers(clips, (3,))[0], model.tokens(clips), rtol=0, atol=0)
    assert model(clips[None]).shape == (1, 128, 6)


def test_clips_do_not_mix() -> None:
    model = tiny_i3d().eval()
    clips = torch.randn(3, 3, 16, 32, 32)
    torch.testing.assert_close(model.tokens(clips)[1:2], model.tokens(clips[1:2]), rtol=1e-5, atol=1e-6)


def test_input_is_brought_to_plus_and_minus_one() -> None:
    model = tiny_i3d()
    clips = torch.tensor([0, 255], dtype=torch.uint8).view(2, 1, 1, 1, 1).expand(2, 3, 1, 1, 1)
    assert model.normalise(clips).flatten().tolist() == [-1, -1, -1, 1, 1, 1]


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match="clips of 12 frames: allowed are multiples of 8"):
        tiny_i3d().tokens(torch.zeros(1, 3, 12, 32, 32))
    for settings, words in (
        ({"clip_frames": 12}, "clip_frames 12"),
        ({"narrowing": 3}, "narrowing 3"),
        ({"image_size": 0}, "image_size 0"),
    ):
        with pytest.raises(InputError, match=words):
            I3D(I3DConfig(**settings))  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("video", "index", "name"),
    [
        ("mmaction2_demo.mp4", 6, "arm wrestling"),
        ("mmaction2_test.avi", 4, "applying cream"),
        ("mmaction2_test.mp4", 62, "cleaning pool"),
    ],
)
def test_real_footage_is_recognised(video: str, index: int, name: str) -> None:
    """Classes are numbered as Kinetics-400's names in alphabetical order."""
    weights = os.environ.get("TALBENCH_I3D_WEIGHTS")
    if not (VIDEOS / video).is_file():
        pytest.skip(f"real footage is not shipped: {video} is absent")
    if not weights:
        pytest.skip("TALBENCH_I3D_WEIGHTS does not name the file that bench.convert wrote")
    model = load_classifier(weights)
    rate = probe(VIDEOS / video).frames_per_second
    frames = torch.from_numpy(read_frames(VIDEOS / video, (np.arange(64) + 0.5) / rate, 224))
    with torch.no_grad():
        logits = model.class_logits(model.normalise(frames.permute(3, 0, 1, 2)[None]))[0]
    assert int(logits.argmax()) == index, f"{name} expected"
