"""A loss that is no number: found at its step, and told with what was known then."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.optimizer import StageOptimizer
    from bench.unfinished import Unfinished


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite. ``facts`` are plain values: what was known when it did."""

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts

    def of(self, stage: str, optimizer: StageOptimizer, unfinished: Unfinished | None) -> NonFiniteLossError:
        """Return the same and what the training loop knows: stage, learning rate, last checkpoint."""
        rate = max(float(group["lr"]) for part in optimizer.parts for group in part.param_groups)
        norm = None if optimizer.gradient_norm is None else float(optimizer.gradient_norm)
        kept = unfinished.kept_step if unfinished else None
        words = [f"{self} of stage {stage}", f"learning rate {rate:.3g}"]
        words += [] if norm is None else [f"gradient norm of the step before {norm:.3g}"]
        checkpoint = None
        if unfinished and kept is not None:
            checkpoint = {"file": f"{unfinished.path.parent.name}/{unfinished.path.name}", "step": kept}
            words.append(f"last good checkpoint after step {kept}: {checkpoint['file']}")
        facts = {
            "stage": stage,
            "learning_rate": rate,
            "gradient_norm_before": plain_number(norm),
            "checkpoint": checkpoint,
        }
        return NonFiniteLossError("; ".join(words), {**self.facts, **facts})


def plain_number(value: float | None) -> float | str | None:
    """Return a value that JSON has: what is not finite becomes text."""
    return value if value is None or math.isfinite(value) else str(value)


def finite(classification: float, regression: float, step: int) -> tuple[float, float]:
    """Return the losses; raise NonFiniteLossError where one of them is not finite."""
    parts = (classification, regression)
    if not all(map(math.isfinite, parts)):
        raise NonFiniteLossError(
            f"loss is not finite (classification {parts[0]:.4g}, regression {parts[1]:.4g}) at step {step}",
            {
                "step": step,
                "loss": dict(zip(("classification", "regression"), map(plain_number, parts), strict=True)),
            },
        )
    return parts
