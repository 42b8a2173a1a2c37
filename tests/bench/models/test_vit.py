"""The video transformer against the official model's numbers, names and the plain formulas."""

from __future__ import annotations

import dataclasses

import pytest
import seeded
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from bench.io.errors import InputError
from bench.models.backbones.vit import Attention, VideoViT
from bench.models.backbones.vit_config import CONFIGS
from bench.models.position_encoding import grid_positions


def small(**changes: object) -> VideoViT:
    torch.manual_seed(0)
    return VideoViT(dataclasses.replace(CONFIGS["vit-t"], **changes)).eval()


@pytest.mark.parametrize("name", ["videomae_tiny16", "videomae_tiny14"])
def test_every_block_agrees_with_the_official_model(name: str) -> None:
    case, expected = seeded.case(name), seeded.arrays(name)
    config = seeded.vit_config(name)
    state = seeded.weights(case["seed"], case["shapes"])
    rest = {key: state.pop(key) for key in list(state) if key.startswith(("fc_norm", "head"))}
    model = VideoViT(config).eval()
    assert list(model.state_dict()) == [key for key in model.state_dict() if key in state]
    model.load_state_dict(state, strict=True)
    clips = seeded.inputs(case["seed"], (2, 3, config.clip_frames, config.image_size, config.image_size))
    with torch.no_grad():
        blocks = model.layers(clips, range(config.depth))
        for index, block in enumerate(blocks):
            wanted = torch.from_numpy(expected[f"block{index}"])
            torch.testing.assert_close(block.flatten(1, 3), wanted, rtol=1e-4, atol=1e-5)
        pooled = F.layer_norm(
            model.tokens(clips).mean(dim=(1, 2, 3)),
            (config.width,),
            rest["fc_norm.weight"],
            rest["fc_norm.bias"],
            eps=1e-6,
        )
    torch.testing.assert_close(pooled, torch.from_numpy(expected["pooled"]), rtol=1e-4, atol=1e-5)
    logits = F.linear(pooled, rest["head.weight"], rest["head.bias"])
    torch.testing.assert_close(logits, torch.from_numpy(expected["logits"]), rtol=1e-4, atol=1e-5)


def test_attention_is_the_plain_formula() -> None:
    torch.manual_seed(0)
    attention = Attention(24, 3).double()
    torch.nn.init.normal_(attention.q_bias)
    torch.nn.init.normal_(attention.v_bias)
    tokens = torch.randn(2, 7, 24, dtype=torch.float64)
    query, key, value = (tokens @ attention.qkv.weight.T).chunk(3, dim=-1)
    query, value = query + attention.q_bias, value + attention.v_bias
    heads = [part.view(2, 7, 3, 8).transpose(1, 2) for part in (query, key, value)]
    scores = (heads[0] @ heads[1].transpose(-1, -2) / 8**0.5).softmax(dim=-1)
    mixed = (scores @ heads[2]).transpose(1, 2).reshape(2, 7, 24)
    torch.testing.assert_close(attention(tokens), attention.proj(mixed), rtol=1e-10, atol=1e-12)


def test_vit_g_has_the_official_names_and_size() -> None:
    with torch.device("meta"):
        model = VideoViT(CONFIGS["vit-g"])
    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    expected: dict[str, tuple[int, ...]] = {
        "patch_embed.proj.weight": (1408, 3, 2, 14, 14),
        "patch_embed.proj.bias": (1408,),
    }
    for index in range(40):
        block = f"blocks.{index}."
        expected |= {block + f"{norm}.{part}": (1408,) for norm in ("norm1", "norm2") for part in PARTS}
        expected |= {block + f"attn.{bias}": (1408,) for bias in ("q_bias", "v_bias", "proj.bias")}
        expected |= {block + "attn.qkv.weight": (4224, 1408), block + "attn.proj.weight": (1408, 1408)}
        expected |= {block + "mlp.fc1.weight": (6144, 1408), block + "mlp.fc1.bias": (6144,)}
        expected |= {block + "mlp.fc2.weight": (1408, 6144), block + "mlp.fc2.bias": (1408,)}
    assert shapes == expected
    assert sum(value.numel() for value in model.parameters()) == pytest.approx(1.011e9, rel=1e-3)


PARTS = ("weight", "bias")


def test_taps_are_the_outputs_of_their_blocks_and_the_last_is_tokens() -> None:
    model = small()
    clips = torch.randn(2, 3, 16, 32, 32)
    seen: list[torch.Tensor] = []
    handle = model.blocks[1].register_forward_hook(lambda *call: seen.append(call[2]))
    first, last = model.layers(clips, (1, 3))
    handle.remove()
    assert first.shape == last.shape == (2, 8, 4, 4, 64)
    torch.testing.assert_close(first.flatten(1, 3), seen[0], rtol=0, atol=0)
    torch.testing.assert_close(last, model.tokens(clips), rtol=0, atol=0)
    assert model.geometry.layer_widths == (64,) * 4


