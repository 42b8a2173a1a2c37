"""Measure rows one after the other on one device, while other processes build models and make forecasts.

A row needs a model in host memory, the device for some seconds, and a forecast. Models are built and
forecasts traced by processes beside each other. The device is given to one process at a time: of those whose
model is built, to the first of the list that is expected to end in time.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

from tqdm import tqdm

from bench.io.errors import InputError
from bench.io.json_lines import Worker, module_command, worker_threads
from bench.io.text import printable
from bench.measure.rows import Job, line, write_measured, write_row
from bench.run.worker.exit_status import classify_exit, oom_kill_count

ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "KINETO_LOG_LEVEL": "99"}
"""Of every process: one thread until the protocol sets its own number, and a profiler that prints nothing."""
START_SECONDS = {"cuda": 12.0, "cpu": 8.0}
"""Expected seconds to open a device, to copy a model there, and to end, by kind of device."""
OPERATIONS_PER_SECOND = {"cuda": 1.5e14, "cpu": 1.5e10}
"""Expected rate before the first row has been measured: a fifth of an H100's, and that of one core."""
SECONDS_PER_LAYER = 7e-4
"""Expected seconds of Python for a layer of one pass: 40 operations, metered in a third of the steps."""


class Budget:
    """Time that is left, and what a row is expected to take, learned from the rows so far."""

    def __init__(self, seconds: float, device_type: str) -> None:
        self.until = time.monotonic() + seconds
        self.device_type = device_type
        self._ratios: list[float] = []

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    def expected(self, job: Job) -> float:
        """Return the seconds that a row is expected to occupy the device."""
        return self._assumed(job) * max(self._ratios[-8:], default=1.0)

    def learn(self, job: Job, seconds: float) -> None:
        """Note the seconds that a row has taken."""
        self._ratios.append(seconds / self._assumed(job))

    def _assumed(self, job: Job) -> float:
        computing = job.operations / OPERATIONS_PER_SECOND[self.device_type]
        return START_SECONDS[self.device_type] + computing + SECONDS_PER_LAYER * job.layer_passes


class Turns:
    """Gives the device to one row at a time."""

    def __init__(self, budget: Budget) -> None:
        self.budget = budget
        self._changed = threading.Condition()
        self._waiting: set[int] = set()
        self._taken = True  # until ``release``
        self._stopped = False

    def take(self, number: int, job: Job) -> bool:
        """Wait for the device; return False if the row is not expected to end in time any more."""
        with self._changed:
            self._waiting.add(number)
            try:
                while self._taken or number != min(self._waiting):
                    if self._stopped or self.budget.expected(job) > self.budget.left:
                        return False
                    self._changed.wait(0.2)
                if self._stopped or self.budget.expected(job) > self.budget.left:
                    return False
                self._taken = True
                return True
            finally:
                self._waiting.discard(number)
                self._changed.notify_all()

    def release(self) -> None:
        """Let the next one have the device."""
        with self._changed:
            self._taken = False
            self._changed.notify_all()

    def stop(self) -> None:
        """Refuse everybody from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


@dataclasses.dataclass(frozen=True)
class Settings:
    """How rows are made."""

    device: str
    environment: Mapping[str, Any]
    """The record's field of a process that was killed."""
    builders: int = 1
    forecasters: int = 1
    alone: bool = False
    """Do nothing else while a row is measured: its forecast is made before it."""


