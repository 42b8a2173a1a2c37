"""Checkpoints of unfinished runs: a run that was killed is resumed from the last one.

A file holds all state that training changes (weights, buffers, optimizer, average), the measurements so far,
and the states of the random number generators, so that a resumed run gives bit-identical results to an
uninterrupted one. The sampler's draws depend on seed and step only. Reading a file runs no code; a file that
is damaged or belongs to another run, format, torch or source code is reported in one line, and the run starts
over.
"""

from __future__ import annotations

import dataclasses
import math
import pickle
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.io.errors import StoppedError
from bench.io.text import printable
from bench.io.torch_files import check_torch_file
from bench.io.writing import atomic_path
from bench.models.random_state import random_values, restore_random
from bench.training.checkpoints.fingerprint import Fingerprint
from bench.training.detector import Detector
from bench.training.distributed.fsdp import distribute_like, gather_full, to_local
from bench.training.distributed.processes import ALONE, World
from bench.training.history import TrainingHistory, from_dict, to_dict
from bench.training.optimizer import AveragedWeights, StageOptimizer
from bench.training.step import StageSetup
from strategies.base import Stage

MAX_WRITE_OVERHEAD = 0.02
"""Fraction of the time that writing may take: after a slow write, the next one is delayed."""


@dataclasses.dataclass(frozen=True)
class State:
    """A checkpoint that was read and matches the run."""

    stage: int
    """Index of the stage in which it was written."""
    history: TrainingHistory
    values: Mapping[str, Any]

    @torch.no_grad()
    def restore_weights(self, detector: Detector) -> None:
        """Restore the parameters and buffers, before the stage begins."""
        for kind, tensors in _tensors(detector).items():
            for name, value in self.values[kind].items():
                to_local(tensors[name]).copy_(to_local(distribute_like(tensors[name], value)))

    @torch.no_grad()
    def restore_stage(self, detector: Detector, setup: StageSetup, device: torch.device) -> None:
        """Restore optimizer, averaged weights and random states, after the stage was set up."""
        known = {to_local(parameter): (name, parameter) for name, parameter in detector.named_parameters()}
        kept = self.values["optimizer"]
        for part in setup.optimizer.parts:
            # The fused optimizer keeps its step counter on the device, the others on the host.
            counter = device if part.defaults["fused"] or part.defaults["capturable"] else torch.device("cpu")
            for stepped in (each for group in part.param_groups for each in group["params"]):
                name, parameter = known[stepped]
                if name in kept:  # a parameter without a gradient so far has no state
                    part.state[stepped] = {
                        key: value.to(counter)
                        if key == "step"
                        else to_local(distribute_like(parameter, value))
                        for key, value in kept[name].items()
                    }
        if setup.average:
            setup.average.updates = self.values["average"]["updates"]
            averages = zip(
                setup.average.live, setup.average.average, self.values["average"]["weights"], strict=True
            )
            for live, average, value in averages:
                average.copy_(to_local(distribute_like(live, value)))
        restore_random(self.values["random"], device)


