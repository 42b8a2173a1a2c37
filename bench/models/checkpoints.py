"""Checkpoints as they are found in the wild, loaded without running their code and without silent gaps.

Files nest their tensors under different names, prefix them differently and carry parts that a backbone does
not have. What is left out is written down with its reason; what is missing or misshapen is an error, because
a backbone that is half random is the most frequent cause of a score that nobody can explain.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import pickle
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.errors import InputError

SUFFIXES = (".pt", ".pth", ".safetensors")
# Averaged weights first: where a release ships both, its numbers are of the averaged ones.
CONTAINERS = ("state_dict_ema", "state_dict", "model", "module")
BACKBONE_PREFIXES = ("module.", "model.", "backbone.", "encoder.")
RENAMED = (  # MMAction2's names on the left
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"\.mlp\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.mlp\.layers\.1\.", ".mlp.fc2."),
)
LEFT_OUT = (
    (r"^(decoder|encoder_to_decoder)\.", "decoder of the pre-training"),
    (r"(^|\.)mask_token$", "mask of the pre-training"),
    (r"(^|\.)pos_embed$", "positions are fixed and computed for the input's grid"),
    (r"^(head|cls_head)\.", "classifier"),
    (r"^(norm|fc_norm)\.", "final norm: features are taken before it"),
    (r"(^|\.)num_batches_tracked$", "counter"),
)
BACKBONE_PARTS = ("patch_embed.", "blocks.")
LISTED = 5


@dataclasses.dataclass(frozen=True)
class LoadAudit:
    """What happened to every tensor of a checkpoint, and to every tensor of the model."""

    file: str
    sha256: str
    container: str
    """Where in the file the tensors lay, as ``a.b``; empty where they were at the top."""
    matched: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    """Names in the file, with the reason."""
    missing: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()


def load_backbone(model: nn.Module, path: str | Path) -> LoadAudit:
    """Fill ``model`` from ``path`` and return what was matched. Raises ``InputError`` for a gap."""
    return _load(model, Path(path), _backbone_name, BACKBONE_PARTS)


def load_head(model: nn.Module, path: str | Path) -> LoadAudit:
    """Fill a head from ``path``; every tensor must be there, by the released names."""
    return _load(model, Path(path), lambda name: name.removeprefix("module."), ("",))


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str]:
    """Return the tensors of a file by name, on the CPU, and the container they lay in."""
    if path.suffix not in SUFFIXES:
        raise InputError(f"{path}: a checkpoint's name ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the checkpoint is empty")
    content: object = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    inside: list[str] = []
    while isinstance(content, Mapping):
        found = next((name for name in CONTAINERS if isinstance(content.get(name), Mapping)), None)
        if found is None:
            break
        inside.append(found)
        content = content[found]
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds {type(content).__name__}, allowed is a mapping of names to tensors")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if not tensors:
        raise InputError(f"{path}: holds no tensors, at the top or under {', '.join(CONTAINERS)}")
    return tensors, ".".join(inside)


def _read_pickle(path: Path) -> object:
    try:
        # Releases store their command line beside the tensors; a Namespace holds values and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"(?:GLOBAL|global:?|class) ([\w.]*\w)", str(error))
        if "nsupported" not in str(error) and named is None:
            raise InputError(f"{path}: not a checkpoint, or a damaged one") from error
        what = f" ({named.group(1)})" if named else ""
        raise InputError(
            f"{path}: holds code{what}, which is not run; allowed are tensors and plain values "
            "(save the state dict alone)"
        ) from error
    except Exception as error:  # every format has errors of its own, and all say: unreadable
        raise InputError(f"{path}: truncated or damaged ({_one_line(error)})") from error


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: truncated or damaged ({_one_line(error)})") from error


def _one_line(error: Exception) -> str:
    return " ".join((str(error) or type(error).__name__).split())[:120]


def _backbone_name(name: str) -> str:
    prefix: str | None = ""
    while prefix is not None:
        name = name.removeprefix(prefix)
        prefix = next((each for each in BACKBONE_PREFIXES if name.startswith(each)), None)
    for pattern, replacement in RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def _load(
    model: nn.Module, path: Path, rename: Callable[[str], str], required_parts: Sequence[str]
) -> LoadAudit:
    tensors, container = read_tensors(path)
    wanted = model.state_dict()
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, value in tensors.items():
        for new, part in _split_biases(rename(name), value, wanted):
            if new in renamed:
                raise InputError(f"{path}: {origin[new]} and {name} are both {new}, allowed is one of them")
            renamed[new], origin[new] = part, name

    matched = {name: renamed[name] for name in wanted if name in renamed}
    missing = [name for name in wanted if name not in renamed]
    misshapen = [
        f"{name} {tuple(value.shape)} for {tuple(wanted[name].shape)}"
        for name, value in matched.items()
        if value.shape != wanted[name].shape
    ]
    left_out, foreign = [], []
    for name in renamed:
        if name in wanted:
            continue
        reason = next((why for pattern, why in LEFT_OUT if re.search(pattern, name)), None)
        if reason is None and name.endswith("attn.k_bias"):
            reason = "a bias of the keys changes no attention"
        if reason is None and name.startswith(tuple(required_parts)):
            foreign.append(name)
        left_out.append((origin[name], reason or "no such tensor in the model"))
    problems = (("missing", missing), ("misshapen", misshapen), ("not in the model", foreign))
    if any(names for _, names in problems):
        listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems if names)
        raise InputError(f"{path}: does not fit the model; {listed}")
    model.load_state_dict(matched, strict=True)
    return LoadAudit(path.name, _sha256(path), container, tuple(matched), tuple(left_out))


def _split_biases(name: str, value: Tensor, wanted: Mapping[str, Tensor]) -> list[tuple[str, Tensor]]:
    """Return the tensor, or, of one bias for queries, keys and values, the three."""
    stem = name.removesuffix("qkv.bias")
    if stem == name or f"{stem}q_bias" not in wanted or value.ndim != 1 or len(value) % 3:
        return [(name, value)]
    parts = zip(("q_bias", "k_bias", "v_bias"), value.chunk(3), strict=True)
    return [(stem + part, piece) for part, piece in parts]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
