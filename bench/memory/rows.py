"""Forecasts as rows: asked in plain values, made in processes of their own, a few side by side.

Importing this module loads no torch, so that the process that asks stays small.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

from bench.memory.constants import needed_bytes

Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Question:
    """What is to be trained, and on what device."""

    model: str
    strategy: str
    settings: dict[str, str]
    protocol: dict[str, str]
    """Fields that differ from the model's protocol, as text."""
    device: str = "cuda"
    workspace_bytes: int | None = None
    """cuBLAS workspaces; None for PyTorch's default."""
    classes: int = 20
    instances: int = 8
    timeline: bool = False
    processes: int = 1
    """Processes that share every batch; the first one's memory is asked for."""
    sharded: bool = False


def answer(question: Question) -> dict[str, Any]:
    """Return the row: predicted bytes in all, by kind, by phase and by stage."""
    import gc

    from bench.config.overrides import override
    from bench.config.presets import default_protocol
    from bench.memory.forecast import CPU, CUDA, forecast
    from bench.training.distributed.processes import World
    from strategies import build_strategy

    started = time.perf_counter()
    target = CPU if question.device == "cpu" else CUDA
    if question.workspace_bytes is not None:
        target = dataclasses.replace(target, workspace_bytes=question.workspace_bytes)
    protocol = override(default_protocol(question.model, question.device), question.protocol)
    # What was imported is not looked through again by every collection while millions of objects pass.
    gc.freeze()
    try:
        found = forecast(
            question.model,
            build_strategy(question.strategy, question.settings),
            protocol,
            question.classes,
            question.instances,
            target,
            timeline=question.timeline,
            world=World(0, question.processes, question.sharded, connected=False),
        )
    finally:
        gc.unfreeze()
    highest = found.highest
    return {
        "model": question.model,
        "strategy": question.strategy,
        "settings": question.settings,
        "backward": protocol.backward,
        "precision": protocol.precision,
        "frames": protocol.window_clips * found.clip_frames,
        "clips": protocol.window_clips,
        "image_size": protocol.image_size,
        "batch_size": protocol.batch_size,
        "processes": question.processes,
        "sharded": question.sharded,
        "device": question.device,
        "predicted_peak_bytes": found.peak_bytes,
        "predicted_reserved_bytes": found.reserved_bytes,
        "kinds": highest.kinds,
        "phases": highest.phases,
        "stages": [
            {
                "stage": stage.stage,
                "fidelity": dataclasses.asdict(stage.fidelity),
                "predicted_peak_bytes": stage.peak_bytes,
                "kinds": stage.kinds,
            }
            for stage in found.stages
        ],
        "trace_seconds": round(time.perf_counter() - started, 2),
        **({"timeline": thinned(highest.timeline)} if question.timeline else {}),
    }


def _end_with_parent() -> None:
    """End this process when its parent is gone, however it went; it would wait for questions for ever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def thinned(timeline: Sequence[tuple[str, int]], points: int = 800) -> list[tuple[str, int]]:
    """Return about ``points`` of a timeline's points, of each stretch the highest: no peak is lost."""
    length = max(1, len(timeline) // points)
    kept: list[tuple[str, int]] = []
    for _, phase in itertools.groupby(timeline, lambda point: point[0]):
        within = list(phase)
        for first in range(0, len(within), length):
            kept.append(max(within[first : first + length], key=lambda point: point[1]))
    return kept


@contextlib.contextmanager
def forecasters(workers: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Give a pool of processes for forecasts, one thread each.

    More threads would only take turns with the interpreter, and a forecast for CUDA changes its process.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(workers, context, _end_with_parent) as pool:
            yield pool
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def in_order(futures: Sequence[concurrent.futures.Future[Result]], description: str) -> list[Result]:
    """Return the results in their order, with a progress bar on a terminal; raises what one raised."""
    from tqdm import tqdm

    finished: Iterable[Any] = concurrent.futures.as_completed(futures)
    quiet = not sys.stderr.isatty()
    for future in tqdm(finished, desc=description, total=len(futures), leave=False, disable=quiet):
        if future.exception() is not None:
            for other in futures:
                other.cancel()
            break
    return [future.result() for future in futures]


def answer_all(
    questions: Sequence[Question], pool: concurrent.futures.Executor, description: str = "forecasts"
) -> list[dict[str, Any]]:
    """Return the rows in the order of the questions."""
    return in_order([pool.submit(answer, question) for question in questions], description)


def largest(
    ask: Callable[[int], int], first: int, step: int, most: int, limit: int, power: int
) -> int | None:
    """Return the largest multiple of ``step``, at most ``most``, whose need is at most ``limit``; else None.

    ``ask`` gives the bytes needed. They grow about linearly in the ``power``-th power of the argument, so a
    line through two answers says where to ask next; what is returned was itself asked for and found to fit.
    """
    most = most // step * step
    known = {argument: ask(argument) for argument in (min(first, most), min(2 * first, most))}
    for _ in range(6):
        if len(known) < 2:
            break
        low = max((a for a, need in known.items() if need <= limit), default=0)
        high = min((a for a, need in known.items() if need > limit), default=most + step)
        if high - low <= step:
            break
        (a, need_a), (b, need_b) = sorted(known.items())[-2:]
        slope = (need_b - need_a) / (b**power - a**power)
        aim = most if slope <= 0 else int(max(0.0, (limit - need_a) / slope + a**power) ** (1 / power))
        aim = min(max(aim // step * step, low + step), high - step, most)
        known[aim] = ask(aim)
    return max((a for a, need in known.items() if need <= limit), default=None)


def what_fits(question: Question, field: str, limit: int, most: int) -> int | None:
    """Return the largest value of ``window_clips`` or ``image_size`` whose forecast fits ``limit`` bytes."""
    import torch

    from bench.config.overrides import override
    from bench.config.presets import default_protocol
    from bench.models import build_backbone

    protocol = override(default_protocol(question.model, question.device), question.protocol)
    with torch.device("meta"):
        geometry = build_backbone(question.model).geometry

    def ask(value: int) -> int:
        changed = {**question.protocol, field: str(value)}
        return needed_bytes(answer(dataclasses.replace(question, protocol=changed)))

    if field == "window_clips":
        return largest(ask, protocol.window_clips, 1, most // geometry.clip_frames, limit, 1)
    step = geometry.size_multiple
    return largest(ask, max(step, protocol.image_size // step * step), step, most, limit, 2)
