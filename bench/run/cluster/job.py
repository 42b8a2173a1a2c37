"""One run as a job of a batch system, executed under the run's lock and resumed after pre-emption.

``submitit`` writes and submits the job, and calls ``RunJob`` in it. On SIGUSR2, which the batch system sends
before pre-emption, or SIGTERM, the run saves a checkpoint; submitit then requeues the job.
"""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from bench.io.errors import InputError

if TYPE_CHECKING:
    from bench.run.specification import ResolvedRun

LOCK_TIMEOUT_SECONDS = 180.0
"""Longest wait for a locked run: a file server may release the locks of a dead machine late."""
SIGNAL_SECONDS = 120
"""Time between the batch system's signal and the end of the job; the run has this minus LAST_SECONDS."""
LAST_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class RunJob:
    """A run in plain values, as the callable of a job."""

    spec: dict[str, Any]
    timeout_seconds: float | None
    stall_seconds: float
    redo: str
    known: tuple[int, int, int] | None
    """Stamp of the record that existed when the job was submitted."""
    grace_seconds: float = SIGNAL_SECONDS - LAST_SECONDS

    def __call__(self) -> str:
        """Execute the run; return the status of its record, or the reason why there is none."""
        from bench.memory.device import check_card
        from bench.records.paths import unfinished_path
        from bench.run.pending import read_status
        from bench.run.scheduler import PreemptedError, run_matrix
        from bench.run.specification import RunSpecification, resolve_run
        from bench.run.worker.supervisor import Limits

        spec = RunSpecification(**self.spec)
        run = resolve_run(spec, spec.load_dataset())
        records = run.results / "records"
        known = {run.id: self.known} if self.known else {}
        signals = Signals(self.grace_seconds)
        try:
            if spec.device != "cpu" and not spec.force:
                check_card(spec.device)
            limits = Limits(self.timeout_seconds, self.stall_seconds)
            done = run_matrix([run], records, 1, limits, self.redo, known, LOCK_TIMEOUT_SECONDS)
        except PreemptedError:
            kept = unfinished_path(run.results, run.id)
            print(f"{run.id}: stopped {'with' if kept.exists() else 'without'} a checkpoint")
            signals.requeue(lambda reason: self._write(run, "timeout", reason))
        except InputError as error:
            self._write(run, "cancelled", str(error))
            raise
        return str(done[0]["status"]) if done else f"run by another process: {read_status(records, run.id)}"

    def checkpoint(self) -> Any:
        """Return the job to requeue: this one, unchanged, as the run's state is in the results folder."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _write(self, run: ResolvedRun, status: str, message: str) -> None:
        """Write a record with the reason why the run was not executed."""
        from bench.records.locks import try_lock
        from bench.records.record import write_record
        from bench.run.record_builder import empty_record

        record = {**empty_record(run), "status": status, "phase": "job", "message": message}
        if (lock := try_lock(run.results, run.id)) is not None:  # else another process has it
            try:
                write_record(run.results / "records", record)
            finally:
                lock.release()


class Signals:
    """Handler of the batch system's signals: ends the run cleanly, then submitit's own handler is called."""

    def __init__(self, grace_seconds: float) -> None:
        name = os.environ.get("SUBMITIT_PREEMPT_SIGNAL", "USR2")
        self.number = signal.Signals[f"SIG{name}"]
        self.submitit = signal.getsignal(self.number)
        self.seen: list[int] = []
        self.grace_seconds = grace_seconds
        for number in (self.number, signal.SIGTERM):
            signal.signal(number, self._stop)

    def _stop(self, number: int, frame: Any) -> None:
        from bench.run.scheduler import PreemptedError

        self.seen.append(number)
        if len(self.seen) == 1:  # while the run ends, further signals are only recorded
            raise PreemptedError(self.grace_seconds)

    def requeue(self, give_up: Any) -> None:
        """Requeue the job and end this process.

        After SIGTERM alone, Slurm itself requeues a pre-empted job; a cancelled job is not requeued.
        """
        from submitit.core.utils import UncompletedJobError

        if self.number not in self.seen and os.environ.get("SUBMITIT_EXECUTOR") == "slurm":
            sys.exit(128 + signal.SIGTERM)
        assert callable(self.submitit)
        try:
            self.submitit(self.number, None)
        except UncompletedJobError as error:
            give_up(f"{' '.join(str(error).split())[:300]}")
            raise
        except (OSError, subprocess.SubprocessError) as error:
            print(f"not queued again ({error}); the same command submits it again", file=sys.stderr)
            sys.exit(128 + signal.SIGTERM)