def test_clips_do_not_mix() -> None:
    model = small()
    clips = torch.randn(3, 3, 16, 32, 32)
    torch.testing.assert_close(model.tokens(clips)[1:2], model.tokens(clips[1:2]), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("frames", "height", "width"), [(16, 16, 16), (8, 32, 32), (16, 24, 40), (2, 8, 8)])
@pytest.mark.parametrize("positions", ["flat", "grid"])
@pytest.mark.parametrize("stem", ["linear", "difference-conv"])
def test_other_sizes_run(frames: int, height: int, width: int, positions: str, stem: str) -> None:
    model = small(positions=positions, stem=stem)
    tokens = model.tokens(torch.randn(1, 3, frames, height, width))
    assert tokens.shape == (1, frames // 2, height // 8, width // 8, 64)


def test_grid_positions_of_a_smaller_input_lie_between_those_of_the_full_one() -> None:
    full = grid_positions((8, 4, 4), (8, 4, 4), 64, torch.device("cpu")).view(8, 4, 4, 64)
    half = grid_positions((8, 2, 2), (8, 4, 4), 64, torch.device("cpu")).view(8, 2, 2, 64)
    slowest = 64 - 22 + 9  # the sine of the column with the longest wavelength
    assert full[0, 0, 0, slowest] < half[0, 0, 0, slowest] < full[0, 0, 1, slowest]
    assert len(torch.unique(full.view(-1, 64).round(decimals=4), dim=0)) == 128


def test_difference_stem_takes_pixels_to_about_one_unit() -> None:
    model = small()
    stem = model.patch_embed
    seen: list[torch.Tensor] = []
    stem.conv1.register_forward_hook(lambda *call: seen.append(call[1][0]))  # type: ignore[union-attr]
    frames = torch.full((4, 3, 32, 32), 100.0)
    frames[1] += 30
    stem(model.normalise(frames.transpose(0, 1)[None]))
    # Channels are colour by colour: first frame, second frame, difference.
    first, second = seen[0].view(2, 3, 3, 32, 32)
    assert first[:, 2].mean().item() == pytest.approx(1.0, abs=1e-5)  # 30 grey levels up
    assert second[:, 2].abs().max().item() == 0  # the way down lies between two tubelets
    assert first[:, 0].mean().item() == pytest.approx(-7.5 / 60, abs=1e-5)
    assert first[:, 1].mean().item() == pytest.approx(22.5 / 60, abs=1e-5)


def test_checkpointing_changes_no_gradient() -> None:
    model = small(drop_path=0.3).train()
    clips = torch.randn(2, 3, 16, 32, 32)
    gradients = []
    for model.checkpointing in (False, True):
        torch.manual_seed(1)
        model.zero_grad()
        model.tokens(clips).square().mean().backward()
        gradients.append([parameter.grad.clone() for parameter in model.parameters()])  # type: ignore[union-attr]
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-5, atol=1e-8)
    assert all(gradient.abs().sum() > 0 for gradient in gradients[0])


@pytest.mark.parametrize("name", ["vit-t", "vit-s"])
def test_traces_on_fake_tensors(name: str) -> None:
    with FakeTensorMode():
        model = VideoViT(CONFIGS[name])
        size = CONFIGS[name].image_size
        model.tokens(torch.randn(1, 3, 16, size, size)).sum().backward()
        assert all(parameter.grad is not None for parameter in model.parameters())


def test_wrong_input_is_named() -> None:
    model = small()
    with pytest.raises(InputError, match=r"frames of 30 x 32 pixels: .* 2 frames and multiples of 8 pixels"):
        model.tokens(torch.zeros(1, 3, 16, 30, 32))
    with pytest.raises(InputError, match=r"taps \(4,\): allowed .* 0 to 3"):
        model.layers(torch.zeros(1, 3, 16, 32, 32), (4,))
    with pytest.raises(InputError, match=r"image_size 30: .* multiples of the patch \(8\)"):
        small(image_size=30)
    with pytest.raises(InputError, match="image_size 7"):
        small(image_size=7, stem="linear")
    with pytest.raises(InputError, match=r"7 x 32 pixels: allowed .* at least 8 pixels"):
        small(stem="linear").tokens(torch.zeros(1, 3, 16, 7, 32))


@torch.no_grad()
def test_pixels_beyond_the_last_whole_patch_are_not_seen() -> None:
    """As in AdaTAD with VideoMAEv2-g: 160 pixels are 11 patches of 14."""
    clips = torch.randn(1, 3, 16, 30, 30)
    model = small(image_size=30, pretrained_size=32, stem="linear", positions="flat")
    cropped = small(image_size=24, pretrained_size=32, stem="linear", positions="flat")
    cropped.load_state_dict(model.state_dict())
    assert torch.equal(model.tokens(clips), cropped.tokens(clips[..., :24, :24]))
