"""Image transformers as encoders of frames: equal to timm, frames apart, snippets averaged, DINOv2."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from checkpointed_gradients import check_checkpointing
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional as F

from bench.io.errors import InputError
from bench.models import build_backbone
from bench.models.backbones.frame_vit import FrameViT, tiny_frame_vit

GOLDEN = Path(__file__).parents[2] / "golden" / "dinov2_s.npz"


def randomised() -> FrameViT:
    torch.manual_seed(0)
    model = tiny_frame_vit()
    for value in model.parameters():
        nn.init.normal_(value, std=0.3)
    return model.eval()


def test_a_picture_gives_timms_forward_features() -> None:
    model = randomised()
    reference = timm.create_model(
        model.config.architecture, num_classes=0, dynamic_img_size=True, **dict(model.config.changes)
    ).eval()
    reference.load_state_dict(
        {name.removeprefix("network."): value for name, value in model.state_dict().items()}, strict=True
    )
    for size in (42, 56, 70):  # positions are interpolated from a grid of 4 x 4
        picture = torch.randn(1, 3, size, size)
        wanted = reference.forward_features(picture)[:, 1:]
        found = model.tokens(picture[:, :, None])
        assert found.shape == (1, 1, size // 14, size // 14, 32)
        assert torch.equal(found.flatten(1, 3), wanted)
    blocks = reference.get_intermediate_layers(picture, n=[0, 1])
    for found, wanted in zip(model.layers(picture[:, :, None], (0, 1)), blocks, strict=True):
        torch.testing.assert_close(found.flatten(1, 3), wanted)


def test_frames_do_not_mix_and_a_step_is_the_mean_of_its_snippet() -> None:
    single = randomised()
    clips = torch.randn(2, 3, 8, 42, 42)
    tokens = single.tokens(clips)
    assert tokens.shape == (2, 8, 3, 3, 32)
    torch.testing.assert_close(single.tokens(clips[1:, :, 5:6])[0, 0], tokens[1, 5])
    pairs = FrameViT(dataclasses.replace(single.config, snippet_frames=2))
    pairs.load_state_dict(single.state_dict())
    assert pairs.geometry.steps_per_clip == 4
    torch.testing.assert_close(pairs.tokens(clips), tokens.unflatten(1, (4, 2)).mean(dim=2))


def test_an_inserted_module_sees_the_patches_of_a_clip() -> None:
    model = randomised()
    clips = torch.randn(2, 3, 8, 42, 42)
    plain = model.layers(clips, (1, 2))

    class Flip(nn.Module):
        def forward(self, tokens: torch.Tensor, window_clips: int) -> torch.Tensor:
            assert tokens.shape == (2, 8, 3, 3, 32)
            return tokens.flip(-1)

    model.insert_after_layers(lambda width: Flip(), (1, -1))
    changed = model.layers(clips, (1, 2))
    torch.testing.assert_close(changed[0], plain[0].flip(-1))
    assert not torch.allclose(changed[1], plain[1].flip(-1))  # the last block saw the change


def test_checkpointing_changes_no_gradient() -> None:
    model = randomised().train()
    plain = check_checkpointing(model, torch.randn(1, 3, 8, 42, 42), atol=1e-9)
    assert all(gradient.abs().sum() > 0 for gradient in plain)


def test_layers_hold_all_but_the_stem() -> None:
    model = tiny_frame_vit()
    held = {id(value) for layer in model.layer_modules() for part in layer for value in part.parameters()}
    others = {name for name, value in model.named_parameters() if id(value) not in held}
    assert others == {f"network.{each}" for each in ("cls_token", "pos_embed")} | {
        f"network.patch_embed.proj.{each}" for each in ("weight", "bias")
    }


def test_sizes_are_those_of_dinov2_and_traces_on_fake_tensors() -> None:
    with FakeTensorMode():
        model = build_backbone("dinov2-s", image_size=98)
        assert sum(value.numel() for value in model.parameters()) == 22_056_192
        assert model.geometry.layer_widths == (384,) * 12
        model.tokens(torch.randn(1, 3, 8, 98, 98)).sum().backward()
        assert all(value.grad is not None for value in model.parameters())


def test_wrong_input_is_named() -> None:
    model = FrameViT(dataclasses.replace(tiny_frame_vit().config, snippet_frames=4))
    with pytest.raises(
        InputError, match=r"clips of 6 frames .* multiples of a snippet \(4\) and at least 14"
    ):
        model.tokens(torch.zeros(1, 3, 6, 42, 42))
    with pytest.raises(InputError, match=r"clips of 4 frames of 42 x 10 pixels"):
        model.tokens(torch.zeros(1, 3, 4, 42, 10))
    with pytest.raises(InputError, match=r"taps \(3,\): allowed .* 0 to 2"):
        model.layers(torch.zeros(1, 3, 4, 42, 42), (3,))
    with pytest.raises(InputError, match="clip_frames 6"):
        FrameViT(dataclasses.replace(model.config, clip_frames=6))
    with pytest.raises(InputError, match=r"image_size 13: allowed is 14 \(a patch\) or more"):
        FrameViT(dataclasses.replace(model.config, image_size=13))


def test_the_converted_weights_give_the_onnx_file_s_features() -> None:
    """With positions interpolated as in the file: bicubic without antialiasing, unlike timm."""
    weights = os.environ.get("TALBENCH_DINOV2_WEIGHTS")
    if not weights:
        pytest.skip("TALBENCH_DINOV2_WEIGHTS does not name the file that bench.convert wrote")
    model = build_backbone("dinov2-s", weights).eval()
    table = model.network.pos_embed.data
    full = table[:, 1:].unflatten(1, (37, 37)).permute(0, 3, 1, 2)
    cells = F.interpolate(full, (16, 16), mode="bicubic", align_corners=False)
    model.network.pos_embed.data = torch.cat((table[:, :1], cells.flatten(2).transpose(1, 2)), dim=1)
    model.network.patch_embed.grid_size = (16, 16)
    picture = np.random.Generator(np.random.PCG64(61)).standard_normal((1, 3, 224, 224)).astype(np.float32)
    with torch.no_grad():
        middle, last = model.layers(torch.from_numpy(picture)[:, :, None], (5, 11))
    with np.load(GOLDEN) as golden:
        for found, name in ((middle, "block5"), (last, "norm")):
            wanted = torch.from_numpy(golden[name])
            assert (found.mean(dim=(2, 3))[0, 0] - wanted).abs().max() < 1e-4 * wanted.abs().max()
        corner = torch.from_numpy(golden["norm_corner"])
        assert (last[0, 0, 0, :4] - corner).abs().max() < 1e-4 * corner.abs().max()
