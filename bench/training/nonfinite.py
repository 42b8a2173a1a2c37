"""Detection and reporting of losses that are NaN or infinite."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, SupportsFloat


class NonFiniteLossError(ArithmeticError):
    """The loss became NaN or infinite. ``facts`` are plain values that describe the step."""

    def __init__(self, message: str, facts: dict[str, Any]) -> None:
        super().__init__(message)
        self.facts = facts

    def with_context(
        self,
        stage: str,
        learning_rate: float,
        gradient_norm: SupportsFloat | None,
        checkpoint: Mapping[str, Any] | None,
    ) -> NonFiniteLossError:
        """Return the same error with information from the training loop.

        ``gradient_norm`` is that of the previous step; ``checkpoint`` is the last one, with ``file`` and
        ``step``.
        """
        norm = None if gradient_norm is None else float(gradient_norm)
        words = [f"{self} of stage {stage}", f"learning rate {learning_rate:.3g}"]
        words += [] if norm is None else [f"gradient norm of the step before {norm:.3g}"]
        if checkpoint:
            words.append(f"last good checkpoint after step {checkpoint['step']}: {checkpoint['file']}")
        facts = {
            "stage": stage,
            "learning_rate": learning_rate,
            "gradient_norm_before": plain_number(norm),
            "checkpoint": checkpoint and dict(checkpoint),
        }
        return NonFiniteLossError("; ".join(words), {**self.facts, **facts})


def plain_number(value: float | None) -> float | str | None:
    """Return a value for JSON: a number that is not finite becomes text."""
    return value if value is None or math.isfinite(value) else str(value)


def check_finite_losses(classification: float, regression: float, step: int) -> tuple[float, float]:
    """Return the losses; raise NonFiniteLossError if one of them is not finite."""
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
