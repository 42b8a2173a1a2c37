"""Supervisor of a run's process: starts it, reads its messages, and ends it with all its descendants."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import IO, Any

import psutil
from filelock import BaseFileLock
from tqdm import tqdm

from bench.io import PROJECT_ROOT
from bench.io.errors import InputError
from bench.records.progress import WRITE_INTERVAL_SECONDS, Progress, settings_text, write_progress
from bench.run.specification import ResolvedRun, RunSpecification
from bench.run.worker.exit_status import oom_kill_count

# By default, glibc returns large blocks to the system on every free; keeping them saves 10 % of a step.
ALLOCATOR = {
    "MALLOC_MMAP_THRESHOLD_": "1073741824",
    "MALLOC_TRIM_THRESHOLD_": "2147483648",
    "MALLOC_TOP_PAD_": "67108864",
}


END_SECONDS = 60.0
"""Time until a process that has reported its result, or closed its output, is killed."""
KILLED_SECONDS = 30.0
"""Longest wait for a killed process, which may hang on an unreachable file server."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Time limits of a run."""

    timeout_seconds: float | None = None
    stall_seconds: float = math.inf
    """Longest time without progress."""


@dataclasses.dataclass
class Running:
    """A run's process and what it has reported so far."""

    run: ResolvedRun
    lock: BaseFileLock
    process: subprocess.Popen[bytes]
    errors: IO[bytes]
    bar: tqdm[Any]
    started: float
    last_message_at: float
    """Time of the last message, on the same monotonic clock as ``started``."""
    progress: Progress
    oom_kills_before: int | None
    """``oom_kill_count()`` at the start of the process."""
    last_saved_at: float = -math.inf
    """Time when its progress was last written."""
    decoding: dict[int, list[dict[str, Any]]] = dataclasses.field(default_factory=dict)
    """Slow reads in progress, by rank: video, frames, seconds."""
    result: dict[str, Any] | None = None
    forecast: dict[str, Any] | None = None

    @property
    def phase(self) -> str:
        return self.progress.phase


Messages = queue.Queue[tuple[Running, dict[str, Any] | None]]


def command(spec: RunSpecification) -> list[str]:
    """Return the command line of a run's process, or of the launcher of its several processes."""
    several = ["torch.distributed.run", "--standalone", f"--nproc-per-node={spec.processes}", "-m"]
    return [sys.executable, "-m", *(several if spec.processes > 1 else []), "bench.run.worker"]


