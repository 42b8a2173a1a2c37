"""``python -m bench.status``: show the progress of the runs of a results folder.

Runs are waiting, running (with phase and progress), interrupted, failed, left out (both with the reason) or
done. The list includes local runs and cluster jobs, on this machine and on others that share the folder.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.io.errors import InputError
from bench.io.exit_code import CommandParser, run_command
from bench.io.text import printable

ENDED = {"ok": "done", "unsupported": "left out"}
"""The states of runs by their records' status; others have failed or were interrupted."""
STATES = ("running", "waiting", "interrupted", "failed", "left out", "done")


@dataclasses.dataclass(frozen=True)
class Row:
    """State of one run."""

    run: str
    model: str
    strategy: str
    seed: int
    state: str
    phase: str | None = None
    done: int | None = None
    total: int | None = None
    seconds: float | None = None
    """Seconds since the process started, or the total time of a finished run."""
    remaining_seconds: float | None = None
    remaining_from: str | None = None
    """Source of the estimate: similar finished runs, or the phase's speed, for the end of the phase only."""
    reason: str | None = None
    job: str | None = None


def rows(results: Path, now: float | None = None) -> list[Row]:
    """Return the runs, sorted by state as in ``STATES``. Raises InputError if ``results`` does not exist."""
    from bench.records.locks import is_locked
    from bench.records.progress import read_progress, read_queues
    from bench.records.record import read_folder, was_killed
    from bench.run.cluster.queue import read_jobs, states_of

    if not results.is_dir():
        raise InputError(f"--results: {results} is no folder")
    now = time.time() if now is None else now
    records = {record["id"]: record for record in read_folder(results / "records").records}
    jobs = read_jobs(results)
    numbers = {name: f"{job.launcher} {job.job}" for name, job in jobs.items()}
    found: dict[str, Row] = {}
    for record in records.values():
        found[record["id"]] = Row(
            *(record["id"], record["model"], record["strategy"]["name"], record["seed"]),
            ENDED.get(record["status"], "interrupted" if was_killed(record) else "failed"),
            phase=record.get("phase"),
            seconds=(record["cost"] or {}).get("wall_seconds"),
            reason=None if record["status"] == "ok" else f"{record['status']}: {record.get('message')}",
        )
    for told in read_progress(results):
        row = Row(told.run, told.model, told.strategy, told.seed, "interrupted", told.phase, told.done)
        if is_locked(results, told.run):
            left, source = remaining(told, _similar_runs(told, records), now)
            row = dataclasses.replace(
                row,
                state="running",
                total=told.total,
                seconds=max(0.0, now - told.started),
                remaining_seconds=left,
                remaining_from=source,
            )
        elif told.run in found:
            continue
        else:
            row = dataclasses.replace(
                row, total=told.total, reason="its process is gone; the same command resumes it"
            )
        found[told.run] = row
    for queued in read_queues(results):
        if found.get(queued.run) is None or found[queued.run].state != "running":
            found[queued.run] = Row(queued.run, queued.model, queued.strategy, queued.seed, "waiting")
    undone = [job for name, job in jobs.items() if name not in found or found[name].state != "running"]
    try:
        alive, unknown = states_of(undone), None
    except InputError as error:
        alive, unknown = {}, str(error)
    for job in undone:
        row = Row(job.run, job.model, job.strategy, job.seed, "interrupted")
        if job.run in alive:
            found[job.run] = dataclasses.replace(row, state="waiting", reason=alive[job.run].lower())
        elif job.run not in found or found[job.run].state == "interrupted":
            reason = unknown or f"its job ended without a record; see jobs/logs/{job.job}_0_log.err"
            found[job.run] = dataclasses.replace(row, reason=reason)
    ordered = sorted(
        found.values(), key=lambda row: (STATES.index(row.state), row.model, row.strategy, row.seed)
    )
    return [dataclasses.replace(row, job=numbers.get(row.run)) for row in ordered]


def _similar_runs(told: Any, records: dict[str, Any]) -> list[Any]:
    """Return the finished runs that differ from this one only in seed or device."""
    from bench.records.progress import settings_text

    kind = (told.model, told.settings, told.protocol)
    return [
        record
        for record in records.values()
        if record["status"] == "ok"
        and (record["model"], settings_text(record["strategy"]), record["protocol"]["digest"]) == kind
        and record["cost"].get("wall_seconds")
        and record["id"].partition("_")[0] == told.run.partition("_")[0]  # the data set's name
    ]


def remaining(told: Any, twins: Sequence[Any], now: float) -> tuple[float | None, str | None]:
    """Return the estimated remaining seconds of a run and the source of the estimate.

    The median time of finished similar runs gives an estimate for the whole run, unless this run is already
    slower; otherwise the speed of the phase gives an estimate for the rest of the phase.
    """
    if twins:
        usual = statistics.median(record["cost"]["wall_seconds"] for record in twins)
        left = told.started + usual - now
        if left > 0:
            return left, f"{len(twins)} finished like it"
    left = told.phase_seconds_left()
    if left is None:
        return None, None
    return max(0.0, left - (now - told.updated)), "this phase alone"


def table(found: Sequence[Row]) -> str:
    """Return the runs as text, with a line of counts by state."""
    counts = ", ".join(f"{sum(row.state == state for row in found)} {state}" for state in STATES)
    lines = [("run", "state", "phase", "progress", "since", "remaining", "reason", "job")]
    for row in found:
        share = f"{row.done} of {row.total}" if row.state == "running" and row.total else ""
        source = f" ({row.remaining_from})" if row.remaining_from else ""
        lines.append(
            (
                f"{row.model} {row.strategy} seed {row.seed}",
                row.state,
                row.phase or "" if row.state != "done" else "",
                share,
                duration(row.seconds),
                duration(row.remaining_seconds) + source,
                (row.reason or "")[:100],
                row.job or "",
            )
        )
    shown = [i for i in range(len(lines[0])) if any(line[i] for line in lines[1:])] if found else []
    widths = {i: max(len(line[i]) for line in lines) for i in shown}
    text = [printable("  ".join(line[i].ljust(widths[i]) for i in shown).rstrip()) for line in lines]
    return "\n".join([f"{len(found)} runs: {counts}", *(text if shown else [])])


def duration(seconds: float | None) -> str:
    """Return a duration as readable text."""
    if seconds is None:
        return ""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return (
        f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; invalid input prints one line and returns exit code 2."""
    from bench.records.paths import default_results

    parser = CommandParser(prog="python -m bench.status", description=__doc__)
    parser.add_argument("--results", type=Path, help="default: results/local if it has runs, else results")
    parser.add_argument("--json", metavar="FILE", help="write the same as JSON, - for standard output")

    def action(options: argparse.Namespace) -> int:
        found = rows(options.results or default_results())
        counts = {state: sum(row.state == state for row in found) for state in STATES}
        text = json.dumps({"counts": counts, "runs": [dataclasses.asdict(row) for row in found]}, indent=1)
        if options.json and options.json != "-":
            from bench.io.writing import write_output

            write_output("--json", Path(options.json), text)
        print(text if options.json == "-" else table(found))
        return 0

    return run_command(parser, arguments, action)


if __name__ == "__main__":
    sys.exit(main())
