"""Submit the runs of a matrix as jobs of a batch system, one per run, without waiting for them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from bench.io import PROJECT_ROOT
from bench.io.errors import InputError
from bench.io.writing import machine
from bench.records.locks import is_locked, locked
from bench.records.record import read_folder
from bench.run.cluster.job import SIGNAL_SECONDS, RunJob
from bench.run.cluster.queue import Job, logs_folder, read_jobs, states_of, write_job
from bench.run.cluster.resources import ResourceRequest, resource_requests
from bench.run.cluster.slurm_options import SlurmOptions, parse_slurm_options
from bench.run.specification import ResolvedRun

if TYPE_CHECKING:
    from submitit import AutoExecutor

    from bench.run.pending import Stamp

PROGRAMS = ("sbatch", "srun", "squeue")
SUBMITTING = "submit"
"""Lock held during submission, so that two processes do not submit the same run."""
NO_LIMIT_MINUTES = 525_600
"""Time limit of a local job: one year."""
MAX_TIMEOUTS = 20
"""How often a job that reached its time limit is requeued; it resumes from its checkpoint."""
EXECUTOR_OPTIONS = ("python", "max_num_timeout")
LISTS = ("setup", "teardown", "srun_args")
POLL_SECONDS = 0.5


def launch(
    todo: Sequence[ResolvedRun],
    options: argparse.Namespace,
    workers: int,
    known: Mapping[str, Stamp],
) -> int:
    """Submit a job for each run of ``todo`` without one, and return the exit code, 0."""
    try:
        import submitit  # noqa: F401
    except ImportError:
        raise InputError(
            f"--launcher: {options.launcher} needs submitit, install talbench with [cluster]"
        ) from None
    if options.launcher == "slurm" and (missing := [name for name in PROGRAMS if not shutil.which(name)]):
        raise InputError(f"--launcher slurm: there is no {missing[0]} here, submit where Slurm is installed")
    results = todo[0].results
    with locked(results, SUBMITTING):
        jobs = read_jobs(results)
        alive = states_of(jobs.values())
        left = [run for run in todo if run.id not in alive and not is_locked(results, run.id)]
        if len(left) < len(todo):
            have = len(todo) - len(left)
            print(f"{have} of {len(todo)} runs already have jobs or are running", file=sys.stderr)
        wishes = parse_slurm_options(options.slurm)
        if options.launcher == "slurm" and left:
            records = read_folder(results / "records").records
            asked: list[ResourceRequest | None] = list(resource_requests(left, records, wishes))
        else:
            asked = [None] * len(left)
        running: list[Any] = []
        for run, each in zip(left, asked, strict=True):
            while options.launcher == "local" and sum(not job.done() for job in running) >= workers:
                time.sleep(POLL_SECONDS)  # this machine has no queue
            running.append(_submit(run, each, wishes, options, known.get(run.id)))
            _log_submission(run, running[-1].job_id, each)
    if left:
        print(
            f"{len(left)} jobs submitted; python -m bench.status --results "
            f"{shlex.quote(str(options.results))} shows their progress; repeat this command for the tables",
            file=sys.stderr,
        )
    return 0


def _submit(
    run: ResolvedRun,
    asked: ResourceRequest | None,
    wishes: SlurmOptions,
    options: argparse.Namespace,
    stamp: Stamp | None,
) -> Any:
    """Submit one run's job and return the submitit job."""
    spec, results = run.spec, run.results
    job = RunJob(dataclasses.asdict(spec), options.timeout, options.stall, options.redo, stamp)
    executor = slurm_executor(run, asked, wishes) if asked else local_executor(run)
    try:
        with contextlib.nullcontext() if asked else redirect_stdio():
            submitted = executor.submit(job)
    except (OSError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"--launcher {options.launcher}: nothing more was submitted ({reason})") from None
    write_job(
        results,
        Job(
            run.id,
            spec.model,
            spec.strategy,
            spec.seed,
            options.launcher,
            submitted.job_id,
            machine(),
            time.time(),
        ),
    )
    return submitted


@contextlib.contextmanager
def redirect_stdio() -> Iterator[None]:
    """Redirect the standard streams to the null device, so that their readers do not wait for the jobs."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(number) for number in range(3)]
    nothing = os.open(os.devnull, os.O_RDWR)
    try:
        for number in range(3):
            os.dup2(nothing, number)
        yield
    finally:
        for number, stream in enumerate(kept):
            os.dup2(stream, number)
        for stream in (*kept, nothing):
            os.close(stream)


def local_executor(run: ResolvedRun) -> AutoExecutor:
    """Return the executor that starts jobs on this machine."""
    from submitit import AutoExecutor

    executor = AutoExecutor(logs_folder(run.results), cluster="local", local_max_num_timeout=MAX_TIMEOUTS)
    executor.update_parameters(timeout_min=NO_LIMIT_MINUTES)
    if run.spec.device != "cpu":
        executor.update_parameters(gpus_per_node=run.spec.processes)
    return executor


def slurm_executor(run: ResolvedRun, asked: ResourceRequest, wishes: SlurmOptions) -> AutoExecutor:
    """Return the executor that submits a job to Slurm, with the requested resources."""
    from submitit import AutoExecutor

    own = {f"slurm_{key}": wishes.others[key] for key in EXECUTOR_OPTIONS if key in wishes.others}
    executor = AutoExecutor(
        logs_folder(run.results), cluster="slurm", **{"slurm_max_num_timeout": MAX_TIMEOUTS, **own}
    )
    need = f"; {asked.predicted_bytes / 1e9:.1f} GB of each card predicted" if asked.predicted_bytes else ""
    parameters: dict[str, Any] = {
        "comment": run.id + need,
        "signal_delay_s": SIGNAL_SECONDS,
        **({"gres": f"gpu:{asked.card}:{asked.gpus}"} if asked.card else {}),
    }
    # A pre-empted job may be requeued, and must find this code.
    more: dict[str, Any] = {"requeue": True, "chdir": str(PROJECT_ROOT)}
    for key, value in wishes.others.items():
        if key not in EXECUTOR_OPTIONS:
            parameters[key] = [value] if key in LISTS else value
    generic: dict[str, Any] = {
        "name": f"{run.spec.strategy}-{run.spec.seed}",
        "timeout_min": asked.minutes,
        "mem_gb": asked.memory_gib,
        "cpus_per_task": parameters.pop("cpus_per_task", asked.cores),
        "nodes": 1,
        "tasks_per_node": 1,
    }
    if asked.gpus and not asked.card and not any(k.startswith(("gpus", "gres")) for k in parameters):
        generic["gpus_per_node"] = asked.gpus
    executor.update_parameters(**generic)
    for key, value in parameters.items():
        try:
            executor.update_parameters(**{f"slurm_{key}": value})
        except NameError:  # unknown to submitit: passed to sbatch, which checks it
            more[key] = value
    executor.update_parameters(slurm_additional_parameters=more)
    return executor


def _log_submission(run: ResolvedRun, job: str, asked: ResourceRequest | None) -> None:
    words = [f"{run.title}: job {job}"]
    if asked:
        cards = f"{asked.gpus} x {asked.card or 'GPU'}, " if asked.gpus else ""
        words.append(
            f"{cards}{asked.memory_gib} GiB, {asked.cores} cores, {asked.minutes} min"
            + "".join(f"; {remark}" for remark in asked.remarks)
        )
    print(", ".join(words), file=sys.stderr)
