"""Submitted jobs of a results folder, and their states in the batch system.

``jobs/<run id>.json`` describes the last job of a run. It is kept, so that a job that ended without a record
can be distinguished from one that was never submitted. The output of jobs is in ``jobs/logs``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import getpass
import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

from bench.io.errors import InputError
from bench.io.reading import MAX_RECORD_BYTES, read_json
from bench.io.text import is_name
from bench.io.typed_values import structure_dataclass
from bench.io.writing import machine, process_runs, write_atomically

QUEUE_SECONDS = 60
JOB_NUMBER = re.compile(r"[0-9]{1,18}(_[0-9]{1,9})?")


@dataclasses.dataclass(frozen=True)
class Job:
    """A run's job; ``submitted`` is Unix time in seconds."""

    run: str
    model: str
    strategy: str
    seed: int
    launcher: str
    job: str
    machine: str
    submitted: float


def logs_folder(results: Path) -> Path:
    """Return the folder of submission files and job output."""
    return results / "jobs" / "logs"


def write_job(results: Path, job: Job) -> None:
    """Write the description of a submitted job."""
    write_atomically(results / "jobs" / f"{job.run}.json", json.dumps(dataclasses.asdict(job)).encode())


def read_jobs(results: Path) -> dict[str, Job]:
    """Return the last job of each run, by run id; invalid files are skipped."""
    found = {}
    for path in sorted((results / "jobs").glob("*.json")):
        with contextlib.suppress(OSError, ValueError, TypeError):
            job = structure_dataclass(Job, read_json(path, MAX_RECORD_BYTES, finite=True))
            # Both are used in paths.
            if job.run == path.stem and is_name(job.run) and JOB_NUMBER.fullmatch(job.job):
                found[job.run] = job
    return found


def states_of(jobs: Iterable[Job]) -> dict[str, str]:
    """Return the states of the jobs that have not ended, by run id.

    Raises InputError if the batch system cannot be queried: a job that may be alive must not be resubmitted.
    """
    jobs = list(jobs)
    queue = slurm_queue() if any(job.launcher == "slurm" for job in jobs) else {}
    found = {}
    for job in jobs:
        state = queue.get(job.job) if job.launcher == "slurm" else _local_state(job)
        if state is not None:
            found[job.run] = state
    return found


def slurm_queue() -> dict[str, str]:
    """Return the states of this user's jobs in the Slurm queue, by job id."""
    command = ["squeue", "--noheader", "--format=%i %T", f"--user={getpass.getuser()}"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=QUEUE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or str(error)
        raise InputError(
            f"--launcher slurm: squeue cannot be queried ({' '.join(said.split())[:200]})"
        ) from None
    lines = (line.split() for line in answer.stdout.splitlines())
    return {words[0]: words[1] for words in lines if len(words) == 2}


def _local_state(job: Job) -> str | None:
    if job.machine != machine() or not job.job.isdecimal() or not process_runs(int(job.job)):
        return None
    with contextlib.suppress(OSError):  # the process id may have been reused
        command = Path(f"/proc/{job.job}/cmdline").read_bytes()
        if b"submitit" not in command:  # empty for a zombie
            return None
    return "RUNNING"
