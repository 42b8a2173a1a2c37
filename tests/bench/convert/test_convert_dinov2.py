"""DINOv2 out of an ONNX file: protocol buffers written field by field, as torch's exporter lays them out."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from bench.convert.__main__ import main
from bench.convert.conversion import serialised
from bench.convert.dinov2 import DEPTH, DINOV2_S, MATRICES, PROJECTIONS, VECTORS
from bench.convert.onnx_graph import read_graph
from bench.io.errors import InputError
from bench.models.backbones.frame_vit import FrameViT, FrameViTConfig
from bench.models.pretrained import load_model
from bench.models.state_dict_layouts import FRAME_VIT_LAYOUT

WIDTH, HIDDEN = 8, 32
SMALL = FrameViTConfig(
    "vit_small_patch14_dinov2",
    image_size=42,
    changes=(("embed_dim", WIDTH), ("num_heads", 2), ("img_size", 42)),
)


def varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def field(number: int, content: bytes | int) -> bytes:
    if isinstance(content, int):
        return varint(number << 3) + varint(content)
    return varint(number << 3 | 2) + varint(len(content)) + content


def tensor(name: str, value: np.ndarray) -> bytes:
    dims = b"".join(field(1, size) for size in value.shape)
    return field(5, dims + field(2, 1) + field(8, name.encode()) + field(9, value.tobytes()))


def node(name: str, *inputs: str) -> bytes:
    return field(1, b"".join(field(1, each.encode()) for each in inputs) + field(3, name.encode()))


def exported(state: dict[str, np.ndarray], depth: int = DEPTH) -> bytes:
    """Return an ONNX file with the names of the package's, of tensors by timm's names."""
    stem = "backbone.embeddings.patch_embeddings.projection"
    parts = [
        tensor("backbone.embeddings.cls_token", state["cls_token"]),
        tensor(f"{stem}.weight", state["patch_embed.proj.weight"]),
        tensor(f"{stem}.bias", state["patch_embed.proj.bias"]),
        tensor("backbone.layernorm.weight", state["norm.weight"]),
        tensor("backbone.layernorm.bias", state["norm.bias"]),
        tensor("decoder.final_conv.weight", np.zeros((1, 4, 1, 1), np.float32)),
        tensor("onnx::Concat_1", state["pos_embed"][:, :1]),
        tensor("onnx::Reshape_2", state["pos_embed"][:, 1:]),
        node("/backbone/embeddings/Concat_6", "onnx::Concat_1", "/backbone/embeddings/Reshape_2_output_0"),
    ]
    for index in range(depth):
        layer, where = f"backbone.encoder.layer.{index}", f"/backbone/encoder/layer.{index}"
        block = {name.removeprefix(f"blocks.{index}."): value for name, value in state.items()}
        thirds = zip(
            PROJECTIONS,
            np.split(block["attn.qkv.weight"], 3),
            np.split(block["attn.qkv.bias"], 3),
            strict=True,
        )
        matrices = {}
        for name, weight, bias in thirds:
            matrices[f"attention/attention/{name}"] = weight
            parts.append(tensor(f"{layer}.attention.attention.{name}.bias", bias))
        matrices |= {theirs: block[f"{ours}.weight"] for ours, theirs in MATRICES.items()}
        for name, weight in matrices.items():
            anonymous = f"onnx::MatMul_{index}{name}"
            parts += [tensor(anonymous, weight.T), node(f"{where}/{name}/MatMul", "x", anonymous)]
        parts += [tensor(f"{layer}.{theirs}", block[ours]) for ours, theirs in VECTORS.items()]
    return field(1, 8) + field(7, b"".join(parts))


@pytest.fixture(scope="module")
def state() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    shapes = FrameViT(SMALL).state_dict()
    return {name.removeprefix("network."): torch.randn_like(value).numpy() for name, value in shapes.items()}


def test_every_tensor_arrives_at_its_place(state: dict[str, np.ndarray], tmp_path: Path) -> None:
    converted = DINOV2_S.convert(exported(state), "x.onnx")
    path = tmp_path / "a.safetensors"
    path.write_bytes(serialised(converted, {"licence": "MIT"}))
    model = FrameViT(SMALL)
    audit = load_model(model, path, FRAME_VIT_LAYOUT)
    assert audit.left_out == ()
    assert audit.licence == "MIT"
    loaded = model.state_dict()
    assert {name.removeprefix("network.") for name in loaded} == set(state)
    for name, value in state.items():
        assert np.array_equal(loaded[f"network.{name}"].numpy(), value), name


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: content[: len(content) // 2], "not an ONNX file (truncated"),
        (lambda content: b"hello", "not an ONNX file"),
        (lambda content: b"", "no weight 'backbone.embeddings.cls_token'"),
        (lambda content: b"\xff" * 40, "not an ONNX file (an integer of more than ten bytes)"),
        (lambda content: content.replace(b"/value/MatMul", b"/valve/MatMul"), "0 weights among its inputs"),
        (lambda content: content.replace(b"Concat_6", b"Concat_7"), "no position table"),
    ],
)
def test_other_files_are_refused(damage, words, state, tmp_path, capsys) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(damage(exported(state)))
    assert main(["dinov2-s", str(path), str(tmp_path / "a.safetensors")]) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith(f"bench.convert: {path}: ")
    assert words in printed.err
    assert printed.err.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["a.onnx"]


def test_a_smaller_network_is_no_dinov2_s(state, tmp_path, capsys) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(exported(state))
    assert main(["dinov2-s", str(path), str(tmp_path / "a.safetensors")]) == 2
    assert "does not fit the model" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"layer\.11.*0 weights among its inputs"):
        DINOV2_S.convert(exported(state, depth=11), "x.onnx")


def test_weights_of_other_types_are_no_weights() -> None:
    shape = field(5, field(1, 2) + field(2, 7) + field(8, b"shape") + field(9, bytes(16)))
    packed = field(5, field(1, varint(2) + varint(1)) + field(2, 1) + field(8, b"w") + field(9, bytes(8)))
    graph = read_graph(field(7, shape + packed), "x")
    assert graph.weights["shape"].size == 0
    assert graph.weights["w"].shape == (2, 1)


def test_the_package_is_named_where_it_is_absent(tmp_path, monkeypatch, capsys) -> None:
    absent = dataclasses.replace(
        DINOV2_S, package=dataclasses.replace(DINOV2_S.package, name="talbench-no-such-package")
    )
    monkeypatch.setattr("bench.convert.__main__.CONVERSIONS", {"dinov2-s": absent})
    assert main(["dinov2-s", "installed", str(tmp_path / "a.safetensors")]) == 2
    assert "talbench-no-such-package is not installed" in capsys.readouterr().err
