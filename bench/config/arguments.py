"""Parse command-line values that several commands share. Errors are InputError that names the option."""

from __future__ import annotations

import argparse
import math
import typing
from collections.abc import Callable, Sequence
from typing import Any

from bench.config.protocol import Protocol
from bench.io.errors import InputError


def whole(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return an argparse type: an integer of at least ``low`` and at most ``high``."""
    allowed = f"{low} or more" if high is None else f"{low} to {high}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"got {text}, allowed is a whole number, {allowed}") from None
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"got {text}, allowed is {allowed}")
        return value

    return parse


def real(holds: Callable[[float], bool], allowed: str) -> Callable[[str], float]:
    """Return an argparse type: a number for which ``holds`` is true; ``allowed`` describes these numbers."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not holds(value):
            raise argparse.ArgumentTypeError(f"got {text}, allowed is {allowed}")
        return value

    return parse


def pairs(items: Sequence[str], option: str) -> dict[str, str]:
    """Return NAME=VALUE words, optionally separated by commas, as a mapping."""
    found = {}
    for item in items:
        for part in item.split(","):
            key, equals, value = part.partition("=")
            if not equals or not key:
                raise InputError(f"{option}: got '{part}', allowed is NAME=VALUE")
            found[key.strip()] = value.strip()
    return found


def fractions_of(text: str, option: str) -> list[float] | None:
    """Return fractions without duplicates, ascending; empty for ``none``, and None for ``auto``."""
    if text in ("auto", "none"):
        return None if text == "auto" else []
    try:
        found = sorted({float(part) for part in text.split(",")})
    except ValueError:
        found = [math.nan]
    if not all(0 < each <= 1 for each in found):
        raise InputError(f"{option}: got '{text}', allowed are auto, none, and numbers in (0, 1] with commas")
    return found


def seeds_of(text: str) -> list[int]:
    """Return the seeds without duplicates."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"--seeds: got '{text}', allowed are whole numbers with commas between them"
        ) from None
    if any(seed < 0 or seed >= 2**31 for seed in found):
        raise InputError(f"--seeds: got '{text}', allowed are 0 to 2147483647")
    return list(dict.fromkeys(found))


def device_of(text: str) -> str:
    """Return the device's name; ``auto`` is CUDA if available."""
    if text == "cpu":
        return text
    import torch  # imported in functions only: the process that starts runs does not need torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(text)
    except RuntimeError:
        raise InputError(f"--device: got '{text}', allowed are auto, cpu, cuda and cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"--device: got '{text}', allowed are auto, cpu, cuda and cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise InputError(f"--device: got '{text}', this machine has {torch.cuda.device_count()} CUDA devices")
    return text


def check_processes(processes: int, sharded: bool) -> None:
    """Raise InputError unless a run's batches can be divided among ``processes`` processes."""
    if not 1 <= processes <= 1024:
        raise InputError(f"--processes: got {processes}, allowed is 1 to 1024")
    if sharded and processes == 1:
        raise InputError("--sharded: allowed only with --processes of 2 or more")
    if processes == 1:
        return
    import torch

    if not torch.distributed.is_available():
        raise InputError("--processes: this torch was built without torch.distributed, allowed is 1")


def check_cards(processes: int, device: str) -> None:
    """Raise InputError unless each of several processes has its own device."""
    if processes == 1:
        return
    import torch

    if device.startswith("cuda:"):
        raise InputError(f"--device: got '{device}', allowed with --processes are auto, cpu and cuda")
    cards = torch.cuda.device_count()
    if device_of(device) == "cuda" and processes > cards:
        raise InputError(f"--processes: got {processes}, this machine has {cards} CUDA devices")


def numbers(text: str, option: str) -> list[int]:
    """Return integers of 1 or more from comma-separated text."""
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(
            f"{option}: got '{text}', allowed are whole numbers with commas between them"
        ) from None
    if min(found) < 1:
        raise InputError(f"{option}: got '{text}', allowed is 1 or more")
    return found


def check_division(protocol: Protocol, processes: int, sharded: bool = False) -> None:
    """Raise InputError unless the protocol's batches can be divided among ``processes`` processes."""
    if sharded and protocol.batch_size % processes:  # all must unshard a block equally often
        raise InputError(
            f"--sharded: the batch_size is {protocol.batch_size}, allowed are multiples of {processes}"
        )
    if processes > protocol.batch_size:
        raise InputError(
            f"--processes: got {processes}, allowed is at most the batch_size of {protocol.batch_size}"
        )
    if processes > 1 and protocol.lean.release_gradients:
        raise InputError("protocol: field 'lean.release_gradients' is true, allowed only with one process")


def parse_value(text: str, kind: Any, where: str) -> Any:
    """Return ``text`` as a value of the annotated type ``kind``; raise InputError naming ``where``."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        if text not in arguments:
            raise InputError(f"{where}: got '{text}', allowed are {', '.join(map(str, arguments))}")
        return text
    if origin is tuple:
        items = [item for item in text.split("+") if item]
        return tuple(parse_value(item, arguments[0], where) for item in items)
    if int in arguments and any(typing.get_origin(each) is tuple for each in arguments):
        items = [parse_value(item, int, where) for item in text.split("+")]
        return items[0] if len(items) == 1 else tuple(items)
    if type(None) in arguments:
        if text.lower() == "none":
            return None
        return parse_value(text, next(a for a in arguments if a is not type(None)), where)
    if kind is bool:
        if text.lower() not in ("true", "false"):
            raise InputError(f"{where}: got '{text}', allowed are true and false")
        return text.lower() == "true"
    if kind not in (int, float, str):
        raise InputError(f"{where}: cannot be set from text")
    try:
        value = kind(text)
        if isinstance(value, float) and not math.isfinite(value):
            raise InputError(f"{where}: got '{text}', allowed is a finite number")
        return value
    except InputError:
        raise
    except ValueError:
        raise InputError(f"{where}: got '{text}', allowed is a value of type {kind.__name__}") from None
