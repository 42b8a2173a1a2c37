"""The storage tracker: counts the bytes of live tensors by kind, and records their peaks.

A dispatch mode receives every operation's outputs and tracks their storages until they are freed. On real
CPU tensors it is the memory meter of a machine without a GPU; on fake tensors it is the forecast; on a
GPU it explains the allocator's peak.
"""

from __future__ import annotations

import contextlib
import dataclasses
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from bench.memory.allocator import CachingAllocator
from bench.memory.constants import KINDS

# The default kind of a storage that is created in a phase, until it is labelled.
PHASE_KINDS = {"load": "input", "optimizer": "temporary", "backward": "temporary"}

Scratch = Callable[[Any, tuple[Any, ...]], Iterable[int]]
"""Called with an operation and its arguments; returns the bytes that its kernel needs while it runs."""


class HasState(Protocol):
    """The interface of optimizers that the tracker uses."""

    @property
    def state(self) -> Any: ...


@dataclasses.dataclass
class _Storage:
    asked: int
    """Bytes of the storage."""
    size: int
    """Bytes of its block of the allocator, or those of the storage."""
    kind: str
    address: int | None = None


@dataclasses.dataclass(frozen=True)
class ThreadWorkspace:
    """Memory that autograd's thread keeps from the first of some operations in a backward pass on."""

    operations: Collection[Any]
    size: int


@dataclasses.dataclass(frozen=True)
class Peak:
    """The live bytes by kind at a peak."""

    phase: str
    total: int
    kinds: dict[str, int]


