"""Positions of published video transformers at other sizes than that of their weights."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import seeded
import torch
from safetensors.torch import save_file

from bench.config.presets import MINIATURE, STANDARD
from bench.features.encode import ClipPasses
from bench.io.errors import InputError
from bench.models import build_backbone
from bench.models.backbones.vit import VideoViT
from bench.models.backbones.vit_config import CONFIGS
from bench.models.position_encoding import flat_positions, grid_positions, interpolated_positions
from bench.training.detector import build_detector
from strategies.head_only import HeadOnly
from tests.reference import positions as reference

CPU = torch.device("cpu")
GOLDEN = {"videomae_tiny16": (96, 48), "videomae_tiny14": (84, 42)}


def official(name: str, **changes: object) -> VideoViT:
    """Return a small model of ``models.json`` with the weights of the golden values of other sizes."""
    case = seeded.case(name)
    config = seeded.vit_config(name)
    config = dataclasses.replace(config, pretrained_size=config.image_size)
    model = VideoViT(dataclasses.replace(config, **changes)).eval()
    model.load_state_dict(seeded.weights(41, {name: case["shapes"][name] for name in model.state_dict()}))
    return model


@pytest.mark.parametrize("built_at_this_size", [True, False])
@pytest.mark.parametrize(("name", "size"), [(name, size) for name, sizes in GOLDEN.items() for size in sizes])
@torch.no_grad()
def test_every_block_agrees_with_the_official_model_at_other_sizes(
    name: str, size: int, built_at_this_size: bool
) -> None:
    model = official(name, **({"image_size": size} if built_at_this_size else {}))
    expected = seeded.arrays("videomae_positions")
    clips = seeded.inputs(41, (1, 3, model.config.clip_frames, size, size))
    blocks = model.layers(clips, range(model.config.depth))
    for index, block in enumerate(blocks):
        wanted = torch.from_numpy(expected[f"{name}_{size}_block{index}"])
        torch.testing.assert_close(block.flatten(1, 3), wanted, rtol=1e-5, atol=1e-5)
    recomputed = official(name, interpolated=False).layers(clips, [0])[0].flatten(1, 3)
    assert (recomputed - torch.from_numpy(expected[f"{name}_{size}_block0"])).abs().max() > 0.1


@pytest.mark.parametrize(
    ("grid", "pretrained"),
    [
        ((8, 10, 10), (8, 14, 14)),
        ((8, 7, 7), (8, 14, 14)),
        ((8, 20, 15), (8, 14, 14)),
        ((8, 11, 11), (8, 16, 16)),
        ((4, 14, 14), (8, 14, 14)),
        ((16, 10, 10), (8, 14, 14)),
        ((1, 3, 3), (3, 4, 4)),
        ((8, 14, 14), (8, 14, 14)),
    ],
)
def test_tables_are_those_of_the_plain_rule(
    grid: tuple[int, int, int], pretrained: tuple[int, int, int]
) -> None:
    found = interpolated_positions(grid, pretrained, 24, CPU).double()
    expected = torch.from_numpy(reference.positions(grid, pretrained, 24))
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)


def test_half_a_clip_has_the_means_of_pairs_of_time_steps() -> None:
    whole = flat_positions((8, 3, 3), 16, CPU).view(4, 2, 9, 16)
    half = interpolated_positions((4, 3, 3), (8, 3, 3), 16, CPU).view(4, 9, 16)
    torch.testing.assert_close(half, whole.mean(dim=1), rtol=0, atol=1e-6)


def plain_tokens(model: VideoViT, clips: torch.Tensor, table: np.ndarray) -> torch.Tensor:
    """Return the last block's tokens for a given table of positions."""
    tokens = model.patch_embed(clips).flatten(1, 3) + torch.from_numpy(table).float()
    for block in model.blocks:
        tokens = block(tokens)
    return tokens


@pytest.fixture(scope="module")
def vit_s() -> VideoViT:
    torch.manual_seed(0)
    backbone = build_backbone("vit-s")
    assert isinstance(backbone, VideoViT)
    return backbone.eval()


