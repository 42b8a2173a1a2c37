"""The optimizer of a stage: AdamW in groups, its schedule, clipping, and averaged weights."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.distributed.tensor import DTensor

from bench.config.protocol import NO_CLIPPING, Protocol
from bench.training.distributed.fsdp import clip_gradients, to_local
from bench.training.distributed.processes import ALONE, World

NAMES_SHOWN = 4
"""Names of parameters in a message; the others are counted."""


def parameter_groups(
    parameters: Mapping[str, nn.Parameter], factors: Mapping[str, float], protocol: Protocol
) -> list[dict[str, object]]:
    """Return parameter groups by learning-rate factor; vectors (norms, biases, gates) have no weight decay.

    Sharded parameters are represented by this process's shards: AdamW works elementwise.
    """
    groups: dict[tuple[float, bool], list[Tensor]] = {}
    for name, parameter in parameters.items():
        if name in factors:
            matrix = sum(size != 1 for size in parameter.shape) > 1
            groups.setdefault((factors[name], matrix), []).append(to_local(parameter))
    return [
        {
            "params": members,
            "lr": protocol.learning_rate * factor,
            "base_lr": protocol.learning_rate * factor,
            "weight_decay": protocol.weight_decay if decays else 0.0,
        }
        for (factor, decays), members in groups.items()
    ]


class UnusedParametersError(RuntimeError):
    """A stage trains parameters that its forward pass does not use."""


class StageOptimizer:
    """AdamW over the parameters that a stage trains.

    With ``release_gradients`` every parameter has its own AdamW that steps inside the backward pass, as soon
    as the gradient is complete, and frees it: AdamW treats parameters independently, so the step is the same.
    ``close`` removes the hooks.
    """

    def __init__(
        self,
        groups: list[dict[str, object]],
        protocol: Protocol,
        *,
        fused: bool | None,
        world: World = ALONE,
        spread: Sequence[nn.Parameter] = (),
    ) -> None:
        self.clip = protocol.gradient_clip
        self.world = world
        self.spread = {to_local(parameter): parameter for parameter in spread}
        """The sharded parameters, by this process's shards."""
        self.gradient_norm: Tensor | float | None = None
        """Gradient norm of the last step before clipping; None without clipping."""
        self._handles = []
        # None keeps torch's default, which on a CPU is a loop over parameters.
        options = {} if fused is None else {"fused": True} if fused else {"foreach": True}
        if protocol.lean.release_gradients:
            self.parts = [
                torch.optim.AdamW([{**group, "params": [parameter]}], **options)  # type: ignore[arg-type]
                for group in groups
                for parameter in group["params"]  # type: ignore[attr-defined]
            ]
            for part in self.parts:
                self._handles.append(self._step_in_backward(part))
        else:
            self.parts = [torch.optim.AdamW(groups, **options)]  # type: ignore[arg-type]

    @staticmethod
    def _step_in_backward(part: torch.optim.AdamW) -> torch.utils.hooks.RemovableHandle:
        def step(parameter: Tensor) -> None:
            part.step()
            part.zero_grad(set_to_none=True)

        parameter: Tensor = part.param_groups[0]["params"][0]
        handle: torch.utils.hooks.RemovableHandle = parameter.register_post_accumulate_grad_hook(step)
        return handle

    @property
    def parameters(self) -> list[Tensor]:
        """The tensors that AdamW updates: parameters, and this process's shards of sharded ones."""
        return [p for part in self.parts for group in part.param_groups for p in group["params"]]

    @property
    def learning_rate(self) -> float:
        """The largest learning rate of the current step."""
        return max(float(group["lr"]) for part in self.parts for group in part.param_groups)

    @property
    def state(self) -> dict[Tensor, dict[str, Tensor]]:
        """AdamW's state for each parameter."""
        return {parameter: state for part in self.parts for parameter, state in part.state.items()}

    def check_gradients(self, module: nn.Module) -> None:
        """Raise UnusedParametersError if a trained parameter of ``module`` has had no gradient in any step.

        AdamW creates the state of a parameter in its first step with a gradient.
        """
        trained, state = set(self.parameters), self.state
        known = ((name, to_local(parameter)) for name, parameter in module.named_parameters())
        if names := [name for name, part in known if part in trained and not state.get(part)]:
            more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
            raise UnusedParametersError(
                f"{', '.join(names[:NAMES_SHOWN])}{more}: trained by a rule, but no step gave a gradient, so "
                "the forward pass does not use them (is the module called, or only its weight read?)"
            )

    def set_factor(self, factor: float) -> None:
        """Set every learning rate to ``factor`` times its base."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["base_lr"] * factor

    def take_gradients(self) -> None:
        """Assign the gradients of sharded parameters to this process's shards."""
        for part, parameter in self.spread.items():
            part.grad = None if parameter.grad is None else to_local(parameter.grad)
            parameter.grad = None

    def _gradients(self, *, spread: bool) -> list[Tensor]:
        return [p.grad for p in self.parameters if p.grad is not None and (p in self.spread) == spread]

    def step(self) -> None:
        """Clip, step and free the gradients; with ``release_gradients`` this was done in backward."""
        if self._handles:
            return
        if self.clip < NO_CLIPPING:
            if self.world.sharded:
                spread, whole = (self._gradients(spread=each) for each in (True, False))
                norm = clip_gradients(spread, whole, self.clip, self.world)
            else:
                norm = clip_together(self.parameters, self.clip)
            # On a GPU it stays a tensor until it is needed: reading it would synchronize with the step.
            if norm.device.type != "cpu":
                self.gradient_norm = norm
            elif not isinstance(norm, FakeTensor):
                self.gradient_norm = float(norm)
            del norm
        self.parts[0].step()
        self.parts[0].zero_grad(set_to_none=True)

    def close(self) -> None:
        """Remove the hooks from the parameters."""
        for handle in self._handles:
            handle.remove()