class StorageTracker(TorchDispatchMode):
    """Counts the bytes of live storages by kind, with a peak for each phase.

    Storages are counted once however many tensors view them, at their exact size in bytes, or at that of
    their block if an ``allocator`` is given: rounded up, and up to 1 MiB more where a block is not split. A
    storage that an operation returned is an activation in the forward phase and in recomputation during the
    backward phase (gradients are then enabled), otherwise a temporary in the backward and optimizer phases;
    gradients and optimizer states are labelled by ``label_gradients`` and ``label``.
    """

    def __init__(
        self,
        device_type: str = "cpu",
        allocator: CachingAllocator | None = None,
        scratch: Scratch | None = None,
        timeline: bool = False,
        thread_workspace: ThreadWorkspace | None = None,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.device_type = device_type
        self.allocator = allocator
        self.scratch = scratch
        self.thread_workspace = thread_workspace
        self.timeline: list[tuple[str, int]] | None = [] if timeline else None
        """The phase and the live bytes after every change."""
        self.bytes_by_kind = dict.fromkeys(KINDS, 0)
        self.total = 0
        self.phase_name = "load"
        self.peaks: dict[str, Peak] = {}
        self.reserved_peaks: dict[str, int] = {}
        self._live: dict[int, _Storage] = {}
        self._handles: list[Any] = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if DTensor in types:
            return NotImplemented  # DTensor calls the same operation on the local shard
        if func is torch.ops.prim.device.default and isinstance(args[0], FakeTensor):
            # Half of the operations of a traced backward pass are such queries; the fake mode is much slower.
            inside = args[0].fake_mode.in_kernel_invocation
            return torch.device("meta") if inside else args[0].fake_device
        known = self.thread_workspace
        if known is not None and self.phase_name == "backward" and func in known.operations:
            self.thread_workspace = None  # it is kept
            self._add(self._allocate(known.size)[0], "temporary")
        result = func(*args, **(kwargs or {}))
        kind = PHASE_KINDS.get(self.phase_name, "activation")
        if self.phase_name == "backward" and torch.is_grad_enabled():
            kind = "activation"
        for value in (result,) if isinstance(result, Tensor) else tree_iter(result):
            if isinstance(value, Tensor):
                self._track(value, kind, relabel=False)
        if self.scratch is not None:
            self._count_scratch(self.scratch(func, args))
        return result

    def __enter__(self) -> StorageTracker:
        original = torch.UntypedStorage.resize_

        def resize(storage: torch.UntypedStorage, size: int) -> None:
            """Resize and count it: FSDP2 resizes storages when it unshards and reshards blocks."""
            original(storage, size)
            if (known := self._live.get(storage._cdata)) is not None:
                self._resized(known, storage.nbytes())

        self._original_resize = original
        torch.UntypedStorage.resize_ = resize  # type: ignore[method-assign, assignment]
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        torch.UntypedStorage.resize_ = self._original_resize  # type: ignore[method-assign]

    def label(self, tensor: Tensor, kind: str) -> None:
        """Count the storage of ``tensor`` as ``kind``, from now on."""
        self._track(tensor, kind, relabel=True)

    def label_module(self, module: nn.Module) -> None:
        """Count a module's parameters and buffers as parameters, and its gradients when they appear."""
        for tensor in (*module.parameters(), *module.buffers()):
            self.label(tensor, "parameter")
        for parameter in module.parameters():
            if parameter.grad is not None:
                self.label(parameter.grad, "gradient")
            if parameter.requires_grad:
                self._handles.append(parameter.register_post_accumulate_grad_hook(self._gradient_ready))

    def label_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Count the gradients of ``parameters`` as such."""
        for parameter in parameters:
            self._gradient_ready(parameter)

    def label_buffers(self, module: nn.Module) -> None:
        """Count a module's buffers as parameters: some are replaced by new tensors in a step."""
        for tensor in module.buffers():
            self.label(tensor, "parameter")

    def label_optimizer(self, optimizer: HasState) -> None:
        """Count the tensors of the optimizer's state as optimizer state."""
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):
                    self.label(value, "optimizer")

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count allocations inside the block as the phase ``name``, with a peak of its own."""
        before, self.phase_name = self.phase_name, name
        self._note_peak()
        try:
            yield
        finally:
            self.phase_name = before

    def reset_peaks(self) -> None:
        """Reset the peaks and the timeline; live storages stay counted."""
        self.peaks.clear()
        self.reserved_peaks.clear()
        if self.timeline is not None:
            self.timeline.clear()

    def close(self) -> None:
        """Remove the hooks from the parameters."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _gradient_ready(self, parameter: Tensor) -> None:
        if parameter.grad is not None:
            self.label(parameter.grad, "gradient")

    def _track(self, tensor: Tensor, kind: str, *, relabel: bool) -> None:
        if isinstance(tensor, DTensor):
            tensor = tensor._local_tensor
        # ``device`` of a fake tensor would be dispatched through every mode once more.
        device = tensor.fake_device if isinstance(tensor, FakeTensor) else tensor.device
        if device.type != self.device_type:
            return
        try:
            storage = tensor.untyped_storage()
        except NotImplementedError:  # sparse and other tensors without one storage
            return
        key, asked = storage._cdata, storage.nbytes()
        known = self._live.get(key)
        if known is None:
            if asked:
                weakref.finalize(storage, self._freed, key).atexit = False
                size, address = self._allocate(asked)
                self._live[key] = _Storage(asked, size, kind, address)
                self._add(size, kind)
            return
        if relabel and known.kind != kind:
            self.bytes_by_kind[known.kind] -= known.size
            self.total -= known.size
            known.kind = kind
            self._add(known.size, kind)
        if known.asked != asked:
            self._resized(known, asked)

    def _resized(self, known: _Storage, asked: int) -> None:
        """Count a storage whose size has changed to ``asked`` bytes."""
        if known.asked == asked:
            return
        self._release(known.address)
        self.bytes_by_kind[known.kind] -= known.size
        self.total -= known.size
        known.asked = asked
        known.size, known.address = self._allocate(asked)
        self._add(known.size, known.kind)

    def _freed(self, key: int) -> None:
        known = self._live.pop(key, None)
        if known is not None:
            self._release(known.address)
            self._add(-known.size, known.kind)

    def _count_scratch(self, sizes: Iterable[int]) -> None:
        taken = [self._allocate(size) for size in sizes]
        for size, _ in taken:
            self._add(size, "temporary")
        for size, address in taken:
            self._release(address)
            self._add(-size, "temporary")

    def _allocate(self, asked: int) -> tuple[int, int | None]:
        """Return the bytes that are taken for a request, and the address of the allocator's block."""
        if self.allocator is None:
            return asked, None
        before = self.allocator.allocated
        address = self.allocator.allocate(asked)
        return self.allocator.allocated - before, address

    def _release(self, address: int | None) -> None:
        if self.allocator is not None:
            self.allocator.release(address)

    def _add(self, size: int, kind: str) -> None:
        self.bytes_by_kind[kind] += size
        self.total += size
        if self.timeline is not None:
            self.timeline.append((self.phase_name, self.total))
        if size > 0:
            self._note_peak()

    def _note_peak(self) -> None:
        known = self.peaks.get(self.phase_name)
        if known is None or self.total > known.total:
            self.peaks[self.phase_name] = Peak(self.phase_name, self.total, dict(self.bytes_by_kind))
        if self.allocator is not None:
            reserved = max(self.reserved_peaks.get(self.phase_name, 0), self.allocator.reserved)
            self.reserved_peaks[self.phase_name] = reserved
