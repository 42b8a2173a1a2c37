"""Tensor names in the checkpoints of each family. ``bench.models.pretrained`` loads the files."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection

from torch import Tensor

Pieces = list[tuple[str, Tensor]]


def _whole(name: str, value: Tensor, wanted: Collection[str]) -> Pieces:
    return [(name, value)]


@dataclasses.dataclass(frozen=True)
class Layout:
    """One family's naming. Patterns are regular expressions, searched in names without their prefixes."""

    parts: tuple[str, ...]
    """Prefixes of the model's own names: a tensor of such a name that the model lacks is an error."""
    prefixes: tuple[str, ...] = ("module.",)
    """Prefixes that wrappers add; all are removed, in any order."""
    renamed: tuple[tuple[str, str], ...] = ()
    """Patterns and their replacements."""
    left_out: tuple[tuple[str, str], ...] = ()
    """Patterns of tensors that a backbone does not use, and the reason."""
    pieces: Callable[[str, Tensor, Collection[str]], Pieces] = _whole
    """Splits a tensor that the model (whose names are given) stores as several."""

    def name(self, name: str) -> str:
        """Return the model's name for a tensor of the file."""
        prefix: str | None = ""
        while prefix is not None:
            name = name.removeprefix(prefix)
            prefix = next((each for each in self.prefixes if name.startswith(each)), None)
        for pattern, replacement in self.renamed:
            name = re.sub(pattern, replacement, name)
        return name

    def reason(self, name: str) -> str | None:
        """Return why a tensor that the model does not have is left out; None where no reason is known."""
        return next((why for pattern, why in self.left_out if re.search(pattern, name)), None)


COUNTER = (r"(^|\.)num_batches_tracked$", "counter")


def _attention_biases(name: str, value: Tensor, wanted: Collection[str]) -> Pieces:
    """Return the tensor; a joint bias of queries, keys and values is split into three."""
    stem = name.removesuffix("qkv.bias")
    if stem == name or f"{stem}q_bias" not in wanted or value.ndim != 1 or len(value) % 3:
        return [(name, value)]
    parts = zip(("q_bias", "k_bias", "v_bias"), value.chunk(3), strict=True)
    return [(stem + part, piece) for part, piece in parts]


VIT_LAYOUT = Layout(
    parts=("patch_embed.", "blocks."),
    # VideoMAE's pre-training models name the backbone encoder, MMAction2's recognizers backbone.
    prefixes=("module.", "model.", "backbone.", "encoder."),
    renamed=(  # MMAction2's names on the left
        (r"^patch_embed\.projection\.", "patch_embed.proj."),
        (r"\.mlp\.layers\.0\.0\.", ".mlp.fc1."),
        (r"\.mlp\.layers\.1\.", ".mlp.fc2."),
    ),
    left_out=(
        (r"^(decoder|encoder_to_decoder)\.", "decoder of the pre-training"),
        (r"(^|\.)mask_token$", "mask of the pre-training"),
        (r"(^|\.)pos_embed$", "positions are the fixed table of the pre-training grid, computed"),
        (r"^(head|cls_head)\.", "classifier"),
        (r"^(norm|fc_norm)\.", "final norm: features are taken before it"),
        (r"\.attn\.k_bias$", "a bias of the keys changes no attention"),
        COUNTER,
    ),
    pieces=_attention_biases,
)

TSM_LAYOUT = Layout(
    parts=("conv1.", "bn1.", "layer"),
    # The TSM repository names the image network base_model, and each shifted convolution net.
    prefixes=("module.", "model.", "backbone.", "base_model."),
    renamed=((r"^(layer\d\.\d+\.conv1)\.net\.", r"\1."),),
    left_out=((r"^(fc|new_fc)\.", "classifier"), COUNTER),
)

I3D_LAYOUT = Layout(
    parts=("Conv3d_", "Mixed_"),
    prefixes=("module.", "model.", "backbone."),
    left_out=((r"^logits\.", "classifier"), COUNTER),
)

# MobileNetV2's names in the TSM repository, which numbers its 17 blocks, and timm's names of the same parts.
_EXPANDED = {0: "conv_pw", 1: "bn1", 3: "conv_dw", 4: "bn2", 6: "conv_pwl", 7: "bn3"}
_FIRST = {0: "conv_dw", 1: "bn1", 3: "conv_pw", 4: "bn2"}
_BLOCKS = [(stage, block) for stage, count in enumerate((1, 2, 3, 4, 3, 3, 1)) for block in range(count)]
MOBILENETV2_LAYOUT = Layout(
    parts=("conv_stem.", "conv_head.", "bn1.", "bn2.", "blocks."),
    prefixes=("module.", "model.", "backbone.", "base_model."),
    renamed=(
        (r"^(features\.\d+\.conv\.0)\.net\.", r"\1."),  # the TSM repository's shifted convolutions
        (r"^features\.0\.0\.", "conv_stem."),
        (r"^features\.0\.1\.", "bn1."),
        (r"^features\.18\.0\.", "conv_head."),
        (r"^features\.18\.1\.", "bn2."),
        *(
            (rf"^features\.{number}\.conv\.{place}\.", f"blocks.{stage}.{block}.{part}.")
            for number, (stage, block) in enumerate(_BLOCKS, start=1)
            for place, part in (_EXPANDED if number > 1 else _FIRST).items()
        ),
    ),
    left_out=((r"^(classifier|new_fc)\.", "classifier"), COUNTER),
)

FRAME_VIT_LAYOUT = Layout(
    parts=("network.",),
    renamed=((r"^(?!network\.|head\.|fc_norm\.|mask_token$)", "network."),),
    left_out=(
        (r"^(head|fc_norm)\.", "classifier"),
        (r"^mask_token$", "mask of the pre-training"),
    ),
)

HEAD_LAYOUT = Layout(parts=("",))
"""A head uses every tensor of the file: an unmatched one is an error."""