@torch.no_grad()
def clip_together(parameters: Sequence[Tensor], most: float) -> Tensor:
    """Clip gradients to the joint norm ``most``; return the norm before. As ``clip_grad_norm_``.

    On a CPU PyTorch's function loops over the gradients in Python.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    if not gradients or any(gradient.device.type != "cpu" for gradient in gradients):
        return nn.utils.clip_grad_norm_(parameters, most)
    norm: Tensor = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients)))
    torch._foreach_mul_(gradients, (most / (norm + 1e-6)).clamp(max=1.0))
    return norm


def make_optimizer(
    module: nn.Module,
    factors: Mapping[str, float],
    protocol: Protocol,
    *,
    fused: bool | None,
    world: World = ALONE,
) -> StageOptimizer:
    """Return the optimizer of the parameters that ``factors`` names.

    ``fused`` selects the kernels: the fused one (True), or one per operation over all parameters (False).
    """
    known = dict(module.named_parameters())
    spread = [known[name] for name in factors if isinstance(known[name], DTensor)]
    groups = parameter_groups(known, factors, protocol)
    return StageOptimizer(groups, protocol, fused=fused, world=world, spread=spread)


def schedule(step: int, steps: int, warmup: float, length: float = 1.0, *, from_zero: bool = False) -> float:
    """Return the factor of the learning rate: linear warmup, then cosine decay to zero.

    ``warmup`` is a fraction of ``steps``. The decay ends at ``length`` times ``steps``: with more than 1,
    training stops before the factor is zero. With ``from_zero`` the warmup begins at zero, as in
    ``LinearWarmupCosineAnnealingLR`` of ActionFormer and OpenTAD. Differs: that one ends at a rate of 1e-8
    (``eta_min``).
    """
    rising = max(1, round(steps * warmup))
    if step < rising:
        zero = from_zero and round(steps * warmup) > 0  # without warmup no step has a rate of zero
        return step / max(1, rising - 1) if zero else (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, round(steps * length) - rising)))


class AveragedWeights:
    """An exponential moving average of the trained parameters, on the device ``where``.

    Of sharded parameters, each process averages its shard. Differs: ActionFormer's ``ModelEma`` has the same
    decay from the first step on, so that 3 % of the initial weights remain after 3500 steps at 0.999.
    """

    def __init__(self, module: nn.Module, decay: float, where: torch.device) -> None:
        self.decay = decay
        self.live = [p for p in module.parameters() if p.requires_grad]
        self.average = [to_local(p).detach().to(where, copy=True) for p in self.live]
        self.where = where
        self.updates = 0

    @torch.no_grad()
    def update(self) -> None:
        self.updates += 1
        # A smaller decay at the beginning, or the average would retain the initial weights.
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        torch._foreach_lerp_(
            self.average, [to_local(p).detach().to(self.where) for p in self.live], 1 - decay
        )

    @torch.no_grad()
    def apply(self) -> None:
        torch._foreach_copy_([to_local(p).detach() for p in self.live], self.average)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Set the trained parameters of ``module``, a copy of the averaged one, to the average."""
        torch._foreach_copy_([p.detach() for p in module.parameters() if p.requires_grad], self.average)
