"""Runs of a matrix, each in its own process, a few at a time; every one of them becomes a record."""

from __future__ import annotations

import dataclasses
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from bench.errors import InputError
from bench.experiment_record import empty_record
from bench.record import Record, unfinished_path, write_record
from bench.shown import printable
from bench.specification import RunSpecification
from datasets.annotations import Dataset

# glibc gives large blocks back to the system on every free by default; keeping them saves a tenth of a step.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483648",
    "MALLOC_TOP_PAD_": "67108864",
}


@dataclasses.dataclass
class Running:
    """A run's process and what it has said so far."""

    spec: RunSpecification
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    bar: tqdm[Any]
    started: float
    phase: str = "start"
    result: dict[str, Any] | None = None
    forecast: dict[str, Any] | None = None


def start(
    spec: RunSpecification, messages: queue.Queue[tuple[Running, dict[str, Any] | None]], slot: int
) -> Running:
    """Start the process of a run; a thread puts what it reports into ``messages``, at its end None."""
    threads = str(spec.protocol().threads)
    environment = {**ALLOCATOR, **os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the run)
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.experiment"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
        cwd=Path(__file__).parents[1],
        start_new_session=True,  # Ctrl-C reaches this process alone, which then ends the runs in order
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(dataclasses.asdict(spec)).encode() + b"\n")
    process.stdin.flush()
    bar = tqdm(
        desc=f"{spec.strategy} seed {spec.seed}",
        position=slot,
        leave=False,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
    )
    running = Running(spec, process, errors, bar, time.monotonic())
    output = process.stdout

    def listen() -> None:
        for line in output:
            try:
                messages.put((running, json.loads(line)))
            except ValueError:
                continue  # a line cut off by the death of the process
        messages.put((running, None))

    threading.Thread(target=listen, daemon=True).start()
    return running


def run_matrix(
    specs: Sequence[RunSpecification],
    dataset: Dataset,
    records: Path,
    workers: int,
    timeout_seconds: float | None = None,
) -> list[Record]:
    """Run all of ``specs``, at most ``workers`` at once, and return their records as written to ``records``.

    A run that dies is a record with its status, phase and reason. Ctrl-C ends the runs in flight, writes
    them as cancelled and raises KeyboardInterrupt. Input that turns out bad inside a run ends everything
    with InputError; runs that had finished stay.
    """
    waiting, active, done = list(specs), list[Running](), list[Record]()
    messages: queue.Queue[tuple[Running, dict[str, Any] | None]] = queue.Queue()
    slots = set(range(1, workers + 1))
    overall = tqdm(
        total=len(waiting), desc="runs", position=0, disable=not sys.stderr.isatty(), dynamic_ncols=True
    )
    running_slots: dict[int, int] = {}
    said: set[str] = set()
    try:
        while waiting or active:
            while waiting and len(active) < workers:
                slot = min(slots)
                slots.discard(slot)
                running = start(waiting.pop(0), messages, slot)
                running_slots[id(running)] = slot
                active.append(running)
            try:
                running, message = messages.get(timeout=0.5)
            except queue.Empty:
                _end_overdue(active, timeout_seconds)
                continue
            if message is not None:
                _hear(running, message, said)
                _end_overdue(active, timeout_seconds)
                continue
            running.process.wait()
            active.remove(running)
            slots.add(running_slots.pop(id(running)))
            running.bar.close()
            record = conclude(running, dataset)
            write_record(records, record)
            if record["status"] == "ok":
                unfinished_path(Path(running.spec.results), record["id"]).unlink(missing_ok=True)
            done.append(record)
            overall.update()
            tqdm.write(printable(_line(record)), file=sys.stderr)
    except BaseException as error:
        for running in active:
            _kill(running)
            running.bar.close()
            if isinstance(error, KeyboardInterrupt):
                running.result = {"status": "cancelled", "phase": running.phase, "message": "interrupted"}
                write_record(records, conclude(running, dataset))
        raise
    finally:
        overall.close()
    return done


def _hear(running: Running, message: dict[str, Any], said: set[str]) -> None:
    if "input_error" in message:
        raise InputError(message["input_error"])
    if "audit" in message:
        text = "\n".join(message["audit"])
        if text not in said:
            said.add(text)
            tqdm.write(text, file=sys.stderr)
        return
    if "forecast" in message:
        running.forecast = message["forecast"]
        return
    if "record" in message or "status" in message:
        running.result = message
        return
    if message["phase"] != running.phase:
        # Every phase has a speed of its own, and so an estimate of its own.
        running.phase = message["phase"]
        running.bar.reset(total=message["total"])
        running.bar.set_postfix_str(running.phase, refresh=False)
    running.bar.n = message["done"]
    running.bar.refresh()


def _end_overdue(active: Sequence[Running], timeout_seconds: float | None) -> None:
    for running in active:
        if (
            timeout_seconds
            and running.result is None
            and time.monotonic() - running.started > timeout_seconds
        ):
            message = f"took longer than {timeout_seconds:g} s"
            running.result = {"status": "timeout", "phase": running.phase, "message": message}
            _kill(running)


def _kill(running: Running) -> None:
    if running.process.poll() is None:
        running.process.kill()
    running.process.wait()


def conclude(running: Running, dataset: Dataset) -> Record:
    """Return the record of a run whose process has ended, from what it said and how it ended."""
    result = running.result
    if result is not None and "record" in result:
        return dict(result["record"])
    if result is None:
        code, failure = running.process.returncode, None
        running.errors.seek(0, os.SEEK_END)
        running.errors.seek(max(0, running.errors.tell() - 2000))
        lines = running.errors.read().decode(errors="replace").strip().splitlines()
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            message = f"killed by signal {-code} ({name})"
            failure = {"signal": name}
            if -code == signal.SIGKILL:
                message += ", as the system does when memory runs out"
        else:
            message = f"ended with exit code {code}" + (f": {lines[-1][:300]}" if lines else "")
        result = {"status": "error", "phase": running.phase, "message": message, "failure": failure}
    record = empty_record(running.spec, dataset)
    return {
        **record,
        "forecast": running.forecast,
        **{key: result[key] for key in ("status", "phase", "message")},
        "failure": result.get("failure"),
        "environment": result.get("environment", {}),
    }


def _line(record: Record) -> str:
    name = f"{record['strategy']['name']} seed {record['seed']}"
    if record["status"] == "ok":
        return f"{name}: average mAP {100 * record['metrics']['map_average']:.1f} %"
    return f"{name}: {record['status']} in phase {record['phase']}: {record['message']}"
