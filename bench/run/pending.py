"""Pending runs of a matrix, and the removal of files that killed processes left behind."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from bench.io.errors import InputError
from bench.io.writing import remove_stale_temps
from bench.records.locks import REPORT, is_locked, try_lock
from bench.records.progress import remove_stale
from bench.records.record import Record, read_folder, read_record, was_killed
from bench.run.specification import ResolvedRun


def pending(runs: Sequence[ResolvedRun], records: Path, redo: str) -> list[ResolvedRun]:
    """Return the pending runs: those without a record, and those whose status ``redo`` selects.

    A run whose process was killed by an external signal counts as cancelled.
    """
    status = {record["id"]: _status(record) for record in read_folder(records).records}
    return [run for run in runs if _needs_run(status.get(run.id), redo)]


def _status(record: Record) -> str:
    return "cancelled" if was_killed(record) else str(record["status"])


def _needs_run(status: str | None, redo: str) -> bool:
    """Return whether a run with this status is to be run; None means that there is no record."""
    if status is None or status == "cancelled" or redo == "all":
        return True
    return redo == "failed" and status != "ok"


Stamp = tuple[int, int, int]
"""Inode, modification time and size of a file, which show whether it was replaced."""


def stamps(records: Path) -> dict[str, Stamp]:
    """Return the current stamps of the records, by run id."""
    found = {path.stem: _stamp(path) for path in records.glob("*.json")}
    return {name: stamp for name, stamp in found.items() if stamp is not None}


def _stamp(path: Path) -> Stamp | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def still_pending(identifier: str, records: Path, redo: str, known: Mapping[str, Stamp]) -> bool:
    """Return whether a run is still pending, after its lock was acquired.

    If the record's stamp differs from ``known``, another process has written it in the meantime: the run is
    then done whatever ``redo`` is, unless it was cancelled or killed.
    """
    path = records / f"{identifier}.json"
    stamp = _stamp(path)
    try:
        record = read_record(path)
    except InputError:
        return True
    return _needs_run(_status(record), redo if known.get(identifier) == stamp else "cancelled")


def read_status(records: Path, identifier: str) -> str:
    """Return the status in a run's record, or "no record"."""
    try:
        return str(read_record(records / f"{identifier}.json")["status"])
    except InputError:
        return "no record"


def remove_stale_files(results: Path, runs: Sequence[ResolvedRun], again: Collection[str]) -> None:
    """Remove what killed processes left: temporary files, progress files, checkpoints of finished runs.

    Checkpoints of the run ids in ``again`` are kept, since these runs resume from them. Files of runs that
    another living process has locked are kept.
    """
    from bench.io.cache_dir import default_cache_dir

    remove_stale_temps(results, lambda name: is_locked(results, _lock_of(name)))
    for cache in {Path(run.spec.cache) if run.spec.cache else default_cache_dir() for run in runs}:
        remove_stale_temps(cache / "encodings")
    remove_stale(results)
    for path in (results / "unfinished").glob("*.pt"):
        if path.stem in again or (lock := try_lock(results, path.stem)) is None:
            continue
        try:
            if read_record(results / "records" / f"{path.stem}.json")["status"] == "ok":
                path.unlink(missing_ok=True)
        except InputError:  # no valid record: the run is still pending
            continue
        finally:
            lock.release()


def _lock_of(name: str) -> str:
    """Return the name of the lock that protects a file: that of its run, or of the report."""
    for suffix in (".json.gz", ".json", ".pt", ".safetensors"):
        if name.endswith(suffix):
            return name.removesuffix(suffix)
    return REPORT