class ResumeCheckpointer:
    """Writes the checkpoint of one run at intervals during training.

    The interval is ``seconds``, or longer to keep the writing time below ``MAX_WRITE_OVERHEAD``; 0 writes
    after every step. A failing disk is reported by ``warn``, once, and does not end the run. When
    ``stopping`` returns true in any process, a checkpoint is written after the current step, and
    StoppedError ends the training.
    """

    def __init__(
        self,
        path: Path,
        owner: Fingerprint,
        seconds: float,
        warn: Callable[[str], None],
        *,
        world: World = ALONE,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.path = path
        self.owner = owner
        self.seconds = seconds
        self.warn = warn
        self.writing = world.is_main
        self.world = world
        self.stopping = stopping
        self.earlier_seconds = 0.0
        """Seconds that earlier processes of the run took up to the checkpoint."""
        self.written_seconds = 0.0
        self.written_steps: list[int] = []
        """The number of completed steps at each write."""
        self.kept_step: int | None = None
        """The number of completed steps in the checkpoint on disk."""
        self._wait = seconds
        self._began = self._since = time.monotonic()

    def kept(self) -> dict[str, Any] | None:
        """Return ``file`` and ``step`` of the checkpoint on disk for the record; None without one."""
        if self.kept_step is None:
            return None
        return {"file": f"{self.path.parent.name}/{self.path.name}", "step": self.kept_step}

    def read(self, detector: Detector, stages: Sequence[Stage]) -> State | None:
        """Return the state to resume from, or None if there is no intact one of this run."""
        if not self.path.exists():
            return None
        try:
            state = read_state(self.path, self.owner, detector, stages)
            if not 0 <= (seconds := float(state.values["seconds"])) < math.inf:
                raise ValueError(f"took {seconds:g} seconds")
        except Exception as error:  # a damaged file may raise any error
            reason = printable(" ".join((str(error) or type(error).__name__).split()), 200)
            self.warn(f"unfinished/{self.path.name}: {reason}; the run starts over")
            return None
        self.kept_step = len(state.history.losses)
        self.earlier_seconds = seconds
        state.history.resumed.append(self.kept_step)
        self.warn(f"unfinished/{self.path.name}: resumed after step {self.kept_step}")
        return state

    def after_step(
        self,
        detector: Detector,
        stages: Sequence[Stage],
        index: int,
        setup: StageSetup,
        history: TrainingHistory,
        device: torch.device,
    ) -> None:
        """Write a checkpoint if it is due and the weights are finite.

        The main process writes; all processes send it their shards. Raises StoppedError if the run was
        requested to stop.
        """
        # All processes stop after the same step: one that continued would wait for the others forever.
        stop = any(self.world.all_reduce_sums([float(self.stopping())]))
        started = time.monotonic()
        due = self.writing and (started - self._since >= self._wait or (stop and self.seconds < math.inf))
        if self.world.sharded:
            due = self.world.broadcast_from_rank0(due)
        if due:
            self._write(detector, stages, index, setup, history, device, started)
        if stop:
            kept = "nothing kept" if self.kept_step is None else f"kept up to step {self.kept_step}"
            raise StoppedError(f"after step {len(history.losses)}, {kept}")

    def _write(
        self,
        detector: Detector,
        stages: Sequence[Stage],
        index: int,
        setup: StageSetup,
        history: TrainingHistory,
        device: torch.device,
        started: float,
    ) -> None:
        weights = {name: _whole(value) for name, value in _changed(detector, stages[: index + 1]).items()}
        finite = all(map(_finite, weights.values()))
        if not finite and not self.world.sharded:
            return
        values = {
            "owner": dataclasses.asdict(self.owner),
            "seconds": self.earlier_seconds + started - self._began,
            "stage": index,
            "history": to_dict(history),
            "parameters": weights,
            "buffers": {name: _whole(value) for name, value in detector.named_buffers()},
            "optimizer": _optimizer_values(detector, setup.optimizer),
            "average": _average_values(setup.average),
            "random": random_values(device),
        }
        if not self.world.is_main or not finite:
            return
        try:
            with atomic_path(self.path) as draft, draft.open("wb") as file:
                torch.save(values, file)
        except (OSError, RuntimeError) as error:
            self.writing = False
            reason = " ".join(str(error).split())[:200]
            self.warn(f"unfinished/{self.path.name}: not written ({reason}); if killed, the run starts over")
            return
        self._since = time.monotonic()
        taken = self._since - started
        self._wait = max(self.seconds, taken / MAX_WRITE_OVERHEAD) if self.seconds else 0.0
        self.written_seconds += taken
        self.kept_step = len(history.losses)
        self.written_steps.append(self.kept_step)


def read_state(path: Path, owner: Fingerprint, detector: Detector, stages: Sequence[Stage]) -> State:
    """Return the state in ``path``; raise an error of one line if it cannot be used."""
    check_torch_file(path)
    with zipfile.ZipFile(path) as archive:  # torch does not verify the checksums that it writes
        if (spoilt := archive.testzip()) is not None:
            raise ValueError(f"damaged in {spoilt}")
    try:
        values = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ValueError("holds more than tensors and plain values") from None
    found, wanted = values["owner"], dataclasses.asdict(owner)
    for field, value in wanted.items():
        if found.get(field) != value:
            was, expected = (str(each)[:80] for each in (found.get(field), value))
            raise ValueError(f"is of {field} {was}, not {expected}")
    index = values["stage"]
    if not 0 <= index < len(stages):
        raise ValueError(f"is of stage {index}, there are {len(stages)}")
    own = {"parameters": _changed(detector, stages[: index + 1]), "buffers": dict(detector.named_buffers())}
    for kind, tensors in own.items():
        _compare(kind, values[kind], tensors)
    trained = _changed(detector, stages[index : index + 1])
    stepped = {name: state["exp_avg"] for name, state in values["optimizer"].items()}
    _compare("optimizer", stepped, {name: each for name, each in trained.items() if name in stepped})
    if values["average"] is not None:
        _compare("average", dict(zip(trained, values["average"]["weights"], strict=True)), trained)
    return State(index, from_dict(values["history"]), values)


def _compare(kind: str, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise ValueError unless both have tensors of the same names and shapes."""
    if different := sorted(found.keys() ^ wanted.keys()):
        raise ValueError(f"{kind}: does not match the trained tensors, e.g. {different[0]}")
    for name, value in found.items():
        if value.shape != wanted[name].shape:
            raise ValueError(f"{kind}: {name} is {tuple(value.shape)}, not {tuple(wanted[name].shape)}")


def _tensors(detector: nn.Module) -> dict[str, dict[str, Tensor]]:
    return {"parameters": dict(detector.named_parameters()), "buffers": dict(detector.named_buffers())}


def _changed(detector: Detector, stages: Sequence[Stage]) -> dict[str, Tensor]:
    """Return the parameters that any of ``stages`` trains, by name, in the detector's order."""
    known = dict(detector.named_parameters())
    names = detector.trained_names(stages)
    return {name: parameter for name, parameter in known.items() if name in names}


def _whole(value: Tensor) -> Tensor:
    """Return the tensor without its graph, and without the rest of a larger storage.

    A sharded tensor is gathered on the host: the GPUs may not have enough memory for all of them.
    """
    value = gather_full(value, to_local(value)).detach()
    return value if value.untyped_storage().nbytes() == value.nbytes else value.clone()


def _finite(value: Tensor) -> bool:
    """Return whether all values are finite, without allocating a mask of the same size."""
    return not value.numel() or bool(torch.linalg.vector_norm(value, float("inf")).isfinite())


def _optimizer_values(detector: nn.Module, optimizer: StageOptimizer) -> dict[str, dict[str, Tensor]]:
    state = optimizer.state
    return {
        name: {
            key: _whole(value if key == "step" else gather_full(parameter, value))
            for key, value in state[to_local(parameter)].items()
        }
        for name, parameter in detector.named_parameters()
        if to_local(parameter) in state
    }


def _average_values(average: AveragedWeights | None) -> dict[str, Any] | None:
    if average is None:
        return None
    return {
        "updates": average.updates,
        "weights": [
            _whole(gather_full(live, value))
            for live, value in zip(average.live, average.average, strict=True)
        ],
    }
