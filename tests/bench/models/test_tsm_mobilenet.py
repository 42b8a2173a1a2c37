"""TSM on MobileNetV2: timm's own network with a plain shift, sizes, and which blocks are shifted."""

from __future__ import annotations

import pytest
import timm
import torch
from checkpointed_gradients import check_checkpointing
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from bench.models import build_backbone
from bench.models.backbones.tsm import ShiftedConv
from bench.models.backbones.tsm_mobilenet import STAGES, MobileNetV2Config, TSMMobileNetV2, tiny_mobilenet

WITH_SHORTCUT = ["1.1", "2.1", "2.2", "3.1", "3.2", "3.3", "4.1", "4.2", "5.1", "5.2"]
"""timm's blocks of MobileNetV2 that keep grid and channels."""


def plain_shift(x: torch.Tensor) -> torch.Tensor:
    """The published definition, in one clip of 8 frames."""
    fold = x.shape[1] // 8
    later = F.pad(x[1:, :fold], (0, 0, 0, 0, 0, 0, 0, 1))
    earlier = F.pad(x[:-1, fold : 2 * fold], (0, 0, 0, 0, 0, 0, 1, 0))
    return torch.cat((later, earlier, x[:, 2 * fold :]), dim=1)


def test_every_layer_is_timms_with_the_shift_in_blocks_with_a_shortcut() -> None:
    torch.manual_seed(0)
    reference = timm.create_model("mobilenetv2_100", num_classes=0).eval()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.1)
            torch.nn.init.normal_(module.running_mean, std=0.1)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    model = TSMMobileNetV2(MobileNetV2Config(clip_frames=8))
    state = {
        name: value for name, value in reference.state_dict().items() if "num_batches_tracked" not in name
    }
    model.load_state_dict(state, strict=True)
    model.train()  # the norms use their stored statistics all the same
    seen: dict[str, torch.Tensor] = {}
    for stage in STAGES[:-1]:
        reference.blocks[stage[-1]].register_forward_hook(
            lambda _, given, out, stage=stage: seen.update({str(stage): out})
        )
    for name in WITH_SHORTCUT:
        reference.blocks.get_submodule(name).conv_pw.register_forward_pre_hook(
            lambda _, given: (plain_shift(given[0]),)
        )
    frames = torch.randn(8, 3, 48, 64)
    with torch.no_grad():
        last = reference.forward_features(frames)
        outputs = model.layers(frames.transpose(0, 1)[None], (0, 1, 2, 3))
    for found, wanted in zip(outputs, [*seen.values(), last], strict=True):
        expected = wanted.mean(dim=0).permute(1, 2, 0)
        torch.testing.assert_close(found[0, 0], expected, rtol=1e-4, atol=1e-4)


def test_sizes_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = build_backbone("tsm-mobilenetv2")
    assert model.geometry.layer_widths == (24, 32, 96, 1280)
    assert model.geometry.steps_per_clip == 8
    assert sum(value.numel() for value in model.parameters()) == 2_223_872  # 3,504,872 with the classifier
    shifted = [name for name, each in model.named_modules() if isinstance(each, ShiftedConv)]
    assert shifted == [f"blocks.{name}.conv_pw" for name in WITH_SHORTCUT]


def test_grids_are_those_of_a_resnet_and_snippets_do_not_mix() -> None:
    torch.manual_seed(0)
    model = tiny_mobilenet().eval()
    clips = torch.randn(2, 3, 16, 64, 64)
    outputs = model.layers(clips, (0, 1, 2, 3))
    assert [each.shape[1:4] for each in outputs] == [(4, side, side) for side in (16, 8, 4, 2)]
    torch.testing.assert_close(model.tokens(clips[:, :, 4:8])[:, 0], outputs[3][:, 1], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(model.tokens(clips.flip(2)).flip(1), outputs[3], rtol=1e-3)


def test_checkpointing_changes_no_gradient() -> None:
    torch.manual_seed(0)
    model = tiny_mobilenet()
    check_checkpointing(model, torch.randn(1, 3, 8, 32, 32))


@pytest.mark.parametrize("size", [96, 224])
def test_traces_on_fake_tensors(size: int) -> None:
    with FakeTensorMode():
        model = build_backbone("tsm-mobilenetv2")
        model.tokens(torch.randn(1, 3, 8, size, size)).sum().backward()
        assert all(value.grad is not None for value in model.parameters())