@torch.no_grad()
def test_vit_s_at_160_interpolates_the_table_of_224(vit_s: VideoViT) -> None:
    model = build_backbone("vit-s", image_size=160)
    model.load_state_dict(vit_s.state_dict())
    assert model.geometry.image_size == 160
    clips = torch.randn(1, 3, 16, 160, 160, generator=torch.Generator().manual_seed(1))
    expected = plain_tokens(vit_s, clips, reference.positions((8, 10, 10), (8, 14, 14), 384))
    torch.testing.assert_close(model.eval().tokens(clips).flatten(1, 3), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("spatial", "side"), [(1 / 2, 7), (1 / 2**0.5, 10)])
@torch.no_grad()
def test_reduced_inputs_interpolate_the_table_of_224(vit_s: VideoViT, spatial: float, side: int) -> None:
    generator = torch.Generator().manual_seed(1)
    clips = torch.randint(0, 256, (1, 3, 16, 224, 224), generator=generator, dtype=torch.uint8)
    seen: list[torch.Tensor] = []
    handle = vit_s.patch_embed.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    (encoded,) = ClipPasses(1, spatial).encode(vit_s, clips)
    handle.remove()
    assert seen[0].shape == (1, 3, 16, 16 * side, 16 * side)
    expected = plain_tokens(vit_s, seen[0], reference.positions((8, side, side), (8, 14, 14), 384))
    expected = expected.unflatten(1, (8, side * side)).mean(dim=2)
    torch.testing.assert_close(encoded, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in CONFIGS if name != "vit-t"])
def test_published_models_keep_the_grid_of_their_weights(name: str) -> None:
    side = 16 if name == "vit-g" else 14
    multiple = CONFIGS[name].patch_size
    with torch.device("meta"):
        model = build_backbone(name, image_size=8 * multiple, clip_frames=32)
    assert isinstance(model, VideoViT)
    assert model.config.pretrained_grid == (8, side, side)
    assert model.config.interpolated


@pytest.mark.parametrize("positions", ["interpolated", "recomputed"])
def test_positions_of_vit_t_are_the_formula_in_cells(positions: str) -> None:
    protocol = dataclasses.replace(MINIATURE, positions=positions)
    detector, _, _ = build_detector("vit-t", None, HeadOnly(), protocol, 2, 0)
    model = detector.backbone
    assert isinstance(model, VideoViT)
    expected = 0.5 * grid_positions((8, 2, 2), (8, 4, 4), 64, CPU)
    assert torch.equal(model._positions((8, 2, 2), CPU), expected)


def test_a_file_with_other_positions_than_those_of_the_model_is_refused(
    tmp_path: Path, vit_s: VideoViT
) -> None:
    path = tmp_path / "a.safetensors"
    weights = vit_s.state_dict()
    table = flat_positions((8, 14, 14), 384, CPU)[None]
    for given in (table, table.half(), table.float() + 1e-4):
        save_file(weights | {"pos_embed": given}, path)
        audit = build_backbone("vit-s", path, image_size=160).load_audit
        assert audit is not None
        assert [name for name, _ in audit.left_out] == ["pos_embed"]
    for given, shape in ((0.9 * table, "1, 1568, 384"), (table[:, :784].clone(), "1, 784, 384")):
        save_file(weights | {"pos_embed": given}, path)
        with pytest.raises(
            InputError, match=rf"pos_embed \({shape}\) is not the table of the model, \(1, 1568"
        ):
            build_backbone("vit-s", path, image_size=160)


def test_the_protocol_chooses() -> None:
    for positions, expected in (
        ("interpolated", interpolated_positions((8, 10, 10), (8, 14, 14), 384, CPU)),
        ("recomputed", flat_positions((8, 10, 10), 384, CPU)),
    ):
        protocol = dataclasses.replace(STANDARD, image_size=160, positions=positions)
        detector, _, _ = build_detector("vit-s", None, HeadOnly(), protocol, 2, 0)
        assert isinstance(detector.backbone, VideoViT)
        assert torch.equal(detector.backbone._positions((8, 10, 10), CPU), expected)
