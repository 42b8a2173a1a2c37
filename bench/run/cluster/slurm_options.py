"""The options ``--slurm KEY=VALUE`` and ``--launcher``."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence

from bench.io.errors import InputError
from bench.memory.constants import CARDS, GIBIBYTE


@dataclasses.dataclass(frozen=True)
class SlurmOptions:
    """Parsed values of ``--slurm KEY=VALUE``."""

    cards: tuple[tuple[str, int], ...] = ()
    """Names and memory in bytes of the cluster's GPU types, the smallest first."""
    minutes: int | None = None
    memory_gib: int | None = None
    others: Mapping[str, str | int | bool] = dataclasses.field(default_factory=dict)
    """Other parameters, passed to sbatch unchanged."""

    @property
    def has_gpus(self) -> bool:
        return bool(self.cards) or any(name.startswith(("gpus", "gres")) for name in self.others)


def parse_slurm_options(items: Sequence[str]) -> SlurmOptions:
    """Return the options from KEY=VALUE items; a value may contain commas."""
    found: dict[str, str] = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key or not value:
            raise InputError(f"--slurm: got '{item}', allowed is KEY=VALUE")
        found[key.replace("-", "_")] = value
    cards = _cards(found.pop("gpus")) if "gpus" in found else ()
    minutes, memory = (_whole(name, found.pop(name, None)) for name in ("time", "mem"))
    others = {key: int(value) if value.isdecimal() else value for key, value in found.items()}
    return SlurmOptions(cards, minutes, memory, {k: True if v == "true" else v for k, v in others.items()})


def _whole(name: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdecimal() or int(text) < 1:
        unit = {"time": "minutes", "mem": "GiB of host memory"}[name]
        raise InputError(f"--slurm: got {name}={text}, allowed are {unit}, a whole number of 1 or more")
    return int(text)


def _cards(text: str) -> tuple[tuple[str, int], ...]:
    found = []
    for part in text.split(","):
        name, _, size = part.partition(":")
        if not name or not size.isdecimal() or int(size) < 1:
            raise InputError(f"--slurm: got gpus={text}, allowed is NAME:GB with commas between, as a100:80")
        found.append((name, CARDS.get(size, int(size) * GIBIBYTE)))
    return tuple(sorted(found, key=lambda card: card[1]))


def check_launcher(options: argparse.Namespace) -> None:
    """Raise InputError for incompatible or invalid launcher options."""
    if options.slurm and options.launcher != "slurm":
        raise InputError("--slurm: allowed only with --launcher slurm")
    parse_slurm_options(options.slurm)


def cluster_device(options: argparse.Namespace) -> str | None:
    """Return the device of jobs on a cluster, whatever this machine has; None without a cluster."""
    if options.launcher != "slurm":
        return None
    if options.device not in ("auto", "cpu", "cuda"):
        raise InputError(
            f"--device: got '{options.device}', allowed with --launcher slurm are auto, cpu, cuda"
        )
    if options.device != "auto":
        return str(options.device)
    return "cuda" if parse_slurm_options(options.slurm).has_gpus else "cpu"
