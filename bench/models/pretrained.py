"""Load published checkpoints, without running their code and without silently missing tensors.

Files nest their tensors under different names, use different prefixes and contain parts that a backbone does
not have. Tensors that are left out are recorded with the reason; a missing tensor or a wrong shape is an
error, because a partly random backbone is the most frequent cause of unexplained scores.
"""

from __future__ import annotations

import argparse
import dataclasses
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import torch
from torch import Tensor, nn

from bench.io.errors import InputError
from bench.io.reading import file_sha256
from bench.io.text import MAX_NAME_LENGTH, printable, short
from bench.io.torch_files import check_torch_file
from bench.models.state_dict_layouts import Layout

SUFFIXES = (".pt", ".pth", ".pth.tar", ".bin", ".safetensors")
# Averaged weights first: if a release contains both, its results are those of the averaged weights.
CONTAINERS = ("state_dict_ema", "state_dict", "model", "module")
LISTED = 5
FIXED_TOLERANCE = 0.01
"""Largest difference of a computed constant, for files in half precision."""
DEEPEST = 8
"""Largest depth of nested containers."""


@dataclasses.dataclass(frozen=True)
class LoadAudit:
    """A report on every tensor of a checkpoint and of the model after loading.

    It exists only if nothing is missing: a checkpoint that does not fit raises an error.
    """

    file: str
    sha256: str
    container: str
    """Path of the tensors in the file, as ``a.b``; empty if they are at the top level."""
    matched: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    """Names in the file that are not used, with the reason."""
    missing: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    licence: str | None = None
    """The licence in the metadata of a ``.safetensors`` file, if any."""

    @property
    def share(self) -> float:
        """The fraction of the model's tensors that were loaded from the file."""
        return len(self.matched) / (len(self.matched) + len(self.missing))

    def lines(self) -> tuple[str, ...]:
        """Return the audit as text: what was matched, then what was left out, one line per reason."""
        total = len(self.matched) + len(self.missing)
        where = f" under {self.container}" if self.container else ""
        first = (
            f"{self.file}: {len(self.matched)} of {total} tensors matched{where}, "
            f"{len(self.left_out)} left out, {len(self.missing)} missing, {len(self.misshapen)} misshapen"
        )
        groups: dict[str, list[str]] = {}
        for name, reason in self.left_out:
            groups.setdefault(reason, []).append(name)
        left_out = (f"  left out ({reason}): {_some(names)}" for reason, names in groups.items())
        licence = f", licence {printable(self.licence, 200)}" if self.licence else ""
        return (first, *left_out, f"  sha256 {self.sha256}{licence}")


def load_model(
    model: nn.Module, path: str | Path, layout: Layout, fixed: Mapping[str, Tensor] = MappingProxyType({})
) -> LoadAudit:
    """Load the file ``path`` of a layout into ``model`` and return an audit.

    ``fixed`` has the constants that the model computes and some files contain. Raises ``InputError`` for a
    file that cannot be read or would run code, if a tensor of the model is missing or has another shape, and
    if a constant of as many axes and channels differs; the model is then unchanged.
    """
    path = Path(path)
    tensors, container, licence = read_tensors(path)
    wanted = model.state_dict()
    renamed: dict[str, Tensor] = {}
    origin: dict[str, str] = {}
    for name, value in tensors.items():
        for new, part in layout.pieces(layout.name(name), value, wanted):
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
    misshapen += [
        f"{name} of {value.dtype} for {wanted[name].dtype}"
        for name, value in matched.items()
        if value.is_complex() or (wanted[name].is_floating_point() and not value.is_floating_point())
    ]
    left_out, foreign = [], []
    for name in renamed:
        if name in wanted:
            continue
        reason = layout.reason(name)
        if reason is None and name.startswith(layout.parts):
            foreign.append(name)
        left_out.append((origin[name], reason or "no such tensor in the model"))
    problems = (("missing", missing), ("misshapen", misshapen), ("not in the model", foreign))
    if any(names for _, names in problems):
        listed = "; ".join(f"{kind}: {_some(names)}" for kind, names in problems if names)
        fits = f"{len(matched) - len(misshapen)} of the model's {len(wanted)} tensors do"
        raise InputError(f"{path}: does not fit the model ({fits}); {listed}")
    for name, value in fixed.items():
        found = renamed.get(name)
        if found is None or (found.ndim, found.shape[-1:]) != (value.ndim, value.shape[-1:]):
            continue
        if found.shape != value.shape or not torch.allclose(found.to(value), value, atol=FIXED_TOLERANCE):
            raise InputError(
                f"{path}: {name} {tuple(found.shape)} is not the table of the model, {tuple(value.shape)}: "
                "the file is of a model with other positions"
            )
    try:
        model.load_state_dict(matched, strict=True)
    except (RuntimeError, NotImplementedError) as error:  # a dtype that torch cannot convert
        raise InputError(f"{path}: cannot be loaded ({_one_line(error)})") from None
    return LoadAudit(
        path.name, file_sha256(path), container, tuple(matched), tuple(left_out), licence=licence
    )


