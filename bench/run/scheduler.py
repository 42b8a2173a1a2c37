"""Schedule the runs of a matrix in parallel, each in its own process, and write a record of each."""

from __future__ import annotations

import math
import queue
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from bench.io.text import printable
from bench.records.locks import try_lock
from bench.records.paths import unfinished_path
from bench.records.progress import Waiting, remove_progress, write_queue
from bench.records.record import Record, write_record
from bench.run.pending import Stamp, still_pending
from bench.run.record_builder import empty_record
from bench.run.specification import ResolvedRun
from bench.run.worker.exit_status import OUT_OF_HOST_MEMORY, classify_exit, oom_killed_since
from bench.run.worker.supervisor import (
    END_SECONDS,
    Limits,
    Messages,
    Running,
    enforce_limits,
    handle_message,
    kill_tree,
    start,
    terminate,
)

POLL_SECONDS = 1.0
"""Polling interval for runs that another process has locked, when no other run is left."""
QUEUE_SECONDS = 60.0
"""Interval at which the queue file is rewritten, so that other machines do not take it for stale."""


class PreemptedError(BaseException):
    """The job is pre-empted: runs save a checkpoint within ``seconds`` and end without a record."""

    def __init__(self, seconds: float) -> None:
        super().__init__(seconds)
        self.seconds = seconds


def run_matrix(
    runs: Sequence[ResolvedRun],
    records: Path,
    workers: int,
    limits: Limits = Limits(),  # noqa: B008 (frozen)
    redo: str = "cancelled",
    known: Mapping[str, Stamp] | None = None,
    patience_seconds: float = math.inf,
) -> list[Record]:
    """Run all of ``runs``, at most ``workers`` in parallel, and return the records written to ``records``.

    Runs that another process has locked come last: they are waited for, for at most ``patience_seconds``,
    and run here only if they end without a record. A run whose record's stamp differs from ``known`` was
    done by another process.

    A run that fails has a record with status, phase and reason. Ctrl-C ends the active runs, records them
    as cancelled and raises KeyboardInterrupt. Invalid input found by a run ends all active runs with
    InputError; records of finished runs are kept.
    """
    results, known = records.parent, known or {}
    waiting = list(runs)
    elsewhere, active, done = list[ResolvedRun](), list[Running](), list[Record]()
    messages: Messages = queue.Queue()
    slots = set(range(1, workers + 1))
    overall = tqdm(
        total=len(waiting), desc="runs", position=0, disable=not sys.stderr.isatty(), dynamic_ncols=True
    )
    running_slots: dict[str, int] = {}
    printed: set[str] = set()
    queued_at, waits_since = -math.inf, None
    try:
        while waiting or active or elsewhere:
            changed = bool(waiting) and len(active) < workers
            while waiting and len(active) < workers:
                run = waiting.pop(0)
                if (lock := try_lock(results, run.id)) is None:
                    elsewhere.append(run)
                elif not still_pending(run.id, records, redo, known):
                    lock.release()
                    overall.update()
                else:
                    slot = running_slots[run.id] = min(slots)
                    slots.discard(slot)
                    active.append(start(run, lock, messages, slot))
                    waits_since = None
            if changed or time.monotonic() - queued_at > QUEUE_SECONDS:
                write_queue(results, [_waiting(each) for each in (*waiting, *elsewhere)])
                queued_at = time.monotonic()
            if not active:
                if elsewhere:
                    if waits_since is None:
                        waits_since = time.monotonic()
                        _log_once(f"waiting for {_names(elsewhere)}, which another process runs", printed)
                    if time.monotonic() - waits_since > patience_seconds:
                        break
                    time.sleep(POLL_SECONDS)
                    waiting, elsewhere = elsewhere, []
                continue
            try:
                running, message = messages.get(timeout=0.5)
            except queue.Empty:
                enforce_limits(active, limits)
                continue
            if message is not None:
                handle_message(running, message, printed)
                enforce_limits(active, limits)
                continue
            kill_tree(running.process, END_SECONDS)
            active.remove(running)
            slots.add(running_slots.pop(running.run.id))
            running.bar.close()
            record = record_of(running)
            _finish(records, running, record)
            done.append(record)
            overall.update()
            tqdm.write(printable(line_of(record)), file=sys.stderr)
    except BaseException as error:
        for running in active:
            if isinstance(error, PreemptedError):
                terminate(running, error.seconds)
        for running in active:
            kill_tree(running.process)
            running.bar.close()
            if isinstance(error, KeyboardInterrupt):
                running.result = {"status": "cancelled", "phase": running.phase, "message": "interrupted"}
                _finish(records, running, record_of(running))
            remove_progress(results, running.run.id)
            running.lock.release()
        raise
    finally:
        write_queue(results, [])
        overall.close()
    return done


def _finish(records: Path, running: Running, record: Record) -> None:
    """Write a run's record, then release its lock."""
    write_record(records, record)
    if record["status"] == "ok":
        unfinished_path(running.run.results, record["id"]).unlink(missing_ok=True)
    remove_progress(records.parent, running.run.id)
    running.lock.release()


def _waiting(run: ResolvedRun) -> Waiting:
    return Waiting(run.id, run.spec.model, run.spec.strategy, run.spec.seed)


def _names(runs: Sequence[ResolvedRun]) -> str:
    return ", ".join(run.title for run in runs)


def _log_once(line: str, printed: set[str]) -> None:
    if line not in printed:
        printed.add(line)
        tqdm.write(line, file=sys.stderr)


def record_of(running: Running) -> Record:
    """Return the record of a run whose process has ended, from its messages and its exit status."""
    result = running.result
    if result is not None and "record" in result:
        return dict(result["record"])
    if result is None:
        code, processes = running.process.returncode, running.run.spec.processes
        result = classify_exit(code, running.errors, running.oom_kills_before, processes)
    elif (
        running.run.spec.processes > 1
        and result["status"] == "error"
        and oom_killed_since(running.oom_kills_before)
    ):
        result = OUT_OF_HOST_MEMORY  # the reported error is that of ranks that lost the killed one
    record = empty_record(running.run)
    return {
        **record,
        "forecast": running.forecast,
        **{key: result[key] for key in ("status", "message")},
        "phase": result.get("phase", running.phase),
        "failure": result.get("failure"),
        "environment": result.get("environment", {}),
    }


def line_of(record: Record) -> str:
    """Return the line to print for a run that has ended."""
    name = f"{record['strategy']['name']} seed {record['seed']}"
    if record["status"] == "ok":
        return f"{name}: average mAP {100 * record['metrics']['map_average']:.1f} %"
    return f"{name}: {record['status']} in phase {record['phase']}: {record['message']}"