class Schedule:
    """Makes rows. Use it in a ``with`` block: at its end, all processes that it started have ended."""

    def __init__(self, settings: Settings, budget: Budget) -> None:
        self.settings, self.budget = settings, budget
        self.turns = Turns(budget)
        self.problems: list[str] = []
        """A line for each job that gave no row."""
        self.rows: list[dict[str, Any]] = []
        self._lock = threading.Lock()
        self._processes: set[Worker] = set()
        self._measuring: set[Future[None]] = set()
        self._tracing: set[Future[None]] = set()
        self._working = 0
        self._stopping = False
        self._measured: dict[Path, Mapping[str, Any]] = {}
        self._forecasts: dict[Path, Mapping[str, Any]] = {}
        self._bar: tqdm[Any] | None = None

    def __enter__(self) -> Schedule:
        self._close = contextlib.ExitStack()
        start = functools.partial(Worker, module_command("bench.measure.worker"), environment=ENVIRONMENT)
        self._builders = self._close.enter_context(ThreadPoolExecutor(self.settings.builders))
        self._forecasters, self._forecaster = self._close.enter_context(
            worker_threads(self.settings.forecasters, start)
        )
        self._close.callback(self.stop)
        return self

    def __exit__(self, *error: Any) -> None:
        self._close.close()

    def stop(self) -> None:
        """End the processes of measurements; no row is made of that."""
        with self._lock:
            self._stopping = True
            processes = tuple(self._processes)
        self.turns.stop()
        self._builders.shutdown(wait=False, cancel_futures=True)
        for each in processes:
            each.process.kill()

    def begin(self, jobs: Sequence[Job], known: Mapping[Path, Mapping[str, Any]]) -> None:
        """Begin with jobs in their order; ``known`` are measurements that only lack a forecast."""
        self._measured.update(known)
        for number, job in enumerate(jobs):
            if not self.settings.alone or job.path in known:
                self._tracing.add(self._forecasters.submit(self._forecast, job))
            if job.path not in known:
                self._measuring.add(self._builders.submit(self._measure, number, job))
        self._bar = tqdm(total=len(jobs), desc="measuring", disable=not sys.stderr.isatty(), leave=False)

    def finish(self) -> None:
        """Wait until all is measured and forecast, or time is up; re-raise the first error of a job."""
        while self.budget.left > 0 and (self._measuring or (self._tracing and self._without_forecast())):
            done, _ = wait(self._measuring | self._tracing, min(1.0, self.budget.left), FIRST_COMPLETED)
            for each in done:
                each.result()
            self._measuring -= done
            self._tracing -= done
        if self._bar is not None:
            self._bar.close()

    def _without_forecast(self) -> bool:
        with self._lock:
            return any(path not in self._forecasts for path in self._measured)

    def _forecast(self, job: Job) -> None:
        """Make a job's forecast, and its row if it has been measured."""
        with self._counted():
            worker = self._forecaster()
            try:
                worker.send({"forecast": dataclasses.asdict(job.question)})
                answer = worker.receive()
            except (OSError, EOFError) as error:
                answer = {"error": f"the forecast's process ended ({error})"}
        if "input_error" in answer and self.settings.alone:
            raise InputError(answer["input_error"])
        if "row" not in answer:
            self._problem(f"{job.name}: no forecast: {answer.get('error') or answer['input_error']}")
            return
        self._complete(job, self._forecasts, answer["row"])

    def _measure(self, number: int, job: Job) -> None:
        """Build a job's model, measure it when it is its turn, and write the result at once."""
        if self._stopping or self.budget.expected(job) > self.budget.left:
            return
        if self.settings.alone:
            self._forecasters.submit(self._forecast, job).result()
        kills = oom_kill_count()
        with tempfile.TemporaryFile() as errors, self._process(errors.fileno()) as worker:
            try:
                row = self._measured_by(worker, number, job)
            except TimeoutError:
                self._problem(f"{job.name}: not measured: time was up")
                return
            except (OSError, EOFError):
                found = classify_exit(worker.end(), errors, kills)
                row = {key: found[key] for key in ("status", "message")}
                row |= {"weights": "random", "measured": None, "environment": self.settings.environment}
        if row is None or self._stopping:
            return
        if job.backbone_operations is not None:
            row["backbone_operations"] = job.backbone_operations
        self._complete(job, self._measured, row)

    def _measured_by(self, worker: Worker, number: int, job: Job) -> dict[str, Any] | None:
        """Return the answer of a measurement's process, or None if there is no time for it.

        Raises EOFError or OSError if it ends without one, and TimeoutError when time is up.
        """
        until = None if math.isinf(self.budget.until) else self.budget.until
        with self._counted():
            worker.send({"build": dataclasses.asdict(job.question)})
            worker.receive(until)
        if not self.turns.take(number, job):
            return None
        started = time.monotonic()
        try:
            beside = self._working
            worker.send({"measure": self.settings.device})
            row: dict[str, Any] = worker.receive(until)["row"]
            row["processes_beside"] = max(beside, self._working)
            worker.close()  # its memory on the device is free before the next one starts
            self.budget.learn(job, time.monotonic() - started)
        finally:
            self.turns.release()
        return row

    def _complete(self, job: Job, part: dict[Path, Mapping[str, Any]], row: Mapping[str, Any]) -> None:
        """Note one part of a row, and write what there is: the row, or the measurement without forecast."""
        with self._lock:
            part[job.path] = row
            if self._stopping or job.path not in self._measured:
                return
            if job.path not in self._forecasts:
                write_measured(job, row)
                return
            done = write_row(job.path, self._forecasts[job.path], self._measured[job.path])
            self.rows.append(done)
            self._say(line(done))
            if self._bar is not None:
                self._bar.update()

    def _problem(self, text: str) -> None:
        with self._lock:
            if not self._stopping:
                self.problems.append(text)
                self._say(text)

    def _say(self, text: str) -> None:
        tqdm.write(printable(text), file=sys.stderr)

    @contextlib.contextmanager
    def _counted(self) -> Iterator[None]:
        """Count this process as one that works beside a measurement."""
        with self._lock:
            self._working += 1
        try:
            yield
        finally:
            with self._lock:
                self._working -= 1

    @contextlib.contextmanager
    def _process(self, errors: int) -> Iterator[Worker]:
        """Yield the process of a measurement, which ends with the block."""
        worker = Worker(module_command("bench.measure.worker"), environment=ENVIRONMENT, stderr=errors)
        with self._lock:
            self._processes.add(worker)
            if self._stopping:
                worker.process.kill()
        try:
            yield worker
        finally:
            worker.close()
            with self._lock:
                self._processes.discard(worker)
