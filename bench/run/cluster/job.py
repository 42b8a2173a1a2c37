"""One run as a job of a batch system: done under the run's lock, taken up again where it was pre-empted.

``submitit`` writes the job, sends it off, and starts ``RunJob`` in it. USR2, which a batch system sends
before it takes a machine back, and TERM let the run keep a checkpoint; submitit then queues the job again.
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
"""A run that is locked is waited for so long: a file server may free a dead machine's locks late."""
SIGNAL_SECONDS = 120
"""The batch system sends its signal so long before the end; the run has that time, less the next number."""
LAST_SECONDS = 30.0


@dataclasses.dataclass(frozen=True)
class RunJob:
    """A run, in plain values, to be called in a job."""

    spec: dict[str, Any]
    timeout_seconds: float | None
    stall_seconds: float
    redo: str
    known: tuple[int, int, int] | None
    """The stamp of the record that was there when the job was submitted."""
    grace_seconds: float = SIGNAL_SECONDS - LAST_SECONDS

    def __call__(self) -> str:
        """Do the run; return the status of its record, or why there is none."""
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
            print(f"{run.id}: stopped, {'goes on from' if kept.exists() else 'without'} a checkpoint")
            signals.requeue(lambda reason: self._write(run, "timeout", reason))
        except InputError as error:
            self._write(run, "cancelled", str(error))
            raise
        return str(done[0]["status"]) if done else f"left to another: {read_status(records, run.id)}"

    def checkpoint(self) -> Any:
        """Return the job to be queued again, which is this one: the run's state lies in the results."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(self)

    def _write(self, run: ResolvedRun, status: str, message: str) -> None:
        """Write a record that says why the run was not done."""
        from bench.records.locks import try_lock
        from bench.records.record import write_record
        from bench.run.record_builder import empty_record

        record = {**empty_record(run), "status": status, "phase": "job", "message": message}
        if (lock := try_lock(run.results, run.id)) is not None:  # else another does it
            try:
                write_record(run.results / "records", record)
            finally:
                lock.release()


class Signals:
    """The batch system's signals, which end the run in order; submitit's own handling comes after that."""

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
        if len(self.seen) == 1:  # while the run ends, others are only noted
            raise PreemptedError(self.grace_seconds)

    def requeue(self, give_up: Any) -> None:
        """Have the job queued again and end this process.

        After TERM alone Slurm queues a job that it pre-empted by itself; one that was cancelled stays so.
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