def start(run: ResolvedRun, lock: BaseFileLock, messages: Messages, slot: int) -> Running:
    """Start the process of a run; a thread puts its messages into ``messages``, and None at the end.

    The process leads its own process group, so that its descendants can be ended with it. It does not
    inherit ``lock``, which is released when this process ends.
    """
    spec, threads = run.spec, str(run.protocol.threads)
    environment = {**ALLOCATOR, **os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    kills = oom_kill_count()
    errors = tempfile.TemporaryFile()  # noqa: SIM115 (it lives as long as the run)
    process = subprocess.Popen(
        command(spec),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        env=environment,
        cwd=PROJECT_ROOT,
        start_new_session=True,  # Ctrl-C reaches only this process, which then ends the runs cleanly
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(dataclasses.asdict(spec)).encode() + b"\n")
    process.stdin.flush()
    bar = tqdm(
        desc=run.title,
        position=slot,
        leave=False,
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
    )
    now = time.monotonic()
    progress = initial_progress(run)
    running = Running(run, lock, process, errors, bar, now, now, progress, kills)
    save_progress(running)
    output = process.stdout

    def listen() -> None:
        for line in output:
            try:
                messages.put((running, json.loads(line)))
            except ValueError:
                continue  # a line truncated when the process died
        messages.put((running, None))

    threading.Thread(target=listen, daemon=True).start()
    return running


def handle_message(running: Running, message: dict[str, Any], printed: set[str]) -> None:
    """Handle one message of a run's process; ``printed`` holds the texts that were already printed."""
    running.last_message_at = time.monotonic()
    if "input_error" in message:
        raise InputError(message["input_error"])
    if "audit" in message:
        text = "\n".join(message["audit"])
        if text not in printed:
            printed.add(text)
            tqdm.write(text, file=sys.stderr)
        return
    if "decoding" in message:
        running.decoding[message["rank"]] = message["decoding"]
        return
    if "forecast" in message:
        running.forecast = message["forecast"]
        return
    if "record" in message or "status" in message:
        # With several processes, keep the first failure: the others then fail because that one is gone.
        running.result = running.result or message
        return
    clock = time.time()
    told = dataclasses.replace(running.progress, done=message["done"], total=message["total"], updated=clock)
    if message["phase"] != running.phase:
        # Phases differ in speed, so the remaining time is estimated for each phase.
        told = dataclasses.replace(
            told, phase=message["phase"], phase_started=clock, phase_first=message["done"]
        )
        running.bar.reset(total=message["total"])
        running.bar.set_postfix_str(told.phase, refresh=False)
    running.progress = told
    running.bar.n = message["done"]
    running.bar.refresh()
    if running.last_message_at - running.last_saved_at > WRITE_INTERVAL_SECONDS:
        save_progress(running)


def save_progress(running: Running) -> None:
    """Write a run's progress, for ``bench.status``."""
    running.last_saved_at = time.monotonic()
    write_progress(running.run.results, running.progress)


def enforce_limits(active: Sequence[Running], limits: Limits) -> None:
    """End the runs that exceed the time limit, or that report no progress for too long."""
    now = time.monotonic()
    for running in active:
        if running.result is not None:
            if now - running.last_message_at > END_SECONDS:
                kill_tree(running.process)
            continue
        where: dict[str, Any] = {}
        if limits.timeout_seconds and now - running.started > limits.timeout_seconds:
            message = f"took longer than {limits.timeout_seconds:g} s"
        elif now - running.last_message_at > limits.stall_seconds:
            message, where = _stalled(running, now - running.last_message_at, limits.stall_seconds)
        else:
            continue
        running.result = {
            "status": "timeout",
            "phase": running.phase,
            "message": message,
            "failure": where or None,
        }
        kill_tree(running.process)


def _stalled(running: Running, silent: float, limit: float) -> tuple[str, dict[str, Any]]:
    """Return message and failure facts of a stalled run: its phase, progress and reads in progress."""
    told = running.progress
    decoding = [
        {**each, "seconds": round(each["seconds"] + silent, 1)}
        for rank in running.decoding.values()
        for each in rank
    ]
    words = [f"no progress for {limit:g} s in phase {told.phase} ({told.done} of {told.total} done)"]
    words += [
        f"reading {each['video']}, frames {each['first_frame']} to {each['last_frame']}, "
        f"for {each['seconds']:.0f} s"
        for each in decoding
    ]
    facts = {"stalled_seconds": round(silent, 1), "done": told.done, "total": told.total}
    return "; ".join(words), {**facts, "decoding": decoding}


def terminate(running: Running, seconds: float) -> None:
    """Send SIGTERM, so that the run saves a checkpoint and ends; kill it after ``seconds``."""
    with contextlib.suppress(ProcessLookupError):
        running.process.send_signal(signal.SIGTERM)
    kill_tree(running.process, seconds)


def kill_tree(process: subprocess.Popen[bytes], patience_seconds: float = 0.0) -> None:
    """Wait up to ``patience_seconds`` for a run's process, then kill it and all its descendants."""
    until = time.monotonic() + patience_seconds
    while not _ended(process) and time.monotonic() < until:
        time.sleep(0.02)
    if process.returncode is None:  # not reaped yet, so its process group id cannot have been reused
        started = descendants(process.pid)  # processes of a distributed run have their own groups
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        for each in started:
            with contextlib.suppress(psutil.Error):
                each.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(KILLED_SECONDS)


def descendants(process: int) -> list[psutil.Process]:
    """Return all descendants of a process."""
    try:
        return psutil.Process(process).children(recursive=True)
    except psutil.Error:
        return []


def _ended(process: subprocess.Popen[bytes]) -> bool:
    """Return whether a process has ended, without reaping it where the system supports that."""
    if process.returncode is not None or not hasattr(os, "waitid"):
        return process.poll() is not None
    return os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def initial_progress(run: ResolvedRun) -> Progress:
    """Return the progress of a run whose process starts now."""
    now = time.time()
    return Progress(
        run=run.id,
        model=run.spec.model,
        strategy=run.spec.strategy,
        seed=run.spec.seed,
        settings=settings_text(run.strategy_entry),
        protocol=run.protocol.digest(),
        phase="start",
        done=0,
        total=1,
        started=now,
        phase_started=now,
        phase_first=0,
        updated=now,
    )
