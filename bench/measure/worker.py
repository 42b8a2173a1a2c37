"""Process of a measurement or of forecasts: answers one JSON object per line (``bench.io.json_lines``).

``{"forecast": REQUEST}`` is answered with ``row``, or with ``input_error`` or ``error``. ``{"build":
REQUEST}`` builds a model on the host and opens no device; then ``{"measure": DEVICE}`` is answered with the
``row`` of its measurement.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

from bench.io.errors import InputError
from bench.io.json_lines import serve
from bench.plan.request import ForecastRequest, run_forecast


def end_with_parent(seconds: float = 1.0) -> None:
    """End this process at most ``seconds`` after its parent is gone for any reason, in whatever it does."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Measuring:
    """Answers requests; keeps the model between its building and its measurement."""

    def __init__(self) -> None:
        self.question: ForecastRequest | None = None
        self.built: Any = None

    def answer(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Return the answer to a request."""
        if "forecast" in request:
            return forecast_answer(ForecastRequest(**request["forecast"]))
        import torch

        from bench.measure.steps import build, measure

        if "build" in request:
            self.question = ForecastRequest(**request["build"])
            try:
                self.built = build(self.question)
            except Exception as error:  # it becomes the row's message
                self.built = error
            return {"built": not isinstance(self.built, Exception)}
        assert self.question is not None
        return {"row": measure(self.question, self.built, torch.device(request["measure"]))}


def forecast_answer(question: ForecastRequest) -> dict[str, Any]:
    """Return the row of a forecast, or the message of its error."""
    try:
        return {"row": run_forecast(question)}
    except InputError as error:
        return {"input_error": str(error)}
    except Exception as error:  # another forecast may succeed
        from bench.records.failure import failure

        return {"error": failure(error)[1]}


def main() -> int:
    """Answer requests until standard input is closed."""
    end_with_parent()
    serve(Measuring().answer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
