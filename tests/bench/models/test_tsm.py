"""TSM-ResNet: the shift on impulses, the network against timm's own with a plain shift, the pooling."""

from __future__ import annotations

import dataclasses

import pytest
import timm
import torch

from bench.io.errors import InputError
from bench.models.backbones.tsm import CONFIGS, TSMResNet, shift, tiny_tsm


def test_an_impulse_moves_by_one_frame_forward_or_backward_or_stays() -> None:
    impulse = torch.zeros(2, 8, 16, 1, 1)
    impulse[1, 3] = 1
    moved = shift(impulse.flatten(0, 1), 8, 8).unflatten(0, (2, 8))[..., 0, 0]
    assert moved[0].abs().sum() == 0
    where = moved[1].nonzero()
    assert {(int(frame), int(channel)) for frame, channel in where} == (
        {(2, 0), (2, 1)} | {(4, 2), (4, 3)} | {(3, channel) for channel in range(4, 16)}
    )


def test_no_channel_crosses_the_border_of_a_snippet() -> None:
    impulse = torch.zeros(2, 4, 8, 1, 1)
    impulse[0, 3], impulse[1, 0] = 1, 1
    moved = shift(impulse.flatten(0, 1), 4, 8).unflatten(0, (2, 4))[..., 0, 0]
    assert moved[0].nonzero().tolist() == [[2, 0], *([3, channel] for channel in range(2, 8))]
    assert moved[1].nonzero().tolist() == [*([0, channel] for channel in range(2, 8)), [1, 1]]


def plain_shift(x: torch.Tensor) -> torch.Tensor:
    """The published definition, in one clip of 8 frames."""
    fold, moved = x.shape[1] // 8, x.clone()
    moved[:, : 2 * fold] = 0
    moved[:-1, :fold] = x[1:, :fold]
    moved[1:, fold : 2 * fold] = x[:-1, fold : 2 * fold]
    return moved


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_stage_is_timms_with_the_shift_before_each_first_convolution(name: str) -> None:
    torch.manual_seed(0)
    reference = timm.create_model(name.replace("tsm-r", "resnet"), pretrained=False).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.2, 0.4)
            torch.nn.init.normal_(module.bias, std=0.1)
            assert module.running_mean is not None
            assert module.running_var is not None
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    state = {
        name: value
        for name, value in reference.state_dict().items()
        if not name.startswith("fc.") and not name.endswith("num_batches_tracked")
    }
    model = TSMResNet(CONFIGS[name])
    model.load_state_dict(state, strict=True)
    model.train()  # the norms use their stored statistics all the same
    seen: list[torch.Tensor] = []
    for stage in (reference.layer1, reference.layer2, reference.layer3, reference.layer4):
        stage.register_forward_hook(lambda *call: seen.append(call[2]))
        for block in stage:
            block.conv1.register_forward_pre_hook(lambda _, given: (plain_shift(given[0]),))
    frames = torch.randn(8, 3, 48, 64)
    with torch.no_grad():
        reference.forward_features(frames)
        outputs = model.layers(frames.transpose(0, 1)[None], (0, 1, 2, 3))
    for got, wanted in zip(outputs, seen, strict=True):
        expected = wanted.mean(dim=0).permute(1, 2, 0)
        torch.testing.assert_close(got[0, 0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "widths", "parameters"),
    [
        ("tsm-r18", (64, 128, 256, 512), 11_176_512),
        ("tsm-r34", (64, 128, 256, 512), 21_284_672),
        ("tsm-r50", (256, 512, 1024, 2048), 23_508_032),
    ],
)
def test_sizes_are_the_published_ones(name: str, widths: tuple[int, ...], parameters: int) -> None:
    with torch.device("meta"):
        model = TSMResNet(CONFIGS[name])
    assert model.geometry.layer_widths == widths
    assert sum(value.numel() for value in model.parameters()) == parameters


def test_snippets_of_a_clip_do_not_mix_and_a_step_is_a_snippet() -> None:
    model = tiny_tsm().eval()
    clips = torch.randn(2, 3, 24, 32, 32)
    first, last = model.layers(clips, (1, 3))
    assert first.shape == (2, 6, 4, 4, 16)
    assert last.shape == (2, 6, 1, 1, 32)
    alone = model.tokens(clips[:, :, 4:8])
    torch.testing.assert_close(last[:, 1:2], alone, rtol=1e-5, atol=1e-6)
    assert model(clips[None]).shape == (1, 32, 12)


def test_reversing_time_changes_the_feature() -> None:
    torch.manual_seed(0)
    model = tiny_tsm().eval()
    clips = torch.randn(1, 3, 8, 32, 32)
    forward, backward = model.tokens(clips), model.tokens(clips.flip(2)).flip(1)
    assert (forward - backward).abs().max() > 1e-3 * forward.abs().max()


@pytest.mark.parametrize("size", [(16, 16), (112, 112), (30, 50)])
def test_other_sizes_run(size: tuple[int, int]) -> None:
    height, width = (-(-side // 32) for side in size)
    assert tiny_tsm().tokens(torch.zeros(1, 3, 8, *size)).shape == (1, 2, height, width, 32)


def test_wrong_input_is_named() -> None:
    with pytest.raises(InputError, match=r"clips of 10 frames: allowed are multiples of a snippet \(4\)"):
        tiny_tsm().tokens(torch.zeros(1, 3, 10, 32, 32))
    with pytest.raises(InputError, match="clip_frames 12"):
        TSMResNet(dataclasses.replace(CONFIGS["tsm-r18"], clip_frames=12))