def read_tensors(path: Path) -> tuple[dict[str, Tensor], str, str | None]:
    """Return the tensors of a file by name, on the CPU, their container's path, and the file's licence."""
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: a checkpoint's name ends in {', '.join(SUFFIXES)}")
    if not path.is_file():
        raise InputError(f"{path}: no such checkpoint file")
    if path.stat().st_size == 0:
        raise InputError(f"{path}: the checkpoint is empty")
    content: object
    if path.suffix == ".safetensors":
        content, licence = _read_safetensors(path)
    else:
        content, licence = _read_pickle(path), None
    inside: list[str] = []
    while isinstance(content, Mapping) and len(inside) <= DEEPEST:  # it may contain itself
        found = next((name for name in CONTAINERS if isinstance(content.get(name), Mapping)), None)
        if found is None:
            break
        inside.append(found)
        content = content[found]
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: holds {type(content).__name__}, allowed is a mapping of names to tensors")
    tensors = {
        name: value for name, value in content.items() if isinstance(name, str) and isinstance(value, Tensor)
    }
    if not tensors:
        raise InputError(f"{path}: holds no tensors, at the top or under {', '.join(CONTAINERS)}")
    for name, value in tensors.items():
        if len(name) > MAX_NAME_LENGTH:
            raise InputError(
                f"{path}: {short(name)}: allowed are names of at most {MAX_NAME_LENGTH} characters"
            )
        if not _plain(value):
            raise InputError(f"{path}: {name}: not a dense tensor of real numbers in memory")
    return tensors, ".".join(inside), licence


def _read_pickle(path: Path) -> object:
    try:
        # Releases store their command line beside the tensors; a Namespace holds values and runs no code.
        with torch.serialization.safe_globals([argparse.Namespace]):
            check_torch_file(path, former=True)
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
    except Exception as error:  # every format has its own errors; all mean that the file is unreadable
        raise InputError(f"{path}: truncated or damaged ({_one_line(error)})") from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], str | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            tensors = {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: truncated or damaged ({_one_line(error)})") from error
    licence = metadata.get("licence") or metadata.get("license")
    return tensors, printable(licence, MAX_NAME_LENGTH) if licence else None


def _plain(value: Tensor) -> bool:
    """Return whether a tensor is an ordinary dense tensor of numbers in memory."""
    usual = type(value) in (Tensor, nn.Parameter) and value.layout == torch.strided
    return usual and value.device.type == "cpu" and not (value.is_nested or value.is_quantized)


def _one_line(error: Exception) -> str:
    return printable(" ".join((str(error) or type(error).__name__).split()), 120)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(printable(name, 120) for name in names[:LISTED]) + more
