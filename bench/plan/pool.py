"""Run forecasts in parallel, in separate processes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import multiprocessing
import os
import sys
import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, TypeVar

from bench.plan.request import ForecastRequest, run_forecast

Result = TypeVar("Result")


def _end_with_parent() -> None:
    """End this process when its parent is gone for any reason; it would wait for requests forever."""

    def wait() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


@contextlib.contextmanager
def forecast_pool(workers: int) -> Iterator[concurrent.futures.ProcessPoolExecutor]:
    """Yield a pool of processes for forecasts, with one thread each.

    More threads would only contend for the interpreter lock, and a forecast for CUDA changes process state.
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
    """Return the results in order, with a progress bar on a terminal; re-raises an exception of a future."""
    from tqdm import tqdm

    finished: Iterable[Any] = concurrent.futures.as_completed(futures)
    quiet = not sys.stderr.isatty()
    for future in tqdm(finished, desc=description, total=len(futures), leave=False, disable=quiet):
        if future.exception() is not None:
            for other in futures:
                other.cancel()
            break
    return [future.result() for future in futures]


def run_forecasts(
    questions: Sequence[ForecastRequest], pool: concurrent.futures.Executor, description: str = "forecasts"
) -> list[dict[str, Any]]:
    """Return the rows in the order of the requests."""
    return in_order([pool.submit(run_forecast, question) for question in questions], description)
