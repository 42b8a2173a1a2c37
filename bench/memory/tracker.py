"""The storage tracker: how many bytes of tensors are alive, of which kind, and when that is most.

A dispatch mode sees every operation's outputs and follows their storages until they are freed. On real
CPU tensors it is the memory meter of a machine without a GPU.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

KINDS = ("parameter", "gradient", "optimizer", "activation", "temporary", "input")

# What a storage is taken for while a phase runs, until something says better.
PHASE_KINDS = {"load": "input", "optimizer": "temporary", "backward": "temporary"}


class StorageTracker(TorchDispatchMode):
    """Counts the bytes of live storages by kind, with a peak for each phase.

    Storages are counted once however many tensors view them, at their exact size in bytes. A storage
    that an operation returned is an activation in the forward phase and a temporary in the backward and
    optimizer phases; gradients and optimizer states are named by ``label_gradients`` and ``label``.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes_by_kind = dict.fromkeys(KINDS, 0)
        self.total = 0
        self.phase_name = "load"
        self.peaks: dict[str, int] = {}
        self.peak_kinds: dict[str, dict[str, int]] = {}
        self._live: dict[int, tuple[int, str]] = {}
        self._handles: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        kind = PHASE_KINDS.get(self.phase_name, "activation")
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._follow(value, kind, relabel=False)
        return result

    def label(self, tensor: Tensor, kind: str) -> None:
        """Count the storage of ``tensor`` as ``kind``, from now on."""
        self._follow(tensor, kind, relabel=True)

    def label_module(self, module: nn.Module) -> None:
        """Count a module's parameters and buffers as parameters, and its gradients when they appear."""
        for tensor in (*module.parameters(), *module.buffers()):
            self.label(tensor, "parameter")
        for parameter in module.parameters():
            if parameter.grad is not None:
                self.label(parameter.grad, "gradient")
            if parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._gradient_ready))

    def label_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Count the tensors of the optimizer's state as optimizer state."""
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    self.label(value, "optimizer")

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count what is allocated inside as the phase ``name``, with a peak of its own."""
        before, self.phase_name = self.phase_name, name
        self._note_peak()
        try:
            yield
        finally:
            self.phase_name = before

    def close(self) -> None:
        """Take the hooks off the parameters."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _gradient_ready(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.label(parameter.grad, "gradient")

    def _follow(self, tensor: Tensor, kind: str, *, relabel: bool) -> None:
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # sparse and other tensors without one storage
            return
        key, size = storage._cdata, storage.nbytes()
        known = self._live.get(key)
        if known is None:
            if size:
                weakref.finalize(storage, self._freed, key).atexit = False
                self._live[key] = (size, kind)
                self._add(size, kind)
        elif (relabel and known[1] != kind) or known[0] != size:
            kind = kind if relabel else known[1]
            self._add(-known[0], known[1])
            self._live[key] = (size, kind)
            self._add(size, kind)

    def _freed(self, key: int) -> None:
        size, kind = self._live.pop(key, (0, "temporary"))
        self._add(-size, kind)

    def _add(self, size: int, kind: str) -> None:
        self.bytes_by_kind[kind] += size
        self.total += size
        if size > 0:
            self._note_peak()

    def _note_peak(self) -> None:
        if self.total > self.peaks.get(self.phase_name, -1):
            self.peaks[self.phase_name] = self.total
            self.peak_kinds[self.phase_name] = dict(self.bytes_by_kind)
